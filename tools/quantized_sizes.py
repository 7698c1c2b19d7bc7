#!/usr/bin/env python3
"""Sizes of quantized and pruned checkpoints, coded without loss: Impasto, zstd -19, ZipNN, and the entropy of their parts.

    v/bin/pip install numpy safetensors zstandard zipnn==0.5.4 torch
    v/bin/python tools/quantized_sizes.py [--whole] CHECKPOINTS IMPASTO [NAME ...]

CHECKPOINTS is the folder that make_quantized.py writes. For each checkpoint in it, there is a row, and with --whole two:

- *quantized*: a safetensors file of the tensors that hold the quantized or pruned matrices, alone. *entropy* is that of
  their parts, of order 0 per tensor: 4-bit indices; bytes of scales; 16-bit scales as their high byte and, given it, their
  low one. *given zero points* is the same, but of indices given the zero point of their group, where this is less. Of pruned matrices it is that of the masks of four weights and of the
  weights that are left, likewise.
- *whole*: the whole model.safetensors, with embeddings and norms, which are not quantized.

Bits are per weight of the quantized matrices.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
import zstandard

SCALES = ("scales", "_scales", "weight_scale", "absmax", "nested_absmax")


def entropy(codes):
    """Bits of symbols of order 0; symbols are integers from 0."""
    counts = np.bincount(codes.ravel()).astype(float)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def conditional(codes, given, values=256):
    return entropy(codes.astype(int) + values * given.astype(int)) - entropy(given)


def nibbles(array):
    """The 4-bit fields of an array of integers, low first, along its last axis."""
    data = np.ascontiguousarray(array).view("u1")
    return np.stack([data & 15, data >> 4], axis=-1).reshape(array.shape[:-1] + (-1,))


def of_wide(array):
    """Bits of 16-bit elements: the high byte, then the low one given it."""
    high, low = array >> 8, array & 255
    return entropy(high) + conditional(low, high)


def packed_int4(qweight, qzeros, is_awq):
    """Bits of the indices of GPTQ or AWQ, and their number: given zero points where this is less."""
    zeros = nibbles(qzeros)  # groups x outputs, in the order of their packing
    if is_awq:
        codes = nibbles(qweight)
    else:
        codes = nibbles(qweight[..., None]).transpose(0, 2, 1).reshape(-1, qweight.shape[1])
    group = codes.shape[0] // zeros.shape[0]
    given = np.repeat(zeros, group, axis=0)
    return min(entropy(codes), conditional(codes, given, 16)), entropy(codes), codes.size


def parts_of(tensors):
    """The names of the quantized tensors, the bits of indices and of scales, those of indices of order 0, and weights."""
    bits, weights = collections.Counter(), 0
    names = []
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        array = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        if last == "qweight":
            qzeros = tensors[f"{stem}.qzeros"]
            zeros = np.frombuffer(qzeros["data"], "<u4").reshape(qzeros["shape"])
            is_awq = f"{stem}.g_idx" not in tensors
            if not is_awq and array.shape[1] // 8 != zeros.shape[1]:
                sys.exit(f"{name}: unexpected shapes")
            least, order_0, n = packed_int4(array, zeros, is_awq)
            bits["indices"] += least
            bits["order 0"] += order_0
            weights += n
        elif last == "qzeros":
            bits["scales"] += entropy(nibbles(array))
        elif last == "g_idx":
            pass  # a line of numbers that count up: nothing
        elif last == "weight_packed" or name.endswith("_blocks") or (last == "weight" and tensor["dtype"] == "U8"):
            codes = nibbles(array)
            bits["indices"] += entropy(codes)
            bits["order 0"] += entropy(codes)
            weights += codes.size
        elif tensor["dtype"] == "BF16" and name.endswith("_proj.weight") and (array == 0).mean() > 0.3:
            four = (array != 0).reshape(-1, 4) @ np.array([1, 2, 4, 8])
            bits["indices"] += entropy(four)
            bits["order 0"] += entropy(four)
            bits["scales"] += of_wide(array[array != 0])
            weights += array.size
        elif name.endswith(SCALES) or last in ("quant_map", "nested_quant_map", "bitsandbytes__nf4") or ".weight." in name:
            bits["scales"] += entropy(array) if array.dtype == "u1" else of_wide(array) if array.dtype == "<u2" else 8 * len(tensor["data"])
        else:
            continue
        names.append(name)
    return names, bits, weights


DTYPES = {"I32": "<u4", "U8": "u1", "F16": "<u2", "BF16": "<u2", "F32": "<u4", "I64": "<u8", "F8_E4M3": "u1"}


def write(path, tensors):
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor["data"])
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t["data"] for t in tensors.values()))


def impasto(command, path):
    coded = path.with_suffix(".impasto")
    subprocess.run([command, "encode", path, "-o", coded, "--lossless", "-q"], check=True, capture_output=True)
    size = coded.stat().st_size
    coded.unlink()
    return size


def zipnn(data, dtype):
    from zipnn import ZipNN

    coder = ZipNN(input_format="byte", bytearray_dtype=dtype)
    coded = coder.compress(bytearray(data))
    if bytes(coder.decompress(coded)) != data:
        sys.exit("zipnn does not give the file back")
    return len(coded)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="also whole files")
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("impasto", help="the command")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    folder, command, names = options.checkpoints, options.impasto, options.names
    print("| checkpoint | | bytes | entropy | given zero points | Impasto | of entropy | zstd -19 | ZipNN | Impasto, bits |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for path in sorted(folder.glob("**/model.safetensors")):
        name = path.relative_to(folder).parts[0]
        if names and name not in names:
            continue
        tensors = dict(safetensors.deserialize(path.read_bytes()))
        quantized, bits, weights = parts_of(tensors)
        with tempfile.TemporaryDirectory() as scratch:
            alone = Path(scratch) / "quantized.safetensors"
            write(alone, {n: tensors[n] for n in sorted(quantized)})
            whole = Path(scratch) / "whole.safetensors"
            whole.symlink_to(path.resolve())
            for row, file in (("quantized", alone), ("whole", whole))[:1 + options.whole]:
                data = file.read_bytes()
                is_alone = row == "quantized"
                order_0, least = ((bits[of] + bits["scales"]) / 8 for of in ("order 0", "indices"))
                ours = impasto(command, file)
                peers = [len(zstandard.ZstdCompressor(19).compress(data)), zipnn(data, "bfloat16")]
                figures = [f"{len(data):,}", f"{order_0:,.0f}" if is_alone else "", f"{least:,.0f}" if is_alone else "",
                           f"{ours:,}", f"{ours / order_0:.4f}" if is_alone else "", *(f"{peer:,}" for peer in peers),
                           f"{8 * ours / weights:.3f}" if is_alone else ""]
                print(f"| {name} | {row} | " + " | ".join(figures) + " |", flush=True)
        detail = {key: round(value / weights, 4) for key, value in bits.items()}
        print(f"<!-- {name}: bits per weight {detail} -->", flush=True)


if __name__ == "__main__":
    main()
