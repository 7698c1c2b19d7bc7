#!/usr/bin/env python3
"""What a learned reconstruction could gain: small maps from decoded weights to better ones, with their parameters paid.

    tools/benchmark/reconstruction.py --impasto FILE --model FOLDER --statistics FILE [options] FILE.impasto...

Each map is fitted to the original weights of every linear layer, in the metric that error feedback minimizes: the error is
tr((W - V) H (W - V)^T) with the covariance H and the damping of the statistics, and rows weighted as their steps say. For
each map the script prints the mean gain in dB, the same in bits a weight (6.02 dB a bit), and what the parameters take,
8 bits each. A map earns if the second exceeds the third. `--plain` takes the plain squared error, as files without
calibration do. `--write FOLDER` writes the checkpoint with the best map of
`--map`, for `impasto eval kld`. Needs numpy, safetensors, ml_dtypes and zstandard.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import ml_dtypes  # noqa: F401  (NumPy then has bfloat16.)
import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "conformance"))
import naive_coding  # noqa: E402
import naive_container  # noqa: E402
from overhead import Inputs, impasto  # noqa: E402

BIT = 20 * np.log10(2)
PARAMETER = 8
GROUPS = 8


def tensors(folder):
    return {name: tensor for path in sorted(Path(folder).glob("*.safetensors")) for name, tensor in load_file(path).items()}


def steps(path):
    """The steps of rows and of columns of the tensors of a file that are on the lattice."""
    data = Path(path).read_bytes()
    shapes = naive_coding.read_shapes((Path(naive_coding.__file__).parents[1] / "docs/SPEC-TABLES.md").read_text())
    file = naive_container.read_file(data)
    out = {}
    for unit in file.units:
        obj = file.objects[unit.object]
        if unit.mode != 2:
            continue
        head = naive_coding.Head(obj, unit, data[unit.start:unit.start + unit.length], shapes)
        if head.kind == 4:
            scales = [np.exp2(np.array([array[i] for i in range(n)]) / 16)
                      for array, n in ((head.row_steps, obj.rows), (head.column_steps, obj.cols))]
            out[obj.name] = head.step * scales[0], scales[1]
    return out


def fitted(error, changes):
    """The best factors of changes, all by rows after the covariance: least squares over all rows."""
    gram = np.array([[np.sum(a * b) for b in changes] for a in changes])
    right = np.array([np.sum(error * a) for a in changes])
    return np.linalg.lstsq(gram, right, rcond=None)[0]


def maps(w, v, rows, columns, factor):
    """For each map: its name, the corrected weights, and the bits of its parameters."""
    weight = (rows.min() / rows)[:, None]

    def out(x):
        return (x * weight) @ factor

    error = out(w - v)
    z = np.rint(v / (rows[:, None] * columns))
    point = np.sign(z) * rows[:, None] * columns
    n = PARAMETER / v.size

    def linear(changes):
        found = fitted(error, [out(change) for change in changes])
        return v + sum(by * change for by, change in zip(found, changes))

    size = np.abs(z)
    yield "nothing", v, 0
    yield "offset", linear([point]), n
    yield "centroid by size 1, 2, 3 and more", linear([point * (size == 1), point * (size == 2), point * (size >= 3)]), 3 * n
    yield "one factor", linear([v]), n
    v_out = out(v)
    by_row = (error * v_out).sum(1) / np.maximum((v_out ** 2).sum(1), 1e-30)
    yield "factor by row", v * (1 + np.rint(by_row * 512) / 512)[:, None], n * len(rows)
    h = factor @ factor.T
    weighted = v * weight ** 2
    left, right = h * (weighted.T @ v), ((weighted.T @ (w - v)) * h).sum(1)
    by_column = np.linalg.lstsq(left + 1e-9 * np.trace(left) / len(left) * np.eye(len(left)), right, rcond=None)[0]
    yield "factor by column", v * (1 + np.rint(by_column * 512) / 512), n * len(columns)
    order = np.argsort(np.mean(v ** 2, axis=1))
    affine = v.copy()
    for group in np.array_split(order, GROUPS):
        found = fitted(error[group], [v_out[group], out(point)[group]])
        affine[group] += found[0] * v[group] + found[1] * point[group]
    yield f"affine by {GROUPS} classes of row scale", affine, 2 * GROUPS * n
    scaled = v / (rows[:, None] * columns)
    around = [np.roll(scaled, shift, axis) for axis in (0, 1) for shift in (1, -1)]
    yield "filter of 4 neighbours", linear([x * rows[:, None] * columns for x in around]), 4 * n
    yield "filter, offset and factor", linear([x * rows[:, None] * columns for x in around] + [v, point]), 6 * n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--impasto", "--model", "--statistics"):
        parser.add_argument(name, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every so-many-th linear layer")
    parser.add_argument("--plain", action="store_true", help="the plain squared error, without covariance")
    parser.add_argument("--map", help="the map to write")
    parser.add_argument("--write", help="a folder for the checkpoint with that map")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    original, inputs = tensors(options.model), Inputs(options.statistics)
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            impasto(options, "decode", file, "--to", "safetensors", "-o", Path(folder) / "decoded")
            decoded = tensors(Path(folder) / "decoded")
        of_file = steps(file)
        names = [name for name in sorted(inputs.linears) if name in of_file and ".layers." in name][::options.every]
        gains, costs = {}, {}
        for name in names:
            w, v = (x[name].astype(np.float32) for x in (original, decoded))
            rows, columns = (x.astype(np.float32) for x in of_file[name])
            factor = np.eye(len(columns)) if options.plain else inputs.factor(name)
            factor = factor.astype(np.float32)
            weight = (rows.min() / rows)[:, None]
            for label, better, bits in maps(w, v, rows, columns, factor):
                error = np.sum((((w - better) * weight) @ factor).astype(np.float64) ** 2)
                before = error if label == "nothing" else before
                gains.setdefault(label, []).append(10 * np.log10(before / error))
                costs.setdefault(label, []).append(bits)
                if label == options.map:
                    decoded[name] = better.astype(decoded[name].dtype)
        print(f"{file}: {len(names)} matrices")
        for label, found in list(gains.items())[1:]:
            bits, cost = np.mean(found) / BIT, np.mean(costs[label])
            print(f"  {label:40} {np.mean(found):7.4f} dB  {bits:8.5f} bits  parameters {cost:8.5f}  net {bits - cost:9.5f}")
        if options.write:
            shutil.copytree(options.model, options.write, ignore=shutil.ignore_patterns("*.safetensors*"))
            save_file(decoded, Path(options.write) / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
