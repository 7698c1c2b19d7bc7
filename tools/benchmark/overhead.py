#!/usr/bin/env python3
"""The cost of quality layers: the linear layers of a layered file against those of files without layers.

    tools/benchmark/overhead.py --impasto FILE --model FOLDER --statistics FILE [options]

Errors are those of the outputs, tr((W - V) H (W - V)^T), with the covariance H and the damping of the statistics. For
every level of every linear layer, the script prints the loss in dB against a file without layers with the same bits,
and the extra bits against one with the same error. Both are read off the curve of that linear layer through the files
without layers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from prefixes import Layered
from safetensors import safe_open

ALONE = (2.0, 2.5, 3.0, 3.7, 4.5, 5.5)


def impasto(options, *words):
    done = subprocess.run([options.impasto, "--quiet", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def tensors(folder):
    """The tensors of a Hugging Face folder by name, as float64 on demand."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        file = safe_open(path, framework="pt")
        found |= {name: file for name in file.keys()}
    return lambda name: found[name].get_tensor(name).float().numpy().astype(np.float64)


def covariance(file, group):
    """The covariance of a group in a file of statistics (crates/impasto-encode/src/statistics/mod.rs)."""
    deviations = np.sqrt(file.get_tensor(f"mean_squares.{group}").astype(np.float64))
    n = len(deviations)
    h = np.zeros((n, n))
    h[np.tril_indices(n, -1)] = file.get_tensor(f"correlations.{group}") / 32767
    return (h + h.T + np.eye(n)) * np.outer(deviations, deviations)


class Inputs:
    """Factors of the damped covariances of linear layers."""

    def __init__(self, path):
        self.file = safe_open(path, framework="numpy")
        self.linears = json.loads(self.file.get_tensor("info").tobytes())["linears"]
        self.factors = {}

    def factor(self, name):
        linear = self.linears[name]
        key = linear["input"], linear["damping"]
        if key not in self.factors:
            h = covariance(self.file, key[0])
            n = len(h)
            h += key[1] * np.mean(np.diag(h)) * np.eye(n)
            self.factors = {key: np.linalg.cholesky(h)}
        return self.factors[key]


def errors(options, file, names, inputs, original, folder):
    """For each linear layer its error in dB relative to its outputs."""
    impasto(options, "decode", file, "-o", folder, "--force")
    coded, out = tensors(folder), {}
    for name in names:
        factor, w = inputs.factor(name), original(name)
        out[name] = 10 * np.log10((((w - coded(name)) @ factor) ** 2).sum() / ((w @ factor) ** 2).sum())
    return out


def bits(options, file, names):
    """For each linear layer its bits a weight in each level, heads included, added up."""
    objects = json.loads(impasto(options, "inspect", "--tensors", "--json", file))["objects"]
    sizes = {o["name"]: np.cumsum(o["levels"]) * 8 / np.prod(o["shape"]) for o in objects if o["tensor"]}
    return {name: sizes[name] for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--statistics", required=True)
    parser.add_argument("--layers", default="2.5,3.5,5")
    parser.add_argument("--feedback", default="0,0.1,0.25,0.5")
    parser.add_argument("--every", type=int, default=1, help="take every so-many-th linear layer")
    options = parser.parse_args()
    inputs, original = Inputs(options.statistics), tensors(options.model)
    names = [name for name in sorted(inputs.linears) if "layers." in name][:: options.every]
    with tempfile.TemporaryDirectory() as scratch:
        file, folder = Path(scratch, "a.impasto"), Path(scratch, "decoded")
        curve = {name: [] for name in names}
        for rate in ALONE:
            impasto(options, "encode", options.model, "-o", file, "--bpw", rate, "--statistics", options.statistics)
            found, rates = errors(options, file, names, inputs, original, folder), bits(options, file, names)
            for name in names:
                curve[name].append((rates[name][-1], found[name]))
        for feedback in options.feedback.split(","):
            words = ("--layers", options.layers, "--layer-feedback", feedback, "--statistics", options.statistics)
            impasto(options, "encode", options.model, "-o", file, *words)
            layered, rates = Layered(file), bits(options, file, names)
            for level in range(len(rates[names[0]])):
                part = Path(scratch, "part.impasto")
                layered.write(part, [i for i, (entry, _) in enumerate(layered.units) if entry[3] <= level])
                found = errors(options, part, names, inputs, original, folder)
                above, more = [], []
                for name in names:
                    x, y = zip(*sorted(curve[name]))
                    above.append(found[name] - np.interp(rates[name][level], x, y))
                    more.append(rates[name][level] - np.interp(-found[name], [-e for e in y], x))
                mean = np.mean([rates[name][level] for name in names])
                print(
                    f"feedback {feedback}, level {level}: {mean:.3f} bits a weight; "
                    f"{np.mean(above):+.2f} dB (most {max(above):+.2f}), {np.mean(more):+.3f} bits (most {max(more):+.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
