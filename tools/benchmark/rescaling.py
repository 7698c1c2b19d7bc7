#!/usr/bin/env python3
"""The gain from a correction factor for each row, or for each matrix, of decoded weights.

    tools/benchmark/rescaling.py --impasto FILE --model DIR --statistics A --held-out B FILE.impasto...

The factors are optimal for the input covariance H in statistics A (`impasto calibrate`): w H v / v H v for a row w and
its decoded v. The error, (w - v) H (w - v), uses the covariance of B, made from another text. Results are means over
the linear layers of five blocks; 6.02 dB correspond to one bit per weight. Needs numpy, safetensors and torch.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from overhead import Inputs, impasto, tensors

BLOCKS = 5
DB_OF_A_BIT = 20 * np.log10(2)


def gains(w, v, factor, held_out):
    """What factors earn, in dB: one for each row, one for all. The last two: Cholesky factors of covariances."""
    w_out, v_out = w @ factor, v @ factor
    of_rows = (w_out * v_out).sum(axis=1) / np.maximum((v_out**2).sum(axis=1), 1e-30)
    of_all = (w_out * v_out).sum() / (v_out**2).sum()

    def error(v):
        return (((w - v) @ held_out) ** 2).sum()

    return [10 * np.log10(error(v) / error(v * by)) for by in (of_rows[:, None], of_all)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--impasto", "--model", "--statistics", "--held-out"):
        parser.add_argument(name, required=True)
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    original, here, elsewhere = tensors(options.model), Inputs(options.statistics), Inputs(options.held_out)
    layers = [name for name in here.linears if ".layers." in name]
    count = 1 + max(int(name.split(".")[2]) for name in layers)
    blocks = {str(block) for block in np.linspace(0, count - 1, BLOCKS).astype(int)}
    names = [name for name in layers if name.split(".")[2] in blocks]
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            impasto(options, "decode", file, "--to", "safetensors", "-o", Path(folder) / "decoded")
            decoded = tensors(Path(folder) / "decoded")
            found = [gains(original(n), decoded(n), here.factor(n), elsewhere.factor(n)) for n in names]
        rows, one = np.mean(found, axis=0)
        bits = rows / DB_OF_A_BIT
        print(f"{file}: {len(names)} matrices, rows {rows:.3f} dB ({bits:.4f} bits a weight), one factor {one:.3f} dB")


if __name__ == "__main__":
    main()
