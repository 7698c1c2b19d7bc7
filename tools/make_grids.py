#!/usr/bin/env python3
"""Writes crates/impasto-core/src/blocks/grids.rs, the grids of ggml's IQ types, from the Python package gguf.

    python tools/make_grids.py

Needs numpy and gguf.
"""

import pathlib

from gguf import quants

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "crates/impasto-core/src/blocks/grids.rs"
HEAD = """\
//! The grids of ggml's IQ types: groups of 4 or 8 weights that an index stands for. Written by `tools/make_grids.py`.
//!
//! An entry holds one field per weight, the first in the lowest bits. Fields of IQ1 and IQ2 have 2 bits, those of IQ3
//! have 3 bits.
"""
GRIDS = [
    ("IQ1", quants.IQ1_S, "IQ1_S and IQ1_M: a field is the weight plus 1."),
    ("IQ2_XXS", quants.IQ2_XXS, "IQ2_XXS: fields index [`super::iq::TWO_BITS`], as in IQ2_XS and IQ2_S."),
    ("IQ2_XS", quants.IQ2_XS, "IQ2_XS."),
    ("IQ2_S", quants.IQ2_S, "IQ2_S."),
    ("IQ3_XXS", quants.IQ3_XXS, "IQ3_XXS: fields index [`super::iq::THREE_BITS`]."),
    ("IQ3_S", quants.IQ3_S, "IQ3_S: a field is half of the weight minus 1."),
]


def main():
    text = [HEAD]
    for name, kind, what in GRIDS:
        kind.init_grid()
        places = {float(value): place for place, value in enumerate(kind.grid_map)}
        width = 3 if len(places) == 8 else 2
        rows = kind.grid.reshape(kind.grid_shape)
        entries = [sum(places[float(value)] << (width * i) for i, value in enumerate(row)) for row in rows]
        text.append(f"\n/// {what}\n#[rustfmt::skip]\npub(super) static {name}: [u16; {len(entries)}] = [\n")
        text += ["    " + ", ".join(map(str, entries[i : i + 16])) + ",\n" for i in range(0, len(entries), 16)]
        text.append("];\n")
    OUT.write_text("".join(text))


if __name__ == "__main__":
    main()
