"""Tables and plots of the results."""

import math
from itertools import pairwise

import autoround
import fixed_trellis
import gptq
import layers
import llama
import ours
import rounding
from context import say
from plot import Axes, Series, svg

# What Impasto is asked to reach: at the divergence of a file of llama.cpp, a file of at most so many MB.
GOALS = {"Q8_0": 105, "Q5_K_M": 80, "Q4_K_M": 70, "IQ4_NL": 60, "IQ2_M": 48}
SUBJECTS = {"smollm2": "SmolLM2", "minilm": "MiniLM", "whisper": "whisper-tiny.en"}


def interpolate(curve, x):
    """The value at x of a curve of (x, value), linear between points; None beyond its ends."""
    curve = sorted(curve)
    for (x0, v0), (x1, v1) in pairwise(curve):
        if x0 <= x <= x1:
            return v0 + (v1 - v0) * (x - x0) / (x1 - x0 or 1)
    return None


def points(bench, model, family):
    entries = bench.results.section("points").values()
    found = [e for e in entries if e["model"] == model.name and e["family"] == family]
    if family == ours.FAMILY:
        found = [e for e in found if float(e["name"].removesuffix("MB")) in map(float, model.sizes)]
    return sorted(found, key=lambda e: -e["file_bytes"])


def label(entry):
    """A short name of a point."""
    mix = entry.get("mix")
    if mix is None:
        return entry["name"]
    short = {
        "token_embd": "embd",
        "attn_qk": "q,k",
        "attn_v": "v",
        "attn_output": "o",
        "ffn_gate_up": "gate,up",
        "ffn_down": "down",
    }
    kinds = {}
    for group, kind in mix.items():
        kinds.setdefault(kind, []).append(short[group])
    return "; ".join(f"{kind}: {' '.join(groups)}" for kind, groups in kinds.items())


def at_equal(curve, key, entry):
    """Our bytes, `file_bytes` or `bare_bytes`, at the divergence of a peer, and what that saves, as cells."""
    found = interpolate([(math.log(e["kld"]), e[key]) for e in curve], math.log(entry["kld"]))
    if found is None:
        return "beyond our curve", ""
    return f"{found / 1e6:.2f}", f"{100 * (1 - found / entry[key]):.1f}%"


def table(header, align, rows):
    return "\n".join([f"| {' | '.join(header)} |", f"|{align}|", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def own(bench, model):
    rows = [
        [
            e["name"],
            f"{e['file_bytes'] / 1e6:.2f}",
            f"{e['bare_bytes'] / 1e6:.2f}",
            f"{e['kld']:.5f} ± {e['kld_error']:.5f}",
            f"{100 * e['same_top']:.1f}%",
            f"{e['perplexity']:.2f}",
            f"{e['encode_seconds']:.0f} s",
        ]
        for e in points(bench, model, ours.FAMILY)
    ]
    header = ["`--size`", "file, MB", "without tokenizer", "KLD mean, nats", "same top token", "perplexity", "encode"]
    return table(header, "---|---:|---:|---:|---:|---:|---:", rows)


def against(bench, model):
    curve, rows = points(bench, model, ours.FAMILY), []
    peers = (rounding, gptq, autoround, fixed_trellis)
    for family in (llama.FAMILY, llama.MIXES, *(peer.FAMILY for peer in peers)):
        for e in points(bench, model, family):
            name = f"{family}: {label(e)}"
            rows.append(
                [
                    name,
                    f"{e['file_bytes'] / 1e6:.2f}",
                    f"{e['bare_bytes'] / 1e6:.2f}",
                    f"{e['kld']:.5f} ± {e['kld_error']:.5f}",
                    f"{100 * e['same_top']:.1f}%",
                    *at_equal(curve, "file_bytes", e),
                    at_equal(curve, "bare_bytes", e)[1],
                ]
            )
    header = [
        "peer",
        "file, MB",
        "without metadata",
        "KLD mean, nats",
        "same top token",
        "Impasto, MB, at equal KLD",
        "saved",
        "saved, without metadata",
    ]
    return table(header, "---|---:|---:|---:|---:|---:|---:|---:", rows)


def goals(bench, model):
    """The figures to reach: the size of our file at the divergence of each peer."""
    curve, rows = points(bench, model, ours.FAMILY), []
    peers = {e["name"]: e for e in points(bench, model, llama.FAMILY)}
    for name, goal in GOALS.items():
        if name in peers:
            size, _ = at_equal(curve, "file_bytes", peers[name])
            met = "yes" if size.replace(".", "").isdigit() and float(size) <= goal else "**no**"
            rows.append(
                [name, f"{peers[name]['file_bytes'] / 1e6:.2f}", f"{peers[name]['kld']:.5f}", size, str(goal), met]
            )
    header = ["at the KLD of", "its file, MB", "its KLD", "Impasto, MB", "goal, MB, at most", "met"]
    return table(header, "---|---:|---:|---:|---:|---", rows)


def own_layers(bench, subject):
    """Our matrices at each rate, lowest first."""
    entries = bench.results.section("layers")
    names = (f"{subject}/{layers.name_of(rate)}" for rate in layers.RATES[subject])
    return [entries[name]["matrices"] for name in names if name in entries]


def curve_of(bench, subject):
    """Our (dB, bits) by matrix, over the rates."""
    curves = {}
    for matrices in own_layers(bench, subject):
        for name, m in matrices.items():
            curves.setdefault(name, []).append((m["db"], m["bits"]))
    return curves


def mean(values):
    """Mean of (weight, value)."""
    total = sum(w for w, _ in values)
    return sum(w * v for w, v in values) / total


def layer_rows(bench, subject, columns=None):
    """For each peer: matrices, mean bits and dB, our mean bits at the same errors matrix by matrix."""
    curves, rows = curve_of(bench, subject), []
    for tool, entry in bench.results.section("layers").items():
        owner, tool = tool.split("/", 1)
        if owner != subject or tool.startswith("Impasto "):
            continue
        matrices = {n: m for n, m in entry["matrices"].items() if columns in (None, m["columns"])}
        of_all = sum(columns in (None, m["columns"]) for m in own_layers(bench, subject)[0].values())
        if not matrices or len(matrices) < of_all:
            continue  # a type that does not fit all matrices of the table
        size = {n: m["rows"] * m["columns"] for n, m in matrices.items()}
        equal = {n: interpolate(curves.get(n, []), m["db"]) for n, m in matrices.items()}
        bits, db = averaged(matrices, "bits"), averaged(matrices, "db")
        inside = all(v is not None for v in equal.values())
        found = mean([(size[n], v) for n, v in equal.items()]) if inside else None
        rows.append((tool, len(matrices), bits, db, found))
    return sorted(rows, key=lambda row: row[3])


VIEWS = [("smollm2", 1536), ("minilm", 1536), ("whisper", 1536), ("minilm", None), ("whisper", None)]


def view_title(subject, columns):
    return f"{SUBJECTS[subject]}, {f'{columns:,} columns' if columns else 'all linear layers'}"


def layer_table(bench, views):
    """Peers against our bits at the same error, a column for each view."""
    found = {view: {row[0]: row for row in layer_rows(bench, *view)} for view in views}
    tools = {row[0]: row[2] for rows in found.values() for row in rows.values()}
    rows = []
    for tool in sorted(tools, key=lambda tool: (-tools[tool], tool)):
        cells = [layer_cell(found[view].get(tool)) for view in views]
        rows.append([tool, f"{tools[tool]:.3f}", *cells])
    counts = [max((row[1] for row in found[view].values()), default=0) for view in views]
    header = [f"{view_title(*view)} ({count})" for view, count in zip(views, counts, strict=True)]
    return table(["peer", "bits", *header], "---|---:" + "|---:" * len(views), rows)


def layer_cell(row):
    """The peer's error, and the bits at which we have the same."""
    if row is None:
        return ""
    _, _, bits, db, equal = row
    return f"{db:.1f} dB: " + ("beyond" if equal is None else f"{equal:.2f} (-{100 * (1 - equal / bits):.0f}%)")


def least_saved(bench, view):
    """One sentence: against which peer we save least at equal error."""
    rows = [row for row in layer_rows(bench, *view) if row[4] is not None]
    tool, _, bits, db, equal = min(rows, key=lambda row: row[2] - row[4])
    return f"{view_title(*view)}: at least {bits - equal:.2f} bits a weight ({tool}, {db:.1f} dB)"


def averaged(matrices, key, columns=None):
    """Mean of `bits` or `db` over the weights of the matrices with so many columns."""
    return mean([(m["rows"] * m["columns"], m[key]) for m in matrices.values() if columns in (None, m["columns"])])


def plot_sizes(bench, model):
    def coordinates(family):
        return [(e["file_bytes"] / 1e6, e["kld"], e["name"]) for e in points(bench, model, family)]

    series = [
        Series("round to nearest", "green", "triangle", coordinates(rounding.FAMILY)),
        Series("GPTQ (llm-compressor)", "pink", "diamond", coordinates(gptq.FAMILY)),
        Series("llama.cpp, imatrix", "red", "square", coordinates(llama.FAMILY)),
        Series("llama.cpp, best mixes of types", "orange", "down", coordinates(llama.MIXES), line=True, names=False),
        Series("Impasto", "blue", "circle", coordinates(ours.FAMILY), line=True, names=False, width=2.6),
    ]
    axes = Axes(
        f"{model.title}: divergence from the original over size",
        "file, MB",
        "KL divergence, nats a token (mean)",
        log=True,
    )
    return svg(axes, series)


def plot_layers(bench, subject, columns=None):
    kinds = {"green": [], "pink": [], "red": []}
    for tool, _, bits, db, _ in layer_rows(bench, subject, columns):
        kinds["green" if "RTN" in tool else "pink" if "GPTQ" in tool else "red"].append((bits, db, tool))
    files = own_layers(bench, subject)
    mine = [(averaged(matrices, "bits", columns), averaged(matrices, "db", columns), "") for matrices in files]
    errors = [db for kind in kinds.values() for _, db, _ in kind]
    mine = [p for p in mine if min(errors) - 6 <= p[1] <= max(errors) + 6]
    series = [
        Series("round to nearest", "green", "triangle", kinds["green"]),
        Series("GPTQ", "pink", "diamond", kinds["pink"]),
        Series("llama.cpp types, imatrix", "red", "square", kinds["red"]),
        Series("Impasto", "blue", "circle", mine, line=True, names=False, width=2.6),
    ]
    which = f"matrices of {columns:,} columns" if columns else "all linear layers"
    axes = Axes(f"{SUBJECTS[subject]}, {which}: error of the output", "bits a weight", "weighted error, dB (mean)")
    return svg(axes, series)


COMMAND = (
    "tools/benchmark/run.py all --impasto target/release/impasto --llama LLAMA/bin "
    "--ggml LLAMA/bin/libggml-base.so --models MODELS --data DATA"
)

LAYERS = """### Weighted error of matrices

tr((W-V) H (W-V)^T) / tr(W H W^T) in dB, H of inputs of another text than the calibration's, mean over weights; bits a
weight of the coded tensors. A cell: the peer's error, then Impasto's bits at the same errors, matrix by matrix, and
what that saves. Number of matrices in brackets; empty where a type does not fit them all.
"""


def run(bench, only):
    """The step `report`."""
    del only
    plots = bench.options.plots
    plots.mkdir(parents=True, exist_ok=True)
    parts = ["## Beside peers\n", f"`{COMMAND}` (`tools/benchmark/README.md` says what to install and what is done).\n"]
    for model in bench.models:
        if not points(bench, model, ours.FAMILY):
            continue
        (plots / f"{model.name}.svg").write_text(plot_sizes(bench, model))
        parts += [
            f"### {model.title}: KL divergence over file size\n",
            f"![KL divergence over size](benchmark/{model.name}.svg)\n",
            own(bench, model),
        ]
        if model.name == "smollm2":
            parts.append(goals(bench, model))
        parts.append(against(bench, model))
    views = [view for view in VIEWS if curve_of(bench, view[0])]
    for subject, columns in views:
        name = f"{subject}-{columns or 'all'}.svg"
        (plots / name).write_text(plot_layers(bench, subject, columns))
    if views:
        plural = " ".join(f"![{view_title(*v)}](benchmark/{v[0]}-{v[1] or 'all'}.svg)" for v in views)
        parts += [LAYERS, plural + "\n", layer_table(bench, views)]
        parts.append("Saved at equal error. " + "; ".join(least_saved(bench, view) for view in views) + ".\n")
    bench.options.tables.write_text("\n".join(parts))
    say(f"plots in {plots}, tables in {bench.options.tables}")
