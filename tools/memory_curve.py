#!/usr/bin/env python3
"""File bytes, bytes in memory and KL divergence of one model, coded for each use at several sizes: a table and a plot.

    tools/memory_curve.py --impasto target/release/impasto --model SMOLLM2 --statistics s.safetensors \\
        --text DATA/valid.txt --size 42MB --size 48MB --size 54MB --size 60MB -o memory.svg

A use is what `encode --for` takes, or `default`, which leaves that out. Bytes in memory are those of `inspect --memory`, and the
divergence is that of `eval kld`. The plot has two panels: the divergence over the bytes of the file, and over those in memory.
Files are kept in the folder of `--files`, and what is there is not made again.
"""

import argparse
import html
import json
import math
import os
import subprocess
import tempfile

USES = ["default", "memory", "download"]
COLOURS = {"default": "#444444", "memory": "#c2410c", "download": "#1d4ed8"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 400, 330, 64, 40, 52, 26


def run(impasto, *words):
    done = subprocess.run([impasto, *words, "--json", "-q"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(options, use, size, folder):
    """Returns (bytes of the file, bytes in memory, divergence, its standard error)."""
    path = os.path.join(folder, f"{use}-{size}.impasto")
    if not os.path.exists(path):
        words = ["encode", options.model, "-o", path, "--size", size]
        words += ["--statistics", options.statistics] if options.statistics else ["--uncalibrated"]
        run(options.impasto, *words, *([] if use == "default" else ["--for", use]))
    memory = run(options.impasto, "inspect", path, "--memory")["memory"]["bytes"]
    words = ["eval", "kld", path, "--reference", options.model, "--text", options.text, "--windows", str(options.windows)]
    kld = run(options.impasto, *words)["kld"]["mean"]
    return os.path.getsize(path), memory, kld["value"], kld["error"]


def ticks(low, high, steps):
    """Returns round numbers between low and high."""
    step = next(step for step in steps if (high - low) / step <= 6)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def panel(points, title, at, left):
    """Draws one panel: `at` is the index of the horizontal value of each point."""
    xs = [point[at] / 1e6 for curve in points.values() for point in curve]
    ys = [point[2] for curve in points.values() for point in curve]
    margin = (max(xs) - min(xs)) / 20
    low, high, base, top = min(xs) - margin, max(xs) + margin, math.log(min(ys) * 0.9), math.log(max(ys) * 1.1)
    x = lambda value: left + (value - low) / (high - low) * WIDTH
    y = lambda value: TOP + (top - math.log(value)) / (top - base) * HEIGHT
    out = [f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    out.append(f'<text x="{left + WIDTH / 2}" y="{TOP - 14}" text-anchor="middle" font-weight="bold">{title}</text>')
    for value in ticks(low, high, [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]):
        out.append(f'<line x1="{x(value):.1f}" y1="{TOP}" x2="{x(value):.1f}" y2="{TOP + HEIGHT}" stroke="#e5e5e5"/>')
        out.append(f'<text x="{x(value):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{value:g}</text>')
    for value in [m * 10**e for e in range(-5, 2) for m in (1, 1.5, 2, 3, 5, 7)]:
        if base <= math.log(value) <= top:
            out.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{left + WIDTH}" y2="{y(value):.1f}" stroke="#e5e5e5"/>')
            out.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    out.append(f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 40}" text-anchor="middle">MB</text>')
    for use, curve in points.items():
        curve = sorted(curve, key=lambda point: point[at])
        line = " ".join(f"{x(point[at] / 1e6):.1f},{y(point[2]):.1f}" for point in curve)
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[use]}" stroke-width="2"/>')
        out += [f'<circle cx="{x(point[at] / 1e6):.1f}" cy="{y(point[2]):.1f}" r="4" fill="{COLOURS[use]}"/>' for point in curve]
    return out


def plot(points, name):
    right = LEFT + WIDTH + GAP + LEFT
    width, height = right + WIDTH + GAP, TOP + HEIGHT + BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="sans-serif" font-size="13">', f'<rect width="{width}" height="{height}" fill="white"/>']
    out += panel(points, f"KL divergence of {html.escape(name)} over bytes of the file", 0, LEFT)
    out += panel(points, "and over bytes of packed weights in memory", 1, right)
    for i, use in enumerate(points):
        label = "default" if use == "default" else f"--for {use}"
        out.append(f'<circle cx="{right + WIDTH - 120}" cy="{TOP + 20 + 20 * i}" r="4" fill="{COLOURS[use]}"/>')
        out.append(f'<text x="{right + WIDTH - 108}" y="{TOP + 24 + 20 * i}">{label}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--model", required=True)
    parser.add_argument("--statistics", help="from `impasto calibrate`; without it, files are not calibrated")
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--size", action="append", required=True)
    parser.add_argument("--use", action="append", choices=USES, help="all, if none is given")
    parser.add_argument("--files", help="a folder for the files")
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        points = {}
        print("| use | size | file, MB | in memory, MB | memory over file | KLD |\n|---|---:|---:|---:|---:|---:|")
        for use in options.use or USES:
            for size in options.size:
                file, memory, kld, error = measure(options, use, size, options.files or temporary)
                points.setdefault(use, []).append((file, memory, kld))
                figures = f"{file / 1e6:.2f} | {memory / 1e6:.2f} | {memory / file:.3f} | {kld:.4f} +- {error:.4f}"
                print(f"| {use} | {size} | {figures} |", flush=True)
        with open(options.output, "w") as file:
            file.write(plot(points, os.path.basename(os.path.normpath(options.model))))


if __name__ == "__main__":
    main()
