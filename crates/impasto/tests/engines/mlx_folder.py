"""Reads an exported folder with MLX, compares its weights with those of a safetensors folder, and generates greedily.

    mlx_folder.py FOLDER FLOATS IDS N

FLOATS holds the same weights as F32; IDS are tokens, separated by commas. Prints a line of JSON: how many modules are quantized,
those whose weights differ, and N tokens. Needs mlx (on Linux: `mlx[cpu]`) and mlx-lm; tested with 0.32.
"""

import json
import os
import sys

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model
from pathlib import Path

folder, floats, ids, count = sys.argv[1:]
config = json.load(open(os.path.join(folder, "config.json")))
quantization = config["quantization"]
quantized = mx.load(os.path.join(folder, "model.safetensors"))
wanted = mx.load(os.path.join(floats, "model.safetensors"))

modules = [name[: -len(".scales")] for name in quantized if name.endswith(".scales")]
differ = []
for module in modules:
    how = quantization[module]
    parts = {part: quantized.get(f"{module}.{part}") for part in ("scales", "biases")}
    weights = mx.dequantize(quantized[f"{module}.weight"], **parts, dtype=mx.float32, **how)
    if not mx.array_equal(weights, wanted[f"{module}.weight"]):
        differ.append(module)
for name, tensor in wanted.items():
    if name in quantized and name[: -len(".weight")] not in modules and not mx.array_equal(tensor, quantized[name]):
        differ.append(name)

model, _ = load_model(Path(folder))
prompt = mx.array([int(n) for n in ids.split(",")])
tokens = [int(token) for (token, _), _ in zip(generate_step(prompt, model, max_tokens=int(count)), range(int(count)))]
print(json.dumps({"modules": len(modules), "differ": differ, "tokens": tokens}))
