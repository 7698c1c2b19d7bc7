"""Clause 16 of docs/SPEC.md: the blocks of a GGUF, from the weights of the layer below."""

import math
import struct

from naive_coding import clamp, f32, read_coded, unzstd
from naive_container import Reader, need

# 16.3: the integers of a dtype: their bias, and fields of them: the first byte, bits, run.
FIELDS = {"Q4_0": (8, [(2, 4, 16)]), "Q4_1": (0, [(4, 4, 16)]), "Q5_0": (16, [(6, 4, 16), (2, 1, 1)]),
          "Q5_1": (0, [(8, 4, 16), (4, 1, 1)]), "Q8_0": (128, [(2, 8, 1)]), "Q2_K": (0, [(16, 2, 32)]),
          "Q3_K": (4, [(32, 2, 32), (0, 1, 32)]), "Q4_K": (0, [(16, 4, 32)]), "Q5_K": (0, [(48, 4, 32), (16, 1, 32)]),
          "Q6_K": (32, [(0, 4, 64), (128, 2, 32)])}


def scales(name, b):
    """16.4: (s, m) of each group of a block."""
    def half(at):
        return struct.unpack_from("<e", b, at)[0]
    if name in ("Q4_0", "Q5_0", "Q8_0"):
        return [(half(0), 0.0)]
    if name in ("Q4_1", "Q5_1"):
        return [(half(0), half(2))]
    if name == "Q2_K":
        return [(half(80) * (b[g] & 15), -(half(82) * (b[g] >> 4))) for g in range(16)]
    if name == "Q3_K":
        return [(half(108) * ((b[96 + g % 8] >> g // 8 * 4 & 15 | (b[104 + g % 4] >> g // 4 * 2 & 3) << 4) - 32), 0.0)
                for g in range(16)]
    if name == "Q6_K":
        return [(half(208) * ((b[192 + g] ^ 128) - 128), 0.0) for g in range(16)]
    scale = [b[4 + g] & 63 if g < 4 else b[8 + g] & 15 | b[g] >> 2 & 48 for g in range(8)]
    least = [b[8 + g] & 63 if g < 4 else b[8 + g] >> 4 | b[4 + g] >> 2 & 48 for g in range(8)]
    return [(half(0) * n, -(half(2) * m)) for n, m in zip(scale, least)]


def block_rows(obj, unit, head, data, below):
    """Rows of blocks as bytes. `below`: the rows of weights of the layer below, also as bytes."""
    name, size, weights = head.blocks
    bias, listed = FIELDS.get(name, (0, []))
    n = sum(bits for _, bits, _ in listed)
    _, col0, height, width = obj.tile_box(unit.tile)
    need(col0 % weights == 0 and width % weights == 0, "16.1", f"{unit} is not whole blocks")
    inside = {byte + i for byte, bits, _ in listed for i in range(weights * bits // 8)}
    outside = [i for i in range(size) if i not in inside]
    tile = Reader(data, "11.1", f"{unit}")  # 16.2
    count = width // weights
    planes = unzstd(tile.take(tile.number("I")), height * count * len(outside), unit)
    blocks = [[bytearray(size) for _ in range(count)] for _ in range(height)]
    for i, byte in enumerate(outside):
        for k, head_byte in enumerate(planes[i * height * count:(i + 1) * height * count]):
            blocks[k // count][k % count][byte] = head_byte
    if not listed:
        need(tile.at_end(), "16.2", f"{unit} has bytes left over")
        return [b"".join(row) for row in blocks]

    groups = [[scales(name, bytes(block)) for block in row] for row in blocks]
    of_weights = [[pair for of_block in row for pair in of_block for _ in range(weights // len(of_block))]
                  for row in groups]
    classes = [[class_of(R, s) for R, (s, _) in zip(*lines)] for lines in zip(head.class_sums(obj, unit), of_weights)]
    values, _ = read_coded(obj, unit, data[tile.pos:], head, classes)
    for r, (row, line) in enumerate(zip(below, values)):
        p = struct.unpack("<%df" % width, row)
        for c, u in enumerate(line):
            q = (predicted(p[c], *of_weights[r][c], bias, n) + u) % (1 << n)
            q ^= 128 if n == 8 else 0
            i, block = c % weights, blocks[r][c // weights]
            for byte, bits, run in listed:  # 16.3
                each = 8 // bits
                block[byte + i // (run * each) * run + i % run] |= (q & (1 << bits) - 1) << i // run % each * bits
                q >>= bits
    return [b"".join(row) for row in blocks]


def class_of(R, s):  # 16.4
    if not math.isfinite(s):
        return 0
    return clamp(R - (struct.unpack("<I", struct.pack("<f", abs(s)))[0] >> 21), 0, 31)


def predicted(p, s, m, bias, n):  # 16.4
    x = f32(p - m)
    if s:
        x = f32(x / s)
    elif x:  # also a NaN
        x *= math.copysign(math.inf, s)
    else:
        x = math.nan
    if math.isinf(x):
        return 0 if x < 0 else (1 << n) - 1
    return clamp((0 if math.isnan(x) else round(x)) + bias, 0, (1 << n) - 1)
