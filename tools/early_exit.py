#!/usr/bin/env python3
"""Bounds how much of the output projection a proof of the greedy token needs.

    tools/early_exit.py --model MODELS/smollm2-135m-continuous --text DATA/valid.txt l1 l2 l3

The arguments are checkpoints that layers of one file decode to, from the coarsest (`impasto decode layered.impasto --layer 1 -o
l1`); --model is the finest. For each pair of layers, the logit of a row at the finer layer is at most its logit at the coarser one
plus |difference of the rows| |activation| (Cauchy and Schwarz), and at least that minus this. Only rows whose upper bound reaches the
largest lower bound can win, and need the finer weights. Printed is their share, over the positions of a text, with bounds on whole rows
and on blocks of 128 columns. Rounding is not counted, so the share is the least that a proof could need. Activations are those of
the finest layer, in binary32.
"""

import argparse
import json
import os

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer


def tensors(folder):
    """The tensors of a checkpoint in binary32. numpy has no bfloat16, so the bits are read."""
    path = os.path.join(folder, "model.safetensors")
    try:
        return {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (TypeError, AttributeError, KeyError, ValueError):
        pass
    out = {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        data = file.read()
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(data[begin:end], dtype=np.uint16).astype(np.uint32) << 16
            out[name] = bits.view(np.float32).reshape(entry["shape"])
    return out


def hidden(weights, config, tokens):
    """The normalized output of the last block, in binary32."""
    heads, kv, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    norm = lambda x, w: x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config["rms_norm_eps"]) * w
    angles = np.arange(len(tokens))[:, None] / config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rope(x):
        a, b = x[..., : dim // 2], x[..., dim // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    x = weights["model.embed_tokens.weight"][tokens]
    mask = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for block in range(config["num_hidden_layers"]):
        w = lambda name: weights[f"model.layers.{block}.{name}.weight"]
        y = norm(x, w("input_layernorm"))
        q, k, v = (
            (y @ w(f"self_attn.{name}_proj").T).reshape(len(tokens), -1, dim) for name in ("q", "k", "v")
        )
        q, k = rope(q), np.repeat(rope(k), heads // kv, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim) + mask
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        y = np.einsum("hqk,khd->qhd", scores, np.repeat(v, heads // kv, axis=1)).reshape(len(tokens), -1)
        x = x + y @ w("self_attn.o_proj").T
        y = norm(x, w("post_attention_layernorm"))
        gate = y @ w("mlp.gate_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return norm(x, weights["model.norm.weight"]).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=300)
    options = parser.parse_args()
    with open(os.path.join(options.model, "config.json")) as file:
        config = json.load(file)
    with open(options.text, encoding="utf-8") as file:
        text = file.read(options.tokens * 20)
    tokens = Tokenizer.from_file(os.path.join(options.model, "tokenizer.json")).encode(text).ids[: options.tokens]
    finest = tensors(options.model)
    x = hidden(finest, config, np.array(tokens))
    name = "lm_head.weight" if "lm_head.weight" in finest else "model.embed_tokens.weight"
    rows = [tensors(folder)[name] for folder in options.layers] + [finest[name]]
    perplexity = [-np.log(p) for p in softmax(x[:-1] @ rows[-1].T)[np.arange(len(tokens) - 1), tokens[1:]]]
    print(f"{len(tokens)} tokens, perplexity {np.exp(np.mean(perplexity)):.1f} (a check of this script)")
    print("| draft | layer | same token | rows that need it, bound on rows | bound on blocks of 128 columns |")
    print("|---|---|---:|---:|---:|")
    for high in range(1, len(rows)):
        for low in range(high):
            base, difference = x @ rows[low].T, rows[high] - rows[low]
            best = (x @ rows[high].T).argmax(axis=1)
            shares = []
            for size in (x.shape[1], 128):
                bound = sum(
                    np.outer(np.linalg.norm(x[:, at : at + size], axis=1), np.linalg.norm(difference[:, at : at + size], axis=1))
                    for at in range(0, x.shape[1], size)
                )
                needed = base + bound >= (base - bound).max(axis=1, keepdims=True)
                assert needed[np.arange(len(best)), best].all(), "the greedy token is never excluded"
                shares.append(needed.mean())
            same = (base.argmax(axis=1) == best).mean()
            print(f"| {low + 1} | {high + 1} | {same:.3f} | {shares[0]:.4f} | {shares[1]:.4f} |")


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main()
