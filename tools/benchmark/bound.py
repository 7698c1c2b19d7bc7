#!/usr/bin/env python3
"""How far the linear layers of files are from the Gaussian bound:

    tools/benchmark/bound.py --impasto FILE --model FOLDER [--statistics FILE] [--every N] FILE.impasto...

For each file, the mean over the linear layers of blocks of: bits per weight, with all bytes of their units (tensor header, lane
states and padding too); the error in dB; the bits that the best code of any kind would take for that error if weights were
independent Gaussian numbers with the variances of their rows times those of their columns (reverse waterfilling); the
difference. Variances are those of the weights, and cost the bound nothing. The error is that which error feedback minimizes:
tr((W - V) H (W - V)^T) with the covariance H and the damping of the statistics, and rows weighted as their steps say; without
statistics it is the squared error. Needs numpy, safetensors, ml_dtypes and zstandard.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import ml_dtypes  # noqa: F401  (NumPy then has bfloat16.)
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
import naive_container  # noqa: E402
from overhead import Inputs, impasto  # noqa: E402
from reconstruction import steps, tensors  # noqa: E402


def unit_bytes(path):
    """The bytes of the units of each tensor of a file, padded."""
    file = naive_container.read_file(Path(path).read_bytes())
    out = {}
    for unit in file.units:
        name = file.objects[unit.object].name
        out[name] = out.get(name, 0) + -(-unit.length // 16) * 16
    return out


def variances(w):
    """Those of the elements: a product of one number for each row and one for each column."""
    square = w.astype(np.float64) ** 2
    rows, columns = square.mean(1), np.ones(w.shape[1])
    for _ in range(3):
        columns = (square / np.maximum(rows, 1e-30)[:, None]).mean(0)
        rows = (square / np.maximum(columns, 1e-30)).mean(1)
    return np.outer(rows, columns)


def rate(of, error):
    """Bits per element for a mean error: reverse waterfilling over the variances `of`."""
    low, high = 0.0, of.max()
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(of, level).mean() < error else (low, level)
    return 0.5 * np.mean(np.log2(np.maximum(of / level, 1.0)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--impasto", "--model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--statistics", help="that the files were made with")
    parser.add_argument("--every", type=int, default=1, help="take every so-many-th linear layer")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    original, inputs = tensors(options.model), options.statistics and Inputs(options.statistics)
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            impasto(options, "decode", file, "--to", "safetensors", "-o", Path(folder) / "decoded")
            decoded = tensors(Path(folder) / "decoded")
        of_file, lengths = steps(file), unit_bytes(file)
        linears = inputs.linears if inputs else of_file
        names = [name for name in sorted(linears) if name in of_file and "layer" in name][::options.every]
        found = []
        for name in names:
            w, v = (x[name].astype(np.float64) for x in (original, decoded))
            rows, _ = of_file[name]
            weight, factor = (rows.min() / rows)[:, None], inputs.factor(name) if inputs else np.eye(w.shape[1])
            error, signal = (np.sum(((x * weight) @ factor) ** 2) for x in (w - v, w))
            of = variances(w) * weight ** 2 * np.diag(factor) ** 2
            bits, bound = lengths[name] * 8 / w.size, rate(of, error / w.size)
            found.append((bits, 10 * np.log10(error / signal), bound, bits - bound))
        bits, error, bound, above = np.mean(found, axis=0)
        print(f"{file}: {len(names)} matrices, {bits:.3f} bits, {error:.2f} dB, bound {bound:.3f} bits, "
              f"{above:.3f} above it ({min(f[3] for f in found):.3f} to {max(f[3] for f in found):.3f})", flush=True)


if __name__ == "__main__":
    main()
