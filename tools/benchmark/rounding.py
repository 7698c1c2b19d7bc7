"""Round to nearest in groups: the simplest competitor.

A group of 32 or 64 neighbours along the inputs shares a binary16 scale; weights are signed integers of 4 or 8 bits. The
scale is the largest magnitude over half the number of values minus a half (7.5 or 127.5), as in compressed-tensors.

FP8 is float8_e4m3fn with a binary32 scale for each row: the largest magnitude becomes 448. NVFP4 is float4_e2m1fn in groups of
16 with a scale in float8_e4m3fn, itself over a binary32 scale of the matrix: the largest magnitude of a group becomes 6, that of a
matrix 6 * 448.
"""

import ml_dtypes
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


def rounded_to(w, dtype):
    """The nearest values of a small float type that all of `w` fits in."""
    largest = float(ml_dtypes.finfo(dtype).max)
    return np.clip(w, -largest, largest).astype(dtype).astype(np.float32)


def fp8(w):
    scale = np.maximum(np.abs(w).max(axis=1, keepdims=True) / 448, 1e-30)
    return rounded_to(w / scale, ml_dtypes.float8_e4m3fn) * scale


def nvfp4(w, group=16):
    columns = w.shape[1]
    padded = np.pad(w, ((0, 0), (0, -columns % group))).reshape(len(w), -1, group)
    largest = np.abs(padded).max(axis=-1, keepdims=True)
    whole = max(float(largest.max()) / (6 * 448), 1e-30)
    scale = rounded_to(largest / 6 / whole, ml_dtypes.float8_e4m3fn) * whole
    steps = np.divide(padded, scale, out=np.zeros_like(padded), where=scale > 0)
    return (rounded_to(steps, ml_dtypes.float4_e2m1fn) * scale).reshape(len(w), -1)[:, :columns]


def fp8_bytes(shape):
    return shape[0] * shape[1] + 4 * shape[0]


def nvfp4_bytes(shape):
    return shape[0] * shape[1] // 2 + shape[0] * -(-shape[1] // 16) + 4


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


def float_points(bench, model, weights):
    """FP8 and NVFP4, with an embedding of the same type or, beside NVFP4, of FP8."""
    forms = {"FP8": (fp8, fp8_bytes), "NVFP4": (nvfp4, nvfp4_bytes)}
    for linear, embedding in [("FP8", "FP8"), ("NVFP4", "FP8"), ("NVFP4", "NVFP4")]:
        name = linear + (f", embedding {embedding}" if embedding != linear else "")
        if bench.scored(FAMILY, name, model):
            continue
        changed, bare = {}, 0
        for tensor, w in weights.items():
            if w.ndim != 2:
                changed[tensor], bare = w, bare + w.size * 2
                continue
            to, stored = forms[linear if is_linear(tensor, w) else embedding]
            changed[tensor], bare = to(w), bare + stored(w.shape)
        folder = hf_folder.write(bench.folder("rtn"), model.folder, changed)
        bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)


def points(bench, model):
    """INT8 and INT4 in groups of 32 and 64; beside 4 bits also an embedding of 8 bits. Then float types."""
    weights = hf_folder.tensors(model.folder)
    float_points(bench, model, weights)
    for bits, group in [(8, 32), (8, 64), (4, 32), (4, 64)]:
        for embedding in sorted({bits, 8}):
            name = f"INT{bits} g{group}" + (", embedding INT8" if embedding != bits else "")
            if bench.scored(FAMILY, name, model):
                continue
            changed, bare = file_of(weights, (bits, group), (embedding, group))
            folder = hf_folder.write(bench.folder("rtn"), model.folder, changed)
            # Tokenizer and configuration are counted as they are in our files, compressed.
            bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)
