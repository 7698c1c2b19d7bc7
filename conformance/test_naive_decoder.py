"""Tests of the naive decoder on small files that `minimal_encoder` makes. Run `python3 -m unittest` in this folder."""

import contextlib
import functools
import io
import math
import random
import struct
import tempfile
import unittest
from fractions import Fraction
from pathlib import Path
from unittest import mock

import minimal_encoder
import naive_bases
import naive_coding as coding
import naive_container
import naive_decoder as naive
from blake3 import blake3
from minimal_encoder import (Coder, File, SIZE, base_record, coded_file, cut, layered_file, pack, same, tiles_of, varint,
                             weights)
from minimal_digits import EVEN, mask, string
from naive_bases import object_hash
from naive_container import (DIGITS, EXACT, FLOAT, FLOATS, HEAD, IDENTICAL, LATTICE, PREDICTED, SAME, STORED, ZSTD, Broken,
                             Reader, expanded_bytes, read_file)
from small_files import layered, layered_coders, layered_integers, rich_delta, small_base, small_delta


def decoded(data, **options):
    return {obj.name: content for obj, content in naive.decode(data, **options)}


# ------------------------------------------------------------------------------------------------------ exact decoding

class Exact(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(7)

    def check_float(self, dtype, matrix, **options):
        coder_options = {key: options.pop(key) for key in list(options) if key in
                         ("shape", "row_classes", "column_classes", "tables", "rice_k")}
        coder = Coder(FLOAT, dtype, len(matrix), len(matrix[0]), **coder_options)
        self.assertEqual(decoded(coded_file(coder, matrix, **options).build())["w"], pack(dtype, matrix))

    def check_lattice(self, dtype, z, coder_options, **options):
        coder = Coder(LATTICE, dtype, len(z), len(z[0]), **coder_options)
        expected = [[coder.weight(n, r, c) for c, n in enumerate(line)] for r, line in enumerate(z)]
        self.assertEqual(decoded(coded_file(coder, z, **options).build())["w"], pack(dtype, expected))
        return expected

    def test_formats(self):
        """Weights of every format in rational numbers, with integers out of range."""
        tables = {"e2m1": [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12)]}
        for name, E, M in (("e4m3", 4, 3), ("e5m2", 5, 2)):
            bias = 2 ** (E - 1) - 1
            tables[name] = [Fraction(m + (e > 0) * 2 ** M) * Fraction(2) ** (max(e, 1) - bias - M)
                            for e in range(2 ** E) for m in range(2 ** M)]
        for code, values, least, most, width, step in (
                (1, None, -8, 7, 3, 1.0), (2, None, -128, 127, 0, 1.0), (3, tables["e2m1"], -7, 7, 32, 1.0),
                (4, tables["e2m1"], -7, 7, 16, 0.7), (5, tables["e4m3"], -128, 125, 7, 1.0),
                (6, tables["e5m2"], -128, 119, 100, 1.0)):
            across = -(-40 // width) if width else 1
            scales = [self.random.randrange({3: 255, 4: 127}.get(code, 0x7F80)) for _ in range(5 * across)]
            z = [[self.random.choice((self.random.randrange(-200, 200), 0, 7, -7, 2 ** 31 - 1, -2 ** 31))
                  for _ in range(40)] for _ in range(5)]
            for dtype in ("BF16", "F16", "F32"):
                coder = Coder(LATTICE, dtype, 5, 40, step=step, groups=(code, width, scales), rice_k=12)

                def weight(n, r, c):
                    n = max(least, min(n, most))
                    if code in (5, 6):  # magnitude bits and sign
                        n, negative = (n + 128) // 2, n % 2 == 1
                    else:
                        negative = n < 0
                    value = Fraction(abs(n)) if values is None else values[abs(n)]
                    i = scales[r * across + (c // width if width else 0)]
                    scale = Fraction(2) ** (i - 127) if code == 3 else tables["e4m3"][i] if code == 4 else \
                        Fraction(*coding.f32(struct.unpack("<f", struct.pack("<I", i << 16))[0]).as_integer_ratio())
                    w = minimal_encoder.rounded(value * scale, 8, 23)
                    w = w if w == math.inf else minimal_encoder.rounded(w * Fraction(coder.step), 8, 23)
                    E, M = FLOATS[dtype]
                    w = w if w == math.inf else minimal_encoder.rounded(w, E, M)
                    return negative << E + M | minimal_encoder.float_bits(w, E, M)
                expected = [[weight(n, r, c) for c, n in enumerate(line)] for r, line in enumerate(z)]
                file = coded_file(coder, z, tile_rows=3, tile_cols=32)
                self.assertEqual(decoded(file.build())["w"], pack(dtype, expected), (code, dtype))

    def test_blake3_vectors(self):
        # Of the test vectors published with BLAKE3: input byte i is i mod 251.
        for length, start in ((0, "af1349b9f5f9a1a6"), (1, "2d3adedff11b61f1"), (1024, "42214739f095a406"),
                              (1025, "d00278ae47eb27b3"), (102400, "bc3e3d41a1146b06")):
            digest = blake3(bytes(i % 251 for i in range(length)))
            self.assertEqual((len(digest), digest.hex()[:16]), (32, start))

    def test_stored(self):
        file, expected = File(), {}
        for name, dtype, dims, split, tile in (
                ("a", "I64", [5, 7], 1, (2, 32)), ("ab", "BOOL", [3, 40, 2], 2, (50, 32)), ("b", "F32", [], 0, (1, 1)),
                ("c", "U8", [0, 9], 1, (1, 9)), ("d", "C64", [70], 0, (1, 64))):
            rows, cols = math.prod(dims[:split]), math.prod(dims[split:])
            n = file.tensor(name, dtype, dims, split, *tile)
            size = SIZE[dtype]
            expected[name] = data = self.random.randbytes(rows * cols * size)
            for i, (r0, c0, r1, c1) in enumerate(tiles_of(rows, cols, *tile)):
                file.unit(n, i, STORED, b"".join(data[(r * cols + c0) * size:(r * cols + c1) * size]
                                                 for r in range(r0, r1)))
        self.assertEqual(decoded(file.build()), expected)

    def test_blocks_and_opaque(self):
        file, expected, dtypes = File(), {}, {}
        for name, dtype, dims, split, tile in (
                ("a", "Q4_0", [5, 7 * 32], 1, (2, 32)), ("b", "Q6_K", [3, 2, 40 * 256], 2, (4, 32)),
                ("c", "IQ4_NL", [32], 0, (1, 1)), ("d", "Q8_0", [2, 3, 64], 1, (1, 6)),
                ("e", "Q2_K", [4, 0], 1, (1, 32)), ("f", (b"F4", 70), [140], 0, (1, 32)),
                ("g", (b"F4", 0), [3], 0, (1, 32))):
            n = file.tensor(name, dtype, dims, split, *tile)
            if isinstance(dtype, tuple):
                rows, cols, size, dtypes[name] = 1, dtype[1], 1, "opaque"
            else:
                rows, size, dtypes[name] = math.prod(dims[:split]), SIZE[dtype], dtype
                cols = math.prod(dims[split:]) // (256 if dtype.endswith("_K") else 32)
            expected[name] = data = self.random.randbytes(rows * cols * size)
            for i, (r0, c0, r1, c1) in enumerate(tiles_of(rows, cols, *tile)):
                file.unit(n, i, STORED, b"".join(data[(r * cols + c0) * size:(r * cols + c1) * size]
                                                 for r in range(r0, r1)))
        file.tensor("h", (b"F4", 70), [140], 0, 1, 70, tied=6)
        objects = read_file(file.build()).objects
        self.assertEqual(decoded(file.build()), expected | {"h": expected["f"]})
        self.assertEqual({obj.name: obj.dtype for obj in objects}, dtypes | {"h": "opaque"})
        self.assertEqual([obj.type for obj in objects], [None] * 5 + ["F4"] * 3)

    def test_assets_and_tied(self):
        file, data, words = File(), self.random.randbytes(100), self.random.randbytes(6)
        file.asset("config.json", data, 48)
        file.asset("empty", b"", 1)
        file.add(0, "x", varint(3) + varint(9) + b"\0left over")
        file.unit(2, 0, STORED, b"abc")
        first = file.tensor("embed", "BF16", [3], 1, 3, 1)
        file.tensor("head", "BF16", [3], 0, 1, 3, tied=first + 1)
        file.add(7, "\u00e9 unknown", b"anything")
        file.unit(first, 0, STORED, words)
        file.unit(5, 12345, 99, b"of an unknown class")
        file.unit(first, 0, 77, b"of a higher layer", layer=1)
        file.records_after = b"\x05\x03abc"
        file.header["minor"] = 9
        self.assertEqual(decoded(file.build() + b"ignored"),
                         {"config.json": data, "empty": b"", "x": b"abc", "embed": words, "head": words})

    def test_zstd(self):
        try:
            from compression import zstd
        except ImportError:
            try:
                import zstandard as zstd
            except ImportError:
                self.skipTest("no Zstandard library")
        data = pack("F32", [[self.random.randrange(100) for _ in range(4000)]])
        planes = b"".join(data[i::4] for i in range(4))
        file = File()
        file.tensor("w", "F32", [4000], 0, 1, 4000)
        file.unit(0, 0, ZSTD, zstd.compress(planes))
        self.assertEqual(decoded(file.build()), {"w": data})
        for spoiled in (zstd.compress(planes) + b"\0", zstd.compress(planes + b"a"), zstd.compress(planes[1:]),
                        zstd.compress(planes)[:-1], zstd.compress(planes) * 2):
            file.units[0] = [0, 0, ZSTD, 0, 0, len(spoiled), spoiled]
            with self.assertRaisesRegex(Broken, "SPEC 5.1"):
                decoded(file.build())

    def test_digits(self):
        pick, one = self.random.choice, [0] * 7 + [2048] + [0] * 8
        uneven = [1, 0, 0, 900, 500, 300, 200, 100, 40, 1, 1, 1, 1, 1, 1, 1]
        after = [3 * (d % 2) for d in range(16)]
        for dtype, count, choices in (("U8", 1, [7]), ("I32", 1024, [0x34567834, 0x43]), ("BF16", 2100, range(65536)),
                                      ("U64", 33, [2 ** 63]), ("Q4_0", 3, [1 << 143, 5])):
            size = SIZE[dtype]
            elements = [pick(choices) for _ in range(count)]
            for tables, contexts in (([EVEN], [0] * 2 * size), ([EVEN, EVEN, one, EVEN], [1] + [after] * (2 * size - 1))):
                unit = b"\1" + string(elements, size, tables, contexts)
                self.check_digits(dtype, elements, unit)
        elements = [pick([0x34, 0x43, 0x55]) for _ in range(3000)]
        unit = string(elements, 1, [uneven])
        self.assertLess(len(unit), 3000)
        self.check_digits("U8", elements, b"\1" + unit)
        self.check_digits("U16", [0x1234] * 9, b"\0\x34\x12")
        bits = [self.random.randrange(2) for _ in range(1030)]
        others = [self.random.randrange(1 << 32) for _ in range(sum(bits))]
        rest = iter(others)
        self.check_digits("F32", [next(rest) if bit else 5 for bit in bits],
                          b"\2\5\0\0\0" + mask(bits) + string(others, 4))

    def check_digits(self, dtype, elements, unit):
        file, weights = File(), 32 if dtype == "Q4_0" else 1
        file.tensor("w", dtype, [len(elements) * weights], 0, 1, len(elements))
        file.unit(0, 0, DIGITS, unit)
        data = b"".join(element.to_bytes(SIZE[dtype], "little") for element in elements)
        self.assertEqual(decoded(file.build()), {"w": data})

    def test_zstd_frame_header(self):
        # One raw block each; the window is whatever the descriptor says.
        def check(head):
            data = b"\x28\xb5\x2f\xfd" + head + (1 | 3 << 3).to_bytes(3, "little") + b"abc"
            return coding.check_frame(Reader(data, "5.1", "a frame"), "unit")
        for window in (0, 13 << 3 | 1, 21 << 3):
            self.assertIsNone(check(bytes([0, window])))
        self.assertIsNone(check(b"\x01\x00\x00"))  # dictionary number 0 is none
        self.assertEqual(check(b"\x20\x03"), 3)
        self.assertEqual(check(b"\x60\x03\x01"), 0x103 + 256)
        self.assertEqual(check(b"\xa0" + struct.pack("<I", 1 << 24)), 1 << 24)
        with self.assertRaisesRegex(Broken, "SPEC 5.1"):  # a skippable frame
            coding.check_frame(Reader(b"\x50\x2a\x4d\x18\0\0\0\0", "5.1", "a frame"), "unit")
        with self.assertRaisesRegex(Broken, "SPEC 5.1"):
            check(b"\x01\x00\x05")  # dictionary 5
        for size in (2, 4):
            with self.assertRaisesRegex(Broken, "SPEC 5.1"):
                coding.unzstd(b"\x28\xb5\x2f\xfd\x20\x03\x19\0\0abc", size, "unit")

    def test_float_every_pattern(self):
        for dtype in ("F16", "BF16", "F8_E4M3", "F8_E5M2"):
            patterns = list(range(256 ** SIZE[dtype]))
            if SIZE[dtype] == 2:
                # All signs, exponents and edges of the mantissa; NaN payloads, infinities, zeros among them.
                patterns = [n for n in patterns if n & 31 in (0, 1, 30, 31)]
            cols = 250
            patterns += [0] * (-len(patterns) % cols)
            matrix = [patterns[i:i + cols] for i in range(0, len(patterns), cols)]
            rows = len(matrix)
            with self.subTest(dtype):
                self.check_float(dtype, matrix, tile_rows=max(1, rows // 2), tile_cols=96, segments=3, shape=1,
                                 row_classes=[self.random.randrange(-20, 500) for _ in range(rows)],
                                 column_classes=[self.random.randrange(-9, 9) for _ in range(cols)])

    def test_float_typical(self):
        # Values near those that the classes expect, so that symbols other than the escape are common.
        words = struct.unpack("<600I", b"".join(struct.pack("<f", self.random.gauss(0, 0.02)) for _ in range(600)))
        center = 4 * (127 - 6)  # the exponent field of the standard deviation, as a class
        f32 = [list(words[i:i + 50]) for i in range(0, 600, 50)]
        for shape in range(5):
            for dtype, matrix in (("F32", f32), ("BF16", [[w >> 16 for w in line] for line in f32])):
                with self.subTest((shape, dtype)):
                    self.check_float(dtype, matrix, tile_rows=5, tile_cols=64, segments=2, shape=shape,
                                     row_classes=[center + self.random.randrange(4) for _ in range(12)])
        tables = {i: [1] * 60 + [0, 0, 0, 1988] for i in (0, 3)}
        self.check_float("F32", f32, tile_rows=12, tile_cols=50, shape=255, tables=tables,
                         column_classes=[center + i % 4 for i in range(50)], rice_k=0)

    def gaussians(self, rows, cols, class_of, plane):
        return [[round(self.random.gauss(0, 4 * 2 ** ((class_of(r, c) - 23) / 4)) * 2 ** plane) for c in range(cols)]
                for r in range(rows)]

    def test_lattice(self):
        for shape in range(5):
            for dtype, plane in (("F32", 0), ("F16", 3), ("BF16", 20)):
                rows, cols = 9, 70
                row_classes = [self.random.randrange(-3, 50) for _ in range(rows)]
                column_classes = [self.random.randrange(-4, 4) for _ in range(cols)]
                z = self.gaussians(rows, cols, lambda r, c: row_classes[r] + column_classes[c], plane)
                z = [[max(-2 ** 31, min(n, 2 ** 31 - 1)) for n in line] for line in z]
                with self.subTest((shape, dtype)):
                    self.check_lattice(dtype, z, dict(
                        plane=plane, shape=shape, step=2 ** -plane / 3e3, row_classes=row_classes, rice_k=shape,
                        column_classes=column_classes, row_steps=[self.random.randrange(-40, 40) for _ in range(rows)],
                        column_steps=[self.random.randrange(-40, 40) for _ in range(cols)]),
                        tile_rows=4, tile_cols=32, segments=16)

    def test_lattice_extremes(self):
        z = [[-2 ** 31, 2 ** 31 - 1, 2 ** 24 + 1, -2 ** 24 - 3, 0, -1, 1, 77777777] * 4 for _ in range(6)]
        for dtype in ("F32", "F16", "BF16"):
            E, M = FLOATS[dtype]
            seen = set()
            for step, row_steps in ((2.0 ** -149, [0, 5, 16, 200, 800, 1023]),
                                    (2.0 ** -30, [-1024, -500, -24 * 16, 0, 300, 1000]),
                                    (3e38, [-1024, -900, -300, -16, -1, 0])):
                for plane in (0, 7):
                    with self.subTest((dtype, step, plane)):
                        coder_options = dict(plane=plane, step=step, row_steps=row_steps, shape=4, row_classes=[43] * 6,
                                             column_steps=[0, -1024, 3, 900] * 8)
                        bits = self.check_lattice(dtype, z, coder_options, tile_rows=6, tile_cols=32)
                        seen.update(n for line in bits for n in line)
            infinity, minus = (1 << E) - 1 << M, 1 << E + M
            self.assertLess({0, minus, infinity, minus | infinity}, seen)
            self.assertFalse([n for n in seen if n % minus > infinity], "a NaN")
            self.assertTrue([n for n in seen if 0 < n < 1 << M], "no subnormal")

    def test_lattice_ties(self):
        # Halfway cases of BF16, F16 and (of the conversion of z) F32, to even in both directions.
        z = [[257, 259, -257, -259, 2049, 2051, -2049, -2051, 2 ** 24 + 1, 2 ** 24 + 3, 511, 4095]]
        for dtype, first in (("BF16", (0x4380, 0x4382)), ("F16", (0x5C04, 0x5C0C)), ("F32", (0x43808000, 0x43818000))):
            bits = self.check_lattice(dtype, z, dict(plane=0, step=1.0), tile_rows=1, tile_cols=12)
            self.assertEqual(tuple(bits[0][:2]), first)

    def test_lattice_wraps_at_32_bits(self):
        coder = Coder(LATTICE, "F32", 1, 4, plane=3, step=1.0)
        z0, raw = [2 ** 31 - 1, -2 ** 31, 2 ** 28, -2 ** 28 - 1], [1, 2, 3, 4]
        file = coded_file(coder, [[0] * 4], 1, 4)
        file.units[1][6] = coder.tile([z0], [raw])
        file.units[1][5] = len(file.units[1][6])
        expected = [-7.0, 2.0, float(-2 ** 31 + 3), float(2 ** 31 - 4)]
        self.assertEqual(decoded(file.build())["w"], struct.pack("<4f", *expected))

    def test_lattice_explicit_tables(self):
        only = [0] * 64
        only[31] = 2048
        spread = [0] * 20 + [64] * 22 + [0] * 21 + [640]
        z = [[self.random.randrange(-400, 400) for _ in range(40)] for _ in range(8)]
        z[0] = [0] * 40
        self.check_lattice("F16", z, dict(plane=2, step=0.01, shape=255, tables={5: only, 20: spread, 23: spread},
                                          row_classes=[5, 20, 40, 43, 20, 23, 36, 7]), tile_rows=3, tile_cols=64)
        # A tile without any information: frequency 2048 moves no state.
        self.check_lattice("F16", [[0] * 40] * 8, dict(plane=0, step=1.0, shape=255, tables={0: only}),
                           tile_rows=8, tile_cols=40)

    def test_ignored_bits(self):
        # Padding of index arrays (6.1) and of rows of the plane (8.6), `low` of an escape (8.5).
        coder = Coder(LATTICE, "BF16", 4, 5, plane=3, step=1.0, row_classes=[43] * 4)
        z = [[8 * 10 ** 6 + n for n in range(5)]] * 4

        def low_bits(j, states, words, escapes):
            states[0] |= 7
        plain, spoiled = coded_file(coder, z, 4, 32), coded_file(coder, z, 4, 32, change=low_bits)
        tile = spoiled.units[1][6]
        self.assertNotEqual(plain.units[1][6], tile)
        spoiled.units[1][6] = tile[:-1] + bytes([tile[-1] | 0x80])  # 15 bits are used of 16
        head = spoiled.units[0][6]
        self.assertEqual(head[-3:], b"\0\0\xff")
        spoiled.units[0][6] = head[:-3] + b"\0\0\0\xe0"  # five codes of one bit
        spoiled.units[0][5] += 1
        self.assertEqual(decoded(spoiled.build()), decoded(plain.build()))

    def test_heads_and_unknown_modes(self):
        matrix = [[0x3F80 + n for n in range(5)]] * 4
        coder = Coder(FLOAT, "BF16", 4, 5)
        file = coded_file(coder, matrix, 2, 32)
        file.units.insert(1, file.units.pop(2))  # the tiles in another order
        file.tensor("x", "BF16", [4, 5], 1, 4, 32)
        file.unit(1, 0, STORED, pack("BF16", matrix))
        file.unit(1, 0, HEAD, coder.head)  # a head that no tile needs
        file.add(9, "y", b"")
        file.unit(2, 7, HEAD, b"of an unknown class")
        file.tensor("z", "U8", [2], 0, 1, 2, prefix=0)
        file.objects.insert(2, file.objects.pop())  # a tensor, so before class 9
        for unit in file.units:
            unit[0] += unit[0] == 2
        file.unit(2, 0, 200, b"a tile all the same")
        content = pack("BF16", matrix)
        self.assertEqual(decoded(file.build()), {"w": content, "x": content, "z": "unreadable"})

    def test_modes_mixed_in_a_tensor(self):
        matrix = [[self.random.randrange(65536) for _ in range(33)] for _ in range(5)]
        coder = Coder(FLOAT, "BF16", 5, 33)
        file = coded_file(coder, matrix, 2, 32)
        file.units[2][2], file.units[2][6] = STORED, pack("BF16", cut(matrix, 0, 32, 2, 33))
        file.units[2][5] = len(file.units[2][6])
        self.assertEqual(decoded(file.build())["w"], pack("BF16", matrix))


# -------------------------------------------------------------------------------------------------------------- deltas

class One:
    """Finds one base, or those of these roots."""

    def __init__(self, *files):
        self.files = files

    def find(self, base):
        return next((file for file in self.files if file[32:64] == base.root), self.files[0] if self.files else None)


class Deltas(unittest.TestCase):
    def setUp(self):
        self.random = random.Random(21)

    def base(self, dtype, bits):
        """A file with one tensor, and its object record's use by a delta."""
        file = File()
        file.tensor("w", dtype, [len(bits), len(bits[0])], 1, 2, 64)
        for i, box in enumerate(tiles_of(len(bits), len(bits[0]), 2, 64)):
            file.unit(0, i, STORED, pack(dtype, cut(bits, *box)))
        data = file.build()
        return data, bytes([PREDICTED, 0]) + object_hash(read_file(data).objects[0], 0) + b"\0"

    def delta(self, base, use, dtype, sides, units, base_root=None):
        file = File()
        file.records_before = base_record(base_root or base[32:64])
        file.tensor("w", dtype, sides, 1, sides[0], 64, use=use)
        for mode, data, layer in units:
            file.unit(0, 0, mode, data, layer=layer)
        return file.build()

    def floats(self, dtype, rows, cols):
        """Bits of ordinary floats and of others, and their values."""
        E, M = FLOATS[dtype]
        special = [0, 1 << E + M, (1 << E) - 1 << M, ((1 << E) - 1 << M) + 1, (1 << E + M + 1) - 1, 1]
        bits = [[special[(r * cols + c) // 7 % 6] if (r * cols + c) % 7 == 3 else
                 self.random.randrange(2 ** (E - 1) - 9, 2 ** (E - 1) + 2) << M | self.random.randrange(2 ** M) |
                 self.random.randrange(2) << E + M for c in range(cols)] for r in range(rows)]

        def value(n):
            e, m = n >> M & (1 << E) - 1, n % (1 << M)
            if e == (1 << E) - 1:
                return None
            v = Fraction(m + (e > 0) * 2 ** M) * Fraction(2) ** (max(e, 1) - 2 ** (E - 1) + 1 - M)
            return -v if n >> E + M else v
        return bits, [[value(n) for n in line] for line in bits]

    def test_lattice_over_a_base(self):
        """Weights in rational numbers."""
        for dtype in ("BF16", "F16", "F32"):
            E, M = FLOATS[dtype]
            bits, values = self.floats(dtype, 4, 10)
            base, use = self.base(dtype, bits)
            coder = Coder(LATTICE, dtype, 6, 10, step=0.01, offset=9, row_steps=[0, -9, 30, 1, 2, 3])
            z = [[self.random.randrange(-9, 10) for _ in range(10)] for _ in range(6)]
            data = self.delta(base, use, dtype, [6, 10], [(HEAD, coder.head, 0), (LATTICE, coder.lattice_tile(z), 0)])
            # The weight before it is rounded is that of a tensor of F32.
            exact = Coder(LATTICE, "F32", 6, 10, step=0.01, offset=9, row_steps=[0, -9, 30, 1, 2, 3])

            def expected(r, c):
                v = values[r][c] if r < 4 else Fraction(0)
                if v is None:
                    return bits[r][c]
                w = struct.unpack("<f", struct.pack("<I", exact.weight(z[r][c], r, c)))[0]
                total = minimal_encoder.rounded(minimal_encoder.rounded(Fraction(w) + v, 8, 23), E, M)
                return (total < 0) << E + M | minimal_encoder.float_bits(abs(total), E, M)
            self.assertEqual(decoded(data, bases=One(base))["w"],
                             pack(dtype, [[expected(r, c) for c in range(10)] for r in range(6)]), dtype)

    def test_exact_over_a_base(self):
        """Any elements over any others, in layer 0 and above a lattice."""
        for dtype, other in (("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("F32", "BF16")):
            bits, _ = self.floats(other, 4, 10)
            wanted, _ = self.floats(dtype, 6, 10)
            base, use = self.base(other, bits)
            n = 16 if other != dtype else 0
            of_base = [[(bits[r][c] << n if r < 4 else 0) for c in range(10)] for r in range(6)]
            if n:  # a NaN becomes 0
                of_base = [[0 if p % 2 ** 31 > 0x7F800000 else p for p in line] for line in of_base]
            signs = [[-1 if p >> 8 * SIZE[dtype] - 1 else 1 for p in line] for line in of_base]
            coder = Coder(EXACT, dtype, 6, 10, shape=255, plane=3, row_classes=[500] * 6, column_classes=[3] * 10,
                          tables={t: [32] * 64 for t in range(32)})
            tile = coder.exact_tile(signs, of_base, wanted)
            data = self.delta(base, use, dtype, [6, 10], [(HEAD, coder.head, 0), (EXACT, tile, 0)])
            self.assertEqual(decoded(data, bases=One(base))["w"], pack(dtype, wanted), (dtype, other))
            # Above a lattice of zeros, over the elements as they are (a sum with 0 is 0, not -0).
            below = [[0 if p << 1 & (1 << 8 * SIZE[dtype]) - 1 == 0 else p for p in line] for line in of_base]
            signs = [[-1 if p >> 8 * SIZE[dtype] - 1 else 1 for p in line] for line in below]
            lattice = Coder(LATTICE, dtype, 6, 10, step=1.0)
            data = self.delta(base, use, dtype, [6, 10], [
                (HEAD, lattice.head, 0), (LATTICE, lattice.lattice_tile([[0] * 10] * 6), 0), (HEAD, coder.head, 1),
                (EXACT, coder.exact_tile(signs, below, wanted), 1)])
            self.assertEqual(decoded(data, bases=One(base))["w"], pack(dtype, wanted), (dtype, other))

    def test_without_the_base_or_a_part_of_it(self):
        bits, _ = self.floats("F32", 4, 10)
        base, use = self.base("F32", bits)
        data = self.delta(base, use, "F32", [2, 10], [(SAME, b"", 0)])
        self.assertEqual(decoded(data), {"w": "without its base"})
        # Its last two rows are not needed, its first two are.
        self.assertEqual(decoded(data, bases=One(base[:-1])), {"w": pack("F32", bits[:2])})
        self.assertEqual(decoded(data, bases=One(base[:-100])), {"w": "absent"})
        whole = self.delta(base, use, "F32", [4, 10], [(SAME, b"", 0)])
        self.assertEqual(decoded(whole, bases=One(base[:-1])), {"w": "absent"})
        damaged = base[:-1] + bytes([base[-1] ^ 1])
        with self.assertRaisesRegex(Broken, "SPEC 11.2"):
            decoded(whole, bases=One(damaged))
        # A tile that is stored needs no base, and is read without.
        stored = self.delta(base, use, "F32", [4, 10], [(STORED, pack("F32", bits), 0)])
        self.assertEqual(decoded(stored), {"w": pack("F32", bits)})

    def test_chains(self):
        bits, _ = self.floats("F32", 4, 10)
        file, use = self.base("F32", bits)
        files = [file]
        for n in range(16):
            use = bytes([PREDICTED, 0]) + object_hash(read_file(files[-1]).objects[0], 0) + b"\0"
            files.append(self.delta(files[-1], use, "F32", [4, 10], [(SAME, b"", 0)]))
        self.assertEqual(decoded(files[15], bases=One(*files))["w"], pack("F32", bits))
        with self.assertRaisesRegex(Broken, "SPEC 21.8"):
            decoded(files[16], bases=One(*files))

    def test_its_own_base(self):
        """Files that take nothing from a base, or only what is in them, take any file for it, but not themselves."""
        file = File()
        file.records_before = base_record(bytes(32))
        file.asset("a", b"text", 4)
        plain = file.build()
        link = bytes([IDENTICAL, 0]) + object_hash(read_file(plain).objects[0], 0) + b"\1a"
        file.asset("b", b"", 1, length=4, use=link)
        taking = file.build()
        for data in (plain, taking):
            with self.assertRaisesRegex(Broken, "SPEC 21.8"):
                decoded(data, bases=One(data))
            with self.assertRaisesRegex(Broken, "SPEC 21.8"):
                decoded(data, bases=One(taking if data is plain else plain))
        file.records_before = b""
        file.objects.pop()
        file.names.pop()
        self.assertEqual(decoded(taking, bases=One(file.build())), {"a": b"text", "b": b"text"})

    def test_hashes(self):
        """The hash of an object depends on what its bytes depend on, and on nothing else."""
        def hashes(file):
            return [object_hash(read_file(file.build()).objects[0], level) for level in range(5)]
        whole = hashes(layered())
        self.assertEqual(len(set(whole)), 5)  # the level itself counts
        file = layered()
        file.units.sort(key=lambda unit: (unit[2] != HEAD, -unit[1], unit[3]))
        self.assertEqual(hashes(file), whole)
        file = layered()
        file.unit(0, 0, HEAD, layered_coders()[3].head, layer=9)
        file.unit(0, 0, 98, b"unknown", layer=4)
        self.assertEqual(hashes(file), whole)
        file = layered()
        file.names[0], file.objects[0] = b"x", file.objects[0].replace(b"w", b"x")
        self.assertEqual(hashes(file), whole)
        for number, level in ((0, 0), (1, 0), (5, 1), (6, 1), (12, 2), (15, 3), (19, 3)):
            file = layered()
            content = file.units[number][6]
            file.units[number][6] = content[:-1] + bytes([content[-1] ^ 1])
            self.assertEqual([a == b for a, b in zip(hashes(file), whole)], [k < level for k in range(5)], number)


# ------------------------------------------------------------------------------------------------------- broken files

class Refused(unittest.TestCase):
    def refuse(self, clause, file):
        data = file.build() if isinstance(file, File) else file
        with self.assertRaises(Broken) as caught:
            decoded(data)
        self.assertTrue(str(caught.exception).startswith(f"SPEC {clause}:"), str(caught.exception))

    def file(self):
        file = File()
        file.asset("asset", b"some bytes", 4)
        n = file.tensor("w", "U16", [2, 3], 1, 1, 32)
        file.unit(n, 0, STORED, b"abcdef")
        file.unit(n, 1, STORED, b"ghijkl")
        self.assertEqual(decoded(file.build()), {"asset": b"some bytes", "w": b"abcdefghijkl"})
        return file

    def spoil(self, clause, change):
        file = self.file()
        result = change(file)
        self.refuse(clause, result if isinstance(result, bytes) else file)

    def test_header(self):
        for clause, key, value in (("2.1", "magic", b"\x89IMP\n\r\x1a\n"), ("2.1", "major", 2), ("2.1", "major", 0),
                                   ("2.1", "flags", 1), ("2.2", "manifest_length", 2 ** 32 + 1),
                                   ("2.2", "manifest_length", 2 ** 31), ("2.3", "root", bytes(32)),
                                   ("2.5", "file_length", 9), ("2.5", "file_length", 10 ** 6)):
            self.spoil(clause, lambda file: file.header.update({key: value}))
        data = self.file().build()
        self.refuse("2.1", data[:7])
        self.refuse("2", data[:63])
        self.refuse("2.2", data[:100])

    def test_varints(self):
        for spoiled in (b"\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01"):
            file = File()
            file.add(0, "a", spoiled + varint(1))
            self.refuse("1.2", file)

    def test_records(self):
        def manifest(change):
            def spoil(file):
                file.spoil_manifest = change
            return spoil
        self.spoil("3.1", manifest(lambda m: m + b"\x05\x09abc"))
        self.spoil("3.1", manifest(lambda m: m + b"\x05"))
        self.spoil("3.2", manifest(lambda m: m + b"\x84\x00"))
        self.spoil("3.3", manifest(lambda m: m + b"\x81\x08\x01\x00\x01x\x01\x00\x00\x01\x01\x00"))
        self.spoil("3.3", manifest(lambda m: m + b"\x82\x01\x00"))
        self.spoil("3.3", manifest(lambda m: b""))
        file = File()
        file.spoil_manifest = lambda m: b"\x82\x01\x01"
        self.refuse("3.6.1", file)
        file.spoil_manifest = lambda m: b"\x82\x02\x00\x00"
        self.refuse("3.6.1", file)

    def test_names_of_assets(self):
        def file(*names):
            file = File()
            for name in names:
                file.asset(name, b"x", 1)
            return file
        for name in (b".", b".a", b"a/.b", b"a/", b"\x00", b"a\x7f", b"a\xc2\x80", b"\\", b":"):
            self.refuse("3.4.4", file(name))
        self.refuse("3.4.4", file(b"a", b"a-", b"a/b/c"))
        names = ("a", "a-/b", "a..b", "ab/c", "\xa0")
        self.assertEqual(decoded(file(*names).build()), dict.fromkeys(names, b"x"))

    def test_names(self):
        for clause, name, prefix in (("3.4.1", b"", 0), ("3.4.1", b"z" * 4097, 0), ("3.4.1", b"x\xff", 0),
                                     ("3.4.1", b"w", 0), ("3.4.1", b"v", 0), ("3.4", b"x", 1)):
            file = self.file()
            file.tensor(name, "U8", [0], 1, 1, 1, prefix=0)
            if prefix:
                file.objects[-1] = b"\x01\x02\x01x" + file.objects[-1][4:]
            self.refuse(clause, file)

    def test_objects(self):
        for clause, dtype, dims, split, tile_rows, tile_cols, tied in (
                ("3.4", "U8", [1] * 17, 0, 1, 1, 0), ("3.4", "U8", [0], 2, 1, 1, 0), ("3.4", "U8", [0], 1, 0, 1, 0),
                ("3.4", "U8", [0], 1, 1, 0, 0), ("3.5", 0, [0], 1, 1, 1, 0), ("3.5", 18, [0], 1, 1, 1, 0),
                ("3.4.3", "U8", [2 ** 30, 2 ** 19], 1, 1, 32, 0), ("4.2", "U8", [0, 70], 1, 1, 33, 0),
                ("4.2", "U8", [2 ** 13, 2 ** 13], 1, 2 ** 12, 2 ** 13, 0), ("4.2", "U8", [2 ** 40, 2], 1, 1, 32, 0),
                ("3.4.2", "U16", [2, 3], 1, 1, 32, 4), ("3.4.2", "U16", [2, 3], 1, 1, 32, 3),
                ("3.4.2", "U16", [2, 3], 1, 1, 32, 1), ("3.4.2", "I16", [2, 3], 1, 1, 32, 2),
                ("3.4.2", "U16", [3, 2], 1, 1, 32, 2), ("4.2", "U16", [2, 3], 1, 1, 2, 2),
                ("3.4.3", "U8", [0, 2 ** 63, 2], 1, 1, 32, 0), ("3.4.3", "U8", [2 ** 32, 2 ** 32, 0], 2, 1, 32, 0),
                ("3.5", 126, [0], 1, 1, 1, 0), ("3.5.1", "Q4_0", [], 0, 1, 1, 0),
                ("3.5.1", "Q4_0", [0, 32], 2, 1, 1, 0), ("3.5.1", "Q4_0", [0, 33], 1, 1, 32, 0),
                ("3.5.1", "Q4_K", [0, 128], 1, 1, 32, 0), ("3.4.3", "Q4_0", [2 ** 44, 32], 1, 1, 32, 0),
                ("4.2", "Q4_0", [0, 34 * 32], 1, 1, 33, 0),
                ("4.2", "Q6_K", [256 * 2 ** 20], 0, 1, 2 ** 20, 0), ("3.4", "Q4_0", [0, 32], 3, 1, 1, 0),
                ("3.5.2", (b"", 1), [], 0, 1, 1, 0), ("3.5.2", (b"F" * 65, 1), [], 0, 1, 1, 0),
                ("3.5.2", (b"\xff", 1), [], 0, 1, 1, 0), ("3.5.2", (b"U8", 1), [], 0, 1, 1, 0),
                ("3.5.2", (b"F4", 1), [0], 1, 1, 1, 0), ("3.4.3", (b"F4", 2 ** 48 + 1), [], 0, 1, 32, 0),
                ("3.4.3", (b"F4", 1), [2 ** 49], 0, 1, 1, 0), ("4.2", (b"F4", 34), [], 0, 1, 33, 0),
                ("4.2", (b"F4", 2 ** 25), [], 0, 1, 2 ** 25, 0), ("3.4.2", (b"F4", 2), [2, 3], 0, 1, 32, 2)):
            file = self.file()
            file.tensor("x", dtype, dims, split, tile_rows, tile_cols, tied)
            self.refuse(clause, file)
        file = self.file()
        file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2)
        file.tensor("y", "U16", [2, 3], 1, 1, 32, tied=3)
        self.refuse("3.4.2", file)
        for clause, length, piece in (("3.4", 0, 0), ("3.4.3", 2 ** 48 + 1, 9), ("4.2", 2 ** 30, 2 ** 25)):
            file = File()
            file.asset("a", b"", piece or 1)
            file.objects[0] = b"\0\0\1a" + varint(length) + varint(piece)
            self.refuse(clause, file)
        file = File()
        file.objects.append(b"\1\0\1a\1\2\3")
        self.refuse("3.1", file)

    def test_memory_limit(self):
        file = File()
        file.tensor("w", "U8", [2 ** 33], 0, 1, 2 ** 24)
        for i in range(2 ** 9):
            file.unit(0, i, ZSTD, b"")
        self.refuse("11.3", file)
        with self.assertRaises(Broken) as caught:
            decoded(file.build(), allow_expansion=True)
        self.assertTrue(str(caught.exception).startswith("SPEC 11.1:"), str(caught.exception))

    def test_expansion(self):
        # Two rows of two tiles, the second of 8 columns, in four layers with their heads.
        objects = read_file(layered().build()).objects
        self.assertEqual(expanded_bytes(objects, False), 4 * (6 * (32 + 32) * 2 + 2 ** 16))
        file = self.file()
        file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2)
        self.assertEqual(expanded_bytes(read_file(file.build()).objects, False), 10 + 12 + 12)

    def test_units(self):
        def entry(number, position, value):
            def spoil(file):
                file.units[number][position] = value
            return spoil
        self.spoil("3.6", entry(3, 4, 1))
        self.spoil("3.6", entry(3, 5, 2 ** 28 + 1))
        self.spoil("3.6.2", entry(3, 0, 2))
        self.spoil("3.6.2", entry(3, 1, 2))
        self.spoil("3.6.2", entry(4, 1, 0))
        self.spoil("12.1", entry(4, 3, 1))
        self.spoil("3.6.3", lambda file: file.units.pop() and None)
        self.spoil("5.2", lambda file: file.units.__setitem__(4, [1, 1, STORED, 0, 0, 5, b"ghijk"]))
        self.spoil("5.3", entry(0, 2, HEAD))
        self.spoil("5.3", entry(0, 2, FLOAT))
        self.spoil("5.3", entry(3, 2, FLOAT))
        self.spoil("5.3", entry(3, 2, LATTICE))
        self.spoil("3.6.2", lambda file: file.unit(1, 1, HEAD, b"") and None)

        def tied(file):
            file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2)
            file.unit(2, 0, STORED, b"abcdef")
        self.spoil("3.6.2", tied)

        def no_tiles(file):
            file.tensor("x", "BF16", [0, 3], 1, 1, 32)
            file.unit(2, 0, HEAD, b"")
        self.spoil("3.6.2", no_tiles)

        def two_heads(file):
            file.add(5, "x", b"")
            file.unit(2, 1, HEAD, b"")
            file.unit(2, 2, HEAD, b"")
        self.spoil("3.6.2", two_heads)

        def damage(file):
            data = bytearray(file.build())
            data[-1] ^= 1
            return bytes(data)
        self.spoil("11.2", damage)

    def coded(self, kind=FLOAT, dtype="BF16", **options):
        if kind == LATTICE:
            options = {"plane": 3, "step": 1.0, **options}
        return Coder(kind, dtype, 4, 5, **options)

    def test_heads_and_tiles_in_the_units_record(self):
        matrix = [[n * 1000 + m for m in range(5)] for n in range(4)]
        file = coded_file(self.coded(), matrix, 2, 32)
        good = list(file.units)
        file.units = [good[1], good[0], good[2]]
        self.refuse("3.6.3", file)
        file.units = good[1:]
        self.refuse("3.6.3", file)
        file.units = good + [[0, 0, HEAD, 0, 0, *good[0][5:]]]
        self.refuse("3.6.2", file)
        file.units = [good[0], good[1], [0, 1, LATTICE, 0, 0, *good[2][5:]]]
        self.refuse("5.4", file)
        file.units = [good[0]] + [[0, i, LATTICE, 0, 0, *good[1 + i][5:]] for i in range(2)]
        self.refuse("6", file)

    def refuse_head(self, clause, coder, head):
        file = coded_file(coder, [[0] * 5] * 4, 4, 32)
        self.assertEqual(len(decoded(file.build())["w"]), 20 * SIZE[coder.dtype])
        file.units[0] = [0, 0, HEAD, 0, 0, len(head), head]
        self.refuse(clause, file)

    def test_heads(self):
        coder = self.coded()
        head = coder.head
        for position, value in ((0, 2), (0, 5), (0, 7), (1, 5), (1, 254), (2, 5), (2, 7), (3, 1)):
            self.refuse_head("6", coder, head[:position] + bytes([value]) + head[position + 1:])
        self.refuse_head("6", coder, head + b"\0")
        self.refuse_head("11.1", coder, head[:-1])
        arrays = 4
        for array, clause in ((b"\0\0\x10", "6.1"), (b"\0\0\xfe", "6.1"), (b"\0\0\0" + b"\xff" * 4 + b"\0" * 9, "6.1"),
                              (struct.pack("<hB", 32767, 0) + b"\x03\0", "6.1")):
            self.refuse_head(clause, coder, head[:arrays] + array + head[arrays + 3:])
        coder = self.coded(LATTICE, row_steps=[0] * 4, column_steps=[0] * 5)
        head = coder.head
        self.refuse_head("6", coder, head[:2] + b"\x15" + head[3:])
        self.refuse_head("6", coder, head[:3] + b"\x0f" + head[4:])
        for step in (0.0, -1.0, math.inf, math.nan):
            self.refuse_head("6", coder, head[:4] + struct.pack("<f", step) + head[8:])
        for array in (14, 17):
            for step in (1024, -1025):
                self.refuse_head("6", coder, head[:array] + same(step) + head[array + 3:])
        self.refuse_head("10.3", coder, head[:4] + struct.pack("<f", 3e38) + head[8:14] + same(4) + head[17:])
        file = coded_file(self.coded(), [[0] * 5] * 4, 4, 32)
        file.units[0][6] = self.coded(LATTICE, "BF16").head
        file.units[0][5] = len(file.units[0][6])
        self.refuse("6", file)
        float8 = Coder(FLOAT, "F8_E4M3", 4, 5)
        self.refuse_head("5.3", float8, b"\x04" + float8.head[1:])

    def test_explicit_tables(self):
        uniform = [32] * 64
        coder = self.coded(shape=255, tables={0: uniform})
        start = coder.head[:10]
        listed = b"\x20" * 63
        self.assertEqual(coder.head, start + b"\1\0\0\0" + b"\0\x3f" + listed + b"\x20")
        for tables in (b"\x10\0\0\0" + b"\0\x3f" + listed + b"\x20", b"\1\0\0\0" + b"\1\x3f" + listed + b"\x20",
                       b"\1\0\0\0" + b"\0\x3f" + listed + b"\x21", b"\1\0\0\0" + b"\0\0\0"):
            self.refuse_head("6.2", coder, start + tables)

    def test_segments(self):
        matrix = [[0x3F80 + 7 * n + m for m in range(5)] for n in range(4)]
        coder = self.coded(row_classes=[507] * 4)

        def spoil(clause, change, segments=2):
            self.refuse(clause, coded_file(coder, matrix, 4, 32, segments, change=change))

        def lane(number, value):
            def change(j, states, words, escapes):
                states[number] = value
            return change
        good = coder.float_tile(matrix, segments=2)
        spoil("8.4", lane(31, 0xFFFF))
        spoil("8.4", lane(31, 0x10001))  # a lane without elements
        spoil("8.4", lambda j, states, words, escapes: words.append(1))
        spoil("8.4", lambda j, states, words, escapes: escapes.append(b"\1"))
        many = [[random.Random(n).randrange(65536) for _ in range(40)] for n in range(32)]
        wide = Coder(FLOAT, "BF16", 32, 40, row_classes=[507] * 32)
        for clause, change in (("8.4", lambda j, states, words, escapes: words.pop()),
                               ("11.1", lambda j, states, words, escapes: escapes.pop())):
            self.refuse(clause, coded_file(wide, many, 32, 64, 1, change=change))
        for tile, clause in ((b"\0" + good[1:], "8"), (b"\x11" + good[1:], "8"), (b"\5" + good[1:], "8"),
                             (good + b"\0", "8"), (good[:-1], "11.1"), (b"\1", "11.1")):
            file = coded_file(coder, matrix, 4, 32)
            file.units[1] = [0, 0, FLOAT, 0, 0, len(tile), tile]
            self.refuse(clause, file)

    def test_escapes(self):
        coder = self.coded()  # class 0: these values are far above
        matrix = [[0x3F80] * 5] * 4
        def first(escape):
            def change(j, states, words, escapes):
                escapes[0] = escape
            return change
        self.assertEqual(decoded(coded_file(coder, matrix, 4, 32, change=first(varint(2 ** 32 - 1024 + 508))).build()),
                         decoded(coded_file(coder, matrix, 4, 32).build()))  # the value is taken modulo 2^10
        self.refuse("8.5", coded_file(coder, matrix, 4, 32, change=first(varint(2 ** 32))))
        self.refuse("1.2", coded_file(coder, matrix, 4, 32, change=first(b"\x80\x00")))
        wide = self.coded(LATTICE, row_classes=[43] * 4)
        far = [[10 ** 6] * 5] * 4
        self.refuse("8.5", coded_file(wide, far, 4, 32, change=first(varint(2 ** 32))))


class Layers(unittest.TestCase):
    """Layers above 0: clauses 12 to 14. What is refused is in the conformance set."""

    def setUp(self):
        self.random = random.Random(12)

    def matrix(self, rows, cols, of):
        return [[of() for _ in range(cols)] for _ in range(rows)]

    def level(self, coders, z, patterns, level):
        """The bytes at a level, straight from the encoder's side."""
        return pack(coders[0].dtype, patterns if level == len(z) else weights(coders[:level + 1], z[:level + 1]))

    def check(self, coders, z, patterns, tile_rows, tile_cols, segments=1):
        """Every level of a file of layers, cut after each."""
        data = layered_file(coders, z, patterns, tile_rows, tile_cols, segments).build()
        units = read_file(data).units
        for level in range(len(coders)):
            last = max(unit.number for unit in units if unit.layer == level)
            content = decoded(data[:units[last].start + units[last].length])["w"]
            self.assertEqual(content, self.level(coders, z, patterns, level), f"level {level}")

    def test_levels(self):
        random = self.random
        for dtype in ("F32", "F16", "BF16"):
            for factors, offsets, planes in (
                    ((), (3,), (2, 3)), ((2,), (0, 127), (0, 0)), ((3, 64, 5), (1, 0, 64, 9), (0, 11))):
                rows, cols = 5, 40
                row_steps = [random.randrange(-60, 60) for _ in range(rows)]
                multipliers = [random.randrange(-64, 64) for _ in range(rows)]
                coders = layered_coders(dtype, rows, cols, factors, offsets, planes=planes, row_steps=row_steps,
                                        multipliers=multipliers)
                z = layered_integers(coders, lambda r, c: random.choice((0, 0, 1, -1, random.randrange(-40, 40))),
                                     lambda k, r, c: round(random.gauss(0, 4)))
                bits = 8 * SIZE[dtype]
                mask = (1 << bits) - 1
                near = [[n + round(random.gauss(0, 9)) & mask for n in line] for line in weights(coders[:-1], z)]
                anything = self.matrix(rows, cols, lambda: random.getrandbits(bits))
                for patterns in (near, anything):
                    with self.subTest((dtype, factors)):
                        self.check(coders, z, patterns, 3, 32, segments=2)

    def test_extremes(self):
        edges = [2 ** 31 - 1, -2 ** 31, 2 ** 30, -2 ** 30 - 1, 0, 1, -1, 2 ** 24 + 1]
        special = {"F32": [0, 1 << 31, 0x7F800000, 0xFF800001, 1, 0x7FFFFFFF, 0x80000001, 0x7F7FFFFF],
                   "F16": [0, 1 << 15, 0x7C00, 0xFC01, 1, 0x7FFF, 0x8001, 0x7BFF],
                   "BF16": [0, 1 << 15, 0x7F80, 0xFF81, 1, 0x7FFF, 0x8001, 0x7F7F]}
        for dtype, patterns in special.items():
            for step, row_steps in ((2.0 ** -146, [0, 900]), (1.0, [-1024, 1023]), (3e38, [-900, 0])):
                coders = layered_coders(dtype, 2, 64, (5,), row_steps=row_steps, step=step)
                z = [self.matrix(2, 64, lambda: self.random.choice(edges)) for _ in range(2)]
                with self.subTest((dtype, step)):
                    self.check(coders, z, self.matrix(2, 64, lambda: self.random.choice(patterns)), 2, 64)

    def test_cut_anywhere(self):
        file = layered(segments=2)
        data = file.build()
        units = read_file(data).units
        coders = layered_coders()
        z = layered_integers(coders)
        levels = [pack("BF16", weights(coders[:k + 1], z[:k + 1])) for k in range(3)] + [decoded(data)["w"]]
        for present in range(5, 21):
            end = units[present].start if present < 20 else len(data)
            content = decoded(data[:end])["w"]
            for band in range(2):
                # The units of the band, in the order of the file, are heads and pairs of tiles.
                level = max(k for k in range(4) if 5 * k + 2 * band + 3 <= present)
                rows = slice(band * 240, (band + 1) * 240)
                self.assertEqual(content[rows], levels[level][rows], (present, band))


class Fuzz(unittest.TestCase):
    """A spoiled file with right hashes decodes or is refused, and nothing else happens."""

    def setUp(self):
        # Most units are the same in all the files, and hashing takes half the time.
        remembering = functools.lru_cache(maxsize=None)(blake3)
        for module in (minimal_encoder, naive_bases, naive_container, naive):
            patch = mock.patch.object(module, "blake3", remembering)
            patch.start()
            self.addCleanup(patch.stop)

    def attempt(self, data):
        try:
            decoded(data, bases=One(small_base()))
        except Broken:
            return 1
        return 0

    def test_spoiled_manifests_and_units(self):
        source, refused = random.Random(11), 0
        matrix = [[source.randrange(65536) for _ in range(40)] for _ in range(6)]
        z = [[source.randrange(-90, 90) for _ in range(40)] for _ in range(6)]
        classes = {"row_classes": [1, 18, 2, 21, 9, 35], "column_classes": list(range(40))}
        lattice = Coder(LATTICE, "F16", 6, 40, plane=2, step=0.5, row_steps=[1, -2, 3, -4, 5, -6], **classes)
        files = ((coded_file(Coder(FLOAT, "BF16", 6, 40, **classes), matrix, 3, 32, segments=2), 300),
                 (coded_file(lattice, z, 3, 32, segments=2), 300), (layered(), 200), (small_delta(), 150),
                 (rich_delta(), 150))
        for file, times in files:
            for _ in range(times):
                unit = source.choice([unit for unit in file.units if unit[6]])
                good = unit[5:7]
                unit[6] = spoiled(unit[6], source)
                unit[5] = len(unit[6])
                refused += self.attempt(file.build())
                unit[5:7] = good
                file.spoil_manifest = lambda manifest: spoiled(manifest, source)
                refused += self.attempt(file.build())
                file.spoil_manifest = lambda manifest: manifest
        self.assertGreater(refused, 1000)


def spoiled(data, source):
    """`data` with one to three bytes changed, put in or taken away."""
    data = bytearray(data)
    for _ in range(source.randrange(1, 4)):
        i = source.randrange(len(data))
        data[i:i + source.choice((0, 1, 1, 1))] = [source.randrange(256)][:source.choice((0, 1, 1, 1))]
    return bytes(data)


class CommandLine(unittest.TestCase):
    def run_on(self, data, *options):
        out, err = io.StringIO(), io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "f.impasto"
            path.write_bytes(data)
            arguments = [str(path)] + (["-o", folder + "/out"] if options else [])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = naive.main(arguments)
            files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("out/**/*") if p.is_file()}
        return code, out.getvalue().splitlines(), err.getvalue().splitlines(), files

    def file(self):
        file = File()
        file.asset("a/b c", b"abc", 2)
        file.tensor("s", "U8", [], 0, 1, 1)
        file.tensor("w", "U16", [1, 2], 1, 1, 2)
        file.unit(1, 0, STORED, b"\0")
        file.unit(2, 0, STORED, b"abcd")
        return file

    def test_whole_cut_and_damaged(self):
        data = self.file().build()
        code, out, err, files = self.run_on(data, "-o")
        abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc"
        zero = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        abcd = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
        self.assertEqual(code, 0)
        self.assertEqual(out, [f"asset a/b%20c 3 {abc}", f"s U8 scalar {zero}", f"w U16 1x2 {abcd}"])
        self.assertEqual(err, [])
        self.assertEqual(files, {"out/assets/a%2Fb%20c": b"abc", "out/s.bin": b"\0", "out/w.bin": b"abcd"})
        code, out, err, _ = self.run_on(data[:-1])
        self.assertEqual((code, len(out), err), (3, 2, ["w is absent"]))
        code, out, err, _ = self.run_on(data[:-1] + b"x")
        self.assertEqual((code, len(out), len(err)), (1, 2, 1))
        self.assertIn("SPEC 11.2", err[0])

    def test_deltas(self):
        data = small_delta().build()
        code, out, err, _ = self.run_on(data)
        self.assertEqual((code, out, err), (5, [], [f"{name} is without its base" for name in ("asset", "bf16", "like")]))
        with tempfile.TemporaryDirectory() as folder:
            base, path = (Path(folder) / name for name in ("base.impasto", "delta.impasto"))
            base.write_bytes(small_base())
            path.write_bytes(data)
            with contextlib.redirect_stdout(io.StringIO()) as beside:
                self.assertEqual(naive.main([str(path)]), 0)
            other = Path(folder) / "folder"
            other.mkdir()
            base.rename(other / "base.impasto")
            for where in (other, other / "base.impasto"):
                with contextlib.redirect_stdout(io.StringIO()) as named:
                    self.assertEqual(naive.main([str(path), "--base", str(where)]), 0)
                self.assertEqual(named.getvalue(), beside.getvalue())

    def test_cut_anywhere(self):
        matrix = [[n * 3000 + m for m in range(40)] for n in range(4)]
        data = coded_file(Coder(FLOAT, "BF16", 4, 40), matrix, 2, 32).build()
        units = 64 + struct.unpack_from("<Q", data, 16)[0]
        for length in range(0, len(data), 7):
            self.assertEqual(self.run_on(data[:length])[0], 1 if length < units else 3)

    def test_unknown_mode(self):
        file = self.file()
        file.units[3][2] = naive_container.LAST_MODE + 1
        code, out, err, _ = self.run_on(file.build())
        self.assertEqual((code, len(out), err), (4, 2, ["w is unreadable"]))


if __name__ == "__main__":
    unittest.main()
