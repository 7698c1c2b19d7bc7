#!/usr/bin/env python3
"""Gain from the contexts of mode float: ideal bits per weight on linear layers, for docs/RESULTS.md.

    pip install numpy ml_dtypes
    python3 tools/context_gains.py FOLDER...        # Hugging Face folders; 32-bit floats are taken as bf16

For each number of mantissa bits coded with the exponent, and each class width, it adds up the empirical entropy of the
symbols given the class (one distribution for each fraction of an octave, shifted by octaves), the raw bits, and the
entropy of the class indices. It also prints the gain, in dB, of the best linear prediction of a weight from its left,
top and top-left neighbours.
"""
import json
import struct
import sys

import ml_dtypes
import numpy as np

DTYPES = {"BF16": (ml_dtypes.bfloat16, 7), "F16": (np.float16, 10), "F32": (np.float32, 7)}


def matrices(folder):
    data = open(f"{folder}/model.safetensors", "rb").read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__" or entry["dtype"] not in DTYPES or len(entry["shape"]) != 2:
            continue
        if min(entry["shape"]) < 64 or "embed" in name or "position" in name:
            continue
        dtype, mantissa = DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        w = np.frombuffer(data[start + begin:start + end], dtype=dtype).reshape(entry["shape"])
        yield (w.astype(ml_dtypes.bfloat16) if dtype is np.float32 else w), mantissa


def entropy(symbols):
    counts = np.bincount((symbols - symbols.min()).ravel())
    counts = counts[counts > 0].astype(float)
    return -(counts * np.log2(counts / counts.sum())).sum()


def scales(w):
    """log2 of row and column scales, fitted alternately."""
    square = w.astype(np.float64) ** 2 + 1e-30
    columns = np.ones(w.shape[1])
    for _ in range(2):
        rows = (square / columns).mean(1)
        columns = (square / rows[:, None]).mean(0)
    return np.log2(rows) / 2, np.log2(columns) / 2


def neighbour_errors(w):
    """Sum of squares of the weights with all three neighbours, and of their errors under the best linear predictor."""
    x = w.astype(np.float64)
    target = x[1:, 1:].ravel()
    neighbours = np.stack([x[1:, :-1].ravel(), x[:-1, 1:].ravel(), x[:-1, :-1].ravel()])
    best = np.linalg.solve(neighbours @ neighbours.T, neighbours @ target)
    return (target ** 2).sum(), ((target - best @ neighbours) ** 2).sum()


def main():
    for folder in sys.argv[1:]:
        bits, weights, gains = {}, 0, []
        for w, mantissa in matrices(folder):
            weights += w.size
            magnitude = (w.view(np.uint16) & 0x7FFF).astype(np.int64)
            before, after = neighbour_errors(w)
            gains.append(10 * np.log10(before / after))
            rows, columns = scales(w)
            for coded in range(4):
                symbols, raw = magnitude >> (mantissa - coded), w.size * (1 + mantissa - coded)
                key = coded, "no class"
                bits[key] = bits.get(key, 0) + entropy(symbols) + raw
                for width in (4, 8):
                    r, c = np.round(rows * width).astype(int), np.round(columns * width).astype(int)
                    t = r[:, None] + c[None, :]
                    relative = symbols - ((t // width) << coded)
                    total = sum(entropy(relative[t % width == f]) for f in range(width) if (t % width == f).any())
                    key = coded, f"1/{width} octave"
                    bits[key] = bits.get(key, 0) + total + raw + entropy(r) + entropy(c)
        print(f"{folder}: {weights} weights, bits a weight")
        for (coded, what), total in sorted(bits.items()):
            print(f"  {coded} mantissa bits, {what:11}  {total / weights:.4f}  {100 * total / weights / 16:.2f}% of 16 bits")
        print(f"  neighbours: median {np.median(gains):.3f} dB, largest {max(gains):.3f} dB of {len(gains)} matrices")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
