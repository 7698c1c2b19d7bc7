#!/usr/bin/env python3
"""Mixed load on `impasto serve` for a while: chats and completions of all layers, streamed and whole, with cancellations, schemas,
several continuations, embeddings and wrong requests, while the file of another model arrives and is refined. Fails if a request
fails that should not, or memory grows. Needs only Python.

    tools/serving/soak.py --impasto target/release/impasto --file layered.impasto --minutes 30
"""

import argparse
import http.client
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

WORDS = "the model is a codec for weights that people run store and ship while layers arrive and become finer".split()


def request(port, path, body, cancel_after=None):
    """Returns status and bytes of an answer; of one that is cancelled, status 499."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        if cancel_after is None:
            return answer.status, answer.read()
        for _ in range(cancel_after):
            if not answer.readline():
                break
        return 499, b""
    finally:
        connection.close()


def ask(port, model, rng):
    """Sends a random request. Returns its kind, or raises."""
    text = " ".join(rng.choice(WORDS) for _ in range(rng.choice([3, 10, 40, 150])))
    common = {"model": model, "max_tokens": rng.choice([1, 8, 32, 96]), "temperature": rng.choice([0, 0.8])}
    kind = rng.choices(["text", "stream", "cancel", "chat", "schema", "several", "scores", "wrong"], [4, 4, 4, 3, 1, 1, 1, 1])[0]
    completion = dict(common, prompt=text)
    path, body, expected, cancel = "/v1/completions", completion, 200, None
    if kind == "stream":
        body = dict(completion, stream=True)
    elif kind == "cancel":
        body, expected, cancel = dict(completion, stream=True, max_tokens=400), 499, rng.randrange(1, 30)
    elif kind == "several":
        body = dict(completion, n=3, temperature=1)
    elif kind == "scores":
        body = dict(completion, echo=True, logprobs=1, max_tokens=1)
    elif kind == "wrong":
        body, expected = dict(completion, temperature=-1), 400
    elif kind in ("chat", "schema"):
        path, body = "/v1/chat/completions", dict(common, messages=[{"role": "user", "content": text}])
        if kind == "schema":
            schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    status, answer = request(port, path, body, cancel)
    if status != expected or b'"error"' in answer and expected == 200:
        raise RuntimeError(f"{kind}: {status} {answer[:300]!r}")
    return kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impasto", required=True)
    parser.add_argument("--file", required=True, help="a layered file")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--port", type=int, default=8393)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    arriving, whole = folder / "arriving.impasto", pathlib.Path(args.file).read_bytes()
    arriving.write_bytes(whole[: len(whole) // 3])
    # The models of a server with --stream all arrive; one of them is there already.
    common = [args.impasto, "serve", "--threads", "2", "--guard", "0.2", "--parallel", "8", "--quiet", "--kv-memory", "80MB"]
    servers = {}

    def start(name, arguments, port):
        servers[name] = subprocess.Popen(common + arguments + ["--port", str(port)])
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/v1/models")
                return json.loads(connection.getresponse().read())
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{name} does not answer")

    models = start("still", [f"m={args.file}"], args.port)
    layers = len(models["data"][0]["impasto"]["layers"])
    start("live", [f"arriving={arriving}", "--stream"], args.port + 1)
    over, errors, counts, lock = time.time() + 60 * args.minutes, [], {}, threading.Lock()

    def feed():
        """Has the file arrive over half of the time."""
        position, step = len(whole) // 3, max(1, len(whole) // 300)
        pause = 60 * args.minutes / 2 / (2 * len(whole) / 3 / step)
        while position < len(whole) and time.time() < over:
            time.sleep(pause)
            with arriving.open("ab") as file:
                file.write(whole[position : position + step])
            position += step

    def client(seed):
        rng = random.Random(seed)
        while time.time() < over and not errors:
            live = rng.random() < 0.3
            model = "arriving" if live else rng.choice(["m"] + [f"m:{layer}" for layer in range(1, layers + 1)])
            try:
                kind = ask(args.port + live, model, rng)
                with lock:
                    counts[kind] = counts.get(kind, 0) + 1
            except Exception as error:  # Every failure ends the run.
                errors.append(repr(error))

    def resident(process):
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1e3

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(args.clients)] + [threading.Thread(target=feed)]
    for thread in threads:
        thread.start()
    samples = {name: [] for name in servers}
    while any(thread.is_alive() for thread in threads):
        time.sleep(5)
        for name, process in servers.items():
            if process.poll() is not None:
                errors.append(f"{name} ended with {process.returncode}")
            else:
                samples[name].append(resident(process))
    for name, values in samples.items():
        quarter = max(1, len(values) // 4)
        third, last = statistics.mean(values[2 * quarter : 3 * quarter] or [0]), statistics.mean(values[-quarter:] or [0])
        print(f"{name}: {third:.0f} MB resident in the third quarter, {last:.0f} in the last, peak {max(values or [0]):.0f}")
        if last > 1.05 * third:
            errors.append(f"the memory of {name} grows")
    print(f"{sum(counts.values())} requests: {counts}")
    for process in servers.values():
        process.terminate()
        process.wait(60)
    shutil.rmtree(folder)
    if errors:
        raise SystemExit("; ".join(errors[:5]))
    print("no error")


if __name__ == "__main__":
    main()
