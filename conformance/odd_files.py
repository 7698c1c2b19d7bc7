"""Files that follow docs/SPEC.md but that the real encoder never makes."""

import struct

from minimal_encoder import Coder, File, coded_file, cut, pack, varint
from naive_container import FLOAT, HEAD, LATTICE, STORED, ZSTD
from small_files import FLOATS, floats, frame, lattice, plain, put, replace

ODD = {}  # by name


def odd_containers():
    file = plain()
    file.header["minor"] = 7
    put(ODD, "2.1-higher-minor", file)
    put(ODD, "2.5-bytes-after-the-end", plain().build() + b"these are ignored")
    put(ODD, "2.5-no-units", File())
    file = floats(tile_rows=2)
    file.tensor("x", "U8", [20], 0, 1, 20)
    file.unit(1, 0, STORED, bytes(range(20)))
    file.tensor("y", "BF16", [4, 5], 1, 4, 5, tied=1)
    whole = file.build()
    put(ODD, "2.5-cut", whole[:-1])
    put(ODD, "2.5-cut-after-the-head", whole[:len(whole) - 48 - len(file.units[2][6])])
    file = plain()
    file.spoil_manifest = lambda manifest: b"\x05\x03abc" + manifest + b"\x7f\x00"
    put(ODD, "3.2-unknown-records", file)

    file = plain()
    file.add(200, "w", b"whatever is here")
    file.unit(2, 12345, STORED, b"a unit of it")
    file.unit(2, 1, HEAD, b"another")
    file.unit(2, 12345, ZSTD, b"in a higher layer", layer=3)
    put(ODD, "3.4-unknown-class", file)
    file = File()
    file.asset("a", b"abc", 3)
    file.objects[0] += b"left over"
    put(ODD, "3.4-bytes-left-over", file)
    file = File()
    for i, (name, prefix) in enumerate((("a\u00e9", None), ("a\u00eb", None), ("a\u00eb/..", 0), ("a\u00ec", 1))):
        file.asset(name, bytes([i]), 1) if prefix is None else file.add(0, name, varint(1) + varint(1), prefix=prefix)
    file.units = [[i, 0, STORED, 0, 0, 1, bytes([65 + i])] for i in range(4)]
    put(ODD, "3.4-prefixes", file)
    file = File()
    file.tensor("rows", "F32", [2 ** 62, 3, 0], 2, 2 ** 63, 2 ** 63)
    file.tensor("zero", "U8", [0, 2 ** 63], 1, 1, 32)
    put(ODD, "3.4.3-long-sides-without-elements", file)
    file = File()
    file.tensor("a", "Q4_0", [2 ** 62, 4, 0, 32], 3, 2 ** 63, 2 ** 63)
    file.tensor("b", "Q6_K", [0, 2 ** 63, 0], 1, 1, 32)
    file.tensor("c", "IQ4_NL", [64], 0, 9, 99)
    file.unit(2, 0, STORED, bytes(range(36)))
    file.tensor("d", "IQ4_NL", [64], 0, 1, 32, tied=3)
    put(ODD, "3.5.1-blocks", file)
    file = File()
    # Dims say nothing of the bytes; a block dtype's name is free, since a safetensors file has no block dtypes.
    for name, kind, dims, data in (
            ("a", b"F4", [2, 3], b"abc"), ("b", b"F4", [0, 2 ** 60], b"some"), ("c", b"F4", [9], b""),
            ("d", b"Q4_0", [], b"x"), ("e", "\u00e9 %:/\n".encode(), [1] * 16, b"y"), ("f", b"z" * 64, [7], bytes(40))):
        n = file.tensor(name, (kind, len(data)), dims, 0, 5, 32)
        for i in range(0, len(data), 32):
            file.unit(n, i // 32, STORED, data[i:i + 32])
    file.tensor("g", (b"F4", 3), [2, 3], 0, 1, 64, tied=1)
    put(ODD, "3.5.2-opaque", file)

    file = floats()
    file.tensor("x", "BF16", [2, 2], 1, 1, 32)
    file.unit(1, 0, STORED, b"abcd")
    file.unit(1, 1, 5, b"mode 5")
    put(ODD, "3.6.1-unknown-mode", file)
    file = floats()
    file.unit(0, 0, FLOAT, b"nobody reads this", layer=1)
    file.unit(0, 0, HEAD, b"nor this", layer=1)
    file.unit(0, 0, 99, b"nor this", layer=255)
    put(ODD, "3.6.1-higher-layers", file)
    file = floats(tile_rows=1)
    head, *tiles = file.units
    stored = [0, 2, STORED, 0, 0, 10, pack("BF16", FLOATS[2:3])]
    file.units = [stored, head, tiles[3], tiles[1], tiles[0]]
    put(ODD, "3.6.3-head-in-between", file)
    file = File()
    file.tensor("x", "BF16", [4, 5], 1, 4, 5)
    file.unit(0, 0, STORED, pack("BF16", FLOATS))
    file.unit(0, 0, HEAD, head[6])
    put(ODD, "3.6.3-head-that-no-tile-needs", file)


def odd_codings():
    file = File()
    contents = {"a-no-size": frame(b"\0\0", b"abcdefgh"), "b-dictionary-0": frame(b"\x21\x00\x08", (120, 8)),
                "c-large-window": frame(bytes([0, 20 << 3]), b"abc", (0, 2), b"xyz"),
                "d-empty-block": frame(b"\x20\x08", b"", b"abcdefgh", b""), "e-8-byte-size": frame(
                    b"\xe0" + struct.pack("<Q", 8), (1, 3), (2, 5))}
    for n, (name, content) in enumerate(contents.items()):
        file.tensor(name, "U16", [4], 0, 1, 4)
        file.unit(n, 0, ZSTD, content)
    put(ODD, "5.1-frames", file)

    matrix = [[(251 * r + 17 * c) * 37 & 0xFFFF for c in range(70)] for r in range(6)]
    file = coded_file(Coder(FLOAT, "BF16", 6, 70, row_classes=[400 + 9 * r for r in range(6)]), matrix, 4, 32)
    for number, mode in ((2, STORED), (4, ZSTD)):
        data = pack("BF16", cut(matrix, *((0, 32, 4, 64) if number == 2 else (4, 0, 6, 32))))
        file.units[number][2] = mode
        replace(file, number, data if mode == STORED else frame(bytes([0x20, len(data)]), data[::2] + data[1::2]))
    put(ODD, "5.4-modes-mixed", file)

    def low_bits(j, states, words, escapes):
        states[0] |= 7
    file = lattice(z=[[8 * 10 ** 6 + n for n in range(5)]] * 4, change=low_bits, row_classes=[43] * 4)
    tile, head = file.units[1][6], file.units[0][6]
    assert head.endswith(b"\0\0\xff")
    replace(file, 0, head[:-3] + b"\0\0\0\xe0")  # five entries of one bit
    replace(file, 1, tile[:-1] + bytes([tile[-1] | 0x80]))  # 15 bits
    put(ODD, "6.1-8.5-8.6-ignored-bits", file)

    z = [[5 * r - 3 * c for c in range(40)] for r in range(6)]
    coder = Coder(LATTICE, "F32", 6, 40, plane=1, step=0.25, row_classes=[-32768, -9, 0, 43, 99, 32767],
                  column_classes=[32767 if c % 7 == 0 else c - 20 for c in range(40)], rice_k=15)
    put(ODD, "7.1-classes-clamped", coded_file(coder, z, 6, 64))

    def escapes_modulo(j, states, words, escapes):
        escapes[:] = [varint(2 ** 32 - 1024 + n) for n in range(len(escapes))]
    file = coded_file(Coder(FLOAT, "BF16", 4, 5), FLOATS, 4, 32, change=escapes_modulo)
    put(ODD, "9.2-values-modulo", file)
    coder = Coder(LATTICE, "F32", 1, 4, plane=20, step=1.0)
    file = coded_file(coder, [[0] * 4], 1, 4)
    replace(file, 1, coder.tile([[2 ** 31 - 1, -2 ** 31, 2 ** 11, -2 ** 11 - 1]], [[1, 2, 3, 2 ** 20 - 1]]))
    put(ODD, "10.1-integers-modulo", file)
    z = [[257, 259, -257, -259, 2049, 2051, -2049, -2051, 2 ** 24 + 1, 2 ** 24 + 3, 2 ** 31 - 1, -2 ** 31]]
    file = File()
    for n, dtype in enumerate(("BF16", "F16", "F32")):
        coder = Coder(LATTICE, dtype, 1, 12, plane=0, step=1.0)
        file.tensor(dtype, dtype, [12], 0, 1, 12)
        file.unit(n, 0, HEAD, coder.head)
        file.unit(n, 0, LATTICE, coder.lattice_tile(z))
    put(ODD, "10.3-ties", file)
