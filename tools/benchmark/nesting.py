#!/usr/bin/env python3
"""The cost of nesting coarser lattices in a finer one: a model of the encoder's layers on a few matrices.

    tools/benchmark/nesting.py --model FOLDER --statistics FILE [options]

Some rows of each matrix are rounded at a fine step with full feedback (the top layer). A base is derived from the
result, with a step that is a multiple of the fine one and with part of the feedback. For each way to derive it, the
script prints the bits per weight of the base and of the refinement on top; the loss of the base in dB against a
stand-alone one with the same bits; and the extra bits of both over the top alone. Bits are ideal: the empirical entropy
of integers under their contexts, without tables. Errors are those of the outputs.
"""

import argparse

import numpy as np
from overhead import Inputs, tensors

MATRICES = ("mlp.gate_proj", "self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
BLOCK = 64


def entropy(symbols, contexts):
    """Bits a symbol, given its context."""
    total = 0.0
    for context in np.unique(contexts):
        _, counts = np.unique(symbols[contexts == context], return_counts=True)
        total -= (counts * np.log2(counts / counts.sum())).sum()
    return total / symbols.size


def classes(z):
    """Quarter octaves of the size of integers, as row x column."""
    squares = z.astype(float) ** 2
    rows = np.sqrt(squares.mean(1) + 1e-9)
    columns = np.sqrt((squares / rows[:, None] ** 2).mean(0) + 1e-4)
    return np.rint(4 * (np.log2(rows)[:, None] + np.log2(columns)[None, :]))


def feedback(weights, factor, kept, choose):
    """Rounds columns from the last to the first, `kept` of the errors of those before made good in each; `choose` gives a
    column's integers and their weights. `factor` is that of Cholesky."""
    inner = factor / np.diag(factor)
    z, errors, pending = np.zeros(weights.shape, np.int64), np.zeros_like(weights), np.zeros_like(weights)
    for end in range(weights.shape[1], 0, -BLOCK):
        start = max(0, end - BLOCK)
        for i in range(end - 1, start - 1, -1):
            back = pending[:, i] + errors[:, i + 1 : end] @ inner[i + 1 : end, i]
            z[:, i], rounded = choose(i, weights[:, i] + kept * back)
            errors[:, i] = weights[:, i] - rounded
        pending[:, :start] += errors[:, start:end] @ inner[start:end, :start]
    return z, errors


def nearest(steps, offset=0.0, bias=0.0):
    """To the nearest integer, its range moved outwards by `bias`, standing for `offset` more than itself (both in steps)."""
    offset, bias = np.broadcast_to(offset, steps.shape), np.broadcast_to(bias, steps.shape)

    def choose(i, targets):
        x = targets / steps[i]
        z = np.sign(x) * np.floor(np.maximum(np.abs(x) - bias[i] + 0.5, 0))
        return z.astype(np.int64), (z + np.sign(z) * offset[i]) * steps[i]

    return choose


def by_cost(steps, fine, factor, price):
    """By error and bits: 2 bits for leaving the cell that the finer integer lies in, 1.5 for each finer step beyond it."""
    offset = 0.4 / factor if factor % 2 == 0 else 0.0
    size = np.abs(fine)
    inside = np.sign(fine) * ((2 * size + factor - 1) // (2 * factor))
    high, low = factor // 2, (factor - 1) // 2

    def choose(i, targets):
        best = None
        for step in (0, -1, 1, -2, 2):
            z = inside[:, i] + step
            left = (fine[:, i] - factor * z) * np.where(z < 0, -1, 1)
            beyond = np.maximum(np.maximum(left - high, -low - left), 0)
            beyond = np.where(z == 0, np.maximum(np.abs(left) - high, 0), beyond)
            y = z + np.sign(z) * offset
            cost = (targets / steps[i] - y) ** 2 + price * np.where(beyond > 0, 2 + 1.5 * beyond, 0)
            if best is None:
                best, chosen, value = cost, z.copy(), y
            else:
                better = cost < best
                best = np.where(better, cost, best)
                chosen, value = np.where(better, z, chosen), np.where(better, y, value)
        return chosen, value * steps[i]

    return choose


class Matrix:
    """Some rows of a matrix, its top layer, and its curve of bases that stand alone."""

    def __init__(self, weights, factor, relative):
        self.weights, self.factor = weights, factor
        self.reference = 10 * np.log10(((weights @ factor) ** 2).sum())
        diagonal = np.diag(factor)
        self.steps = weights.std() * relative * np.exp(np.mean(np.log(diagonal))) / diagonal
        self.curve = [self.alone(2**k) for k in np.arange(0, 5, 0.5)]
        self.fine, errors = feedback(weights, factor, 1.0, nearest(self.steps))
        self.bits, self.top = entropy(self.fine, classes(self.fine)), weights - errors

    def decibels(self, errors):
        return 10 * np.log10(((errors @ self.factor) ** 2).sum()) - self.reference

    def alone(self, times):
        z, errors = feedback(self.weights, self.factor, 1.0, nearest(self.steps * times))
        return entropy(z, classes(z)), self.decibels(errors)

    def base(self, what, factors, kept, choose):
        """Makes a base, prints what it costs."""
        factors = np.broadcast_to(factors, self.steps.shape)
        z, errors = feedback(self.top, self.factor, kept, choose)
        left = self.fine - factors * z
        folded, group = np.where(z < 0, -left, left), np.clip(np.rint(classes(z) / 2), -6, 3)
        context = np.minimum(np.abs(z), 2)
        bits = entropy(z, classes(z))
        refinement = entropy(folded, context + 10 * group + 1000 * factors)
        plain = entropy(left, np.zeros_like(z))
        rates, levels = zip(*sorted(self.curve))
        above = self.decibels(self.weights - (self.top - errors)) - np.interp(bits, rates, levels)
        print(
            f"  {what}: base {bits:.3f}, refinement {refinement:.3f} (one table {plain - refinement:+.3f}); "
            f"{above:+.2f} dB, {bits + refinement - self.bits:+.3f} bits",
            flush=True,
        )

    def nested(self, what, factor, kept, offset=None, bias=None):
        """A base by rounding; for even factors middles go toward 0 unless said otherwise."""
        even = np.broadcast_to(factor, self.steps.shape) % 2 == 0
        bias = np.where(even, 0.5 / factor, 0.0) if bias is None else bias
        offset = np.where(even, 0.4 / factor, 0.0) if offset is None else offset
        self.base(what, factor, kept, nearest(self.steps * factor, offset, bias))

    def column_factors(self, mean, kept):
        """By what the error of a column weighs where a part of the feedback makes good for it."""
        diagonal = np.diag(self.factor)
        others = (self.factor**2).sum(1) - diagonal**2
        ideal = diagonal / np.sqrt(diagonal**2 + (1 - kept) ** 2 * others)
        ideal *= mean / np.exp(np.mean(np.log(ideal)))
        return np.clip(np.rint(ideal), 1, 64).astype(int)

    def factors(self):
        for factor in (2, 3, 4, 6):
            for kept in (0, 0.25, 0.5, 1.0):
                self.nested(f"factor {factor}, feedback {kept}", factor, kept)

    def middles(self):
        for kept in (0.25, 0.5):
            self.nested(f"factor 2, feedback {kept}, middles by the feedback", 2, kept, 0, 0)
            self.nested(f"factor 2, feedback {kept}, middles toward 0", 2, kept)

    def columns(self):
        for mean in (2, 3, 5):
            for kept in (0, 0.25):
                self.nested(f"factor {mean}, feedback {kept}, the same for all columns", mean, kept)
                self.nested(f"factor {mean}, feedback {kept}, by column", self.column_factors(mean, kept), kept)

    def choice(self):
        for factor in (2, 3):
            for price in (0.3, 0.15, 0.08, 0.04):
                choose = by_cost(self.steps * factor, self.fine, factor, price)
                self.base(f"factor {factor}, by error and bits at {price}", factor, 1.0, choose)

    def zero(self):
        for kept in (0.25, 0.5):
            for bias, offset in ((0, 0), (0.08, 0.04), (0.16, 0.06)):
                self.nested(f"factor 3, feedback {kept}, zero wider by {bias}", 3, kept, offset, bias)


WAYS = {way.__name__: way for way in (Matrix.factors, Matrix.middles, Matrix.columns, Matrix.choice, Matrix.zero)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--statistics", required=True)
    parser.add_argument("--block", type=int, default=10, help="block of the model that the matrices are of")
    parser.add_argument("--rows", type=int, default=192, help="rows of each matrix that are taken")
    parser.add_argument("--step", type=float, default=0.35, help="of the top layer, in standard deviations of the weights")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {','.join(WAYS)}")
    options = parser.parse_args()
    inputs, original = Inputs(options.statistics), tensors(options.model)
    for name in MATRICES:
        name = f"model.layers.{options.block}.{name}.weight"
        weights = original(name)
        rows = np.random.default_rng(0).permutation(len(weights))[: options.rows]
        matrix = Matrix(weights[rows], inputs.factor(name), options.step)
        print(f"{name}: top {matrix.bits:.3f} bits", flush=True)
        for way in options.ways.split(","):
            WAYS[way](matrix)


if __name__ == "__main__":
    main()
