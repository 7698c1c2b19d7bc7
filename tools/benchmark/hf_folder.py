"""Hugging Face folders with some tensors replaced, and dequantized GGUFs as such folders."""

import json
import re
import shutil

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors import safe_open
from safetensors.numpy import save_file

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def tensors(folder):
    """All tensors of a folder as binary32, by name."""
    import torch  # reads bfloat16, which NumPy does not know

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).to(torch.float32).numpy() for name in file.keys()}


def write(folder, original, weights):
    """Writes `weights` as a folder with the other files of `original`."""
    for path in original.iterdir():
        if path.is_file() and path.suffix == ".json" and not path.name.endswith(".index.json"):
            shutil.copy(path, folder / path.name)
    save_file(
        {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}, folder / "model.safetensors"
    )
    return folder


def hugging_face_name(name):
    """The name that transformers gives to a tensor of a Llama GGUF; None if it has none."""
    if name in NAMES:
        return NAMES[name]
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer and layer[2] in LAYER_NAMES:
        return f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    return None


def from_gguf(path, original):
    """The weights of a Llama GGUF, dequantized to binary32, with transformers' names and order of rows.

    GGUF keeps the rows of q and k so that the two halves of a rotary pair are neighbours; transformers keeps all first
    halves of a head before all second ones.
    """
    config = json.loads((original / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        name = hugging_face_name(tensor.name)
        if name is None:
            continue
        w = dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                w = w.reshape(count, -1, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)
        weights[name] = w
    return weights


def gguf_types(path):
    """The bytes of a GGUF's tensors, and the type of each by transformers' name."""
    tensors = gguf.GGUFReader(path).tensors
    types = {hugging_face_name(t.name) or t.name: t.tensor_type.name for t in tensors}
    return sum(int(t.n_bytes) for t in tensors), types
