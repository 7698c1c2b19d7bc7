"""Clause 18 of docs/SPEC.md: mode digits."""

import struct

from naive_coding import LANES, TOTAL
from naive_container import Reader, ceil_div, fields, need

RUN, EACH = 1024, 255


def digit_rows(obj, unit, data):
    """The rows of a tile in mode digits, each the bytes of its elements."""
    _, _, height, width = obj.tile_box(unit.tile)
    count, tile = height * width, Reader(data, "11.1", f"{unit}")
    form = tile.u8()
    need(form <= 3, "18.1", f"{unit} has form {form}")
    element = tile.take(obj.size) if form in (0, 2) else None
    if form == 0:
        elements = [element] * count
    elif form == 1:
        elements = read_string(tile, obj.size, count)
    elif form == 3:
        last = tile.u8()
        values = [tile.take(obj.size) for _ in range(last + 1)]
        indices = [index[0] for index in read_string(tile, 1, count)]
        need(max(indices) <= last, "18.1", f"{unit} has an index beyond its palette")
        elements = [values[index] for index in indices]
    else:
        mask = b"".join(read_string(tile, 1, ceil_div(count, 8)))
        need(int.from_bytes(mask, "little") >> count == 0, "18.1", f"the mask of {unit} has a bit beyond its tile")
        bits = fields(mask, 1, count)
        others = iter(read_string(tile, obj.size, sum(bits)))
        elements = [next(others) if bit else element for bit in bits]
    need(tile.at_end(), "18.1", f"{unit} has bytes left over")
    return [b"".join(elements[r * width:(r + 1) * width]) for r in range(height)]


def read_string(tile, size, count):
    """`count` elements of `size` bytes: 18.2, 18.3."""
    n = tile.u8()
    need(1 <= n <= 24, "18.2", f"a string of {tile.what} has {n} tables")
    tables = [read_table(tile) for _ in range(n)]
    contexts = [read_context(tile, k, n) for k in range(2 * size)]
    states = list(struct.unpack("<32I", tile.take(4 * LANES)))
    need(min(states) >= 1 << 16, "8.4", f"a lane of {tile.what} starts below 2^16")
    words = tile.number("I")
    words = iter(struct.unpack("<%dH" % words, tile.take(2 * words)))
    values = []
    for start in range(0, count, RUN):
        length = min(RUN, count - start)
        run, before = [0] * length, [0] * length
        for context in contexts:
            for i in range(length):
                symbol, frequency, first = tables[context[before[i]]]
                slot = states[i % LANES] % TOTAL
                digit = symbol[slot]
                x = frequency[digit] * (states[i % LANES] // TOTAL) + slot - first[digit]
                if x < 1 << 16:
                    word = next(words, None)
                    need(word is not None, "8.4", f"{tile.what} has too few words")
                    x = x << 16 | word
                states[i % LANES] = x
                run[i], before[i] = run[i] << 4 | digit, digit
        values += run
    need(next(words, None) is None, "8.4", f"{tile.what} has words left over")
    need(all(x == 1 << 16 for x in states), "8.4", f"a lane of {tile.what} does not end at 2^16")
    return [value.to_bytes(size, "little") for value in values]


def read_table(tile):
    """The symbol of each slot; the frequency and the start of each symbol."""
    present = tile.number("H")
    frequency = [0] * 16
    for digit in range(16):
        if present >> digit & 1:
            frequency[digit] = tile.varint()
            need(frequency[digit] > 0, "18.2", f"a frequency of {tile.what} is 0")
    need(sum(frequency) == TOTAL, "18.2", f"frequencies of {tile.what} sum to {sum(frequency)}")
    symbol = [digit for digit, f in enumerate(frequency) for _ in range(f)]
    return symbol, frequency, [sum(frequency[:digit]) for digit in range(16)]


def read_context(tile, k, tables):
    """The number of the table after each digit."""
    number = tile.u8()
    numbers = list(tile.take(16)) if number == EACH and k > 0 else [number] * 16
    need(max(numbers) < tables, "18.2", f"digit {k} of {tile.what} has a table that does not exist")
    return numbers
