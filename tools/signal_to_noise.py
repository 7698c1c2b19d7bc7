#!/usr/bin/env python3
"""Signal-to-noise ratio of the tensors of a checkpoint that was decoded from a lossy file, in decibels:
signal_to_noise.py ORIGINAL DECODED

Both are folders with `.safetensors` files. Tensors that came back exactly are left out. Needs the packages numpy,
ml_dtypes and safetensors.
"""

import sys
from pathlib import Path

import ml_dtypes  # noqa: F401  (NumPy then has bfloat16.)
import numpy as np
from safetensors.numpy import load_file


def tensors(folder):
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def main(original, decoded):
    decoded = tensors(decoded)
    for name, tensor in tensors(original).items():
        weights, other = (t.astype(np.float64) for t in (tensor, decoded[name]))
        error = np.sum((weights - other) ** 2)
        if error > 0:
            print(f"{10 * np.log10(np.sum(weights**2) / error):7.2f} dB  {name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
