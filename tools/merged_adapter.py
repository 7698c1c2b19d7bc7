#!/usr/bin/env python3
"""Writes the differences that a merged adapter makes to the linear layers of a model, as a checkpoint.

    merged_adapter.py MODEL FOLDER [--rank 8]

`FOLDER/exact` has the products of the two factors of each layer (LoRA, arXiv 2106.09685: both factors are random here, the
scale of the product is a hundredth of the layer's weights), rounded to bfloat16. `FOLDER/merged` has what a merge leaves of
them: the layer with the product added, rounded to bfloat16, less the layer. Needs numpy, safetensors and ml_dtypes.
"""

import argparse
import re
from pathlib import Path

import ml_dtypes  # noqa: F401, so that numpy knows bfloat16
import numpy as np
from safetensors.numpy import load_file, save_file

LINEAR = re.compile(r"\.(q|k|v|o|gate|up|down)_proj\.weight$")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, default=8)
    args = parser.parse_args()
    random = np.random.default_rng(1)
    exact, merged = {}, {}
    for shard in sorted(args.model.glob("*.safetensors")):
        for name, weights in load_file(shard).items():
            if not LINEAR.search(name):
                continue
            original = weights.astype(np.float32)
            rows, columns = original.shape
            product = random.standard_normal((rows, args.rank)) @ random.standard_normal((args.rank, columns))
            product = (product * 0.01 * original.std() / args.rank ** 0.5).astype(np.float32)
            rounded = (original + product).astype(weights.dtype).astype(np.float32)
            exact[name] = product.astype(ml_dtypes.bfloat16)
            merged[name] = (rounded - original).astype(ml_dtypes.bfloat16)
    for part, tensors in (("exact", exact), ("merged", merged)):
        (args.folder / part).mkdir(parents=True, exist_ok=True)
        save_file(tensors, args.folder / part / "model.safetensors")
        print(f"{args.folder / part}: {len(tensors)} matrices, {sum(t.nbytes for t in tensors.values())} bytes")


if __name__ == "__main__":
    main()
