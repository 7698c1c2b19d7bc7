#!/usr/bin/env python3
"""Does llama.cpp read the GGUFs that `decode --to gguf` writes, and see the same model in them?

    tools/llama_cpp.py --impasto target/release/impasto --llama DIR --model MODEL --text TEXT [--bytes N]

DIR holds llama.cpp's llama-completion and llama-perplexity; docs/LLAMA_CPP.md says how to build them. MODEL is a
checkpoint that `impasto encode` takes, TEXT a file of UTF-8 text, of which the first N bytes are used (default 60000).

For each type of GGUF (f16, bf16, q8_0, q4_0) both programs read the same file. Perplexity: windows of 512 tokens, of
which the second half is scored. Text: the greedy continuation of a prompt. Exits with 1 if a perplexity differs by more
than 0.1% (f16, bf16) or 1% (q8_0, q4_0), or if the first 10 characters of the texts differ (f16, bf16).

Why not equal: llama.cpp rounds the activations that it multiplies, to the type of the weights for f16 and bf16 and to 8
bits for q8_0 and q4_0, where Impasto computes in f32. A greedy text can part wherever two tokens are nearly as likely.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PERCENT = {"f16": 0.1, "bf16": 0.1, "q8_0": 1.0, "q4_0": 1.0}
WINDOW = 512
BEGIN = {"f16": 10, "bf16": 10, "q8_0": 0, "q4_0": 0}  # characters in which the texts must agree


def run(*command):
    """Runs a command; returns its stdout and its stderr."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout, done.stderr


class Impasto:
    """The command `impasto`."""

    def __init__(self, path, threads):
        self.base = (path.resolve(), "-q", "--json", "--threads", threads)

    def encode(self, model, file):
        run(*self.base, "encode", model, "-o", file)

    def to_gguf(self, file, gguf, kind):
        run(*self.base, "decode", file, "--to", "gguf", "--type", kind, "-o", gguf)

    def perplexity(self, model, text):
        score = ("--ctx", WINDOW, "--score", "second-half")
        out, _ = run(*self.base, "eval", "ppl", model, "--text", text, *score)
        return json.loads(out)["perplexity"]["perplexity"]["value"]

    def greedy(self, model, prompt, tokens):
        out, _ = run(*self.base, "run", "--raw", model, "-p", prompt, "-n", tokens)
        return json.loads(out)["generation"]["text"]


class LlamaCpp:
    """llama.cpp's commands."""

    def __init__(self, folder, threads):
        self.folder, self.threads = folder.resolve(), ("-t", threads)

    def perplexity(self, gguf, text):
        sizes = ("-c", WINDOW, "-b", WINDOW)
        out = "".join(run(self.folder / "llama-perplexity", "-m", gguf, "-f", text, *sizes, *self.threads))
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", out)
        return float(found[1]) if found else sys.exit(f"llama-perplexity gives no perplexity:\n{out[-2000:]}")

    def greedy(self, gguf, prompt, tokens):
        how = ("--temp", 0, "-no-cnv", "--no-display-prompt", "--no-escape")
        out, _ = run(self.folder / "llama-completion", "-m", gguf, "-p", prompt, "-n", tokens, *how, *self.threads)
        return out.removesuffix("\n\n").removesuffix(" [end of text]")


def part_at(left, right):
    """Where two texts part: the length of what they begin with both."""
    return len(os.path.commonprefix([left, right]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", required=True, type=Path, help="the command")
    parser.add_argument("--llama", required=True, type=Path, help="folder of llama.cpp's commands")
    parser.add_argument("--model", required=True, type=Path, help="a checkpoint")
    parser.add_argument("--text", required=True, type=Path, help="UTF-8 text")
    parser.add_argument("--bytes", type=int, default=60000, help="of the text, at most (default 60000)")
    parser.add_argument("--prompt", default="The history of the lighthouse begins")
    parser.add_argument("--tokens", type=int, default=64, help="to generate (default 64)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--types", nargs="+", choices=PERCENT, default=list(PERCENT))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failures = check(args, Path(folder))
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def check(args, folder):
    """Prints the table; returns what is wrong, a line each."""
    impasto, llama = Impasto(args.impasto, args.threads), LlamaCpp(args.llama, args.threads)
    file, gguf, text = folder / "model.impasto", folder / "model.gguf", folder / "text"
    text.write_text(args.text.read_bytes()[: args.bytes].decode(errors="ignore"))
    impasto.encode(args.model, file)
    print(f"impasto, the model itself: perplexity {impasto.perplexity(file, text):.4f}\n")
    print("| GGUF | MB | llama.cpp | impasto | difference, % | greedy text |\n|---|---:|---:|---:|---:|---|")
    failures = []
    for kind in args.types:
        impasto.to_gguf(file, gguf, kind)
        theirs, ours = llama.perplexity(gguf, text), impasto.perplexity(gguf, text)
        percent = 100 * (ours / theirs - 1)
        texts = [program.greedy(gguf, args.prompt, args.tokens) for program in (llama, impasto)]
        alike = part_at(*texts)
        shown = f"same ({alike} characters)" if texts[0] == texts[1] else f"same for {alike} characters"
        size = gguf.stat().st_size / 1e6
        print(f"| {kind} | {size:.2f} | {theirs:.4f} | {ours:.4f} | {percent:+.4f} | {shown} |", flush=True)
        if not abs(percent) <= PERCENT[kind]:
            failures.append(f"{kind}: perplexity differs by {percent:+.3f}%, more than {PERCENT[kind]}%")
        if texts[0] != texts[1] and alike < BEGIN[kind]:
            failures.append(f"{kind}: llama.cpp writes {texts[0][:40]!r}, impasto {texts[1][:40]!r}")
        gguf.unlink()
    return failures


if __name__ == "__main__":
    main()
