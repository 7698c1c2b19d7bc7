"""A minimal encoder for tests: the inverse of the steps of docs/SPEC.md, with hooks to corrupt its output."""

import math
import struct
from fractions import Fraction

import naive_coding as coding
import naive_planes
import naive_transform
from blake3 import blake3
from naive_container import (BLOCKS, EXACT, FLOAT, FLOATS, HEAD, LATTICE, OPAQUE, PLAIN, REFINEMENT, STORED,
                             Reader)
from naive_decoder import TABLES

SHAPES = coding.read_shapes(TABLES.read_text(encoding="utf-8"))
DTYPE_CODE = {name: code for code, (name, *_) in (PLAIN | BLOCKS).items()}
SIZE = {name: size for name, size, *_ in (PLAIN | BLOCKS).values()}


def base_record(root, name=b"", licence=b"", mirrors=(), count=None, more=b""):
    """A base record (21.1)."""
    texts = [varint(len(text)) + text for text in (name, licence, *mirrors)]
    payload = root + b"".join(texts[:2]) + varint(len(mirrors) if count is None else count) + b"".join(texts[2:]) + more
    return b"\x83" + varint(len(payload)) + payload


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def zigzag(n):
    return 2 * n if n >= 0 else -2 * n - 1


def bit_string(fields):
    """Bytes of (value, width) fields, from the least significant bit up, padded with 0 bits."""
    number = used = 0
    for value, width in fields:
        number |= value << used
        used += width
    return number.to_bytes(-(-used // 8), "little")


def rice(entries, k, base):
    while max(zigzag(entry - base) for entry in entries) >> k > 31:
        k += 1
    fields = []
    for u in (zigzag(entry - base) for entry in entries):
        fields += [((1 << (u >> k)) - 1, (u >> k) + 1), (u & (1 << k) - 1, k)]
    return struct.pack("<hB", base, k) + bit_string(fields)


def same(entry):
    return struct.pack("<hB", entry, 255)


def explicit(tables):
    """The tables field of shape 255, from {number: frequencies of 64 symbols}."""
    out = struct.pack("<I", sum(1 << i for i in tables))
    for _, frequencies in sorted(tables.items()):
        used = [s for s in range(63) if frequencies[s]] or [0]
        listed = frequencies[used[0]:used[-1] + 1]
        out += bytes([used[0], len(listed)]) + b"".join(map(varint, listed)) + varint(frequencies[63])
    return out


class Chosen(naive_transform.Decisions):
    """The encoder of 17.3: decisions are those that `choose` makes for their name and values, even ones are `even`."""

    def __init__(self, choose, even):
        self.choose, self.even_bit = choose, even
        self.low, self.length, self.range, self.probabilities, self.wanted = 0, 4, (1 << 32) - 1, {}, None

    def bit(self, *under):
        self.wanted = self.choose(*under)
        return super().bit(*under)

    def decide(self, bound):
        one, self.wanted = self.even_bit if self.wanted is None else self.wanted, None
        self.low += 0 if one else bound
        self.range = bound if one else self.range - bound
        while self.range < 1 << 24:
            self.low, self.range, self.length = self.low << 8, self.range << 8, self.length + 1
        return int(one)

    def end(self):
        self.code = self.low.to_bytes(self.length, "big")

    def short_end(self):
        """A code without its last 3 bytes (17.15)."""
        return (self.low + (1 << 24) - 1 >> 24).to_bytes(self.length - 3, "big")


def transform_unit(height, width, choose, flags=0, step_index=0, even=0):
    """A unit in mode transform (17), from its decisions."""
    zeros = [[0] * width for _ in range(height)]
    tile = naive_transform.Tile(height, width, flags, Chosen(choose, even), "the unit", zeros)
    tile.read()
    return struct.pack("<Bb", flags, step_index) + tile.decisions.code


def planes_unit(height, width, choose, form=0, levels=0, point=128, steps=b"\0", planes=1, count=None):
    """A unit of planes in layer 0 (17.11), from its decisions; `count` planes of all."""
    head = struct.pack("<BbBBB", naive_planes.PLANES, 0, form, levels, point) + steps + bytes([planes])
    parsed = naive_planes.Form(Reader(head, "", ""), height, width, "the unit")
    codes, probabilities = [], {}
    for p in reversed(range(planes)):
        d = Chosen(choose, 0)
        d.probabilities = probabilities
        for band in parsed.bands:
            band.plane(d, p)
        codes.append(d.short_end())
    codes = codes[:count]
    return head + bytes([len(codes)]) + b"".join(varint(len(code)) for code in codes) + b"".join(codes)


class Coder:
    """What a mode with a head needs of a layer of a tensor: its classes and tables, and its head as bytes."""

    def __init__(self, kind, dtype, rows, cols, plane=None, shape=0, step=None, row_classes=None, column_classes=None,
                 row_steps=None, column_steps=None, tables=None, rice_k=2, factor=None, offset=0, low_rank=(), groups=None,
                 multipliers=None):
        self.kind, self.dtype, self.rows, self.cols = kind, dtype, rows, cols
        self.plane = (FLOATS[dtype][1] - 1 if kind == FLOAT else 0) if plane is None else plane
        self.factor, self.offset, self.multipliers = factor, offset, multipliers
        self.row_classes, self.column_classes = row_classes or [0] * rows, column_classes or [0] * cols
        self.row_steps, self.column_steps, self.step = row_steps, column_steps, step and coding.f32(step)
        self.tables = SHAPES[kind, shape] if shape != 255 else \
            [tables.get(i, [0] * 63 + [2048]) for i in range(coding.TABLES[kind])]
        flags = (row_steps is not None) | (column_steps is not None) << 1 | (offset > 0) << 2 | bool(low_rank) << 3 | \
            (groups is not None) << 4 | (multipliers is not None) << 5
        format, width, scales = groups or (None, None, None)
        out = bytes([kind, shape, self.plane, flags]) + (bytes([factor]) if kind == REFINEMENT else b"")
        out += (struct.pack("<f", step) if kind in (LATTICE, REFINEMENT) else b"") + bytes([offset] if offset else [])
        out += bytes([format]) + varint(width) if groups else b""

        def index(array):
            return same(array[0]) if len(set(array)) == 1 else rice(array, rice_k, sorted(array)[len(array) // 2])
        for array in (self.row_classes, self.column_classes, scales, row_steps, column_steps):
            out += b"" if array is None else index(array)
        out += bytes([len(low_rank)]) if low_rank else b""
        for size, rows_of_term, columns_of_term in low_rank:
            out += struct.pack("<f", size) + index(rows_of_term) + index(columns_of_term)
        out += index(multipliers) if multipliers is not None else b""
        self.head = out + (explicit(tables) if shape == 255 else b"")

    def model(self, t):
        """Low bits and table of a class."""
        if self.kind == FLOAT:
            return 0, self.tables[t % 4]
        if self.kind == LATTICE:
            b = max(0, t // 4 - 5)
            return b, self.tables[t - 4 * b]
        return (max(0, (t + 1) // 4 - 3) if self.kind == EXACT else 0), self.tables[t]

    def symbol(self, t, value):
        """Symbol, low bits and escape (bytes) of a value of class `t`: `v` of 9.2, `z0` of 10.1 or `d` of 13.2."""
        b, frequencies = self.model(t)
        n = value + (1 << b >> 1)
        s, low = (value - 4 * (t // 4) + 48, 0) if self.kind == FLOAT else ((n >> b) + 31, n & (1 << b) - 1)
        if 0 <= s < 63 and frequencies[s]:
            return s, low, b""
        return 63, 0, varint(value if self.kind == FLOAT else zigzag(value))

    def sums(self, values, row0, col0):
        """row_class[r] + column_class[c] for each of the values of a tile."""
        return [[self.row_classes[row0 + r] + self.column_classes[col0 + c] for c in range(len(line))]
                for r, line in enumerate(values)]

    def tile(self, values, raw, row0=0, col0=0, segments=1, change=lambda j, states, words, escapes: None,
             classes=None):
        """A tile as bytes; `values`, `raw` and `classes` (in mode float and lattice those of 7.1) are lists by row and
        column. `change` may spoil a segment's lists."""
        if classes is None:
            top = 43 if self.kind == LATTICE else 1023
            classes = [[max(0, min(n, top)) for n in line] for line in self.sums(values, row0, col0)]
        height, lengths, body = len(values), b"", b""
        for j in range(segments):
            elements = [(classes[r][c], c % 32, values[r][c])
                        for r in range(j * height // segments, (j + 1) * height // segments)
                        for c in range(len(values[r]))]
            states, words, escapes = [1 << 16] * 32, [], []
            for t, lane, value in reversed(elements):
                b, frequencies = self.model(t)
                s, low, escape = self.symbol(t, value)
                f, start, x = frequencies[s], sum(frequencies[:s]), states[lane]
                if x >= f << 21 - b:
                    words.insert(0, x & 0xFFFF)
                    x >>= 16
                states[lane] = ((x // f << 11) + start + x % f) << b | low
                escapes.insert(0, escape)
            change(j, states, words, escapes)
            escapes = b"".join(escapes)
            lengths += struct.pack("<II", len(words), len(escapes))
            body += struct.pack("<32I%dH" % len(words), *states, *words) + escapes
        plane = b"".join(bit_string([(field, self.plane) for field in line]) for line in raw)
        return bytes([segments]) + lengths + body + plane

    def split_float(self, pattern):
        """`v` and `raw` of a float's bits: 9.2 read backwards."""
        E, M = FLOATS[self.dtype]
        return pattern >> M - 2 & (1 << E + 2) - 1, pattern >> E + M << M - 2 | pattern & (1 << M - 2) - 1

    def float_tile(self, patterns, **options):
        split = [[self.split_float(pattern) for pattern in line] for line in patterns]
        v, raw = ([[pair[i] for pair in line] for line in split] for i in (0, 1))
        return self.tile(v, raw, **options)

    def lattice_tile(self, z, **options):
        z0 = [[n >> self.plane for n in line] for line in z]
        raw = [[n & (1 << self.plane) - 1 for n in line] for line in z]
        return self.tile(z0, raw, **options)

    def refinement_tile(self, coarse, fine, row0=0, col0=0, **options):
        """From the integers of the layer below to those of this one: 13 read backwards."""
        classes = [[3 * max(0, min(n, 7)) + min(abs(Z), 2) for n, Z in zip(*lines)]
                   for lines in zip(self.sums(coarse, row0, col0), coarse)]
        d = [[coding.signed((z - self.factor * Z) * (-1 if Z < 0 else 1), 32) for Z, z in zip(*lines)]
             for lines in zip(coarse, fine)]
        return self.tile(d, [[0] * len(line) for line in d], row0, col0, classes=classes, **options)

    def exact_tile(self, z, p, patterns, row0=0, col0=0, **options):
        """From integers and the bits of weights to bits: 14 read backwards."""
        M, bits = FLOATS[self.dtype][1], 8 * SIZE[self.dtype]
        sign = 1 << bits - 1

        def of(R, Z, P, element):
            """Class and `u`."""
            magnitude, negative = element % sign, element >= sign
            if Z == 0:
                return 31, coding.signed(magnitude - (max(R - 42, 0) << M - 2), bits - 1) * 2 + negative
            o = magnitude if negative == (Z < 0) else -1 - magnitude
            return max(0, min(R - 4 * max(P % sign >> M, 1), 30)), coding.signed(o - P % sign, bits)
        both = [[of(*each) for each in zip(*lines)] for lines in zip(self.sums(z, row0, col0), z, p, patterns)]
        classes, u = ([[pair[i] for pair in line] for line in both] for i in (0, 1))
        return self.lattice_tile(u, row0=row0, col0=col0, classes=classes, **options)

    def weight(self, z, row, col, finer=None, is_read=True):
        """The bits of the weight: 10.3 in rational numbers; `finer` has the step, the offset and the multipliers of a layer
        above. What is not read has no multipliers: 12.5."""
        finer = finer or self
        def scale(steps, i, multipliers=None):
            i = 4 * (steps[i] if steps else 0) + (multipliers[i] if multipliers else 0)
            return Fraction(coding.P[i % 64]) * Fraction(2) ** (i >> 6)
        row_step = rounded(Fraction(finer.step) * scale(self.row_steps, row, is_read and finer.multipliers), 8, 23)
        away = Fraction(finer.offset, 256) * ((z > 0) - (z < 0))
        w = rounded(rounded(rounded(Fraction(z), 8, 23) + away, 8, 23) * scale(self.column_steps, col), 8, 23)
        w = rounded(w * row_step, 8, 23)
        E, M = FLOATS[self.dtype]
        magnitude = rounded(abs(w), E, M) if w is not math.inf and w is not -math.inf else math.inf
        return (z < 0) << E + M | float_bits(magnitude, E, M)


def exponent_of(x):
    """The largest `e` with 2^e <= |x|, of a rational `x` that is not 0."""
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (abs(x) < Fraction(2) ** exponent)


def rounded(x, E, M):
    """The float nearest to the rational `x`, ties to even, as a rational, or an infinity."""
    if x == 0 or isinstance(x, float):
        return x
    bias = 2 ** (E - 1) - 1
    unit = Fraction(2) ** (max(exponent_of(x), 1 - bias) - M)
    result = round(x / unit) * unit  # Fraction's round: ties to even
    return result if abs(result) < Fraction(2) ** (bias + 1) else math.copysign(math.inf, x)


def float_bits(x, E, M):
    """The bits of a float that is not negative: `x` is a rational that the format has, or infinity."""
    bias = 2 ** (E - 1) - 1
    if x == math.inf:
        return (1 << E) - 1 << M
    exponent = max(exponent_of(x), 1 - bias) if x else 1 - bias
    mantissa = x / Fraction(2) ** (exponent - M)
    assert mantissa.denominator == 1
    return int(mantissa) + (exponent + bias - 1 << M) if mantissa >= 1 << M else int(mantissa)


class File:
    """Builds a file; a test spoils its parts before `build`."""

    def __init__(self):
        self.objects, self.units, self.names = [], [], []
        self.records_before = self.records_after = b""
        self.header = {"magic": b"\x89IMP\r\n\x1a\n", "major": 1, "minor": 0, "flags": 0}
        self.spoil_manifest = lambda manifest: manifest
        self.spoil_hash = False

    def add(self, cls, name, fields, prefix=None):
        name = name if isinstance(name, bytes) else name.encode()
        before = self.names[-1] if self.names else b""
        if prefix is None:
            prefix = next((i for i, (a, b) in enumerate(zip(name, before)) if a != b), min(len(name), len(before)))
        self.objects.append(bytes([cls]) + varint(prefix) + varint(len(name) - prefix) + name[prefix:] + fields)
        self.names.append(name)
        return len(self.objects) - 1

    def asset(self, name, data, piece, length=None, use=b""):
        n = self.add(0, name, varint(len(data) if length is None else length) + varint(piece) + use)
        for i in range(0, len(data), piece):
            self.unit(n, i // piece, STORED, data[i:i + piece])
        return n

    def tensor(self, name, dtype, dims, split, tile_rows, tile_cols, tied=0, reference=None, use=b"", **options):
        """A tensor of a dtype by name or code; (type, bytes) is an opaque one. `use` is what it takes from the base."""
        if isinstance(dtype, tuple):
            kind, length = dtype
            code = bytes([OPAQUE]) + varint(len(kind)) + kind + varint(length)
        else:
            code = bytes([DTYPE_CODE.get(dtype, dtype)])
        numbers = [len(dims), *dims, split, tile_rows, tile_cols, tied]
        numbers += [reference or 0] if use or reference is not None else []
        return self.add(1, name, code + b"".join(map(varint, numbers)) + use, **options)

    def unit(self, n, tile, mode, data, layer=0, reserved=0, length=None):
        self.units.append([n, tile, mode, layer, reserved, len(data) if length is None else length, data])
        return len(self.units) - 1

    def build(self):
        manifest = self.records_before + b"".join(b"\x81" + varint(len(record)) + record for record in self.objects)
        entries = b"".join(struct.pack("<IIBBHI", *unit[:6]) + blake3(unit[6])[:16] for unit in self.units)
        units = varint(len(self.units)) + entries
        manifest = self.spoil_manifest(manifest + b"\x82" + varint(len(units)) + units + self.records_after)
        body = b""
        end = 64 + len(manifest)
        for unit in self.units:
            start = -(-end // 16) * 16
            body += bytes(start - end) + unit[6]
            end = start + len(unit[6])
        h = {"manifest_length": len(manifest), "file_length": end, "root": blake3(manifest), **self.header}
        return struct.pack("<8sHHIQQ32s", *(h[key] for key in ("magic", "major", "minor", "flags", "manifest_length",
                                                              "file_length", "root"))) + manifest + body


def tiles_of(rows, cols, tile_rows, tile_cols):
    for r in range(0, rows, tile_rows):
        for c in range(0, cols, tile_cols):
            yield r, c, min(rows, r + tile_rows), min(cols, c + tile_cols)


def cut(matrix, r0, c0, r1, c1):
    return [line[c0:c1] for line in matrix[r0:r1]]


def pack(dtype, matrix):
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[SIZE[dtype]]
    flat = [n for line in matrix for n in line]
    return struct.pack("<%d%s" % (len(flat), code), *flat)


def coded_file(coder, matrix, tile_rows, tile_cols, segments=1, **options):
    """A file with one tensor `w`, coded, from float bits (mode float) or z (mode lattice)."""
    file = File()
    n = file.tensor("w", coder.dtype, [coder.rows, coder.cols], 1, tile_rows, tile_cols)
    file.unit(n, 0, HEAD, coder.head)
    make = coder.float_tile if coder.kind == FLOAT else coder.lattice_tile
    for i, box in enumerate(tiles_of(coder.rows, coder.cols, tile_rows, tile_cols)):
        tile = make(cut(matrix, *box), row0=box[0], col0=box[1], segments=min(segments, box[2] - box[0]), **options)
        file.unit(n, i, coder.kind, tile)
    return file


def layered_file(coders, z, patterns, tile_rows, tile_cols, segments=1, change={}):
    """A file with one tensor `w` of layers, one after another. `coders`: of the lattice, of refinements, perhaps of an
    exact layer; `z`: for all but that its integers; `patterns`: its bits. `change` may spoil tiles, by layer."""
    base, file = coders[0], File()
    n = file.tensor("w", base.dtype, [base.rows, base.cols], 1, tile_rows, tile_cols)
    for k, coder in enumerate(coders):
        file.unit(n, 0, HEAD, coder.head, layer=k)
        for i, box in enumerate(tiles_of(base.rows, base.cols, tile_rows, tile_cols)):
            options = {"row0": box[0], "col0": box[1], "segments": min(segments, box[2] - box[0])}
            if k in change:
                options["change"] = change[k]
            if k == 0:
                tile = base.lattice_tile(cut(z[0], *box), **options)
            elif coder.kind == REFINEMENT:
                tile = coder.refinement_tile(cut(z[k - 1], *box), cut(z[k], *box), **options)
            else:
                p = weights(coders[:k], z[:k], is_read=False)
                tile = coder.exact_tile(*(cut(matrix, *box) for matrix in (z[k - 1], p, patterns)), **options)
            file.unit(n, i, coder.kind, tile, layer=k)
    return file


def weights(coders, z, is_read=True):
    """The bits of the weights at the level of the last of the integers, by row and column; or, if they are not read, of those
    that a layer above is predicted from."""
    finer = coders[len(z) - 1]
    return [[coders[0].weight(n, r, c, finer, is_read) for c, n in enumerate(line)] for r, line in enumerate(z[-1])]
