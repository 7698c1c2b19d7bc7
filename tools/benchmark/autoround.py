"""AutoRound (Cheng et al., arXiv 2309.05516): rounding and clipping learned by signed gradient descent, block by block.

The package auto-round makes whole models, symmetric, in groups of 64, by its recipe `light` (50 steps with a rate of 0.005). The
tied embedding is rounded to INT8 afterwards, as for GPTQ. INT3 is charged 3 bits, although engines pack it with 4.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

import hf_folder
import ours
import rounding

FAMILY = "AutoRound"
GROUP = 64
EMBEDDING = (8, GROUP)
STEPS, RATE, BATCH = 50, 5e-3, 4


def compress(folder, text, tokens, window, bits, output):
    """Runs auto-round; the weights of its linear layers, dequantized, go to `output` as safetensors."""
    from auto_round import AutoRound
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(Path(text).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"][:tokens]
    windows = torch.tensor([ids[i : i + window] for i in range(0, len(ids) - window + 1, window)])
    data = [{"input_ids": w[None], "attention_mask": torch.ones_like(w[None])} for w in windows]
    options = {"bits": bits, "group_size": GROUP, "sym": True, "iters": STEPS, "lr": RATE, "batch_size": BATCH}
    shape = {"nsamples": len(windows), "seqlen": window, "dataset": data, "enable_torch_compile": False}
    made, _ = AutoRound(model, tokenizer, device_map="cpu", amp=False, **options, **shape).quantize()
    linears = (n for n, m in made.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head")
    names = {f"{name}.weight" for name in linears}
    save_file({n: p.detach().float().contiguous() for n, p in made.named_parameters() if n in names}, output)


def points(bench, model):
    """INT4 and INT3."""
    for bits in (4, 3):
        name = f"INT{bits} g{GROUP}, embedding INT8"
        if bench.scored(FAMILY, name, model):
            continue
        file = bench.scratch / f"{model.name}-autoround{bits}-{bench.options.tokens}.safetensors"
        if not file.exists():
            # A process of its own: the library changes the state of torch and of its logs.
            words = [model.folder, bench.calibration(model), bench.options.tokens, 512, bits, file]
            subprocess.run([sys.executable, __file__, json.dumps([str(w) for w in words])], check=True, cwd=bench.scratch)
        from safetensors.numpy import load_file

        found, weights = load_file(file), hf_folder.tensors(model.folder)
        kept, bare = rounding.file_of(weights, (bits, GROUP), EMBEDDING)
        missing = [n for n, w in weights.items() if rounding.is_linear(n, w) and n not in found]
        same = [n for n, w in found.items() if (w == weights[n]).all()]
        if missing or same:
            raise SystemExit(f"auto-round left these as they were: {missing + same}")
        folder = hf_folder.write(bench.folder("autoround"), model.folder, kept | found)
        bench.score(FAMILY, name, model, folder, bare + ours.assets(bench, model), bare)


if __name__ == "__main__":
    folder, text, tokens, window, bits, output = json.loads(sys.argv[1])
    compress(folder, text, int(tokens), int(window), int(bits), output)
