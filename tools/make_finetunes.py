#!/usr/bin/env python3
"""Trains fine-tunes of a Llama-like model on the CPU: pairs of a base and a derived model, as people ship them.

    uv venv v
    uv pip install -p v/bin/python torch transformers safetensors tokenizers
    v/bin/python tools/make_finetunes.py BASE TEXT OUT [full rl lora vocabulary steps] [--base-model NAME] [--license ID]

| folder | training | tokens |
|---|---|---:|
| full | all weights, AdamW, learning rate 1e-5, 200 steps | 51,200 |
| rl | all weights, policy gradient (as GRPO), AdamW, learning rate 1e-6, 20 steps of 8 sampled completions | 5,120 |
| lora-adapter | rank 8 on all linear layers, learning rate 2e-4, 150 steps; in the layout of PEFT, float32 | 38,400 |
| lora-merged | the same adapter merged: W + (alpha / r) B A in float32, rounded to bfloat16 | |
| vocabulary | 3 added tokens; only the embedding is trained, learning rate 1e-5, 25 steps | 6,400 |
| steps/step_1 to step_5 | one run, learning rate 1e-5; a checkpoint every 10 steps | 12,800 |

Trained weights are kept in float32 and rounded to bfloat16, in which the network computes (mixed precision). Each folder
has model.safetensors in bfloat16, the configuration, the tokenizer and a model card with `base_model` and `license`. Seeds
are fixed, but sums of floats depend on the processor and the number of threads. Takes 20 minutes of one processor;
`OMP_NUM_THREADS=1` is best where others use the machine too.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import AutoModelForCausalLM

BATCH, LENGTH = 2, 128
RANK, ALPHA = 8, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EMBEDDING = "model.embed_tokens.weight"
ADDED = {" @-@ ": "<|dash|>", " @,@ ": "<|comma|>", " @.@ ": "<|point|>"}  # what wikitext escapes inside of words and numbers
PROMPT, COMPLETION, GROUP = 32, 32, 8


class Base:
    def __init__(self, folder, text, name, license):
        self.folder, self.text, self.name, self.license = folder, text, name, license
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.ids = torch.tensor(self.tokenizer.encode(text).ids)

    def model(self):
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.bfloat16)

    def write(self, folder, tensors, about, files=("config.json", "tokenizer.json", "tokenizer_config.json"),
              name="model.safetensors"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        for file in files:
            shutil.copyfile(self.folder / file, folder / file)
        (folder / "README.md").write_text(
            f"---\nlicense: {self.license}\nbase_model: {self.name}\n---\n\n# {folder.name}\n\n{about}\n")

    def write_model(self, folder, model, about):
        """Writes the tensors that the base has, and prints how many of their values differ from it."""
        tensors = {name: t for name, t in model.state_dict().items() if name in self.weights}
        assert tensors.keys() == self.weights.keys()
        self.write(folder, tensors, about)
        same = all_ = 0
        for name, base in self.weights.items():
            same += (tensors[name][:len(base)] == base).sum().item()
            all_ += base.numel()
        print(f"{folder.name}: {100 * same / all_:.2f}% of {all_} values unchanged", flush=True)


class Master:
    """AdamW over float32 copies of bfloat16 parameters."""

    def __init__(self, parameters, rate):
        self.low = [p for p in parameters if p.requires_grad]
        self.high = [p.detach().float().clone() for p in self.low]
        self.optimizer = torch.optim.AdamW(self.high, lr=rate, weight_decay=0.0, fused=True)

    def step(self):
        for low, high in zip(self.low, self.high):
            high.grad, low.grad = low.grad.float(), None
        nn.utils.clip_grad_norm_(self.high, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for low, high in zip(self.low, self.high):
                low.copy_(high)


def loss_of_tokens(model, tokens):
    """-log p of every token but the first, given those before it."""
    logits = model(input_ids=tokens).logits[:, :-1].float()
    return cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def train(model, ids, rate, steps, after_step=lambda step: None):
    master = Master(model.parameters(), rate)
    random = torch.Generator().manual_seed(1)
    losses = []
    for step in range(1, steps + 1):
        starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=random)
        loss = loss_of_tokens(model, torch.stack([ids[s:s + LENGTH] for s in starts])).mean()
        loss.backward()
        master.step()
        losses.append(loss.item())
        if step % 25 == 0:
            print(f"  step {step}: loss {sum(losses[-25:]) / 25:.3f}", flush=True)
        after_step(step)


def make_full(base, out):
    model = base.model()
    train(model, base.ids, 1e-5, 200)
    base.write_model(out / "full", model, "All weights, AdamW, learning rate 1e-5, 200 steps of 256 tokens.")


def make_rl(base, out):
    """The reward of a completion is the share of its tokens that are distinct; its advantage is relative to its group."""
    model = base.model()
    master = Master(model.parameters(), 1e-6)
    random = torch.Generator().manual_seed(1)
    for step in range(1, 21):
        start = torch.randint(len(base.ids) - PROMPT, (1,), generator=random)
        prompt = base.ids[start:start + PROMPT].repeat(GROUP, 1)
        with torch.no_grad():
            tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0,
                                    min_new_tokens=COMPLETION, max_new_tokens=COMPLETION)
        rewards = torch.tensor([len(set(row.tolist())) / COMPLETION for row in tokens[:, PROMPT:]])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        losses = loss_of_tokens(model, tokens)[:, PROMPT - 1:]
        (advantages[:, None] * losses).mean().backward()
        master.step()
        if step % 5 == 0:
            print(f"  step {step}: reward {rewards.mean():.3f}", flush=True)
    base.write_model(out / "rl", model, "Policy gradient, AdamW, learning rate 1e-6, 20 steps of 8 completions.")


class LoRA(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.weight = layer.weight
        self.A = nn.Parameter(torch.empty(RANK, layer.in_features))
        self.B = nn.Parameter(torch.zeros(layer.out_features, RANK))
        nn.init.kaiming_uniform_(self.A, a=5 ** 0.5)

    def forward(self, x):
        part = linear(linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))
        return linear(x, self.weight) + ALPHA / RANK * part


def make_lora(base, out):
    model = base.model().requires_grad_(False)
    layers = {}
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in LINEAR:
            layers[name] = LoRA(module)
            setattr(model.get_submodule(parent), last, layers[name])
    train(model, base.ids, 2e-4, 150)

    adapter, merged = {}, dict(base.weights)
    for name, layer in layers.items():
        adapter[f"base_model.model.{name}.lora_A.weight"] = layer.A.detach()
        adapter[f"base_model.model.{name}.lora_B.weight"] = layer.B.detach()
        product = ALPHA / RANK * layer.B.detach() @ layer.A.detach()
        merged[f"{name}.weight"] = (layer.weight.float() + product).to(layer.weight.dtype)
    about = f"LoRA, rank {RANK}, alpha {ALPHA}, all linear layers, learning rate 2e-4, 150 steps of 256 tokens."
    folder = out / "lora-adapter"
    base.write(folder, adapter, about, ("tokenizer.json", "tokenizer_config.json"), "adapter_model.safetensors")
    config = {"base_model_name_or_path": base.name, "bias": "none", "fan_in_fan_out": False, "lora_alpha": ALPHA,
              "lora_dropout": 0.0, "modules_to_save": None, "peft_type": "LORA", "r": RANK, "target_modules": LINEAR,
              "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))

    for name, layer in layers.items():
        layer.weight.data = merged[f"{name}.weight"]
    base.write_model(out / "lora-merged", model, about + " Merged in float32, rounded to bfloat16.")


def make_vocabulary(base, out):
    model = base.model().requires_grad_(False)
    old = base.weights[EMBEDDING].float()
    new = old.mean(dim=0) + 0.1 * old.std(dim=0) * torch.randn(len(ADDED), old.shape[1])
    rows = torch.cat([old, new]).bfloat16()
    embedding = model.get_input_embeddings()
    embedding.weight = model.get_output_embeddings().weight = nn.Parameter(rows)

    text = base.text
    for old_text, token in ADDED.items():
        text = text.replace(old_text, token)
    tokenizer = Tokenizer.from_file(str(base.folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(ADDED.values()))
    train(model, torch.tensor(tokenizer.encode(text).ids), 1e-5, 25)

    folder = out / "vocabulary"
    base.write_model(folder, model, "3 added tokens; the embedding alone trained, learning rate 1e-5, 25 steps.")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((base.folder / "config.json").read_text())
    config["vocab_size"] = len(rows)
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def make_steps(base, out):
    model = base.model()

    def save(step):
        if step % 10 == 0:
            about = f"Step {step} of a run of all weights, AdamW, learning rate 1e-5, 256 tokens a step."
            base.write_model(out / "steps" / f"step_{step // 10}", model, about)

    train(model, base.ids, 1e-5, 50, save)


MAKE = {"full": make_full, "rl": make_rl, "lora": make_lora, "vocabulary": make_vocabulary, "steps": make_steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *MAKE], metavar="NAME", help=", ".join(MAKE) + "; all by default")
    parser.add_argument("--base-model", help="for the model cards; the name of the folder by default")
    parser.add_argument("--license", default="apache-2.0", help="for the model cards; apache-2.0 by default")
    args = parser.parse_args()
    base = Base(args.base, args.text.read_text(), args.base_model or args.base.resolve().name, args.license)
    for name in args.names or MAKE:
        start = time.time()
        MAKE[name](base, args.out)
        print(f"{name}: {time.time() - start:.0f} s, {time.process_time():.0f} s of processors since the start", flush=True)


if __name__ == "__main__":
    main()
