"""A minimal encoder of mode digits (clause 18 of docs/SPEC.md), for tests; the inverse of `naive_digits`."""

import struct

from minimal_encoder import varint
from naive_digits import EACH, RUN

EVEN = [128] * 16  # frequencies


def string(elements, size, tables=(EVEN,), contexts=None, change=lambda states, words: None):
    """The string of integers of `size` bytes (18.2). Each context is the number of a table, or those after each digit.
    `change` may spoil lane states and words."""
    contexts = contexts or [0] * (2 * size)
    out = bytes([len(tables)])
    for table in tables:
        out += struct.pack("<H", sum(1 << d for d, f in enumerate(table) if f)) + b"".join(varint(f) for f in table if f)
    for context in contexts:
        out += bytes([context]) if isinstance(context, int) else bytes([EACH, *context])
    symbols = []  # of a lane, a frequency and a start, in the order of decoding
    for start in range(0, len(elements), RUN):
        run = elements[start:start + RUN]
        for k, context in enumerate(contexts):
            for i, element in enumerate(run):
                digit, before = element >> 4 * (2 * size - 1 - k) & 15, element >> 4 * (2 * size - k) & 15
                table = tables[context if isinstance(context, int) else context[before]]
                symbols.append((i % 32, table[digit], sum(table[:digit])))
    states, words = [1 << 16] * 32, []
    for lane, frequency, start in reversed(symbols):
        x = states[lane]
        if x >= frequency << 21:
            words.insert(0, x & 0xFFFF)
            x >>= 16
        states[lane] = (x // frequency << 11) + start + x % frequency
    change(states, words)
    return out + struct.pack("<32II%dH" % len(words), *states, len(words), *words)


def mask(bits):
    """The string of a mask."""
    number = sum(bit << i for i, bit in enumerate(bits))
    return string(number.to_bytes(-(-len(bits) // 8), "little"), 1)
