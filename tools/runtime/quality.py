"""Impasto files whose divergence as run equals that of llama.cpp's files as run.

As run: llama.cpp rounds the inputs of its matrices to 8 bits, and so does Impasto's residence `packed`. llama.cpp's
divergence is printed by `llama-perplexity --kl-divergence`, against its own logits of the model in binary32; Impasto's
by `impasto eval kld --residence packed`, against its own in binary32. Both score the second half of windows of 512
tokens of test.txt; llama.cpp leaves out one position of 256.
"""

import json
import math
import re
import sys

import peers
from context import say

CLOSE = 0.02  # of the logarithm of the divergence
ATTEMPTS = 6
SLOPE = -0.088  # of the logarithm of the divergence over MB: where one point is all that is known


def base_logits(bench):
    """llama.cpp's logits of the model in binary32 (49,152 numbers of 16 bits for each position scored)."""
    text = ("-f", bench.options.data / "test.txt", "-c", 512, "-b", 512, "--chunks", bench.options.windows)
    words = (*text, "-t", max(bench.options.threads), "--save-all-logits")
    return bench.made(
        f"smollm2-{bench.options.windows}.logits",
        lambda path: bench.llama("llama-perplexity", "-m", peers.whole(bench), *words, path),
    )


def peer(bench, kind):
    """The divergence of a file of llama.cpp as it runs it."""
    key = f"{kind}/{bench.options.windows}"
    known = bench.results.section("peer_kld").get(key)
    if known:
        return known
    file = peers.smollm2(bench, kind)
    words = ("-c", 512, "-b", 512, "-t", max(bench.options.threads), "--kl-divergence")
    out = bench.llama(
        "llama-perplexity", "-m", file, *words, "--kl-divergence-base", base_logits(bench), stderr=True
    )
    found = re.search(r"Mean +KLD: +([0-9.]+) ± +([0-9.]+)", out)
    if not found:
        sys.exit(f"llama-perplexity gives no divergence:\n{out[-2000:]}")
    entry = {"kld": float(found[1]), "error": float(found[2]), "bytes": file.stat().st_size}
    say(f"{kind}: {entry['bytes'] / 1e6:.2f} MB, KLD as run {entry['kld']:.5f} ± {entry['error']:.5f}")
    return bench.results.put("peer_kld", key, entry)


def encoded(bench, size):
    """Our file of a size in MB."""
    words = ("--size", f"{size}MB", "--statistics", statistics(bench))
    return bench.made(
        f"smollm2-{size}MB.impasto", lambda path: bench.impasto("encode", bench.options.model, "-o", path, *words)
    )


def statistics(bench):
    """Statistics of SmolLM2 on the first `--tokens` tokens of the calibration text."""
    tokens = bench.options.tokens
    words = ("--text", bench.options.data / "calibration.txt", "--tokens", tokens, "--gradient-tokens", tokens)
    return bench.options.statistics or bench.made(
        "smollm2-statistics.safetensors",
        lambda path: bench.impasto("calibrate", bench.options.model, *words, "-o", path),
    )


def ours(bench, size):
    """The divergence of our file of a size in MB, as it is run."""
    key = f"{size}/{bench.options.windows}/{bench.options.residence}"
    known = bench.results.section("our_kld").get(key)
    if known:
        return known
    file = encoded(bench, size)
    text = ("--text", bench.options.data / "test.txt", "--windows", bench.options.windows, "--score", "second-half")
    how = ("--reference", bench.options.model, "--residence", bench.options.residence)
    out = json.loads(bench.impasto("--json", "eval", "kld", file, *text, *how))
    mean = out["kld"]["mean"]
    entry = {"kld": mean["value"], "error": mean["error"], "bytes": file.stat().st_size, "size": size}
    say(f"ours: {entry['bytes'] / 1e6:.2f} MB, KLD as run {entry['kld']:.5f} ± {entry['error']:.5f}")
    return bench.results.put("our_kld", key, entry)


def next_size(points, target):
    """Where log(KLD) as a line of the size meets the target: through the points around it, else the nearest one."""
    points = sorted(points, key=lambda p: p["size"])
    want = math.log(target)
    distance = lambda p: abs(math.log(p["kld"]) - want)
    above = [p for p in points if math.log(p["kld"]) >= want]
    below = [p for p in points if math.log(p["kld"]) < want]
    if above and below:
        a, b = above[-1], below[0]
        slope = (math.log(b["kld"]) - math.log(a["kld"])) / (b["size"] - a["size"])
    else:
        a, slope = min(points, key=distance), SLOPE
    return round(a["size"] + (want - math.log(a["kld"])) / slope, 2)


def equal(bench, kind, guess):
    """Our file with the divergence of a file of llama.cpp: the entry of the closest one found."""
    target = peer(bench, kind)["kld"]
    points = [ours(bench, guess)]
    for _ in range(ATTEMPTS):
        best = min(points, key=lambda p: abs(math.log(p["kld"] / target)))
        if abs(math.log(best["kld"] / target)) <= CLOSE:
            break
        size = next_size(points, target)
        if size in [p["size"] for p in points]:
            break
        points.append(ours(bench, size))
    best = min(points, key=lambda p: abs(math.log(p["kld"] / target)))
    say(f"{kind}: ours at equal divergence is {best['bytes'] / 1e6:.2f} MB")
    for p in points:
        if p is not best:
            (bench.scratch / f"smollm2-{p['size']}MB.impasto").unlink(missing_ok=True)
    return bench.results.put("equal", kind, best)


def file_of(bench, kind):
    """Our file of SmolLM2 that stands beside llama.cpp's of a kind."""
    entry = bench.results.section("equal").get(kind)
    if not entry:
        sys.exit("the step `quality` comes first")
    return encoded(bench, entry["size"])


def run(bench):
    """The step `quality`."""
    for kind, guess in zip(peers.KINDS, bench.options.sizes, strict=True):
        equal(bench, kind, guess)
