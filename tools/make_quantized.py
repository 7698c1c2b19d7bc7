#!/usr/bin/env python3
"""Writes quantized and pruned checkpoints of a Llama-like model in bf16, as they are shipped: the input of
quantized_sizes.py.

    uv venv v
    uv pip install -p v/bin/python auto-round==0.16.1 compressed-tensors bitsandbytes==0.50.2 transformers accelerate ml_dtypes
    v/bin/python tools/make_quantized.py MODEL OUT [gptq awq mxfp4 gpt-oss nf4 pruned]

| folder | made by | |
|---|---|---|
| gptq | auto-round | int4, symmetric, groups of 64: qweight along the inputs, qzeros, scales, g_idx (AutoGPTQ, GPTQModel) |
| awq | auto-round | int4, asymmetric, groups of 64: qweight along the outputs in the order 0 2 4 6 1 3 5 7, qzeros, scales |
| mxfp4 | auto-round | weight_packed and weight_scale (compressed-tensors) |
| gpt-oss | this script | the same format under the names and shapes of gpt-oss: *_blocks, *_scales |
| nf4 | bitsandbytes | codebook indices, blocks of 64, absmax quantized in turn |
| pruned | this script | 2:4 by magnitude; what is pruned is +0 |

Groups have 64 weights since the hidden size of SmolLM2 is not a multiple of 128. auto-round runs without its search (`iters=0`), so weights are rounded to nearest and no calibration text
is needed; where the codes lie and what they are does not depend on that. Nothing is random. Takes about 2 minutes for
each of the first three on 2 cores.
"""

import json
import sys
from pathlib import Path

import numpy as np
import safetensors

GROUP = 64
KINDS = ("gptq", "awq", "mxfp4", "gpt-oss", "nf4", "pruned")
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], "f4")  # E2M1 without its sign


def is_linear(name):
    return name.endswith("_proj.weight")


def read(model):
    return dict(safetensors.deserialize((model / "model.safetensors").read_bytes()))


def write(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + len(tensor["data"])
        header[name] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            file.write(tensor["data"])


def bf16_values(tensor):
    bits = np.frombuffer(tensor["data"], "<u2").reshape(tensor["shape"])
    return (bits.astype("<u4") << 16).view("<f4")


def entry(dtype, array):
    return {"dtype": dtype, "shape": list(array.shape), "data": np.ascontiguousarray(array).tobytes()}


def mxfp4(w):
    """Blocks and scales of a matrix (OCP MX 1.0): 32 weights share a power of two."""
    w = w.reshape(w.shape[0], -1, 32)
    most = np.abs(w).max(axis=2)
    exponent = np.where(most > 0, np.floor(np.log2(np.maximum(most, 2.0**-126))) - 2, -127).astype(int)
    magnitude = np.abs(w) / 2.0 ** exponent[..., None]
    middles = (FP4[1:] + FP4[:-1]) / 2
    up, down = np.searchsorted(middles, magnitude, "right"), np.searchsorted(middles, magnitude, "left")
    code = np.where(up % 2 == 0, up, down)  # ties to even
    code = (code | (np.signbit(w) << 3)).astype("u1")
    return code[..., ::2] | code[..., 1::2] << 4, (exponent + 127).astype("u1")


def make_gpt_oss(model, out):
    tensors = {}
    for name, tensor in read(model).items():
        if not is_linear(name):
            tensors[name] = tensor
            continue
        blocks, scales = mxfp4(bf16_values(tensor))
        stem = name.removesuffix(".weight")
        tensors[stem + "_blocks"], tensors[stem + "_scales"] = entry("U8", blocks), entry("U8", scales)
    write(out, tensors)


def make_pruned(model, out):
    tensors = read(model)
    for name, tensor in tensors.items():
        if is_linear(name):
            bits = np.frombuffer(tensor["data"], "<u2").reshape(-1, 4).copy()
            order = np.argsort(bits & 0x7FFF, axis=1, kind="stable")  # of floats without their sign
            np.put_along_axis(bits, order[:, :2], 0, axis=1)
            tensors[name] = entry("BF16", bits.reshape(tensor["shape"]))
    write(out, tensors)


def make_by_auto_round(kind, model, out):
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scheme, layout, options = {
        "gptq": ("W4A16", "auto_gptq", {"group_size": GROUP, "sym": True}),
        "awq": ("W4A16", "auto_awq", {"group_size": GROUP, "sym": False}),
        "mxfp4": ("MXFP4", "llm_compressor", {}),
    }[kind]
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    rounding = AutoRound(loaded, AutoTokenizer.from_pretrained(model), scheme=scheme, iters=0, disable_opt_rtn=True,
                         device_map="cpu", **options)
    rounding.quantize_and_save(str(out), format=layout)


def make_nf4(model, out):
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=config, device_map="cpu",
                                                  dtype=torch.bfloat16)
    loaded.save_pretrained(out)


def main(model, out, *kinds):
    model, out = Path(model), Path(out)
    for kind in kinds or KINDS:
        if kind not in KINDS:
            sys.exit(f"{kind} is none of {', '.join(KINDS)}")
        make = {"gpt-oss": make_gpt_oss, "nf4": make_nf4, "pruned": make_pruned}.get(kind)
        if make:
            make(model, out / kind)
        else:
            make_by_auto_round(kind, model, out / kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
