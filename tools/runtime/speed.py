"""Tokens per second of both programs, run alternately on the same processors, and the memory bandwidth at that time.

For each pair of files and number of threads, a round runs llama-bench, `impasto bench run` and the read of an array,
directly one after the other; which program runs first alternates. Medians are reported, and the median of the ratios
within rounds.
"""

import json
import statistics

import large
import peers
import quality
from context import ROOT, Others, await_quiet, execute, say

PROMPT, ANSWER = 512, 128
ARRAY_MB, READS = 1024, 5


def pairs(bench):
    """Model, kind, llama.cpp's file and ours, of all that is compared."""
    files = {
        "smollm2": (peers.KINDS, lambda kind: (peers.smollm2(bench, kind), quality.file_of(bench, kind))),
        "synthetic": (large.KINDS, lambda kind: (large.peer(bench, kind), large.ours(bench, kind))),
    }
    return [(m, kind, *files[m][1](kind)) for m in bench.options.models for kind in files[m][0]]


def llama(bench, file, threads):
    """Tokens a second of llama.cpp: of the prompt, and of the answer."""
    words = ("-m", file, "-t", threads, "-p", PROMPT, "-n", ANSWER, "-r", 1, "-o", "json")
    rows = json.loads(bench.llama("llama-bench", *words, threads=threads))
    return {("decode" if row["n_gen"] else "prefill"): row["avg_ts"] for row in rows}


def impasto(bench, file, threads):
    """The same of ours, with the bytes of the weights in memory and the seconds of loading."""
    words = ("-p", PROMPT, "-n", ANSWER, "-r", 1, "--thread-counts", threads, "--output", "json")
    rows = json.loads(bench.impasto("bench", "run", file, *words, threads=threads))
    found = {("decode" if row["generated"] else "prefill"): row["mean"] for row in rows}
    return found | {"weight_bytes": rows[0]["weight_bytes"], "load_seconds": rows[0]["load"]["seconds"]}


def bandwidth(bench, threads):
    """The best of some reads of an array, in GB/s."""
    source = ROOT / "tools/runtime/bandwidth.c"
    how = ("-O3", "-march=native", "-pthread")
    program = bench.made("bandwidth", lambda path: execute("cc", *how, "-o", path, source))
    return max(map(float, execute(program, threads, ARRAY_MB, READS, threads=threads).split()))


def one_round(bench, turn, theirs, ours, threads):
    """A round of a pair of files."""
    runs = [
        ("llama", lambda: llama(bench, theirs, threads)),
        ("impasto", lambda: impasto(bench, ours, threads)),
    ]
    await_quiet(bench.options.patience)
    others = Others()
    found = {name: measure() for name, measure in (runs if turn % 2 == 0 else reversed(runs))}
    found["bandwidth"] = bandwidth(bench, threads)
    found["others"] = others.share()
    return found


def medians(rounds):
    """What the rounds of a pair say."""

    def median(of):
        return statistics.median(map(of, rounds))

    found = {"rounds": len(rounds)} | {what: median(lambda r, w=what: r[w]) for what in ("bandwidth", "others")}
    for what in ("prefill", "decode"):
        ratios = [r["impasto"][what] / r["llama"][what] for r in rounds]
        found[what] = {
            "llama": median(lambda r, what=what: r["llama"][what]),
            "impasto": median(lambda r, what=what: r["impasto"][what]),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    found["weight_bytes"] = rounds[-1]["impasto"]["weight_bytes"]
    found["load_seconds"] = median(lambda r: r["impasto"]["load_seconds"])
    found["of_bound"] = median(lambda r: r["impasto"]["decode"] * r["impasto"]["weight_bytes"] / (1e9 * r["bandwidth"]))
    return found


def run(bench):
    """The step `speed`: `--rounds` rounds more of this build; those of another one are dropped."""
    files = pairs(bench)
    for _ in range(bench.options.rounds):
        for model, kind, theirs, ours in files:
            for threads in bench.options.threads:
                key = f"{model}/{kind}/{threads}"
                known = bench.results.section("speed").get(key)
                rounds = known["rounds"] if known and known["build"] == bench.build else []
                found = one_round(bench, len(rounds), theirs, ours, threads)
                bench.results.put("speed", key, {"build": bench.build, "rounds": [*rounds, found]})
                cells = [f"{w} {found['impasto'][w]:.2f} : {found['llama'][w]:.2f}" for w in ("prefill", "decode")]
                cells += [f"{found['bandwidth']:.1f} GB/s", f"others {found['others']:.0%}"]
                say(f"{key} round {len(rounds) + 1}: {', '.join(cells)}")
