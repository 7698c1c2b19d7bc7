"""Runs exported folders with ONNX Runtime.

    onnx_folder.py linear FOLDER FLOATS          products of all layers of linear.onnx, with the F32 weights in FLOATS
    onnx_folder.py decoders IDS FOLDER LOGITS ...    logits of model.onnx at all of IDS, with those in a file of binary32
    onnx_folder.py genai FOLDER IDS N            N tokens, greedily, by onnxruntime-genai

Prints a line of JSON with the largest difference over the largest magnitude, or the tokens. Needs onnxruntime, safetensors and
numpy; `genai` needs onnxruntime-genai. Tested with 1.32 and 0.18.
"""

import json
import os
import sys

import numpy as np

def session(folder, name):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(os.path.join(folder, name), options, providers=["CPUExecutionProvider"])


def linear(folder, floats):
    from safetensors.numpy import load_file

    wanted = load_file(os.path.join(floats, "model.safetensors"))
    run = session(folder, "linear.onnx")
    random = np.random.default_rng(1)
    feeds = {x.name: random.standard_normal((3, x.shape[1]), np.float32) for x in run.get_inputs()}
    names = [y.name for y in run.get_outputs()]
    worst = 0.0
    for name, product in zip(names, run.run(names, feeds)):
        module = name[: -len(".output")]
        exact = feeds[f"{module}.input"].astype(np.float64) @ wanted[f"{module}.weight"].astype(np.float64).T
        worst = max(worst, float(np.abs(product - exact).max() / np.abs(exact).max()))
    return {"layers": len(names), "worst": worst}


def decoders(ids, *pairs):
    return {"worst": [decoder(ids, folder, logits) for folder, logits in zip(pairs[::2], pairs[1::2])]}


def decoder(ids, folder, logits):
    run = session(folder, "model.onnx")
    ids = np.array([[int(n) for n in ids.split(",")]], np.int64)
    wanted = np.fromfile(logits, np.float32).reshape(ids.shape[1], -1)
    past = {x.name: np.zeros((1, x.shape[1], 0, x.shape[3]), np.float32) for x in run.get_inputs() if "past" in x.name}
    names = [y.name for y in run.get_outputs()]
    found, seen = [], 0
    # A prompt in one pass, then one token at a time.
    for end in [ids.shape[1] // 2, *range(ids.shape[1] // 2 + 1, ids.shape[1] + 1)]:
        feeds = {"input_ids": ids[:, seen:end], "attention_mask": np.ones((1, end), np.int64), **past}
        outputs = dict(zip(names, run.run(names, feeds)))
        found.append(outputs["logits"][0])
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        seen = end
    return float(np.abs(np.concatenate(found) - wanted).max() / np.abs(wanted).max())


def genai(folder, ids, count):
    import onnxruntime_genai as og

    model = og.Model(folder)
    ids = [int(n) for n in ids.split(",")]
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + int(count), do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    tokens = []
    while len(tokens) < int(count):
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return {"tokens": tokens}


print(json.dumps({"linear": linear, "decoders": decoders, "genai": genai}[sys.argv[1]](*sys.argv[2:])))
