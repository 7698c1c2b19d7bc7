#!/usr/bin/env python3
"""What a trellis gains on Gaussian noise: bits per number above the bound of Shannon, by rate and states.

    tools/benchmark/trellis.py

The first figure of a rate is that of a scalar lattice with an entropy coder and a dead zone. Of each number of states (SPEC
10.4) there are three: bits above the bound at the entropy of indices given the parity; what the tables that are made halfway (SPEC
10.5) cost on top; and the same as the first if 0 belongs to the odd integers too, as in VVC. Paths are found by the algorithm of
Viterbi, with `distance^2 + lambda bits`. Needs numpy.
"""

import numpy as np

MACHINES = {4: (2, 1), 8: (5, 2), 16: (9, 2), 32: (18, 4), 64: (33, 10)}
REACH, LENGTH, COLUMNS = 20, 256, 256
INDICES = np.arange(-REACH, REACH + 1)


def integers(k, parity, zero_is_odd):
    return 2 * k - np.sign(k) * parity if zero_is_odd else 2 * k + parity


def paths(x, states, cost, zero_is_odd):
    """Indices and parities of the best paths for targets `x`, in steps."""
    feedback, driven = MACHINES[states]
    before = [[] for _ in range(states)]
    for state in range(states):
        for odd in (0, 1):
            before[state >> 1 ^ (state & 1) * feedback ^ odd * driven].append((state, odd))
    before = np.array(before)
    total = np.full((states, x.shape[1]), 1e30)
    total[0] = 0
    chosen, best, at = np.zeros((len(x), *total.shape), np.int8), np.zeros((len(x), 4, x.shape[1]), int), np.arange(x.shape[1])
    for t, targets in enumerate(x):
        least = np.zeros((4, x.shape[1]))
        for parity in (0, 1):
            all_costs = (targets[:, None] - integers(INDICES, parity, zero_is_odd)) ** 2 + cost[parity]
            for odd in (0, 1):
                there = INDICES % 2 == odd
                found = all_costs[:, there].argmin(1)
                best[t, 2 * parity + odd], least[2 * parity + odd] = INDICES[there][found], all_costs[:, there][at, found]
        ways = np.array([[total[s] + least[2 * (s & 1) + odd] for s, odd in pair] for pair in before])
        chosen[t], total = ways.argmin(1), ways.min(1)
    state, k, q = total.argmin(0), np.zeros(x.shape, int), np.zeros(x.shape, int)
    for t in range(len(x) - 1, -1, -1):
        state, odd = before[state, chosen[t, state, at]].T
        q[t] = state & 1
        k[t] = best[t, 2 * q[t] + odd, at]
    return k, q


def code_lengths(counts):
    return -np.log2((counts + 0.01) / (counts + 0.01).sum())


def counted(k):
    return np.bincount(k.ravel() + REACH, minlength=2 * REACH + 1)


def on_trellis(x, step, states, zero_is_odd):
    """Bits above the bound, and what tables made halfway cost."""
    guess = [np.exp(-(integers(INDICES, q, zero_is_odd) * step) ** 2 / 2) + 1e-12 for q in (0, 1)]
    lengths = [code_lengths(1e6 * p / p.sum()) for p in guess]
    for _ in range(3):
        k, q = paths(x / step, states, [0.36 * bits for bits in lengths], zero_is_odd)
        counts = [counted(k[q == parity]) for parity in (0, 1)]
        lengths = [code_lengths(n) for n in counts]
    bits = sum((n * of).sum() for n, of in zip(counts, lengths)) / x.size
    error = np.mean((x - integers(k, q, zero_is_odd) * step) ** 2)
    sums = np.concatenate([[0], np.cumsum(2.0 ** -lengths[0])])
    halfway = -np.log2(np.diff(np.concatenate([(sums[1:] + sums[:-1]) / 2, [1]])) + 1e-12)
    return bits - 0.5 * np.log2(1 / error), (counts[1] * (halfway - lengths[1])).sum() / x.size


def scalar(x, step):
    x = x.ravel()
    lengths = code_lengths(1e6 * np.exp(-(INDICES * step) ** 2 / 2))
    for _ in range(3):
        k = INDICES[((x[:, None] / step - INDICES) ** 2 + 0.1155 * lengths).argmin(1)]
        lengths = code_lengths(counted(k))
    bits = (counted(k) * lengths).sum() / x.size
    return bits, bits - 0.5 * np.log2(1 / np.mean((x - k * step) ** 2))


def main():
    x = np.random.default_rng(1).standard_normal((LENGTH, COLUMNS))
    for rate in (1.5, 2.0, 2.5, 3.0, 4.0):
        step = np.sqrt(2 * np.pi * np.e) / 2 ** rate
        print("%.2f bits, scalar: %.3f" % scalar(x, step))
        for states in MACHINES:
            above, halfway = on_trellis(x, step / 2, states, False)
            print(f"  {states:2} states: {above:.3f}, halfway {halfway:+.3f}; with 0 among odd: "
                  f"{on_trellis(x, step / 2, states, True)[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
