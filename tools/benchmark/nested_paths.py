#!/usr/bin/env python3
"""What trellises gain in layers: a model of the encoder's layers on a few matrices.

    tools/benchmark/nested_paths.py --model FOLDER --statistics FILE [options]

Some rows of each matrix are rounded at a fine step with full feedback (the top layer), two coarser layers are derived from the
result with part of the feedback. For each choice of layers that are on a trellis of 8 states, the script prints by layer, the base
first: bits per weight up to it, its error in dB, and what it gains over the same layer without any trellis, in bits (6.02 dB are
one). Bits are ideal: entropies under classes of scale, the parity, and in refinements the size of the integer below. The union of
integers of a trellis has 0.567 of the step. Needs numpy, safetensors and ml_dtypes.
"""

import argparse
import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
from nesting import MATRICES, feedback
from overhead import Inputs
from trellis import MACHINES

STATES, STEP, SLOPE, REACH = 8, 0.567, 0.1155, 400
INTEGERS = np.arange(-REACH, REACH + 1)
FLOATS = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
# For each way its factors from the top down, and whether the top, the middle and the base are on a trellis.
WAYS = {
    "none": ((3, 2), (False, False, False)),
    "top": ((6, 2), (True, False, False)),
    "top, finer middle": ((5, 2), (True, False, False)),
    "base": ((3, 1), (False, False, True)),
    "top and base": ((6, 1), (True, False, True)),
    "middle and base": ((2, 2), (False, True, True)),
    "all": ((3, 2), (True, True, True)),
}


def tensor(folder, name):
    path = next(Path(folder).glob("*.safetensors"))
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))[name]
        file.seek(8 + length + entry["data_offsets"][0])
        data = np.frombuffer(file.read(np.subtract(*entry["data_offsets"][::-1])), FLOATS[entry["dtype"]])
    return data.astype(np.float64).reshape(entry["shape"])


def costs(paths):
    """Bits by class, four an octave from 2^-6, and integer; of a path, given the parity."""
    p = np.exp(-((INTEGERS / 2 ** (np.arange(-24, 40)[:, None] / 4)) ** 2) / 2) + 1e-15
    total = p.sum(1, keepdims=True)
    if paths:
        total = np.where(INTEGERS % 2, p[:, INTEGERS % 2 == 1].sum(1, keepdims=True), p[:, INTEGERS % 2 == 0].sum(1, keepdims=True))
    return np.minimum(-np.log2(p / total), 60)


COSTS = {paths: costs(paths) for paths in (False, True)}


def classes(scales, step):
    return np.clip(np.rint(4 * np.log2(np.maximum(scales / step, 1e-9))), -24, 39).astype(int)


def price(paths, of_class, z):
    return COSTS[paths][of_class + 24, np.clip(z, -REACH, REACH) + REACH]


def best_path(x, of_class, slope):
    """The integers of the best path for targets in steps, by the algorithm of Viterbi."""
    least, found = np.empty((4, len(x))), np.empty((4, len(x)), int)
    for subset in range(4):
        near = 4 * np.rint((x - subset) / 4).astype(int) + subset
        inner = near - 4 * np.sign(near)
        both = [(x - z) ** 2 + slope * price(True, of_class, z) for z in (near, inner)]
        found[subset] = np.where(both[1] < both[0], inner, near)
        least[subset] = np.minimum(*both)
    fed, driven = MACHINES[STATES]
    before = [[] for _ in range(STATES)]
    for state in range(STATES):
        for odd in (0, 1):
            before[state >> 1 ^ (state & 1) * fed ^ odd * driven].append((state, (state & 1) + 2 * odd))
    states, subsets = np.moveaxis(np.array(before), 2, 0)
    total, chosen = np.where(np.arange(STATES) > 0, 1e30, 0.0), np.empty((len(x), STATES), int)
    for t in range(len(x)):
        ways = total[states] + least[subsets, t]
        chosen[t], total = ways.argmin(1), ways.min(1)
    state, z = total.argmin(), np.empty(len(x), int)
    for t in range(len(x) - 1, -1, -1):
        way = chosen[t, state]
        z[t] = found[subsets[state, way], t]
        state = states[state, way]
    return z


def entropy(symbols, contexts):
    """Bits a symbol, given its context."""
    total = 0
    for of, sign in ((contexts * 4096 + symbols, -1), (contexts, 1)):
        _, counts = np.unique(of, return_counts=True)
        total += sign * (counts * np.log2(counts)).sum()
    return total / symbols.size


class Matrix:
    def __init__(self, weights, factor, step):
        self.weights, self.factor = weights, factor
        square = weights**2
        rows, columns = square.mean(1), np.ones(weights.shape[1])
        for _ in range(3):
            columns = (square / rows[:, None]).mean(0)
            rows = (square / columns).mean(1)
        self.scales = np.sqrt(np.outer(rows, columns))
        diagonal = np.diag(factor)
        self.steps = step * weights.std() * np.exp(np.mean(np.log(diagonal))) / diagonal
        self.tops = {}

    def decibels(self, values):
        errors, all_of_it = (((x @ self.factor) ** 2).sum() for x in (self.weights - values, self.weights))
        return 10 * np.log10(errors / all_of_it)

    def round(self, targets, steps, kept, paths, slope, bias=0.0, offset=0.0):
        def choose(i, targets):
            x, of_class = targets / steps[i], classes(self.scales[:, i], steps[i])
            if paths:
                z = best_path(x, of_class, slope)
            else:
                z = (np.sign(x) * np.rint(np.maximum(np.abs(x) - bias, 0))).astype(int)
                inner = z - np.sign(z)
                both = [(x - n) ** 2 + slope * price(False, of_class, n) for n in (z, inner)]
                z = np.where(both[1] < both[0], inner, z) if slope else z
            return z, (z + np.sign(z) * offset) * steps[i]

        return feedback(targets, self.factor, kept, choose)

    def layers(self, factors, paths, kept):
        """Bits up to each layer and its error, the base first."""
        steps, slope = self.steps * (STEP if paths[0] else 1), SLOPE / (STEP**2 if paths[0] else 1)
        if paths[0] not in self.tops:
            self.tops[paths[0]] = self.round(self.weights, steps, 1.0, paths[0], slope)[0]
        chain = [(self.tops[paths[0]], steps, 0.0)]
        for factor, path in zip(factors, paths[1:]):
            fine, steps, _ = chain[-1]
            bias = offset = 0.0
            if not path and factor % 2 == 0:
                size = np.abs(fine)
                near = (2 * size + factor - 1) // (2 * factor)
                bias, offset = 0.5 / factor, (size - near * factor)[near > 0].mean() / factor
            slope = SLOPE / STEP**2 if path else 0.0
            z, _ = self.round(fine * steps, steps * factor, kept, path, slope, bias, offset)
            chain.append((z, steps * factor, offset))
        out, bits, below = [], 0.0, None
        for (z, steps, offset), factor, path in zip(chain[::-1], (0, *factors[::-1]), paths[::-1]):
            symbols, contexts = z, classes(self.scales, steps) + 24
            if factor:
                symbols = np.where(below < 0, -1, 1) * (z - factor * below)
                contexts = 3 * (contexts // 2) + np.minimum(np.abs(below), 2)
            bits += entropy(symbols, 2 * contexts + (symbols & 1) * path)
            out.append((bits, self.decibels((z + np.sign(z) * offset) * steps)))
            below = z
        return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--statistics", required=True)
    parser.add_argument("--block", type=int, default=10, help="block of the model that the matrices are of")
    parser.add_argument("--rows", type=int, default=192, help="rows of each matrix that are taken")
    parser.add_argument("--step", type=float, default=0.12, help="of the top layer, in standard deviations of the weights")
    parser.add_argument("--feedback", type=float, default=0.25, help="share that is kept in coarser layers")
    parser.add_argument("--matrices", default=",".join(MATRICES))
    options = parser.parse_args()
    inputs = Inputs(options.statistics)
    for name in options.matrices.split(","):
        name = f"model.layers.{options.block}.{name}.weight"
        weights = tensor(options.model, name)
        rows = np.random.default_rng(0).permutation(len(weights))[: options.rows]
        matrix = Matrix(weights[rows], inputs.factor(name), options.step)
        print(name)
        for way, (factors, paths) in WAYS.items():
            found = matrix.layers(factors, paths, options.feedback)
            plain = plain if way != "none" else found
            gains = [a - c + (b - d) / 6.02 for (a, b), (c, d) in zip(plain, found)]
            print(f"  {way:18}", " | ".join(f"{bits:.3f} {db:7.2f} dB {gain:+.3f}" for (bits, db), gain in zip(found, gains)),
                  flush=True)


if __name__ == "__main__":
    main()
