#!/usr/bin/env python3
"""Make the frequency tables of the format (SPEC clause 7.4) for docs/SPEC-TABLES.md and the codec's `tables/data.rs`.

    pip install numpy scipy
    python3 tools/make_tables.py

The integers define the format; this script only documents their origin. It writes both files from the same integers,
and a test of the codec compares them.
"""
import os
import numpy as np
from scipy.special import gamma, gammaincc, stdtr

TOTAL, ESCAPE, ESCAPE_BITS = 2048, 63, 9
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHAPES = ["Gaussian", "Student's t, 20 degrees of freedom", "Student's t, 10 degrees of freedom",
          "generalised Gaussian, exponent 1.4", "Laplace"]


def tail(shape, x):
    """P(|w| > x) of the unit-variance density of a shape."""
    x = np.asarray(x, float)
    if shape in (1, 2):
        nu = {1: 20, 2: 10}[shape]
        return 2 * stdtr(nu, -x / np.sqrt((nu - 2) / nu))
    beta = {0: 2.0, 3: 1.4, 4: 1.0}[shape]
    scale = np.sqrt(gamma(1 / beta) / gamma(3 / beta))
    return gammaincc(1 / beta, (x / scale) ** beta)


def frequencies(p):
    """Integers summing to TOTAL for symbols of probability p; symbols too rare go to the escape. Least expected bits."""
    best = None
    for n in range(1, 64):
        keep = np.sort(np.argsort(-p, kind="stable")[:n])
        if keep[-1] - keep[0] + 1 != n:
            continue  # the symbols kept are contiguous
        q = np.append(p[keep], max(1 - p[keep].sum(), 1e-9))
        f = np.maximum(1, np.floor(q * TOTAL)).astype(int)
        while f.sum() > TOTAL:
            f[np.argmin(np.where(f > 1, q * np.log2(f / np.maximum(f - 1, 1e-9)), np.inf))] -= 1
        while f.sum() < TOTAL:
            f[np.argmax(q * np.log2((f + 1) / f))] += 1
        cost = -(q * np.log2(f / TOTAL)).sum() + q[-1] * ESCAPE_BITS
        if best is None or cost < best[0] - 1e-7:
            best = cost, int(keep[0]), [int(v) for v in f[:-1]], int(f[-1])
    return best[1:]


def lattice(shape, i):
    sigma = 2.0 ** ((i - 23) / 4 + 2)
    s = np.arange(63) - 31
    low, high = (np.abs(s) - 0.5) / sigma, (np.abs(s) + 0.5) / sigma
    p = np.where(s == 0, 1 - tail(shape, high), (tail(shape, np.maximum(low, 0)) - tail(shape, high)) / 2)
    return frequencies(p)


def floats(shape, i):
    m = lambda e: 2.0 ** (e >> 2) * (1 + (e % 4) / 4)
    e = np.arange(63) - 48
    sigma = 2.0 ** (i / 4)
    return frequencies(tail(shape, m(e) / sigma) - tail(shape, m(e + 1) / sigma))


def main():
    spec = ["# Frequency tables of SPEC clause 7.4", "",
            "One line a table: its number, the first symbol, the frequencies of the symbols from there on, and after the bar the",
            "frequency of the escape (symbol 63). All other symbols have frequency 0. Made by `tools/make_tables.py`.", ""]
    rust = ["//! Frequency tables of the parametric shapes (SPEC 7.4). Made by `tools/make_tables.py`; do not edit.", "",
            "/// First symbol, frequencies from there on, frequency of the escape.",
            "pub type Parametric = (u8, &'static [u16], u16);", ""]
    for name, kind, count, make in (("LATTICE", 4, 24, lattice), ("FLOAT", 3, 4, floats)):
        rust += [f"/// Tables of kind {kind}: `[shape][table]`.", "#[rustfmt::skip]", f"pub const {name}: [[Parametric; {count}]; {len(SHAPES)}] = ["]
        for shape, title in enumerate(SHAPES):
            spec += [f"## Kind {kind}, shape {shape} ({title})", "", "```"]
            rust.append("    [")
            for i in range(count):
                first, f, escape = make(shape, i)
                assert sum(f) + escape == TOTAL and first + len(f) <= ESCAPE
                spec.append(f"{i}: {first}: {' '.join(map(str, f))} | {escape}")
                rust.append(f"        ({first}, &[{', '.join(map(str, f))}], {escape}),")
            spec += ["```", ""]
            rust.append("    ],")
        rust += ["];", ""]
    os.makedirs(f"{HERE}/crates/impasto-codec/src/tables", exist_ok=True)
    with open(f"{HERE}/docs/SPEC-TABLES.md", "w") as f:
        f.write("\n".join(spec))
    with open(f"{HERE}/crates/impasto-codec/src/tables/data.rs", "w") as f:
        f.write("\n".join(rust).rstrip() + "\n")


if __name__ == "__main__":
    main()
