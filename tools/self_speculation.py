#!/usr/bin/env python3
"""Measures self-speculation: a layered file drafts with a coarser layer and verifies with a finer one.

    tools/self_speculation.py --impasto target/release/impasto --text DATA/valid.txt layered.impasto

For each layer in use (--top, `all` for the whole file), greedy generation of --tokens tokens after the first --depths tokens of
the text is measured without drafts, with each coarser layer, with earlier text, and with `auto`, in turns, --rounds times. Each
run loads the file again; only generation is timed. Printed are medians over rounds of the ratio to the run without drafts of the
same round, the share of guesses that were kept, tokens per pass over a draft, memory, and what the model of costs predicts if only
bytes count: a pass reads the weights of its layer once, however many tokens it has, and a guess reads those of the draft's layer.
With --lengths, drafts of these fixed lengths are measured too. The share of processor time that others use is printed, because
ratios depend on it.
"""

import argparse
import json
import os
import statistics
import subprocess
import time


def busy():
    """Processor time of all programs, in seconds."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def bench(options, words):
    command = [options.impasto, "bench", "run", options.file, "-p", "0", "-n", str(options.tokens), "-r", "1", "--json"]
    command += ["-t", str(options.threads), "-d", options.depths, "--text", options.text, "-q", *words]
    before, own = busy(), os.times()
    begun = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.monotonic() - begun, os.times()
    used = after.children_user + after.children_system - own.children_user - own.children_system
    others = max(busy() - before - used, 0) / (seconds * os.cpu_count())
    rows = json.loads(done.stdout)
    total = sum(sum(row["seconds"]) for row in rows)
    counts = [row["speculation"] for row in rows if row["speculation"]]
    of = {key: sum(count[key] for count in counts) for key in ("kept", "judged", "passes", "of_passes", "proposed")}
    return {
        "rate": options.tokens * len(rows) / total,
        "bytes": rows[0]["weight_bytes"],
        "others": others,
        **of,
    }


def predicted(acceptance, length, draft, top):
    """Speed over single tokens if only bytes count, with drafts of `length` tokens."""
    tokens = (1 - acceptance ** (length + 1)) / (1 - acceptance) if acceptance < 1 else length + 1
    return tokens * top / (length * draft + top)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--impasto", default="target/release/impasto")
    parser.add_argument("--text", required=True)
    parser.add_argument("--top", default="3,all", help="layers in use")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--depths", default="100,200,300,400,500")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", default="", help="fixed lengths, such as 2,4")
    options = parser.parse_args()
    shown = subprocess.run([options.impasto, "inspect", options.file, "--json"], check=True, capture_output=True)
    layers = len(json.loads(shown.stdout)["layers"])
    alone = {}
    print("| layer | drafts | MB | over layer alone | speed | kept | tokens per pass | bytes predict | others |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for top in options.top.split(","):
        number = layers if top == "all" else int(top)
        cut = [] if top == "all" else ["--layer", top]
        for layer in range(1, number):
            if layer not in alone:
                alone[layer] = bench(options, ["--layer", str(layer)])["bytes"]
        ways = [[str(layer)] for layer in range(1, number)] + [["ngram"], ["auto"]]
        fixed = [length for length in options.lengths.split(",") if length]
        ways += [[str(layer), length] for layer in range(1, number) for length in fixed]
        runs = {"none": []} | {" ".join(way): [] for way in ways}
        for _ in range(options.rounds):
            runs["none"].append(bench(options, cut))
            for way in ways:
                words = ["--draft-layer", way[0]] + (["--draft-tokens", way[1]] if way[1:] else [])
                runs[" ".join(way)].append(bench(options, [*cut, *words]))
        whole = runs["none"][0]["bytes"]
        alone[number] = whole
        for name, results in runs.items():
            ratio = statistics.median(run["rate"] / none["rate"] for run, none in zip(results, runs["none"]))
            last, others = results[-1], statistics.mean(run["others"] for run in results)
            speed = f"{last['rate']:.1f} t/s" if name == "none" else f"{ratio:.2f}"
            kept = passes = bound = ""
            if last["passes"]:
                acceptance, length = last["kept"] / max(last["judged"], 1), last["proposed"] / last["passes"]
                kept, passes = f"{acceptance:.2f}", f"{last['of_passes'] / last['passes']:.2f}"
                draft = {"ngram": 0, "auto": None}.get(name, alone.get(int(name.split()[0])) if name[0].isdigit() else None)
                bound = "" if draft is None else f"{predicted(acceptance, length, draft, whole):.2f}"
            size = f"{last['bytes'] / 1e6:.1f} | {last['bytes'] / whole:.3f}"
            print(f"| {top} | {name} | {size} | {speed} | {kept} | {passes} | {bound} | {others:.0%} |", flush=True)


if __name__ == "__main__":
    main()
