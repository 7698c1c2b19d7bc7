#!/usr/bin/env python3
"""Writes a grey picture of scikit-image as a tensor of a safetensors file, for `impasto analyze tools`:
picture_tensor.py FILE [PICTURE]

PICTURE is the name of a function of `skimage.data`, `camera` by default. Needs the packages numpy, safetensors and
scikit-image.
"""

import sys

import numpy as np
import skimage.data
from safetensors.numpy import save_file


def main(file, picture="camera"):
    values = getattr(skimage.data, picture)().astype("<f4")
    if values.ndim == 3:
        values = values[..., :3].mean(axis=2)
    save_file({picture: np.ascontiguousarray(values - 128, "<f4")}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
