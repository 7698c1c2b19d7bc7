#!/usr/bin/env python3
"""Make two texts to score models on, beside wikitext: a chat with the original model, and source code.

    tools/make_evaluation_texts.py --impasto FILE --model FOLDER --questions piqa.jsonl OUT [--answers N]

OUT/chat.txt has questions from a task file (fields as for `impasto eval tasks`) in the model's chat template, with answers
that the model itself writes at temperature 0.8, each with its own seed. So the text depends on the model. OUT/code.txt has
modules of Python's standard library and of this repository in turn, so it depends on the version of both. Needs transformers.
"""

import argparse
import json
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["heapq", "bisect", "textwrap", "shlex", "csv", "queue", "sched", "fractions"]
SOURCES = ["impasto-codec/src/rans", "impasto-text/src", "impasto-eval/src"]
CODE_BYTES = 400_000


def questions(path, count):
    """Whole questions, not headings: the first `count` that are long enough and end with a question mark."""
    found = (json.loads(line)["query"].removeprefix("Question: ") for line in path.open(encoding="utf-8"))
    return [q for q in found if len(q) > 30 and q.endswith("?")][:count]


def chat(options):
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(options.model)
    for seed, question in enumerate(questions(options.questions, options.answers)):
        how = ("-n", "200", "--temperature", "0.8", "--seed", str(seed), "--json")
        words = [options.impasto, "run", options.model, "-p", question, *how]
        done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        answer = json.loads(done.stdout)["generation"]["text"]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield template.apply_chat_template(turns, tokenize=False)


def code():
    """Files in turn, Python and Rust."""
    library = Path(sysconfig.get_paths()["stdlib"])
    python = [library / f"{name}.py" for name in MODULES]
    rust = [path for folder in SOURCES for path in sorted((ROOT / "crates" / folder).rglob("*.rs"))]
    length = 0
    for pair in zip(python, rust):
        for path in pair:
            text = path.read_text(encoding="utf-8")
            length += len(text)
            if length > CODE_BYTES:
                return
            yield text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--impasto", "--model", "--questions"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("out", type=Path)
    parser.add_argument("--answers", type=int, default=60)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "code.txt").write_text("\n".join(code()), encoding="utf-8")
    (options.out / "chat.txt").write_text("\n".join(chat(options)), encoding="utf-8")


if __name__ == "__main__":
    main()
