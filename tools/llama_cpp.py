#!/usr/bin/env python3
"""Check that llama.cpp reads the GGUF files of `decode --to gguf` and computes the same model.

    tools/llama_cpp.py --impasto target/release/impasto --llama DIR --model MODEL --text TEXT [--bytes N]

DIR holds llama.cpp's llama-completion and llama-perplexity; docs/LLAMA_CPP.md describes how to build them. MODEL is a
checkpoint that `impasto encode` accepts, TEXT a UTF-8 text file, of which the first N bytes are used (default 60000).

For each GGUF type (f16, bf16, q8_0, q4_0) both programs read the same file. Perplexity is measured on the second half
of windows of 512 tokens; text is the greedy continuation of a prompt. The script exits with status 1 if a perplexity
differs by more than 0.1% (f16, bf16) or 1% (q8_0, q4_0), or if the first 10 characters of the texts differ (f16, bf16).

The results are not equal, because llama.cpp rounds the activations that it multiplies: to the type of the weights for
f16 and bf16, and to 8 bits for q8_0 and q4_0. Impasto computes in f32. A greedy text can diverge wherever two tokens
are almost equally likely.
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
BEGIN = {"f16": 10, "bf16": 10, "q8_0": 0, "q4_0": 0}  # leading characters of the texts that must agree


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
    """The length of the common prefix of two texts."""
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
    """Prints the table; returns the failures, one line each."""
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
