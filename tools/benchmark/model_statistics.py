"""Covariances of the inputs of linear layers, collected with torch, and statistics files for `encode --statistics`.

Impasto calibrates models that it can run. For other models, and to treat all alike, this module runs the model in
transformers: SmolLM2 and MiniLM on text, whisper on synthesized speech, with the text as the decoder's tokens.
"""

import json
from dataclasses import dataclass

import blake3
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import speech

# Heads, which are tied to embeddings, and a pooler that sentence-transformers does not use.
UNUSED = ("lm_head", "proj_out", "pooler.dense")
DAMPING = 0.01
VERSION = 3  # of the layout of the file
CLIPS = {"calibration": 96, "held out": 48}
TEXTS = {"calibration": "calibration.txt", "held out": "test.txt"}


@dataclass
class Collected:
    """Covariances by group, the group of each tensor, and how many positions they are the mean over."""

    covariances: dict
    groups: dict
    positions: dict


class Collector:
    """Adds up x x^T over the inputs of all linear layers; layers that are given the same tensor share a sum."""

    def __init__(self, model):
        self.sums, self.counts, self.groups, self.seen = {}, {}, {}, {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name not in UNUSED:
                module.register_forward_pre_hook(lambda _, args, name=f"{name}.weight": self.add(name, args[0]))

    def add(self, name, x):
        # The tensor is kept until the pass is over, so that its identity is its own.
        first, _ = self.seen.setdefault(id(x), (name, x))
        self.groups.setdefault(name, first)
        if first != name:
            return
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        gram = (rows.T @ rows).double()
        self.sums[name] = gram if name not in self.sums else self.sums[name] + gram
        self.counts[name] = self.counts.get(name, 0) + len(rows)

    def done(self):
        means = {name: (s / self.counts[name]).float().numpy() for name, s in self.sums.items()}
        return Collected(means, dict(self.groups), dict(self.counts))


def windows_of_text(folder, text, tokens, window, special):
    """Windows of token ids; `special` are the ids before and after each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(text[: tokens * 16], add_special_tokens=False).ids[:tokens]
    room = window - len(special[0]) - len(special[1])
    return [special[0] + ids[i : i + room] + special[1] for i in range(0, len(ids) - room + 1, room)]


def passes(folder, kind, text, part, tokens):
    """The model, and the keyword arguments of each of its passes."""
    from transformers import AutoModel, WhisperFeatureExtractor, WhisperForConditionalGeneration

    if kind == "whisper":
        from tokenizers import Tokenizer

        model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        extract = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        start, stop = [model.config.decoder_start_token_id, tokenizer.token_to_id("<|notimestamps|>")], [50256]

        def inputs():
            for words, samples in speech.clips(text, CLIPS[part]):
                features = extract(samples, sampling_rate=speech.RATE, return_tensors="pt").input_features
                ids = start + tokenizer.encode(" " + words, add_special_tokens=False).ids + stop
                yield {"input_features": features, "decoder_input_ids": torch.tensor([ids]), "use_cache": False}

        return model, inputs()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    special = ([101], [102]) if kind == "bert" else ([], [])
    window = 256 if kind == "bert" else 512
    found = windows_of_text(folder, text, tokens, window, special)
    more = {} if kind == "bert" else {"use_cache": False}
    return model, ({"input_ids": torch.tensor([ids])} | more for ids in found)


def collect(folder, kind, text, part, tokens):
    """Runs the model over a part of the text."""
    model, inputs = passes(folder, kind, text, part, tokens)
    model.eval()
    collector = Collector(model)
    with torch.no_grad():
        for arguments in inputs:
            model(**arguments)
            collector.seen.clear()
    return collector.done()


def cached(bench, folder, kind, part):
    """The same, kept in the scratch space; names of tensors are those of the checkpoint."""
    path = bench.scratch / f"{folder.name}-{part.replace(' ', '-')}-{bench.options.tokens}.safetensors"
    if not path.exists():
        text = bench.data(TEXTS[part]).read_text(encoding="utf-8")
        tokens = bench.options.tokens * (1 if part == "calibration" else 2)
        found = collect(folder, kind, text, part, tokens)
        with safe_open(folder / "model.safetensors", framework="np") as file:
            keys = list(file.keys())
            known = {next(k for k in keys if k.endswith(name)): group for name, group in found.groups.items()}
        more = {"groups": json.dumps(known), "positions": json.dumps(found.positions)}
        save_file({name: np.ascontiguousarray(c) for name, c in found.covariances.items()}, path, metadata=more)
    with safe_open(path, framework="np") as file:
        more = file.metadata()
    return Collected(load_file(path), json.loads(more["groups"]), json.loads(more["positions"]))


def model_hash(folder):
    """BLAKE3 over the name, dtype, shape and hash of every tensor, as `impasto_encode::model_hash` makes it."""
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    lines = []
    for name, tensor in sorted(header.items(), key=lambda item: item[0].encode()):
        begin, end = tensor["data_offsets"]
        digest = blake3.blake3(raw[8 + length + begin : 8 + length + end]).hexdigest()
        lines.append(f'"{name}" {tensor["dtype"]} {tensor["shape"]} {digest}\n')
    return blake3.blake3("".join(lines).encode()).hexdigest()


def write_for_impasto(path, folder, collected, weights, text):
    """Writes an Impasto statistics file (crates/impasto-encode/src/statistics/mod.rs).

    The sensitivity of a matrix is its number of weights over tr(W H W^T): then equal slopes of the allocation are equal
    weighted errors relative to the output. Rows weigh the same. Nothing is held back: the damping is given.
    """
    groups, linears, tensors = {}, {}, {}
    for name, h in collected.covariances.items():
        tokens = collected.positions[name]
        groups[name] = {"inputs": len(h), "tokens": tokens, "damping": DAMPING, "held_back": None}
        deviations = np.sqrt(h.diagonal().astype(np.float64))
        ratios = h / np.maximum(np.outer(deviations, deviations), 1e-300)
        below = np.clip(ratios[np.tril_indices(len(h), -1)], -1, 1)
        tensors[f"correlations.{name}"] = np.rint(below * 32767).astype(np.int16)
        tensors[f"mean_squares.{name}"] = h.diagonal().astype(np.float32)
    for name, group in collected.groups.items():
        h, w = collected.covariances[group], weights[name]
        power = float(np.einsum("ij,ij->", w @ h, w))
        linears[name] = {
            "input": group,
            "damping": DAMPING,
            "sensitivity": 0.5 * w.size / power,
            "tokens": collected.positions[group],
        }
    tokens = max(collected.positions.values())
    info = {
        "version": VERSION,
        "model": model_hash(folder),
        "text": blake3.blake3(text.read_bytes()).hexdigest(),
        "window": 512,
        "tokens": tokens,
        "gradient_tokens": tokens,
        "held_back_tokens": 0,
        "groups": groups,
        "linears": linears,
    }
    tensors["info"] = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)
    save_file(tensors, path)
