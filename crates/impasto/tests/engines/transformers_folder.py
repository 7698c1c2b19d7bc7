"""Runs exported folders of compressed-tensors with transformers.

    transformers_folder.py IDS FOLDER LOGITS ...    logits at all of IDS, with those in a file of binary32

Prints a line of JSON with the largest difference over the largest magnitude, of each folder. Needs transformers, torch and
compressed-tensors; tested with 5.19, 2.13 and 0.17.
"""

import contextlib
import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM

ids, *pairs = sys.argv[1:]
ids = torch.tensor([[int(n) for n in ids.split(",")]])
worst = []
for folder, logits in zip(pairs[::2], pairs[1::2]):
    wanted = np.fromfile(logits, np.float32).reshape(ids.shape[1], -1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # The first pass decompresses: FP4 always to bfloat16, which has its weights exactly, but which float32 cannot be multiplied by.
    with torch.no_grad(), contextlib.suppress(RuntimeError):
        model(ids)
    torch.nn.Module.float(model)
    with torch.no_grad():
        found = model(ids).logits[0].float().numpy()
    worst.append(float(np.abs(found - wanted).max() / np.abs(wanted).max()))
print(json.dumps({"worst": worst}))
