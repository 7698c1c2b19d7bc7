#!/usr/bin/env python3
"""Impasto and its competitors: size against KL divergence, and bits against the weighted error of linear layers.

    tools/benchmark/run.py STEP... --impasto FILE --llama DIR --models DIR --data DIR [options]

Steps. Each continues where it was stopped: what is in the results file is not repeated.
  peers     llama.cpp's presets
  ours      Impasto's files at the requested sizes; repeated when the program or its options change
  mixes     a search for llama.cpp's best mixes of types (--tensor-type, --token-embedding-type)
  gptq      INT4 by llm-compressor
  rounding  INT8, INT4, FP8 and NVFP4, round to nearest
  trellis   a trellis of fixed rate after a rotation, simulated
  autoround INT4 and INT3 by AutoRound
  layers    the weighted error of matrices: SmolLM2, MiniLM, whisper; Impasto's repeated as in `ours`
  prefixes  layered files cut at 20 sizes, with units in Impasto's order and in others
  report    plots (docs/benchmark) and tables (--tables) from the results
  all       all of these in order
README.md in this folder describes the installation.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from context import Bench

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "peers": ("llama", "presets"),
    "ours": ("ours", "points"),
    "mixes": ("llama", "mixes"),
    "gptq": ("gptq", "points"),
    "rounding": ("rounding", "points"),
    "trellis": ("fixed_trellis", "points"),
    "autoround": ("autoround", "points"),
}
SIZES = (110, 105, 95, 80, 70, 60, 54, 48, 40)
TINY_SIZES = (2.9, 2.6, 2.1, 1.8, 1.6, 1.4, 1.2, 1.1)


def numbers(text):
    return tuple(float(word) if "." in word else int(word) for word in text.split(","))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=[*STEPS, "layers", "prefixes", "report", "all"], metavar="STEP")
    parser.add_argument("--impasto", type=Path, default=ROOT / "target/release/impasto", help="the command")
    parser.add_argument("--llama", type=Path, help="folder of llama-quantize and llama-imatrix (docs/LLAMA_CPP.md)")
    parser.add_argument("--ggml", type=Path, help="libggml-base.so, for the layers (README.md)")
    parser.add_argument("--models", type=Path, help="folder of the models")
    parser.add_argument("--tiny", type=Path, default=ROOT / "assets/tiny", help="the tiny model")
    parser.add_argument("--data", type=Path, help="folder of calibration.txt, valid.txt and test.txt (wikitext-2)")
    parser.add_argument("--results", type=Path, default=Path("benchmark.json"), help="the file of results")
    parser.add_argument("--scratch", type=Path, default=Path("benchmark-scratch"), help="for files between steps")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs/benchmark", help="folder for the plots")
    parser.add_argument("--tables", type=Path, default=Path("results_benchmark.md"), help="the file for the tables")
    parser.add_argument("--only", default="", help="names of models, with commas; all by default")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the calibration text, for every tool")
    parser.add_argument("--windows", type=int, default=40, help="windows of 512 tokens of test.txt that are scored")
    parser.add_argument("--probe-windows", type=int, default=2, help="windows of valid.txt that choose the mixes")
    parser.add_argument("--prefix-windows", type=int, default=8, help="windows of test.txt that score prefixes")
    parser.add_argument("--mixes", type=int, default=8, help="mixes that are scored")
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="of SmolLM2, in MB")
    parser.add_argument("--tiny-sizes", type=numbers, default=TINY_SIZES, help="of tiny, in MB")
    parser.add_argument("--calibrate-options", type=str.split, default=[], help="further options of `calibrate`")
    parser.add_argument("--encode-options", type=str.split, default=[], help="further options of `encode`")
    options = parser.parse_args()
    for name in ("impasto", "llama", "ggml", "models", "data", "tiny", "results", "scratch", "plots", "tables"):
        value = getattr(options, name)
        setattr(options, name, value and value.resolve())
    return options


def main():
    options = arguments()
    bench = Bench(options)
    wanted = [*STEPS, "layers", "prefixes", "report"] if "all" in options.steps else options.steps
    only = [name for name in options.only.split(",") if name]
    for step in wanted:
        if step in STEPS:
            module, function = STEPS[step]
            for model in bench.models:
                if not only or model.name in only:
                    getattr(importlib.import_module(module), function)(bench, model)
        else:
            importlib.import_module(step).run(bench, only)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
