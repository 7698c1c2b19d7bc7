#!/usr/bin/env python3
"""What codebooks of vectors gain over the scalar lattice: rates at equal mean square error.

    tools/benchmark/codebooks.py [--wide 2,4,8] [FOLDER PATTERN...]

Numbers are Gaussian noise, or with arguments the weights of the matrices of a checkpoint whose names match a pattern, each
divided by the scales of its row and column. For each code the script prints its rate in bits a weight, its error in dB,
and how many bits more or less the scalar lattice takes for the same error.

- scalar: integers to the nearest, with a dead zone, at their entropy
- E8: the nearest points of the lattice E8 in eight dimensions, at the entropy of their coset, of their coordinates given
  the coset, and of the last coordinate given that their sum is even
- k-means: codebooks of vectors of 2, 4 and 8 neighbours in a row, fixed length and at the entropy of their indices;
  entropy-constrained ones are fitted and searched by D + lambda R (ECVQ)
- two stages: a second codebook for what the first one leaves, at both entropies

Codebooks are fitted to one half of the vectors and measured on the other. Needs numpy, and for a checkpoint safetensors
and ml_dtypes.
"""

import argparse
import fnmatch
from pathlib import Path

import numpy as np

COUNT = 1 << 20
VECTORS = 1 << 17
ROUNDS = 10
PART = 128  # vectors that are searched for at once, so that their scores stay in the cache
DEAD_ZONES = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)


def numbers(arguments):
    """Two arrays of numbers of mean square 1: to fit to, and to measure on."""
    if not arguments:
        random = np.random.default_rng(1)
        return random.standard_normal((2, COUNT)).astype(np.float32)
    import ml_dtypes  # noqa: F401  (NumPy then has bfloat16.)
    from safetensors.numpy import load_file
    rows = []
    for path in sorted(Path(arguments[0]).glob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            if tensor.ndim == 2 and any(fnmatch.fnmatch(name, pattern) for pattern in arguments[1:]):
                w = scaled(tensor.astype(np.float64))
                whole = w.shape[1] // 8 * 8
                rows.append(w[:, :whole].reshape(-1, 8))
    vectors = np.concatenate(rows).astype(np.float32)
    vectors = vectors[np.random.default_rng(1).permutation(len(vectors))][:COUNT // 4]
    return [half.ravel() for half in np.array_split(vectors[:len(vectors) // 2 * 2], 2)]


def scaled(w):
    """A matrix divided by the scales of its rows and columns: of mean square 1 in each, nearly."""
    for _ in range(2):
        w = w / np.sqrt(np.mean(w ** 2, axis=1, keepdims=True))
        w = w / np.sqrt(np.mean(w ** 2, axis=0, keepdims=True))
    return w


def entropy(symbols):
    counts = np.unique(symbols, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def shrunk(x, dead):
    return np.sign(x) * np.maximum(np.abs(x) - dead, 0)


def scalar(x, step, dead):
    z = np.rint(shrunk(x / step, dead))
    return entropy(z), float(np.mean((x - z * step) ** 2))


def nearest_even(x):
    """The nearest points of D8: integers with an even sum."""
    z = np.rint(x)
    odd = np.flatnonzero(z.sum(1) % 2 != 0)
    off = x[odd] - z[odd]
    worst = np.abs(off).argmax(1)
    z[odd, worst] += np.where(off[np.arange(len(odd)), worst] < 0, -1, 1)
    return z


def e8(x, step, dead):
    y = shrunk(x.reshape(-1, 8) / step, dead)
    whole, half = nearest_even(y), nearest_even(y - 0.5) + 0.5
    is_half = ((y - half) ** 2).sum(1) < ((y - whole) ** 2).sum(1)
    z = np.where(is_half[:, None], half, whole)
    rate = entropy(is_half)
    for coset in (False, True):
        part = z[is_half == coset] - 0.5 * coset
        if not len(part):
            continue
        share = len(part) / len(z)
        parity = part[:, :7].sum(1) % 2
        last = sum(np.mean(parity == p) * entropy(part[parity == p, 7]) for p in (0, 1) if np.any(parity == p))
        rate += share * (7 * entropy(part[:, :7]) + last)
    return rate / 8, float(np.mean((x.reshape(-1, 8) - z * step) ** 2))


def assign(vectors, book, lengths, by):
    """The entry with the least D + lambda R of each vector."""
    constant, turned = ((book ** 2).sum(1) + by * lengths).astype(np.float32), np.ascontiguousarray(-2 * book.T)
    out = np.empty(len(vectors), np.int64)
    for first in range(0, len(vectors), PART):
        scores = vectors[first:first + PART] @ turned
        scores += constant
        out[first:first + PART] = scores.argmin(1)
    return out


def fit(vectors, size, by):
    random = np.random.default_rng(2)
    book = vectors[random.choice(len(vectors), size, replace=False)].copy()
    lengths = np.full(size, np.log2(size), np.float32)
    for done in range(ROUNDS):
        now = assign(vectors, book, lengths, by if done >= 3 else 0)
        counts = np.bincount(now, minlength=size)
        for axis in range(book.shape[1]):
            sums = np.bincount(now, vectors[:, axis], size)
            book[:, axis] = np.where(counts > 0, sums / np.maximum(counts, 1), book[:, axis])
        lengths = -np.log2((counts + 0.1) / (counts + 0.1).sum()).astype(np.float32)
    return book, lengths


def coded(vectors, book, lengths, by):
    """Reconstructed vectors, and bits of each under the lengths that were fitted."""
    index = assign(vectors, book, lengths, by)
    return book[index], float(lengths[index].mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", default="2,4,8", help="the lengths of vectors")
    parser.add_argument("checkpoint", nargs="*", help="a folder, and patterns of names")
    options = parser.parse_args()
    train, test = numbers(options.checkpoint)
    print(f"{len(train)} numbers to fit to, {len(test)} to measure on")
    steps = np.geomspace(0.05, 3.5, 60)
    curves = [np.array([scalar(test, step, dead) for step in steps]).T for dead in DEAD_ZONES]

    def show(label, rate, error):
        at = min(np.interp(np.log(error), np.log(errors), rates) for rates, errors in curves)
        print(f"{label:44} {rate:7.3f} bits {-10 * np.log10(error):7.2f} dB  gain {at - rate:7.3f} bits", flush=True)

    def at_rate(code, wanted):
        best = None
        for dead in DEAD_ZONES:
            low, high = 0.02, 8.0
            for _ in range(16):
                step = (low * high) ** 0.5
                rate, error = code(test, step, dead)
                low, high = (step, high) if rate > wanted else (low, step)
            best = (rate, error) if best is None or error < best[1] else best
        return best

    for wanted in (1, 2, 3, 4):
        show(f"E8, {wanted} bits", *at_rate(e8, wanted))
    for wide in map(int, options.wide.split(",")):
        fitting, measured = (part.reshape(-1, wide)[:VECTORS] for part in (train, test))
        for bits in (8, 12) if wide > 2 else (8,):
            book, lengths = fit(fitting, 1 << bits, 0)
            back, length = coded(measured, book, lengths, 0)
            error = float(np.mean((measured - back) ** 2))
            show(f"k-means, {wide} wide, 2^{bits}, fixed length", bits / wide, error)
            show(f"k-means, {wide} wide, 2^{bits}, entropy", length / wide, error)
            if bits == 8 and wide > 2 or bits == 12 and wide == 8:
                second, more = fit(fitting - coded(fitting, book, lengths, 0)[0], 1 << bits, 0)
                again, length2 = coded(measured - back, second, more, 0)
                error = float(np.mean((measured - back - again) ** 2))
                show(f"two stages, {wide} wide, 2^{bits}, fixed length", 2 * bits / wide, error)
                show(f"two stages, {wide} wide, 2^{bits}, entropy", (length + length2) / wide, error)
        for wanted in (1, 2, 3, 4):
            if wanted * wide > 12:
                continue
            by = 2 * np.log(2) * 1.42 * 4.0 ** -wanted
            size = min(12, wanted * wide + 4)
            book, lengths = fit(fitting, 1 << size, by)
            back, length = coded(measured, book, lengths, by)
            show(f"entropy-constrained, {wide} wide, 2^{size}", length / wide, float(np.mean((measured - back) ** 2)))


if __name__ == "__main__":
    main()
