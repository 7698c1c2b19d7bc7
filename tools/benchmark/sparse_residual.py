#!/usr/bin/env python3
"""What a sparse part beside the lattice gains: rates at equal mean square error.

    tools/benchmark/sparse_residual.py [--rows N] [--every N] [FOLDER [PATTERN...]]

Numbers are Gaussian noise, or the weights of a checkpoint: rows of each matrix whose name matches a pattern (by default,
those of blocks), divided by the scales of rows and columns. They are rounded to integers with a dead zone. Then some of the
errors are coded again:

- 2:4: the two largest of each four neighbours in a row
- 5%, 1%: the largest of the matrix

by their position, and by their sign with one size for the matrix, or as integers of a finer lattice, a half to an eighth of
the step. All rates are entropies: of positions and values given the integer below (its sign, and its size up to 3), of
patterns of 2:4 given which of the four integers are 0. For each total rate, the script prints how many bits per weight
more (+) or less (-) the plain lattice takes for the same error, as the mean over matrices. Both sides take the best of some
dead zones, the sparse part also that of its codes for values. Needs numpy, and for a checkpoint safetensors and ml_dtypes.
"""

import argparse
import fnmatch
from pathlib import Path

import numpy as np
from codebooks import DEAD_ZONES, scalar, scaled, shrunk

RATES = (2.5, 3.0, 4.0)
KINDS = ("2:4", "5%", "1%")
NOISE = 1 << 18
FINER = ("sign", 2, 3, 4, 6, 8)
PLAIN_STEPS = np.geomspace(0.05, 4.0, 40)
BASE_STEPS = np.geomspace(0.1, 3.0, 16)
BASE_DEAD_ZONES = (0.0, 0.1, 0.2)


def given(symbols, context):
    """The entropy of integers from 0 given others, in bits for each."""
    size = int(symbols.max()) + 1
    pairs = np.bincount(context * size + symbols, minlength=(int(context.max()) + 1) * size)
    pairs = pairs[: len(pairs) // size * size].reshape(-1, size)
    whole = np.broadcast_to(pairs.sum(1, keepdims=True), pairs.shape)[pairs > 0]
    found = pairs[pairs > 0]
    return float((found * np.log2(whole / found)).sum() / len(symbols))


def chosen(error, kind):
    """Which errors are coded again."""
    if kind == "2:4":
        order = np.argsort(-np.abs(error).reshape(-1, 4), axis=1)
        mask = np.zeros(order.shape, bool)
        np.put_along_axis(mask, order[:, :2], True, 1)
        return mask.ravel()
    count = max(1, int(len(error) * float(kind[:-1]) / 100))
    mask = np.zeros(len(error), bool)
    mask[np.argpartition(-np.abs(error), count)[:count]] = True
    return mask


def positions(mask, base, context, kind):
    """Bits per weight of a mask."""
    if kind == "2:4":
        powers = 1 << np.arange(4)
        return given(mask.reshape(-1, 4) @ powers, (base.reshape(-1, 4) == 0) @ powers) / 4
    return given(mask.astype(np.int64), context)


def with_residuals(x, step, dead, kind):
    """Rate and mean square error with each code for the values of a sparse part."""
    base = np.rint(shrunk(x / step, dead)).astype(np.int64)
    error = x / step - base
    mask = chosen(error, kind)
    context = np.clip(base, -3, 3) + 3
    rate = given(base - base.min(), np.zeros_like(base)) + positions(mask, base, context, kind)
    values, where = error[mask], context[mask]
    for finer in FINER:
        if finer == "sign":
            symbols = (values > 0).astype(np.int64)
            back = np.where(values > 0, 1, -1) * np.mean(np.abs(values))
        else:
            symbols = np.rint(values * finer).astype(np.int64)
            back = symbols / finer
            symbols -= symbols.min()
        left = error.copy()
        left[mask] -= back
        yield finer, rate + given(symbols, where) * np.mean(mask), float(np.mean(left ** 2)) * step ** 2


def gains(x):
    """By kind and rate: what the best sparse part gains over the plain lattice, and the code of its values."""
    curves = [np.array([scalar(x, step, dead) for step in PLAIN_STEPS]).T for dead in DEAD_ZONES]
    out = {}
    for kind in KINDS:
        points = {}
        for dead in BASE_DEAD_ZONES:
            for step in BASE_STEPS:
                for finer, rate, error in with_residuals(x, step, dead, kind):
                    plain = min(np.interp(np.log(error), np.log(errors), rates) for rates, errors in curves)
                    points.setdefault((dead, finer), []).append((rate, plain - rate))
        for wanted in RATES:
            found = []
            for (_, finer), curve in points.items():
                rates, gained = zip(*sorted(curve))
                if rates[0] <= wanted <= rates[-1]:
                    found.append((float(np.interp(wanted, rates, gained)), str(finer)))
            out[kind, wanted] = max(found)
    return out


def matrices(options):
    """The numbers to measure on, of each matrix."""
    random = np.random.default_rng(1)
    if options.folder is None:
        yield random.standard_normal(NOISE)
        return
    import ml_dtypes  # noqa: F401  (NumPy then has bfloat16.)
    from safetensors import safe_open
    index = 0
    for path in sorted(Path(options.folder).glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                is_matrix = len(file.get_slice(name).get_shape()) == 2
                if not is_matrix or not any(fnmatch.fnmatch(name, pattern) for pattern in options.patterns):
                    continue
                if index % options.every == 0:
                    w = scaled(file.get_tensor(name).astype(np.float64))
                    rows = random.permutation(len(w))[: options.rows]
                    yield w[rows, : w.shape[1] // 4 * 4].ravel()
                index += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="rows of each matrix, chosen at random")
    parser.add_argument("--every", type=int, default=1, help="take every so-many-th matrix")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("patterns", nargs="*", default=["*.layers.*"])
    options = parser.parse_args()
    found = [gains(x) for x in matrices(options)]
    print(f"{options.folder or 'noise'}: {len(found)} matrices")
    for kind in KINDS:
        for wanted in RATES:
            values = np.array([one[kind, wanted][0] for one in found])
            codes = [one[kind, wanted][1] for one in found]
            best = max(set(codes), key=codes.count)
            print(
                f"  {kind:4} {wanted} bits  gain {values.mean():7.3f} bits, {values.min():.3f} to {values.max():.3f}"
                f"  values: {best}"
            )


if __name__ == "__main__":
    main()
