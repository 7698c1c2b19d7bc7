#!/usr/bin/env python3
"""Measures drafts on prompts, over HTTP: `impasto serve` without drafts, with a layer and with `auto`, beside llama-server.

    tools/draft_prompts.py --impasto target/release/impasto --layer 2 layered.impasto --text DATA/valid.txt \\
        [--llama-server BIN --gguf model-bf16.gguf --draft-gguf model-q4_0.gguf]

All servers stay loaded, with 2 threads each; one works at a time, in turns, prompt by prompt. 10 questions and 5 pieces of the text are
continued by --tokens tokens at temperature 0. Printed are the tokens per second of all requests, prompts included, the median of the
ratios to the same program without drafts, and how many texts are the same.
"""

import argparse
import json
import socket
import statistics
import subprocess
import time
import urllib.request

QUESTIONS = [
    "What is the capital of France, and what is it known for?",
    "Explain photosynthesis to a child in a few sentences.",
    "Write a short story about a dog that learns to swim.",
    "List five healthy breakfasts and say why they are healthy.",
    "How do I sort a list of numbers in Python? Show an example.",
    "What are the causes of the French Revolution?",
    "Give me a recipe for a simple vegetable soup.",
    "Summarize the plot of Romeo and Juliet.",
    "Why is the sky blue?",
    "Write an email that asks a colleague to move a meeting to Friday.",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, name, command):
        self.name, self.port, self.seconds, self.texts = name, free_port(), [], {}
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, prompt, tokens):
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "seed": 1, "cache_prompt": False}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        begun = time.monotonic()
        with urllib.request.urlopen(request, timeout=300) as answer:
            found = json.load(answer)
        return time.monotonic() - begun, found["choices"][0]["text"], found["usage"]["completion_tokens"]

    def wait(self):
        for _ in range(300):
            try:
                self.ask("Hello", 1)
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{self.name} ended")
                time.sleep(0.5)
        raise SystemExit(f"{self.name} does not answer")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--layer", default="2", help="the layer that drafts")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf")
    parser.add_argument("--draft-gguf")
    options = parser.parse_args()
    ours = [options.impasto, "serve", options.file, "--threads", "2"]
    servers = [
        Server("impasto", ours),
        Server(f"impasto, layer {options.layer}", [*ours, "--draft-layer", options.layer]),
        Server("impasto, ngram", [*ours, "--draft-layer", "ngram"]),
        Server("impasto, auto", [*ours, "--draft-layer", "auto"]),
    ]
    if options.llama_server:
        theirs = [options.llama_server, "-m", options.gguf, "-t", "2", "-c", "2048", "-np", "1"]
        servers += [Server("llama.cpp", theirs), Server("llama.cpp, draft", [*theirs, "-md", options.draft_gguf, "-td", "2", "--spec-type", "draft-simple", "--spec-draft-n-max", "8"])]
    try:
        for server in servers:
            server.wait()
        words = open(options.text, encoding="utf-8").read().split(" ")
        pieces = [" ".join(words[at : at + 100]) for at in range(0, 5000, 1000)]
        prompts = [f"Question: {question}\nAnswer:" for question in QUESTIONS] + pieces
        for _ in range(options.rounds):
            for prompt in prompts:
                for server in servers:
                    seconds, text, tokens = server.ask(prompt, options.tokens)
                    server.seconds.append((seconds, tokens))
                    server.texts[prompt] = text
    finally:
        for server in servers:
            server.process.terminate()
    print("| program | questions, tokens/s | text, tokens/s | over the same without drafts | same texts |")
    print("|---|---:|---:|---:|---:|")
    for server in servers:
        plain = next(other for other in servers if other.name == server.name.split(",")[0])
        rates = []
        for is_question in (True, False):
            of = [entry for i, entry in enumerate(server.seconds) if (i % len(prompts) < len(QUESTIONS)) == is_question]
            rates.append(sum(tokens for _, tokens in of) / sum(seconds for seconds, _ in of))
        ratio = statistics.median(b[0] / b[1] * a[1] / a[0] for a, b in zip(server.seconds, plain.seconds) if a[1] and b[1])
        same = sum(server.texts[prompt] == plain.texts[prompt] for prompt in prompts)
        print(f"| {server.name} | {rates[0]:.1f} | {rates[1]:.1f} | {ratio:.2f} | {same}/{len(prompts)} |")


if __name__ == "__main__":
    main()
