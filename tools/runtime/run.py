#!/usr/bin/env python3
"""Speed and memory of Impasto and llama.cpp at equal divergence.

    tools/runtime/run.py STEP... --impasto FILE --llama DIR --model DIR --data DIR [options]

Steps. Those that make files continue where they were stopped:
  peers    llama.cpp's files of SmolLM2
  quality  Impasto's files of equal divergence as run
  large    a synthetic model of 1.1 G weights with the same bit widths, in the same kinds of files
  speed    prefill and decode, run alternately; adds `--rounds` rounds to those of this build in the results
  memory   resident memory while generating
  report   a table of the results
  all      all of these in order
README.md in this folder describes the installation and the method.
"""

import argparse
import importlib
import sys
from pathlib import Path

from context import ROOT, Bench

STEPS = ("peers", "quality", "large", "speed", "memory", "report")


def numbers(text):
    return tuple(float(word) if "." in word else int(word) for word in text.split(","))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=[*STEPS, "all"], metavar="STEP")
    parser.add_argument("--impasto", type=Path, default=ROOT / "target/release/impasto", help="the command")
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's commands (README.md)")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M in bfloat16")
    parser.add_argument("--data", type=Path, help="folder of calibration.txt and test.txt (wikitext-2)")
    parser.add_argument("--results", type=Path, default=Path("runtime.json"), help="the file of results")
    parser.add_argument("--table", type=Path, default=Path("results_runtime.md"), help="the file for the report")
    parser.add_argument("--scratch", type=Path, default=Path("runtime-scratch"), help="for files between steps: 6 GB")
    parser.add_argument("--tokens", type=int, default=32768, help="of the calibration text, for both programs")
    parser.add_argument("--statistics", type=Path, help="of `impasto calibrate`, in place of calibrating")
    parser.add_argument("--imatrix", type=Path, help="of llama-imatrix, in place of making one")
    parser.add_argument("--whole", type=Path, help="SmolLM2 as a GGUF of binary32, in place of making one")
    parser.add_argument("--windows", type=int, default=40, help="of 512 tokens of test.txt that are scored")
    parser.add_argument("--residence", default="packed", help="in which ours is scored")
    parser.add_argument("--sizes", type=numbers, default=(66, 47), help="in MB where the search for ours begins")
    parser.add_argument("--rounds", type=int, default=5, help="of the step speed")
    parser.add_argument("--threads", type=numbers, default=(1, 2), help="numbers of threads")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait before a round for a quiet machine")
    parser.add_argument("--models", type=str.split, default=["smollm2", "synthetic"], help="that are measured")
    options = parser.parse_args()
    for name in ("impasto", "llama", "model", "data", "results", "table", "scratch", "statistics", "imatrix", "whole"):
        value = getattr(options, name)
        setattr(options, name, value and value.resolve())
    return options


def main():
    options = arguments()
    bench = Bench(options)
    for step in STEPS if "all" in options.steps else options.steps:
        importlib.import_module(step).run(bench)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main())
