"""Unusual files: they follow docs/SPEC.md, but the real encoder never makes them."""

import math
import struct

from minimal_encoder import (SIZE, Coder, File, base_record, coded_file, cut, layered_file, pack, varint, weights,
                             zigzag)
from naive_bases import object_hash
from naive_container import (FLOAT, HEAD, IDENTICAL, LATTICE, REFINEMENT, SAME, STORED, ZSTD, Reader, read_file,
                             unzigzag)
from small_files import (ANOTHER_ROOT, FLOATS, NARROW, delta, floats, frame, lattice, layered, layered_coders,
                         layered_integers, opened_base, plain, put, replace, rich_delta, small_base, small_delta, use_of)

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
    file.objects[0] += b"\0left over"
    put(ODD, "3.4-bytes-left-over", file)
    file = File()
    for i, (name, prefix) in enumerate((("a\u00e9", None), ("a\u00eb", None), ("a\u00eb..", 0), ("a\u00ec", 1))):
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
    file.unit(1, 1, 98, b"mode 98")
    put(ODD, "3.6.1-unknown-mode", file)
    file = floats()
    file.unit(0, 0, 98, b"nobody reads this", layer=1)
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


    def marks(*layers, more=b""):
        payload = varint(len(layers)) + b"".join(varint(n) + struct.pack("<f", kld) for n, kld in layers) + more
        return b"\x01" + varint(len(payload)) + payload
    file = layered()
    record = marks((5, 0.25), (5, math.nan), (15, -1.0), (20, 0.0), more=b"left over")
    file.spoil_manifest = lambda manifest: record + manifest
    put(ODD, "3.7-layers", file)
    file = plain()
    file.spoil_manifest = lambda manifest: manifest + marks()
    put(ODD, "3.7-no-layers", file)


def odd_layers():
    # Cut in each layer: a row of tiles is read at the level that all its tiles reach.
    whole = layered().build()
    put(ODD, "12.3-layers", whole)
    units = read_file(whole).units
    for name, present in (("base", 5), ("head-only", 6), ("refinement-in-part", 9), ("exact-in-part", 17),
                          ("exact-above", 18)):
        put(ODD, f"12.3-cut-{name}", whole[:units[present].start + 1])
    # The same from a file that lists no more: each tile is as fine as its writer could pay for.
    file = layered()
    file.units = [unit for n, unit in enumerate(file.units) if n not in (7, 12, 14, 17, 18, 19)]
    put(ODD, "12.3-tiles-of-their-own-layers", file)
    file = layered()
    file.units[6][2], file.units = 99, file.units[:10]
    put(ODD, "12.3-skipped", file)
    # A tile that is stored, in a row that is made finer.
    file = layered()
    stored = pack("BF16", [[r * 256 + c for c in range(8)] for r in range(3)])
    file.units[2] = [0, 1, STORED, 0, 0, len(stored), stored]
    file.units = [unit for unit in file.units if not (unit[3] > 0 and unit[1] == 1)]
    put(ODD, "12.3-a-tile-that-is-stored", file)
    # Units of layers in any order that 12.2 allows; tied.
    file = layered()
    heads, tiles = file.units[::5], [unit for n, unit in enumerate(file.units) if n % 5]
    file.units = heads[::-1] + sorted(tiles, key=lambda unit: (-unit[1], unit[3]))
    file.tensor("x", "BF16", [6, 40], 1, 6, 64, tied=1)
    put(ODD, "12.2-tile-by-tile", file)
    file = floats()
    file.unit(0, 0, HEAD, layered_coders(rows=4, cols=5)[1].head, layer=1)
    file.unit(0, 0, HEAD, layered_coders(rows=4, cols=5)[3].head, layer=9)
    put(ODD, "12.2-heads-that-no-tile-needs", file)

    # Values modulo 2^32, integers from end to end of an i32.
    edges = [2 ** 31 - 1, -2 ** 31, 2 ** 30, -2 ** 30 - 1, 3, -3, 0, 1]
    coders = layered_coders("F32", 1, 8, (64, 5), exact=False)
    file = layered_file(coders, [[edges], [edges[::-1]], [[0, 5, -5, *edges[:5]]]], None, 1, 8)
    put(ODD, "13.2-integers-modulo", file)
    # Every class of a refinement, clamped groups among them.
    coder = Coder(REFINEMENT, "F16", 9, 40, shape=255, step=0.01, factor=7, offset=127,
                  tables={t: NARROW for t in range(24)}, row_classes=[-32768, -1, 0, 3, 4, 5, 6, 7, 32767],
                  column_classes=[c % 3 - 1 for c in range(40)])
    coders = [*layered_coders("F16", 9, 40, (), exact=False), coder]
    file = layered_file(coders, layered_integers(coders, d=lambda k, r, c: (r * c * 5 + r) % 17 - 8), None, 9, 64, 3)
    put(ODD, "13.1-classes", file)
    file = File()
    for n, dtype in enumerate(("BF16", "F16", "F32")):
        coders = layered_coders(dtype, 6, 40, (3,), row_steps=[-200, -40, 0, 40, 200, 500], planes=(0, 5))
        z, bits = layered_integers(coders, lambda r, c: (c * c + r) % 23 - 11), 8 * SIZE[dtype]
        near = [[n + (r * 977 + c * 31) % 4001 - 2000 & (1 << bits) - 1 for c, n in enumerate(line)]
                for r, line in enumerate(weights(coders, z))]
        built = layered_file(coders, z, near, 3, 32, 2, {2: add_to_escapes(2 ** (bits - 5))})
        file.tensor(dtype, dtype, [6, 40], 1, 3, 32)
        file.units += [[n, *unit[1:]] for unit in built.units]
    put(ODD, "14-values-modulo", file)


def add_to_escapes(n):
    """A change of a segment: `n` is added to escapes or taken from them in turn."""
    def change(j, states, words, escapes):
        for i, escape in enumerate(escapes):
            if escape:
                value = unzigzag(Reader(escape, "1.2", "an escape").varint())
                escapes[i] = varint(zigzag(value + (n if i % 2 else -n)))
    return change


def odd_bases():
    put(ODD, "21-small-base", small_base())
    put(ODD, "21-nothing-of-the-base", delta(ANOTHER_ROOT))
    put(ODD, "21.6-small-delta", small_delta())
    put(ODD, "21.7-small-delta", rich_delta())
    file = small_delta()
    record = base_record(opened_base().root, b"small", b"mit", [b"m" * 4096] + [b"m"] * 63, more=b"left over")
    file.records_before, file.records_after = b"", record
    put(ODD, "21.1-base-record-at-the-end", file)
    # A base is the right one by its root, or by the hashes of its objects.
    file = small_delta()
    file.records_before = base_record(ANOTHER_ROOT)
    put(ODD, "21.2-another-root", file)
    file = delta()
    file.tensor("bf16", "BF16", [4, 5], 1, 4, 32, use=use_of("bf16", IDENTICAL, hash=bytes(16)))
    put(ODD, "21.2-another-hash", file)
    # Rows of tiles of the base that differ in level.
    base = read_file(ODD["12.3-tiles-of-their-own-layers"])
    file = delta(base.root)
    for level in range(5):
        link = bytes([1, level]) + object_hash(base.objects[0], level) + b"\1w"
        n = file.tensor(f"level-{level}", "BF16", [6, 40], 1, 4, 64, use=link)
        file.unit(n, 0, SAME, b"")
        file.unit(n, 1, SAME, b"")
    put(ODD, "21.4-rows-of-tiles-of-their-own-levels", file)


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
