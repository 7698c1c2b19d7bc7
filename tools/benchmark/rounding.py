"""Round to nearest in groups: the simplest competitor.

A group of 32 or 64 neighbours along the inputs shares a binary16 scale; weights are signed integers of 4 or 8 bits. The
scale is the largest magnitude over half the number of values minus a half (7.5 or 127.5), as in compressed-tensors.
"""

import numpy as np

import hf_folder
import ours

FAMILY = "round to nearest"


def quantized(w, bits, group):
    """`w` (rows x columns) rounded and brought back to binary32. The last group of a row may be shorter."""
    columns = w.shape[1]
    padded = np.pad(w, ((0, 0), (0, -columns % group))).reshape(len(w), -1, group)
    levels = 1 << (bits - 1)
    scale = (np.abs(padded).max(axis=-1, keepdims=True) / (levels - 0.5)).astype(np.float16).astype(np.float32)
    steps = np.divide(padded, scale, out=np.zeros_like(padded), where=scale > 0)
    integers = np.clip(np.rint(steps), -levels, levels - 1)
    return (integers * scale).reshape(len(w), -1)[:, :columns]


def stored_bytes(shape, bits, group):
    """Bytes of the integers and of a scale for each group."""
    rows, columns = shape
    return rows * columns * bits // 8 + rows * -(-columns // group) * 2


def is_linear(name, w):
    return w.ndim == 2 and "embed" not in name and "lm_head" not in name


def file_of(weights, linear, embedding):
    """Weights after rounding and the bytes of all tensors.

    `linear` and `embedding` are (bits, group), or None for bfloat16 as it was. Vectors stay in bfloat16.
    """
    out, total = {}, 0
    for name, w in weights.items():
        form = (linear if is_linear(name, w) else embedding) if w.ndim == 2 else None
        out[name] = w if form is None else quantized(w, *form)
        total += w.size * 2 if form is None else stored_bytes(w.shape, *form)
    return out, total


def points(bench, model):
    """INT8 and INT4 in groups of 32 and 64; beside 4 bits also an embedding of 8 bits."""
    weights = hf_folder.tensors(model.folder)
    for bits, group in [(8, 32), (8, 64), (4, 32), (4, 64)]:
        for embedding in sorted({bits, 8}):
            name = f"INT{bits} g{group}" + (", embedding INT8" if embedding != bits else "")
            if bench.scored(FAMILY, name, model):
                continue
            changed, bare = file_of(weights, (bits, group), (embedding, group))
            folder = hf_folder.write(bench.folder("rtn"), model.folder, changed)
            # Tokenizer and configuration are counted as they are in our files, compressed.
            bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)
