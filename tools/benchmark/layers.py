"""Weighted error of single matrices against their bits: Impasto, the types of llama.cpp, rounding and GPTQ.

The error of V in place of W is tr((W-V) H (W-V)^T) / tr(W H W^T) in dB, where H is the mean of x x^T over inputs from a
text other than the calibration text. Bits are those of the coded tensor. Every tool is calibrated on the same inputs:
ggml uses their mean squares, GPTQ and Impasto their covariance.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import gptq
import hf_folder
import model_statistics
import ours
import rounding
from context import say
from ggml import Ggml

# Types for all matrices, and those for matrices with multiples of 256 columns.
BLOCK_32 = ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"]
BLOCK_256 = ["Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"]
# Bits a weight of the whole file, so that the matrices span the errors of all peers.
RATES = {
    "smollm2": [1.75, 2.25, 2.75, 3.25, 4, 4.75, 5.5, 6.5, 8, 9.5],
    "minilm": [1.25, 1.75, 2.25, 2.75, 3.25, 4, 4.75, 5.5, 6.5, 8, 9.5, 11],
    "whisper": [1.25, 1.75, 2.25, 2.75, 3.25, 4, 4.75, 5.5, 6.5, 8, 9.5, 11],
}


def name_of(rate):
    """What the results call Impasto's file of so many bits a weight."""
    return f"Impasto {rate}"


@dataclass
class Subject:
    """A model whose matrices are compared."""

    name: str
    folder: Path
    kind: str
    bench: object

    @cached_property
    def calibration(self):
        return model_statistics.cached(self.bench, self.folder, self.kind, "calibration")

    @cached_property
    def held_out(self):
        return model_statistics.cached(self.bench, self.folder, self.kind, "held out")

    @cached_property
    def weights(self):
        return hf_folder.tensors(self.folder)

    @cached_property
    def matrices(self):
        """Names of the matrices that are compared: of SmolLM2 those with 1,536 columns only."""
        names = sorted(self.calibration.groups)
        return [n for n in names if self.name != "smollm2" or self.weights[n].shape[1] == 1536]

    def error(self, name, found):
        """Weighted error in dB."""
        h = self.held_out.covariances[self.held_out.groups[name]].astype(np.float64)
        w = self.weights[name].astype(np.float64)
        e = w - found
        power = lambda m: float(np.einsum("ij,ij->", m @ h, m))  # noqa: E731
        return 10 * np.log10(power(e) / power(w))


def subjects(bench):
    folders = [
        ("smollm2", "smollm2-135m-continuous", "llama"),
        ("minilm", "all-minilm-l6-v2", "bert"),
        ("whisper", "whisper-tiny.en", "whisper"),
    ]
    return [Subject(name, bench.options.models / folder, kind, bench) for name, folder, kind in folders]


def put(subject, tool, found, **more):
    """Keeps what a tool made of all matrices: `found` gives (weights, bytes) by name, weights `None` where unfit."""
    matrices = {}
    for name, result in found:
        if result is not None:
            v, length = result
            rows, columns = subject.weights[name].shape
            bits = length * 8 / (rows * columns)
            matrices[name] = {"bits": bits, "db": subject.error(name, v), "rows": rows, "columns": columns}
    entry = {"matrices": matrices, "tokens": subject.bench.options.tokens, **more}
    subject.bench.results.put("layers", f"{subject.name}/{tool}", entry)
    bits, db = (np.mean([m[key] for m in matrices.values()]) for key in ("bits", "db"))
    say(f"{subject.name} {tool}: {len(matrices)} matrices, {bits:.3f} bits, {db:.2f} dB")


def peers(subject):
    """Types of ggml, rounding and GPTQ on every matrix that they fit."""
    bench, weights = subject.bench, subject.weights
    covariance = lambda name: subject.calibration.covariances[subject.calibration.groups[name]]  # noqa: E731
    tools = {}
    if bench.options.ggml:
        library = Ggml(bench.options.ggml)
        for kind in BLOCK_32 + BLOCK_256:
            tools[kind] = lambda n, kind=kind: library.quantized(weights[n], kind, covariance(n).diagonal())
    for bits, group in [(8, 32), (8, 64), (4, 32), (4, 64)]:
        tools[f"RTN INT{bits} g{group}"] = lambda n, bits=bits, group=group: (
            rounding.quantized(weights[n], bits, group),
            rounding.stored_bytes(weights[n].shape, bits, group),
        )
    tools[f"GPTQ INT4 g{gptq.GROUP}"] = lambda n: (
        gptq.plain(weights[n], covariance(n)),
        rounding.stored_bytes(weights[n].shape, 4, gptq.GROUP),
    )
    for tool, make in tools.items():
        if not bench.results.has("layers", f"{subject.name}/{tool}", tokens=bench.options.tokens):
            put(subject, tool, ((name, make(name)) for name in subject.matrices))


def impasto(subject):
    """Whole files at several rates, calibrated for equal weighted error, and what they give back."""
    bench = subject.bench
    encoder = bench.encoder()
    fields = {"encoder": encoder, "options": bench.options.encode_options}
    statistics = bench.scratch / f"{subject.name}-layers.safetensors"
    model_statistics.write_for_impasto(
        statistics, subject.folder, subject.calibration, subject.weights, bench.data("calibration.txt")
    )
    for rate in RATES[subject.name]:
        tool = name_of(rate)
        if bench.results.has("layers", f"{subject.name}/{tool}", tokens=bench.options.tokens, **fields):
            continue
        file = bench.scratch / f"{subject.name}-layers.impasto"
        words = ("--bpw", rate, "--statistics", statistics, *bench.options.encode_options)
        bench.impasto("encode", subject.folder, "-o", file, *words)
        lengths = {o["name"]: o["bytes"] for o in ours.inspect(bench, file)["objects"] if o["tensor"]}
        folder = bench.folder("layers")
        bench.impasto("decode", file, "-o", folder, "--force")
        decoded = hf_folder.tensors(folder)
        put(subject, tool, ((n, (decoded[n], lengths[n])) for n in subject.matrices), **fields)


def run(bench, only):
    """The step `layers`."""
    for subject in subjects(bench):
        if not only or subject.name in only:
            peers(subject)
            impasto(subject)
