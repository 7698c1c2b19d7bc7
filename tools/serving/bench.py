#!/usr/bin/env python3
"""Measures `impasto serve` beside llama-server: time to the first token, tokens per second and memory, for 1, 4 and 16 clients.

Both servers run at the same time, but only one of them is asked at a time, in turns; ratios are taken within rounds. Prompts are
random tokens, all different, so that nothing is shared; answers have as many tokens as asked for. Needs only Python.

    tools/serving/bench.py --impasto target/release/impasto --file small.impasto \
        --llama llama-build/bin/llama-server --gguf model-Q4_K_M.gguf --rounds 3
"""

import argparse
import http.client
import json
import pathlib
import random
import statistics
import subprocess
import threading
import time


class Server:
    """A server, started on a port of its own."""

    def __init__(self, name, command, port, model):
        self.name, self.port, self.model = name, port, model
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                if self.request("GET", "/health").status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(f"{name} ended: {' '.join(command)}")
            time.sleep(0.2)
        raise SystemExit(f"{name} does not answer")

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"content-type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse()

    def complete(self, tokens, count):
        """Returns the seconds to the first token and to the end, and the number of tokens."""
        body = {
            "model": self.model, "prompt": tokens, "max_tokens": count, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True, "cache_prompt": False,
        }
        begun, first, seen = time.perf_counter(), None, 0
        answer = self.request("POST", "/v1/completions", body)
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {answer.status} {answer.read()[:500]}")
        for line in answer:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(f"{self.name}: {event}")
            if first is None and event.get("choices"):
                first = time.perf_counter()
            seen = (event.get("usage") or {}).get("completion_tokens", seen)
        end = time.perf_counter()
        return (first or end) - begun, end - begun, seen

    def memory(self):
        """Resident memory in MB, with pages of mapped files, and its peak."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return [int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM")]

    def end(self):
        self.process.terminate()
        self.process.wait(60)


def load(server, clients, prompt, answer, each, vocabulary, rng):
    """Has clients send requests at the same time. Returns tokens per second of all together and the median time to the first token."""
    prompts = [[[rng.randrange(1000, vocabulary) for _ in range(prompt)] for _ in range(each)] for _ in range(clients)]
    results, lock = [], threading.Lock()

    def run(mine):
        for tokens in mine:
            result = server.complete(tokens, answer)
            with lock:
                results.append(result)

    threads = [threading.Thread(target=run, args=(mine,)) for mine in prompts]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    tokens = sum(count for _, _, count in results)
    assert tokens == clients * each * answer, f"{server.name}: {tokens} tokens"
    return tokens / seconds, statistics.median(first for first, _, _ in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impasto", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--llama", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=40000)
    parser.add_argument("--json")
    args = parser.parse_args()
    most = max(args.clients)
    context = most * (max(args.prompts) + args.answer + 64)
    ours = Server("impasto", [
        args.impasto, "serve", f"m={args.file}", "--port", "8391", "--parallel", str(most), "--threads", str(args.threads),
        "--preload", "m", "--quiet",
    ], 8391, "m")
    theirs = Server("llama-server", [
        args.llama, "-m", args.gguf, "--port", "8392", "-np", str(most), "-c", str(context), "-t", str(args.threads),
        "-tb", str(args.threads), "--no-webui",
    ], 8392, "m")
    rng, rows = random.Random(1), []
    try:
        for server in (ours, theirs):
            load(server, 1, 64, 16, 1, args.vocabulary, rng)
        print("| clients | prompt | tokens/s | llama-server | ratio | first token, s | llama-server | ratio |")
        print("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for clients in args.clients:
            for prompt in args.prompts:
                each = max(1, 4 // clients)
                pairs = []
                for turn in range(args.rounds):
                    order = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
                    found = {s.name: load(s, clients, prompt, args.answer, each, args.vocabulary, rng) for s in order}
                    pairs.append((found["impasto"], found["llama-server"]))
                median = lambda values: statistics.median(list(values))
                speeds = [a[0] / b[0] for a, b in pairs]
                firsts = [b[1] / a[1] for a, b in pairs]
                row = {
                    "clients": clients, "prompt": prompt,
                    "speed": [median(a[0] for a, _ in pairs), median(b[0] for _, b in pairs)],
                    "speed_ratio": [median(speeds), min(speeds), max(speeds)],
                    "first": [median(a[1] for a, _ in pairs), median(b[1] for _, b in pairs)],
                    "first_ratio": [median(firsts), min(firsts), max(firsts)],
                }
                rows.append(row)
                ratio = "**{:.2f}** ({:.2f} to {:.2f})"
                print("| {} | {} | {:.1f} | {:.1f} | {} | {:.3f} | {:.3f} | {} |".format(
                    clients, prompt, *row["speed"], ratio.format(*row["speed_ratio"]), *row["first"],
                    ratio.format(*row["first_ratio"])), flush=True)
        memory = {server.name: server.memory() for server in (ours, theirs)}
        for name, (now, peak) in memory.items():
            print(f"{name}: {now:.0f} MB resident, peak {peak:.0f} MB")
        if args.json:
            pathlib.Path(args.json).write_text(json.dumps({"rows": rows, "memory": memory}, indent=1))
    finally:
        ours.end()
        theirs.end()


if __name__ == "__main__":
    main()
