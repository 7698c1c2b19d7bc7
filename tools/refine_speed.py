#!/usr/bin/env python3
"""Measures how fast a model generates before, while and after it is refined.

    tools/refine_speed.py --impasto target/release/impasto layered.impasto

Runs a copy of a layered file of which only the first layer is there (`run --stream --kv-upgrade keep`, one thread). After six
seconds, the rest arrives at once. Printed are the tokens per second before that, until all layers are exchanged, and afterwards.
Finer weights take longer, so the middle is to be compared with the mean of the other two, in time per token.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import threading
import time

SETTLED = 2.0


def rate(times):
    """Pieces of text per second. A piece is a token, but for those that end within a character."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--tokens", default="700")
    parser.add_argument("--wait", type=float, default=6.0, help="seconds until the rest arrives")
    options = parser.parse_args()
    shown = subprocess.run([options.impasto, "inspect", options.file, "--json"], check=True, capture_output=True)
    # The units of the first layer end a little after the bytes that a file cut there takes: its manifest is longer.
    first = json.loads(shown.stdout)["layers"][0]["bytes"] + (1 << 18)
    with open(options.file, "rb") as file:
        data = file.read()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "arriving.impasto")
        with open(path, "wb") as file:
            file.write(data[:first])
        words = ["run", path, "--stream", "--kv-upgrade", "keep", "--threads", options.threads]
        words += ["-p", "The history of", "--raw", "-n", options.tokens]
        begun = time.monotonic()
        running = subprocess.Popen([options.impasto, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        arrived = []

        def arrive():
            time.sleep(options.wait)
            with open(path, "ab") as file:
                file.write(data[first:])
            arrived.append(time.monotonic() - begun)

        threading.Thread(target=arrive).start()
        times = []
        while os.read(running.stdout.fileno(), 1 << 16):
            times.append(time.monotonic() - begun)
        report = running.stderr.read().decode()
    stages = re.findall(r"from stage (\d+) of (\d+) .* after ([\d.]+) s", report)
    if not stages or stages[-1][0] != stages[-1][1] or not arrived:
        raise SystemExit(f"the model was not refined to the end: more --tokens?\n{report}")
    whole = float(stages[-1][2])
    before = rate([t for t in times if SETTLED < t < arrived[0]])
    during = rate([t for t in times if arrived[0] < t < whole])
    after = rate([t for t in times if t > whole])
    print(f"before {before:.1f}, during {during:.1f} ({whole - arrived[0]:.1f} s), after {after:.1f} tokens per second")
    print(f"mean of before and after, in time per token: {2 / (1 / before + 1 / after):.1f}")


if __name__ == "__main__":
    main()
