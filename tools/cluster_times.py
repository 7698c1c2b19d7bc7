"""Time and memory of encoding large models on many machines, on paper: docs/CLUSTER.md has the formulas.

    tools/cluster_times.py [--cores 64] [--efficiency 0.8] [--read 1.0]

Rates were measured on models of 0.13 G and 1.5 G weights; nothing here was run on a cluster. Needs Python 3.10.
"""

import argparse

# Nanoseconds of processor time per weight: those of a weight, and those that grow with the columns of its matrix.
TRELLIS, LATTICE, PER_COLUMN, LOSSLESS = 144.0, 50.0, 0.122, 11.0
# Shares of the time of a lossy file (measured with a trellis of 64 states).
SCALES, RATES, CODING = 0.05, 0.39, 0.56
# Shares of the bytes in each wave but the last tensor (`crates/impasto-encode/src/pace.rs`).
WAVES = [1 / 8, 3 / 8, 1 / 4, 1 / 8, 1 / 16, 1 / 16]
# Seconds to start a round: the scheduler, opening the model, reading what other shards found out.
START = 10.0
# Processor time of calibration with gradients: seconds per weight and token.
CALIBRATION = 2082 / (1.54e9 * 8192)
# Tokens of a part of a calibration (8 windows of 512).
PART = 4096
MACHINES = [1, 8, 64, 512]


def llama(layers, hidden, inner, keys, vocabulary):
    """Matrices of a dense model, as groups with one covariance: (columns, rows in all)."""
    block = [(hidden, hidden + 2 * keys), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    return block * layers + [(hidden, vocabulary)] * 2


def experts():
    """The matrices of a model with 256 experts in 58 of 61 layers, of the shape of DeepSeek-V3 (671 G weights)."""
    attention = [(7168, 1536 + 576), (1536, 24576), (512, 32768), (16384, 7168)]
    expert = [(7168, 2 * 2048), (2048, 7168)]
    dense = [(7168, 2 * 18432), (18432, 7168)]
    return attention * 61 + dense * 3 + expert * (257 * 58) + [(7168, 129280)] * 2


MODELS = {
    "70 G dense": llama(80, 8192, 28672, 1024, 128256),
    "405 G dense": llama(126, 16384, 53248, 1024, 128256),
    "671 G, 256 experts": experts(),
}


def weights(groups):
    return sum(rows * columns for columns, rows in groups)


def lossy(groups, machines, per_weight, arguments):
    """Seconds of a file with a size on so many machines."""
    cores = arguments.cores * arguments.efficiency
    times = [rows * n * (per_weight + PER_COLUMN * n) * 1e-9 / cores for n, rows in groups]
    total, longest = sum(times), max(times)
    stage = lambda share, of=1.0: max(share * of * total / machines, share * longest)
    coding = sum(stage(CODING, wave) for wave in WAVES)
    # The weights are read in each of three stages, and the shares are read and written once more.
    reading = 3 * 2 * weights(groups) / machines / arguments.read / 1e9
    merging = 2 * 3 / 8 * weights(groups) / arguments.read / 1e9
    return stage(SCALES) + stage(RATES) + coding + reading + 9 * START + merging


def lossless(groups, machines, arguments):
    cores = arguments.cores * arguments.efficiency
    computing = weights(groups) * LOSSLESS * 1e-9 / cores
    reading = (2 + 1.32) * weights(groups) / arguments.read / 1e9
    merging = 2 * 1.32 * weights(groups) / arguments.read / 1e9
    return max(computing, reading) / machines + START + merging


def memory(groups):
    """Bytes: the tensor that takes most, 0.5 GB of factors, 0.7 GB of tiles in work."""
    one = lambda n, rows: max(16 * n * n, 4 * n * n + 4 * rows * n)
    return max(one(n, rows) for n, rows in groups) + 1.2e9


def calibration(groups, machines, tokens, arguments):
    parts = tokens // PART
    slowest = -(-parts // machines) / parts
    return weights(groups) * tokens * CALIBRATION / (arguments.cores * arguments.efficiency) * slowest


def shown(seconds):
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=64, help="processors of a machine")
    parser.add_argument("--efficiency", type=float, default=0.8, help="share of them that works")
    parser.add_argument("--read", type=float, default=1.0, help="GB/s that a machine reads or writes")
    arguments = parser.parse_args()
    head = " | ".join(f"{machines} machine{'s' if machines > 1 else ''}" for machines in MACHINES)
    print(f"| model | file | memory of a machine | {head} |\n|---|---|---:|" + "---:|" * len(MACHINES))
    for name, groups in MODELS.items():
        ways = {
            "lossless": (1.2e9, lambda n, g=groups: lossless(g, n, arguments)),
            "3 bits, lattice": (memory(groups), lambda n, g=groups: lossy(g, n, LATTICE, arguments)),
            "3 bits, trellis": (memory(groups), lambda n, g=groups: lossy(g, n, TRELLIS, arguments)),
        }
        for way, (bytes_, time) in ways.items():
            times = " | ".join(shown(time(machines)) for machines in MACHINES)
            print(f"| {name} | {way} | {bytes_ / 1e9:.1f} GB | {times} |")
    print(f"\n| model | sums of a part | {head} | multiplications to merge |\n|---|---:|" + "---:|" * (len(MACHINES) + 1))
    for name, groups in list(MODELS.items())[:2]:
        times = " | ".join(shown(calibration(groups, machines, 32768, arguments)) for machines in MACHINES)
        sums, merge = sum(2 * n * n for n, _ in groups), sum(4 * n**3 / 3 for n, _ in groups)
        print(f"| {name} | {sums / 1e9:.0f} GB | {times} | {merge:.1e} |")


if __name__ == "__main__":
    main()
