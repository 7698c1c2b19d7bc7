#!/usr/bin/env python3
"""BitDelta (arXiv 2402.10193) of a fine-tune of a Llama-like model: one bit per weight and one scale per matrix.

    uv venv v
    uv pip install -p v/bin/python torch transformers safetensors tokenizers
    v/bin/python tools/bitdelta.py BASE FINE_TUNE TEXT OUT [--steps 100]

A linear layer of a transformer block becomes W_base + s sign(W_fine - W_base), where a difference of 0 counts as positive,
as in the authors' code. s starts as the mean of |W_fine - W_base|; then all scales are trained (Adam, cosine schedule) to
minimize the mean square error of the logits from the fine-tune's, on windows of 128 tokens of TEXT.

Where this departs from the paper: 100 steps of 2 windows instead of 200 of 4, and the rate is a tenth of the initial scale
per step, not 1e-4 absolute, as scales of a gentle fine-tune are smaller than that.

The paper keeps the fine-tune's embedding, norms and output projection as they are. OUT has folders of the reconstructed
model, each with the bytes of the delta printed (bits, 4 bytes per scale, and in bfloat16 what is kept):

| folder | embedding | dtype |
|---|---|---|
| paper | the fine-tune's, counted | float32 |
| base-embeddings | the base's, not counted | float32 |
| paper-bf16, base-embeddings-bf16 | | the same, rounded to bfloat16 |

float32 is what BitDelta computes with, as it never adds base and delta; rounding loses deltas below half a unit of bfloat16.
Takes 8 minutes of one processor. Not for a fine-tune with another vocabulary than its base.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import linear, mse_loss
from transformers import AutoModelForCausalLM

BATCH, LENGTH, RATE = 2, 128, 1e-1


class BitDelta(nn.Module):
    def __init__(self, base, fine):
        super().__init__()
        difference = fine - base
        self.scale = difference.abs().mean()
        self.delta = torch.where(difference < 0, -self.scale, self.scale)
        self.base = base
        self.gain = nn.Parameter(torch.ones(()))

    def weight(self):
        return self.base + self.gain * self.delta

    def forward(self, x):
        return linear(x, self.weight())


def is_delta(name):
    return name.endswith("_proj.weight")


def is_embedding(name):
    return "embed_tokens" in name or "lm_head" in name


def distill(student, teacher, layers, ids, steps):
    optimizer = torch.optim.Adam([layer.gain for layer in layers.values()], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = torch.Generator().manual_seed(2)
    losses = []
    for step in range(1, steps + 1):
        starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=random)
        tokens = torch.stack([ids[s:s + LENGTH] for s in starts])
        with torch.no_grad():
            goal = teacher(input_ids=tokens).logits
        loss = mse_loss(student(input_ids=tokens).logits, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 10 == 0:
            print(f"  step {step}: mean square error {sum(losses[-10:]) / 10:.3e}", flush=True)


def write(folder, source, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / file, folder / file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("fine_tune", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    start = time.time()
    base = {n: t.float() for n, t in load_file(args.base / "model.safetensors").items()}
    fine = {n: t.float() for n, t in load_file(args.fine_tune / "model.safetensors").items()}
    load = lambda: AutoModelForCausalLM.from_pretrained(args.fine_tune, dtype=torch.float32).requires_grad_(False)
    student, layers = load(), {}
    for name in filter(is_delta, base):
        parent, last = name.removesuffix(".weight").rsplit(".", 1)
        layers[name] = BitDelta(base[name], fine[name])
        setattr(student.get_submodule(parent), last, layers[name])
    ids = torch.tensor(Tokenizer.from_file(str(args.fine_tune / "tokenizer.json")).encode(args.text.read_text()).ids)
    if args.steps:
        distill(student, load(), layers, ids, args.steps)

    gains = torch.stack([layer.gain.detach() for layer in layers.values()])
    print(f"{len(layers)} scales; trained over initial: {gains.min():.3f} to {gains.max():.3f}, mean {gains.mean():.3f}")
    bits = sum(base[name].numel() // 8 for name in layers) + 4 * len(layers)
    kept = {n: t for n, t in fine.items() if not is_delta(n)}
    norms = sum(2 * t.numel() for n, t in kept.items() if not is_embedding(n))
    embeddings = sum(2 * t.numel() for n, t in kept.items() if is_embedding(n))
    deltas = {name: layer.weight().detach() for name, layer in layers.items()}
    for folder, size, embedding in (("paper", bits + norms + embeddings, fine), ("base-embeddings", bits + norms, base)):
        model = {n: embedding[n] if is_embedding(n) else t for n, t in {**kept, **deltas}.items()}
        write(args.out / folder, args.fine_tune, model)
        write(args.out / f"{folder}-bf16", args.fine_tune, {n: t.bfloat16() for n, t in model.items()})
        print(f"{args.out.name}/{folder}: {size} bytes (bits and scales {bits}, norms {norms}"
              + (f", embeddings {embeddings})" if embedding is fine else ")"))
    print(f"{time.time() - start:.0f} s, {time.process_time():.0f} s of processors")


if __name__ == "__main__":
    main()
