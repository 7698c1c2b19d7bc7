"""GPTQ to INT4 in groups: llm-compressor's on whole models, and a plain implementation on single matrices.

llm-compressor (GPTQModifier, W4A16, symmetric, groups of 64, activation order without stored indices) quantizes the
linear layers one after another, each on inputs from the already quantized ones before it. The tied embedding stays
unchanged, or is rounded to INT8 afterwards.

The plain implementation (Frantar et al., GPTQ, arXiv 2210.17323, algorithm 1, without lazy batches) takes one matrix
and the covariance of its inputs, so that matrices of any model can be compared. Columns are in the order of decreasing
diagonal, scales of groups are fixed beforehand (so that no index is stored), damping is 1%.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

import hf_folder
import ours
import rounding

FAMILY = "GPTQ"
GROUP = 64


def plain(w, covariance, bits=4, group=GROUP, damping=0.01):
    """`w` (rows x columns) quantized by GPTQ, as binary32."""
    w = torch.from_numpy(w).double()
    h = torch.from_numpy(covariance).double().clone()
    columns = w.shape[1]
    levels = 1 << (bits - 1)
    groups = torch.arange(columns) // group
    padded = torch.nn.functional.pad(w, (0, -columns % group)).reshape(len(w), -1, group)
    scales = (padded.abs().amax(-1) / (levels - 0.5)).half().double().clamp_min(1e-8)
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    h.diagonal().add_(damping * h.diagonal().mean())
    order = h.diagonal().argsort(descending=True)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
    left, out = w[:, order].clone(), torch.empty_like(w)
    for i, column in enumerate(order.tolist()):
        scale = scales[:, groups[column]]
        value = (left[:, i] / scale).round().clamp(-levels, levels - 1) * scale
        out[:, column] = value
        error = (left[:, i] - value) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return out.float().numpy()


def compress(folder, text, tokens, window, output):
    """Runs llm-compressor; its weights, dequantized, go to `output` as safetensors."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"][:tokens]
    windows = [ids[i : i + window] for i in range(0, len(ids) - window + 1, window)]
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * window for _ in windows]})
    arguments = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    scheme = {"group_0": {"targets": ["Linear"], "weights": arguments | {"actorder": "static"}}}
    recipe = GPTQModifier(config_groups=scheme, ignore=["lm_head"])
    oneshot(model=model, dataset=data, recipe=recipe, num_calibration_samples=len(windows), max_seq_length=window)
    linears = (n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head")
    names = {f"{name}.weight" for name in linears}
    save_file({n: p.detach().float().contiguous() for n, p in model.named_parameters() if n in names}, output)


def points(bench, model):
    """INT4 g64 by llm-compressor with the embedding in bfloat16 and in INT8."""
    names = {f"INT4 g{GROUP}, embedding BF16": None, f"INT4 g{GROUP}, embedding INT8": (8, GROUP)}
    if all(bench.scored(FAMILY, name, model) for name in names):
        return
    file = bench.scratch / f"{model.name}-gptq-{bench.options.tokens}.safetensors"
    if not file.exists():
        # A process of its own: the library changes the state of torch and of its logs.
        words = [model.folder, bench.calibration(model), bench.options.tokens, 512, file]
        subprocess.run([sys.executable, __file__, json.dumps([str(w) for w in words])], check=True, cwd=bench.scratch)
    from safetensors.numpy import load_file

    found = load_file(file)
    weights = hf_folder.tensors(model.folder)
    for name, embedding in names.items():
        if bench.scored(FAMILY, name, model):
            continue
        kept, bare = rounding.file_of(weights, (4, GROUP), embedding)
        missing = [n for n, w in weights.items() if rounding.is_linear(n, w) and n not in found]
        if missing:
            raise SystemExit(f"llm-compressor gave no weights of {missing}")
        folder = hf_folder.write(bench.folder("gptq"), model.folder, kept | found)
        bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)


if __name__ == "__main__":
    folder, text, tokens, window, output = json.loads(sys.argv[1])
    compress(folder, text, int(tokens), int(window), output)
