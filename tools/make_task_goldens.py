#!/usr/bin/env python3
"""Golden log-likelihoods of multiple-choice answers, made with Hugging Face transformers in float32.

    python tools/make_task_goldens.py --models DIR --tasks DIR [--out crates/impasto-eval/tests/golden/tasks.json]

The first DIR holds the folder `smollm2-135m-continuous`, the second `arc_easy.jsonl` and `piqa.jsonl`. The golden file
holds only log-likelihoods, no text. Prompts and tokens are those of lm-evaluation-harness for arc_easy and piqa: the
question, a line break, "Answer:", and a space before the choice. The tokens of a choice are those of the whole text
after the tokens of the question.
"""

import argparse
import json
import pathlib

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMOL = "smollm2-135m-continuous"
# Number of items of each file to score.
FIRST = 4
ITEMS = [
    {
        "query": "Question: What do bees make from the nectar of flowers?",
        "choices": ["honey", "milk", "a kind of paper that wasps like", "nothing"],
        "gold": 0,
    },
    {
        "query": "Question: How do I dry wet shoes overnight?",
        "choices": ["Stuff them with newspaper.", "Fill them with water; seal the tops with wax."],
        "gold": 0,
    },
    {"query": "Question: Où est le café « Zürich »?", "choices": ["à côté — 12 m", "雨の下で", "🦀"], "gold": 0},
    {
        "query": "Question: \tWhich is larger? (Take care.) ",
        "choices": ["1,000,000", "999,999.5", " two leading blanks and more, in a choice that goes on for a while: " * 3],
        "gold": 0,
    },
]


def log_likelihoods(model, tokenizer, item):
    """ln p of each choice, nats: each is run on its own, without a cache."""

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    question = item["query"] + "\nAnswer:"
    context = encode(question)
    found = []
    for choice in item["choices"]:
        own = encode(f"{question} {choice}")[len(context) :]
        tokens = torch.tensor(context + own)
        with torch.no_grad():
            logits = model(tokens[None, :-1], use_cache=False).logits[0, len(context) - 1 :]
        found.append(logits.double().log_softmax(-1).gather(1, tokens[len(context) :, None]).sum().item())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/impasto-eval/tests/golden/tasks.json")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    golden = {"items": ITEMS, "models": {}, "files": {}}
    for name, folder in (("tiny", ROOT / "assets/tiny"), (SMOL, args.models / SMOL)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
        model = model.float().eval()
        golden["models"][name] = [log_likelihoods(model, tokenizer, item) for item in ITEMS]
    for name in ("arc_easy", "piqa"):
        with open(args.tasks / f"{name}.jsonl", encoding="utf-8") as lines:
            items = [json.loads(line) for _, line in zip(range(FIRST), lines)]
        golden["files"][name] = [log_likelihoods(model, tokenizer, item) for item in items]
    args.out.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
