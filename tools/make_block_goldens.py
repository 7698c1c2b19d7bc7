#!/usr/bin/env python3
"""Golden files for the block dtypes of crates/impasto-core, made with the Python package gguf.

    python tools/make_block_goldens.py [--out crates/impasto-core/tests/golden]

Needs numpy and gguf, on x86-64 (where a float does not fit an integer, numpy leaves the result to the processor).
Writes, all little-endian:
  dequantize/TYPE.bin   blocks of random bytes, then their weights (f32); the first blocks have extreme scales
  quantize/weights.bin  weights (f32), 32 per block
  quantize/TYPE.bin     the blocks that the package makes of them
"""

import argparse
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Offsets of the binary16 scales in a block.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "IQ1_S": [0],
    "IQ1_M": [],
    "IQ2_XXS": [0],
    "IQ2_XS": [0],
    "IQ2_S": [0],
    "IQ3_XXS": [0],
    "IQ3_S": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "MXFP4": [],
}
# Zeros, least and largest subnormals, least normal, largest, infinities, quiet and signalling NaN, an ordinary one.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFD01, 0x1234]
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def random_blocks(rng, name):
    """Blocks with each extreme in one scale and an ordinary number or another extreme in the next, then random ones."""
    weights, size = gguf.GGML_QUANT_SIZES[Type[name]]
    n = len(EXTREMES) + (12 if weights == 32 else 4)
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for j, at in enumerate(SCALES[name]):
        for i, scale in enumerate(EXTREMES):
            scale = scale if j == 0 else EXTREMES[(5 * i + 4) % len(EXTREMES)]
            blocks[i, at : at + 2] = [scale & 255, scale >> 8]
        # Random scales of ordinary size.
        ordinary = rng.uniform(-0.1, 0.1, n - len(EXTREMES)).astype(np.float16)
        blocks[len(EXTREMES) :, at : at + 2] = ordinary.view(np.uint8).reshape(-1, 2)
    return blocks


def weights_to_quantize(rng):
    """Ordinary weights of many magnitudes; ties, zeros, equal weights, subnormals, overflows, infinities, NaN."""
    gaussian = rng.standard_normal((40, 32)) * np.logspace(-9, 5, 40)[:, None]
    blocks = [*gaussian, *(rng.integers(-8, 9, (8, 32)) / 2), *(rng.integers(0, 32, (4, 32)) - 4.0)]
    blocks += [np.zeros(32), -np.zeros(32), np.full(32, 0.7), np.full(32, -3.0), np.arange(32) - 16.0]
    blocks += [rng.uniform(-1, 1, 32) * scale for scale in (1e-40, 1e-44, 2e-38, 1e-37, 1e36, 3.4e38)]
    for special in (np.inf, -np.inf, np.nan):
        block = rng.standard_normal(32)
        block[13] = special
        blocks.append(block)
    blocks.append(np.where(np.arange(32) % 3 == 0, np.inf, -np.inf))
    return np.array(blocks, dtype=np.float64).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/impasto-core/tests/golden")
    out = parser.parse_args().out
    np.seterr(all="ignore")
    rng = np.random.default_rng(3)
    for folder in ("dequantize", "quantize"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name in SCALES:
        blocks = random_blocks(rng, name)
        weights = gguf.quants.dequantize(blocks, Type[name])
        (out / "dequantize" / f"{name}.bin").write_bytes(blocks.tobytes() + weights.tobytes())
    weights = weights_to_quantize(rng)
    (out / "quantize" / "weights.bin").write_bytes(weights.tobytes())
    for name in QUANTIZED:
        (out / "quantize" / f"{name}.bin").write_bytes(gguf.quants.quantize(weights, Type[name]).tobytes())


if __name__ == "__main__":
    main()
