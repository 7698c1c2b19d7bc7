#!/usr/bin/env python3
"""Compares the logits of llama.cpp with those of Impasto for every GGUF of the test of configuration keys.

    IMPASTO_MATRIX=DIR cargo test -p impasto --test it config_matrix
    python3 tools/config_matrix.py DIR path/to/llama-logits

The difference is the largest one, relative to the largest logit. Exits with status 1 if one exceeds the tolerance. Needs
numpy, and the program llama-logits (docs/LLAMA_CPP.md).
"""

import argparse
import pathlib
import subprocess
import sys

import numpy as np

TOLERANCE = 2e-4
# llama.cpp looks the GELU of Gemma up in a table of binary16.
GEMMA_TOLERANCE = 3e-3


def compare(program, gguf, tokens):
    """Returns the difference, or what llama.cpp says if it does not run the file."""
    run = subprocess.run([program, gguf], input=tokens, capture_output=True, check=False)
    if run.returncode != 0:
        return run.stderr.decode(errors="replace").strip().splitlines()[0]
    ours = np.fromfile(gguf.with_suffix(".f32"), "<f4")
    theirs = np.frombuffer(run.stdout, "<f4")
    if len(ours) != len(theirs):
        return f"{len(theirs)} logits, not {len(ours)}"
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("program", type=pathlib.Path)
    args = parser.parse_args()
    tokens = (args.folder / "tokens").read_bytes()
    files = sorted(args.folder.glob("*.gguf"))
    wrong = 0
    for gguf in files:
        result = compare(args.program, gguf, tokens)
        tolerance = GEMMA_TOLERANCE if gguf.name.startswith("gemma") else TOLERANCE
        if not isinstance(result, float) or result > tolerance:
            wrong += 1
            print(gguf.stem, result)
    print(f"{len(files) - wrong} of {len(files)} files give the same logits")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
