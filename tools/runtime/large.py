"""The files of the synthetic model: Impasto's at the rates of SmolLM2's files, and llama.cpp's; and a check of the
imitation."""

import shutil
from functools import cache

import numpy as np
import peers
import quality
import synthetic
import widths
from context import say

KINDS = (peers.KINDS[0], peers.FALLBACK, peers.KINDS[1])  # of llama.cpp's files of the synthetic model


def rates(report):
    """Bits a weight of the matrices in a report of `inspect`, by name; and their numbers of weights."""
    matrices = [o for o in report["objects"] if o["tensor"] and o["mode"] == "lattice"]
    weights = {o["name"]: int(np.prod(o["shape"])) for o in matrices}
    return {o["name"]: 8 * o["bytes"] / weights[o["name"]] for o in matrices}, weights


def by_kind(values, weights):
    """Means over weights, by kind of matrix, and over all but the embedding as `linear`."""
    found = {}
    for kind in (*widths.KINDS, "linear"):
        names = [n for n in values if (widths.kind_of(n) != "embed_tokens" if kind == "linear" else kind in n)]
        found[kind] = float(np.average([values[n] for n in names], weights=[weights[n] for n in names]))
    return found


def sources(report):
    """The matrix of SmolLM2, of whose file this is a report, that each matrix of the synthetic model follows."""
    blocks = sum(o["name"].endswith("q_proj.weight") for o in report["objects"])
    shapes = dict(synthetic.tensors(synthetic.CONFIG))
    return {n: synthetic.source_of(n, synthetic.CONFIG, blocks) for n, shape in shapes.items() if len(shape) == 2}


def folder(bench):
    """The synthetic model as a folder with its statistics, after the file that stands beside Q4_K_M."""
    path = bench.scratch / "synthetic"
    statistics = bench.scratch / "synthetic-statistics.safetensors"
    if not (statistics.exists() and path.exists()):
        file, decoded = quality.file_of(bench, peers.KINDS[0]), bench.scratch / "decoded"
        shutil.rmtree(decoded, ignore_errors=True)
        bench.impasto("decode", file, "-o", decoded)
        say("making the synthetic model")
        synthetic.make(path, statistics, bench.options.model, file, decoded)
        shutil.rmtree(decoded)
    return path, statistics


def wanted_bits(bench, kind):
    """Bits a weight of the whole file, if each matrix has those of the matrix that it follows."""
    report = bench.inspect(quality.file_of(bench, kind))
    bits, _ = rates(report)
    sizes = {name: int(np.prod(shape)) for name, shape in synthetic.tensors(synthetic.CONFIG)}
    coded = sum(sizes[name] * bits[source] for name, source in sources(report).items())
    assets = 8 * sum(o["bytes"] for o in report["objects"] if not o["tensor"])
    return (coded + assets) / sum(sizes.values())


def ours(bench, kind):
    """Our file of the synthetic model that stands beside llama.cpp's of a kind."""

    bits = f"{wanted_bits(bench, kind.split('-')[0]):.3f}"

    def make(path):
        model, statistics = folder(bench)
        # Steps are as the statistics say: no floor.
        how = ("--statistics", statistics, "--floors", "aggressive")
        bench.impasto("encode", model, "-o", path, "--bpw", bits, *how)

    return bench.made(f"synthetic-{bits}bpw.impasto", make)


def peer(bench, kind):
    """llama.cpp's file of the synthetic model: quantized from what ours decodes to."""
    whole = bench.scratch / "synthetic-bf16.gguf"

    @cache
    def source():
        if not whole.exists():
            bench.impasto("decode", ours(bench, peers.KINDS[0]), "--to", "gguf", "--type", "bf16", "-o", whole)
        return whole

    return peers.large(bench, kind, source)


def compare(bench, kind):
    """Rates and widths of the synthetic file, and of the matrices of SmolLM2's file that it follows."""
    files = {"smollm2": quality.file_of(bench, kind), "synthetic": ours(bench, kind)}
    reports = {name: bench.inspect(file) for name, file in files.items()}
    _, weights = rates(reports["synthetic"])
    followed = sources(reports["smollm2"])
    entry = {}
    for name, file in files.items():
        bits, _ = rates(reports[name])
        moments = {n: (bits[n], *w.moments()) for n, w in widths.read(file).items()}
        if name == "smollm2":
            moments = {n: moments[source] for n, source in followed.items()}
        parts = ("bits", "octaves", "spread", "row_spread", "column_spread")
        entry[name] = {part: by_kind({n: m[i] for n, m in moments.items()}, weights) for i, part in enumerate(parts)}
        entry[name]["bits_per_weight"] = reports[name]["bits_per_weight"]
    return bench.results.put("widths", kind, entry)


def run(bench):
    """The step `large`. What the disk needs no longer goes at once."""
    for kind in peers.KINDS:
        ours(bench, kind)
        compare(bench, kind)
    shutil.rmtree(bench.scratch / "synthetic", ignore_errors=True)
    for kind in KINDS:
        peer(bench, kind)
    (bench.scratch / "synthetic-bf16.gguf").unlink(missing_ok=True)
