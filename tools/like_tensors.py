#!/usr/bin/env python3
"""What prediction of one matrix from another of its shape could gain at most, for all pairs of a checkpoint.

python3 tools/like_tensors.py FOLDER... prints the best pairs of each folder: the mean over blocks of 8 x 16 of
-0.5 log2(1 - r^2), in bits per weight, with the correlation r of the block. Independent noise gives 0.006.
"""

import collections
import json
import struct
import sys
from pathlib import Path

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BLOCKS = 256


def matrices(path):
    """Names and values of the float matrices of a safetensors file."""
    data = np.memmap(path, np.uint8, "r")
    length, = struct.unpack("<Q", data[:8].tobytes())
    for name, entry in sorted(json.loads(data[8:8 + length].tobytes()).items()):
        if entry.get("dtype") not in DTYPES or len(entry["shape"]) < 2:
            continue
        start, end = (8 + length + at for at in entry["data_offsets"])
        values = np.frombuffer(data[start:end].tobytes(), DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        shape = entry["shape"]
        rows = shape[0] if shape[-1] < 32 else -1
        yield name, values.astype(np.float32).reshape(rows, values.size // shape[0] if rows > 0 else shape[-1])


def sample(matrix):
    """Some blocks of a matrix, one per row."""
    height, width = min(8, matrix.shape[0]), min(16, matrix.shape[1])
    down, across = matrix.shape[0] // height, matrix.shape[1] // width
    blocks = matrix[:down * height, :across * width].reshape(down, height, across, width).swapaxes(1, 2)
    blocks = blocks.reshape(down * across, height * width)
    count = min(len(blocks), BLOCKS)
    return blocks[[i * len(blocks) // count for i in range(count)]]


def gain(a, b):
    both = (a * a).sum(1) * (b * b).sum(1)
    explained = np.where(both > 0, (a * b).sum(1) ** 2 / np.maximum(both, 1e-30), 0)
    return float(np.mean(-0.5 * np.log2(np.maximum(1 - explained, 1e-6))))


def main():
    for folder in sys.argv[1:]:
        alike = collections.defaultdict(list)
        for path in sorted(Path(folder).glob("*.safetensors")):
            for name, matrix in matrices(path):
                alike[matrix.shape].append((name, sample(matrix)))
        pairs = [(gain(a, b), first, second) for of_shape in alike.values()
                 for i, (second, b) in enumerate(of_shape) for first, a in of_shape[:i]]
        print(f"{folder}: {len(pairs)} pairs")
        for bits, first, second in sorted(pairs, reverse=True)[:6]:
            print(f"  {bits:.3f} {second} from {first}")


if __name__ == "__main__":
    main()
