"""The results as Markdown, for docs/RESULTS.md."""

import large
import peers
from context import say
from speed import medians

TITLES = {"smollm2": "SmolLM2-135M", "synthetic": "synthetic, 1.1 G"}
GOALS = {"decode": 1.2, "prefill": 1.0}  # at least, times llama.cpp's speed
MEMORY_GOAL, BOUND_GOAL = 0.9, 0.85  # at most, of llama.cpp's; at least, of the bound


def table(header, rows):
    """A table whose first two columns are words."""
    line = "|" + "---|" * 2 + "---:|" * (len(header) - 2)
    return "\n".join([f"| {' | '.join(cells)} |" for cells in [header]] + [line]) + "".join(
        f"\n| {' | '.join(cells)} |" for cells in rows
    )


def goal(name, value, key, met):
    return f"{name}: {value:.2f} ({', '.join(key)}), {'met' if met else '**not met**'}"


def ratio_of(entry):
    """Our resident memory over llama.cpp's."""
    return entry["impasto"]["generating"] / entry["llama"]["generating"]


def speeds(bench):
    """The medians of every pair with rounds, by (model, kind, threads)."""
    found = {tuple(key.split("/")): medians(e["rounds"]) for key, e in bench.results.section("speed").items()}
    return {key: found[key] for key in sorted(found, key=lambda k: (k[0], large.KINDS.index(k[1]), k[2]))}


def speed_table(found):
    header = ["model, beside", "threads", "prefill, t/s", "llama.cpp", "ratio", "decode, t/s", "llama.cpp", "ratio"]
    header += ["memory, GB/s", "decode over bound", "others"]
    rows = []
    for (model, kind, threads), m in found.items():
        cells = [f"{TITLES[model]}, {kind}", threads]
        for what in ("prefill", "decode"):
            s = m[what]
            ratio = f"**{s['ratio']:.2f}** ({s['least']:.2f} to {s['most']:.2f})"
            cells += [f"{s['impasto']:.1f}", f"{s['llama']:.1f}", ratio]
        rows.append([*cells, f"{m['bandwidth']:.1f}", f"{100 * m['of_bound']:.0f}%", f"{100 * m['others']:.0f}%"])
    return table(header, rows)


def goals(found, memory):
    """One line for each goal: the worst case and where it is."""
    lines = []
    for what, least in GOALS.items():
        key, worst = min(found.items(), key=lambda item: item[1][what]["ratio"])
        ratio = worst[what]["ratio"]
        lines.append(goal(f"{what} at least {least} times llama.cpp's", ratio, key, ratio >= least))
    large = {key: m["of_bound"] for key, m in found.items() if key[0] == "synthetic"}
    if large:
        key, share = min(large.items(), key=lambda item: item[1])
        name = f"decode on the large model at least {BOUND_GOAL} of the bound"
        lines.append(goal(name, share, key, share >= BOUND_GOAL))
    if memory:
        shares = {tuple(key.split("/")): ratio_of(m) for key, m in memory.items()}
        key, ratio = max(shares.items(), key=lambda item: item[1])
        lines.append(goal(f"resident memory at most {MEMORY_GOAL} of llama.cpp's", ratio, key, ratio <= MEMORY_GOAL))
    return "Asked for, in the worst case: " + "; ".join(lines) + "."


def memory_table(memory):
    header = ["model, beside", "", "generating, MB", "llama.cpp", "ratio", "own, MB", "llama.cpp"]
    header += ["peak, MB", "llama.cpp"]
    rows = []
    for key in sorted(memory, key=lambda k: (k.split("/")[0], large.KINDS.index(k.split("/")[1]))):
        (model, kind), m = key.split("/"), memory[key]
        mb = {who: {what: f"{size / 1e6:.0f}" for what, size in m[who].items()} for who in m}
        ratio = f"**{ratio_of(m):.2f}**"
        both = lambda what, mb=mb: [mb["impasto"][what], mb["llama"][what]]
        rows.append([f"{TITLES[model]}, {kind}", "", *both("generating"), ratio, *both("own"), *both("peak")])
    return table(header, rows)


def quality_table(bench):
    windows = bench.options.windows
    header = ["llama.cpp", "", "file, MB", "KLD as run", "Impasto, MB", "KLD as run", "smaller by"]
    rows = []
    for kind in peers.KINDS:
        peer = bench.results.section("peer_kld").get(f"{kind}/{windows}")
        own = bench.results.section("equal").get(kind)
        if peer and own:
            theirs = [f"{peer['bytes'] / 1e6:.2f}", f"{peer['kld']:.4f} ± {peer['error']:.4f}"]
            ours = [f"{own['bytes'] / 1e6:.2f}", f"{own['kld']:.4f} ± {own['error']:.4f}"]
            rows.append([kind, "", *theirs, *ours, f"{100 * (1 - own['bytes'] / peer['bytes']):.0f}%"])
    return table(header, rows)


def widths_table(bench):
    """SmolLM2's matrices and those of the synthetic model that follow them, a pair of numbers in each cell."""
    header = ["beside", "matrices", "bits a weight", "width, octaves", "its spread", "of rows", "of columns"]
    rows = []
    for kind in peers.KINDS:
        entry = bench.results.section("widths").get(kind)
        if not entry:
            continue
        for matrix in entry["smollm2"]["bits"]:
            cells = [
                " : ".join(f"{entry[model][part][matrix]:.2f}" for model in ("smollm2", "synthetic"))
                for part in ("bits", "octaves", "spread", "row_spread", "column_spread")
            ]
            rows.append([kind, matrix, *cells])
    return table(header, rows)


def run(bench):
    """The step `report`."""
    found, memory = speeds(bench), bench.results.section("memory")
    rounds = sorted({m["rounds"] for m in found.values()})
    parts = ["### Equal divergence", quality_table(bench)]
    if found:
        count = " to ".join(map(str, [rounds[0], rounds[-1]] if len(rounds) > 1 else rounds))
        parts += [f"### Speed, medians of {count} rounds", speed_table(found), goals(found, memory)]
    if memory:
        parts += ["### Resident memory", memory_table(memory)]
    parts += ["### The synthetic model, SmolLM2's matrices : its own", widths_table(bench)]
    bench.options.table.write_text("\n\n".join(parts) + "\n")
    say(f"report in {bench.options.table}")
