#!/usr/bin/env python3
"""What each tool of mode transform earns on tensors of models, as the table of docs/CODING_TOOLS.md:
coding_tools.py EXAMPLE MODELS [TOOL...]

EXAMPLE is the program `transform_curve` (`cargo build --release -p impasto-encode --example transform_curve`). MODELS is a
folder with the models `all-minilm-l6-v2` and `whisper-tiny.en`. Needs the packages numpy, safetensors and scikit-image.

Each tensor is coded with a step of a quarter of its standard deviation: with all tools, with each one left out, with
none but RDOQ, and with each wavelet alone. If TOOLs are named, only with all and with each of these left out (and wavelets
alone, if one is named). Rates are in bits per weight at the error of all tools; a decibel of error is worth 0.166 bits.
"""

import math
import subprocess
import sys
import tempfile

import numpy as np
import skimage.data
from safetensors import safe_open

TOOLS = """quarters halves dc top left planar sum linear dct dst hadamard rdoq trellis
           runs row-order column-order klt cdf53 cdf97""".split()
WAVELETS = "cdf53 cdf97".split()
BLOCKS = "whisper, encoder positions, without wavelets"
TENSORS = [("MiniLM positions", "all-minilm-l6-v2", "embeddings.position_embeddings.weight"),
           ("whisper, decoder positions", "whisper-tiny.en", "model.decoder.embed_positions.weight"),
           ("whisper, encoder positions", "whisper-tiny.en", "model.encoder.embed_positions.weight"),
           (BLOCKS, "whisper-tiny.en", "model.encoder.embed_positions.weight"),
           ("whisper, first convolution", "whisper-tiny.en", "model.encoder.conv1.weight"),
           ("whisper, second convolution", "whisper-tiny.en", "model.encoder.conv2.weight"),
           ("photograph (camera)", None, "camera"),
           ("shuffled photograph", None, "shuffled"),
           ("sparse", None, "sparse")]


def matrix(models, model, name):
    if model is None:
        picture, random = skimage.data.camera().astype("<f4") - 128, np.random.default_rng(1)
        if name == "shuffled":  # its rows and columns in a random order
            return picture[random.permutation(512)][:, random.permutation(512)]
        if name == "sparse":  # 1 in 50 values is not 0
            return (random.normal(size=(512, 512)) * (random.random((512, 512)) < 0.02)).astype("<f4")
        return picture
    with safe_open(f"{models}/{model}/model.safetensors", "np") as file:
        tensor = file.get_tensor(name).astype("<f4")
    return tensor.reshape(tensor.shape[0], -1)


def coded(example, file, columns, tools, step):
    """Bits per weight and mean squared error."""
    command = [example, file, str(columns), tools, repr(float(step))]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[1]
    return tuple(map(float, line.split()[2:]))


def main(example, models, *chosen):
    sets = {"all": "all"} | {f"without {tool}": f"-{tool}" for tool in chosen or TOOLS}
    if not chosen:
        sets |= {"none": "none,+rdoq"}
    if not chosen or set(chosen) & set(WAVELETS):
        sets |= {"without both wavelets": "-cdf53,-cdf97"} | {f"{tool} alone": f"none,+{tool}" for tool in WAVELETS}
    rates = {}
    for title, model, name in TENSORS:
        values = matrix(models, model, name)
        with tempfile.NamedTemporaryFile() as file:
            values.tofile(file)
            file.flush()
            reference = None
            for label, tools in sets.items():
                if title == BLOCKS and not tools.startswith("none"):
                    tools += ",-cdf53,-cdf97"
                step = values.std() / 4
                bits, error = coded(example, file.name, values.shape[1], tools, step)
                reference = reference or error
                # Tools may choose other errors at the same step; a second step brings them near the reference.
                step *= math.sqrt(reference / error)
                bits, error = coded(example, file.name, values.shape[1], tools, step)
                rates[label, title] = bits + math.log2(error / reference) / 2
                print(f"{title}: {label}: {rates[label, title]:.4f}", file=sys.stderr)
    print("| tools |", " | ".join(title for title, *_ in TENSORS), "|")
    print("|---|" + "---:|" * len(TENSORS))
    for label in sets:
        row = [rates[label, title] for title, *_ in TENSORS]
        if label.startswith("without"):
            row = [f"{rate - rates['all', title]:+.3f}" for rate, (title, *_) in zip(row, TENSORS)]
        else:
            row = [f"{rate:.3f}" for rate in row]
        print(f"| {label} |", " | ".join(row), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])
