#!/usr/bin/env python3
"""Runs a layered file while it arrives over a slow link, and plots the quality of the model over time.

    tools/stream_plot.py --impasto target/release/impasto layered.impasto --rate 10 --rate 2 -o stream.svg

A server on this machine sends the file at RATE megabytes per second over all connections together. For each rate, the file is
fetched and run from there (`run URL --stream`), then fetched whole and run from the disk. Printed are the seconds to the first
token of both, and when each stage began. The plot shows the KL divergence of the tokens over seconds, from the layers of
the file, which must have been measured (`encode --measure`).
"""

import argparse
import json
import math
import os
import re
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 16 << 10


class Link:
    """Lets bytes pass at a rate, in the order in which connections ask."""

    def __init__(self, rate):
        self.rate, self.free, self.lock = rate, 0.0, threading.Lock()

    def wait(self, count):
        with self.lock:
            self.free = max(self.free, time.monotonic()) + count / self.rate
            until = self.free
        time.sleep(max(0.0, until - time.monotonic()))


def server(path, rate):
    """Starts a server of one file at `rate` bytes per second. Returns it and the address of the file."""
    size, link = os.path.getsize(path), Link(rate)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            last = min(int(asked[2]) if asked and asked[2] else size - 1, size - 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            with open(path, "rb") as file:
                file.seek(first)
                left = last - first + 1
                while left:
                    piece = file.read(min(PIECE, left))
                    link.wait(len(piece))
                    try:
                        self.wfile.write(piece)
                    except OSError:
                        return
                    left -= len(piece)

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made, f"http://127.0.0.1:{made.server_port}/{os.path.basename(path)}"


def run(*words):
    """Returns what a command prints as JSON, and the seconds that it took."""
    begun = time.monotonic()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout), time.monotonic() - begun


def measure(options, rate):
    """Returns the parts of a run while the file arrives, and seconds to the first token of that and of a run afterwards."""
    made, address = server(options.file, rate * 1e6)
    prompt = ["-p", options.prompt, "--raw", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        there = os.path.join(folder, "there.impasto")
        whole = os.path.getsize(options.file) / (rate * 1e6)
        tokens = str(int(options.tokens or (whole + 20) * 60))
        live, _ = run(options.impasto, "run", address, "--stream", "--save", there, *prompt, "-n", tokens)
        os.remove(there)
        _, fetched = run(options.impasto, "fetch", address, "-o", there, "--json")
        after, seconds = run(options.impasto, "run", there, *prompt, "-n", "1")
    made.shutdown()
    parts = live["stream"]["parts"]
    first = parts[0]["seconds"] + live["generation"]["prefill_seconds"]
    return parts, first, fetched + seconds - after["generation"]["decode_seconds"]


def svg(curves, klds, seconds):
    """Draws steps of KL divergence, on a logarithmic axis, over seconds."""
    width, height, left, low, high = 640, 360, 76, 1e-3, max(max(klds), 1e-2) * 2
    def x(s):
        return left + (width - left - 20) * s / seconds

    def y(kld):
        share = math.log(max(kld, low) / low) / math.log(high / low)
        return height - 40 - (height - 70) * share

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">']
    out.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    power = math.ceil(math.log10(low))
    while 10.0**power <= high:
        out.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}" stroke="#ddd"/>')
        label = "0 (exact)" if 10.0**power <= low else f"{10.0**power:g}"
        out.append(f'<text x="{left - 6}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{label}</text>')
        power += 1
    for tick in range(0, int(seconds) + 1, max(1, int(seconds / 8))):
        out.append(f'<text x="{x(tick):.1f}" y="{height - 22}" text-anchor="middle">{tick}</text>')
    out.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">seconds since the command was started</text>')
    out.append(f'<text x="{left}" y="16">KL divergence of the model that tokens come from, in nats per token</text>')
    for n, (rate, parts, end) in enumerate(curves):
        colour = ["#1f6fb4", "#c0392b", "#2e8b57", "#8e44ad"][n % 4]
        points = []
        for part, after in zip(parts, [*parts[1:], {"seconds": end}]):
            kld = klds[part["stage"] - 1]
            points += [(x(part["seconds"]), y(kld)), (x(min(after["seconds"], end)), y(kld))]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{points[0][0] + 4:.1f}" y="{points[0][1] - 6 - 14 * n:.1f}" fill="{colour}">{rate:g} MB/s</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--rate", type=float, action="append", required=True, help="megabytes per second")
    parser.add_argument("--prompt", default="The history of the town begins")
    parser.add_argument("--tokens", type=int, help="tokens to generate, instead of enough for the whole file")
    parser.add_argument("-o", "--output", help="an SVG file")
    options = parser.parse_args()
    inspected, _ = run(options.impasto, "inspect", options.file, "--json")
    klds = [layer["kld"] for layer in inspected["layers"]]
    if options.output and None in klds:
        parser.error(f"{options.file}: its layers were not measured: encode it with --measure")
    curves, longest = [], 0.0
    for rate in options.rate:
        parts, first, after = measure(options, rate)
        print(f"{rate:g} MB/s: first token after {first:.2f} s; after {after:.2f} s when the whole file is fetched first ({first / after:.0%})")
        for part in parts:
            print(f"  stage {part['stage']} of {part['stages']} ({part['bytes'] / 1e6:.2f} MB) from {part['seconds']:.2f} s, token {part['first_token'] + 1}")
        end = parts[-1]["seconds"] * 1.15 + 1
        curves.append((rate, parts, end))
        longest = max(longest, end)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(svg(curves, klds, longest))


if __name__ == "__main__":
    main()
