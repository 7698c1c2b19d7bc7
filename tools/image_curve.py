#!/usr/bin/env python3
"""PSNR over bytes of grey test images in mode transform, beside JPEG and JPEG 2000: image_curve.py EXAMPLE [IMAGE...]

EXAMPLE is the program `transform_curve` (`cargo build --release -p impasto-encode --example transform_curve`). IMAGE is
a name in `skimage.data`. Needs the packages numpy, pillow and scikit-image. For each image and PSNR it prints the bytes
of all three, interpolated on their curves, and what ours are relative to the others; also of the wavelet 9/7 alone,
relative to JPEG 2000.
"""

import io
import subprocess
import sys
import tempfile

import numpy as np
import skimage.data
from PIL import Image
from skimage.color import rgb2gray

IMAGES = ["camera", "astronaut", "coffee", "chelsea", "rocket", "coins", "moon", "brick", "grass"]
LEVELS = [32, 34, 36, 38, 40, 42]
STEPS = [3, 4.5, 6.5, 9, 13, 19, 28, 42, 64]


def grey(name):
    image = getattr(skimage.data, name)()
    return image if image.ndim == 2 else np.round(rgb2gray(image) * 255).astype(np.uint8)


def psnr(image, other):
    return 10 * np.log10(255**2 / np.mean((image.astype(float) - other) ** 2))


def pillow(image, **options):
    out = io.BytesIO()
    Image.fromarray(image).save(out, **options)
    return len(out.getvalue()), psnr(image, np.asarray(Image.open(out)))


def jpeg(image):
    return [pillow(image, format="JPEG", quality=q, optimize=True) for q in range(10, 100, 2)]


def jpeg2000(image):
    rates = np.geomspace(3, 120, 30)
    return [pillow(image, format="JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[float(r)],
                   no_jp2=True) for r in rates]


def ours(example, image, tools):
    with tempfile.NamedTemporaryFile() as file:
        (image.astype("<f4") - 128).tofile(file)
        file.flush()
        command = [example, file.name, str(image.shape[1]), tools, *map(str, STEPS)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[1:]
    # Rounding to 8 bits adds 1/12 to the error.
    return [(int(size), 10 * np.log10(255**2 / (float(error) + 1 / 12))) for _, size, _, error in map(str.split, lines)]


def at(curve, level):
    """Bytes of a curve at a PSNR; nan outside."""
    sizes, levels = zip(*sorted(curve, key=lambda point: point[1]))
    return float(np.exp(np.interp(level, levels, np.log(sizes), left=np.nan, right=np.nan)))


def main(example, names):
    tools = "all"
    print(f"{'image':10} {'dB':>3} {'ours':>8} {'JPEG':>8} {'JPEG2000':>8}  ours/JPEG  ours/JPEG2000  cdf97/JPEG2000")
    ratios = []
    for name in names or IMAGES:
        image = grey(name)
        curves = [ours(example, image, tools), jpeg(image), jpeg2000(image), ours(example, image, "none,+cdf97")]
        for level in LEVELS:
            a, b, c, d = (at(curve, level) for curve in curves)
            print(f"{name:10} {level:3} {a:8.0f} {b:8.0f} {c:8.0f}  {a / b:9.3f}  {a / c:13.3f}  {d / c:14.3f}")
            ratios.append((a / b, a / c, d / c))
    means = np.exp(np.nanmean(np.log(ratios), axis=0))
    print(f"geometric mean: {means[0]:.3f} of JPEG, {means[1]:.3f} of JPEG 2000; cdf97 alone {means[2]:.3f} of JPEG 2000")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
