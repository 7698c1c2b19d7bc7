"""Clauses 5 to 10, 19, 20.3, and 21.7, of docs/SPEC.md: from the bytes of a unit to the elements of a tile."""

import io
import itertools
import math
import re
import struct
from fractions import Fraction

from naive_container import (ABOVE, BLOCKS, EXACT, FLOAT, FLOATS, LATTICE, OF_BLOCKS, PREDICTED, REFINEMENT, ZSTD, Bits,
                             Broken, Reader, ceil_div, check_dtype, fields, need, unzigzag)
from naive_formats import Groups, e4m3

LANES, SYMBOLS, TOTAL, ESCAPE = 32, 64, 2048, 63  # 7.2, 8.2
MAX_WINDOW_LOG = 31  # the most that Zstandard libraries take; 5.1 sets no bound


# --------------------------------------------------------------------------------------------------- 5 Coding modes

def read_tile(obj, unit, data, head, elements):
    """A tile of layer 0 in another mode than transform, digits, exact and same: its rows, each the bytes of its elements;
    and its integers by row and column, or None in another mode than lattice. `elements` are the rows of base elements, if the
    tensor has base 1."""
    _, _, height, width = obj.tile_box(unit.tile)
    if unit.mode == FLOAT:
        return float_rows(obj, unit, head, data), None
    if unit.mode == LATTICE:
        z = lattice_integers(obj, unit, head, data)
        if head.groups:
            return format_rows(obj, unit, head.groups, z), z
        return lattice_rows(obj, unit, head, head, z, elements, "10.3", head.multipliers), z
    if unit.mode == ZSTD:  # 5.1
        planes, n = unzstd(data, height * width * obj.size, unit), height * width
        data = bytearray(len(planes))
        for i in range(obj.size):
            data[i::obj.size] = planes[n * i:n * (i + 1)]
    return [data[i:i + width * obj.size] for i in range(0, len(data), width * obj.size)], None


def unzstd(frame, size, unit):
    """The content of a Zstandard frame, which fills the unit and is `size` bytes long."""
    declared = check_frame(Reader(frame, "5.1", f"the frame of {unit}"), unit)
    # Before the library takes memory for it (11.1).
    need(declared in (None, size), "5.1", f"the frame of {unit} declares {declared} bytes, its tile has {size}")
    try:
        try:
            from compression import zstd
            window = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
            content = zstd.ZstdDecompressor(options=window).decompress(frame, size + 1)
        except ImportError:
            import zstandard
            stream = zstandard.ZstdDecompressor(max_window_size=1 << MAX_WINDOW_LOG).stream_reader(io.BytesIO(frame))
            content = b""
            while len(content) <= size and (piece := stream.read(size + 1 - len(content))):
                content += piece
    except ImportError:
        raise
    except Exception as error:  # both libraries raise their own error for a bad frame
        raise Broken("5.1", f"{unit}: {error}") from None
    need(len(content) == size, "5.1", f"the content of {unit} has not the size of its tile")
    return content


def check_frame(frame, unit):
    """Header and block lengths of a frame (RFC 8878, 3.1.1): no dictionary, and it fills the unit. Returns the content
    size that it declares, if it does."""
    need(frame.number("I") == 0xFD2FB528, "5.1", f"{unit} is not a Zstandard frame")
    descriptor = frame.u8()
    single = descriptor >> 5 & 1
    frame.take(0 if single else 1)  # the window
    need(not any(frame.take((0, 1, 2, 4)[descriptor & 3])), "5.1", f"{unit} needs a dictionary")
    content = frame.take((single, 2, 4, 8)[descriptor >> 6])
    last = False
    while not last:
        block = int.from_bytes(frame.take(3), "little")
        last, rle = block & 1, (block >> 1 & 3) == 1
        frame.take(1 if rle else block >> 3)
    frame.take(4 if descriptor >> 2 & 1 else 0)
    need(frame.at_end(), "5.1", f"the frame does not fill {unit}")
    return int.from_bytes(content, "little") + (256 if len(content) == 2 else 0) if content else None


# ----------------------------------------------------------------------------------------------------------- 6 Head

class Same:
    """An index array with one entry everywhere (6.1, k = 255)."""

    def __init__(self, entry):
        self.entry = entry

    def __getitem__(self, _):
        return self.entry

    def values(self):
        return {self.entry}


class Each(list):
    """An index array with an entry of its own for each index."""

    def values(self):
        return set(self)


TABLES = {FLOAT: 4, LATTICE: 24, REFINEMENT: 24, EXACT: 32, OF_BLOCKS: 32}  # 6.2


class Head:
    def __init__(self, obj, unit, data, shapes):
        head = Reader(data, "11.1", f"the head {unit}")
        self.what = head.what
        self.kind, shape, self.plane, flags = head.u8(), head.u8(), head.u8(), head.u8()
        need(self.kind in TABLES, "6", f"{head.what} has kind {self.kind}")
        over_base = obj.usage == PREDICTED
        need((unit.layer > 0) == (self.kind in ABOVE) or over_base and self.kind == EXACT, "6",
             f"{head.what} has kind {self.kind} in layer {unit.layer}")
        need(not over_base or self.kind != OF_BLOCKS, "21.6", f"{head.what} has kind 7, and its tensor has a base")
        check_dtype(obj, self.kind)
        need(shape == 255 or (self.kind, shape) in shapes, "6", f"{head.what} has shape {shape}")
        planes = {FLOAT: [FLOATS.get(obj.dtype, (0, 0))[1] - 1], REFINEMENT: [0], OF_BLOCKS: [0]}.get(self.kind, range(21))
        need(self.plane in planes, "6", f"plane of {head.what} is {self.plane}")
        allowed = {LATTICE: 127, REFINEMENT: 100, EXACT: 0 if unit.layer else 8}.get(self.kind, 0)
        need(flags & ~allowed == 0, "6", f"{head.what} has flags {flags}")
        need(not (over_base and flags & 16), "21.6", f"{head.what} has a format, and its tensor has a base")
        self.offset, self.row_steps, self.column_steps, self.low_rank, self.multipliers = 0, Same(0), Same(0), [], Same(0)
        if self.kind == REFINEMENT:
            self.factor = head.u8()
            need(2 <= self.factor <= 64, "6", f"{head.what} has factor {self.factor}")
        if self.kind == OF_BLOCKS:
            code = head.u8()
            need(code in BLOCKS, "6", f"{head.what} has blocks of dtype {code}")
            self.blocks = BLOCKS[code]
            need(obj.cols % self.blocks[2] == 0, "16.1", f"{obj.name!r} is not whole blocks")
        if self.kind in (LATTICE, REFINEMENT):
            self.step = head.number("f")
            need(math.isfinite(self.step) and self.step > 0, "6", f"the step of {head.what} is {self.step}")
        if flags & 4:
            self.offset = head.u8()
            need(1 <= self.offset <= 127, "6", f"{head.what} has offset {self.offset}")
        self.states = head.u8() if flags & 64 else None
        need(self.states is None or 2 <= self.states <= 6, "6", f"{head.what} has states {self.states}")
        self.groups = Groups(head, obj.cols, self.step, flags) if flags & 16 else None
        self.row_classes, self.column_classes = index_array(head, obj.rows), index_array(head, obj.cols)
        if self.groups:
            self.groups.set_scales(index_array(head, obj.rows * self.groups.across))
        if flags & 1:
            self.row_steps = index_array(head, obj.rows)
        if flags & 2:
            self.column_steps = index_array(head, obj.cols)
        for i in self.row_steps.values() | self.column_steps.values():
            need(-1024 <= i <= 1023, "6", f"{head.what} has step {i}")
        if flags & 8:
            self.low_rank = low_rank_part(head, obj)
        if flags & 32:
            self.multipliers = index_array(head, obj.rows)
            need(all(-64 <= i <= 63 for i in self.multipliers.values()), "6", f"{head.what} has a multiplier out of range")
        tables = shapes[self.kind, shape] if shape != 255 else explicit_tables(head, self.kind)
        odd = None
        if self.states is not None:  # 10.5
            odd = [halfway(even) for even in tables] if shape != 255 else explicit_tables(head, self.kind)
        need(head.at_end(), "6", f"{head.what} has bytes left over")
        self.classes = self.classes_of([Table(frequencies) for frequencies in tables])
        self.odd_classes = odd and self.classes_of([Table(frequencies) for frequencies in odd])

    def classes_of(self, tables):
        """For every class: its table, `b`, and the offset that turns s * 2^b + low into the element's value."""
        if self.kind == FLOAT:  # 7.3, 9.2
            return [(tables[t % 4], 0, 4 * (t >> 2) - 48) for t in range(1024)]
        classes = []
        for t in range({LATTICE: 44, REFINEMENT: 24}.get(self.kind, 32)):  # 7.3, 10.1, 13.2, 14.2, 16.4
            b = {LATTICE: max(0, (t >> 2) - 5), REFINEMENT: 0}.get(self.kind, max(0, (t + 1 >> 2) - 3))
            table = tables[t - 4 * b if self.kind == LATTICE else t]
            classes.append((table, b, -31 * 2 ** b - (2 ** b >> 1)))
        return classes

    def class_sums(self, obj, unit):
        """row_class[r] + column_class[c] of the elements of a tile, by row and column."""
        row0, col0, height, width = obj.tile_box(unit.tile)
        columns = [self.column_classes[c] for c in range(col0, col0 + width)]
        return [[self.row_classes[r] + c for c in columns] for r in range(row0, row0 + height)]


def low_rank_part(head, obj):  # 19
    """The terms: each a scale, factors of rows, and of columns."""
    rank, terms = head.u8(), []
    need(rank > 0, "19.1", f"{head.what} has a low-rank part of rank 0")
    for _ in range(rank):
        terms.append((head.number("f"), index_array(head, obj.rows), index_array(head, obj.cols)))
    largest = []
    for size, rows, columns in terms:
        need(math.isfinite(size) and size > 0, "19.1", f"a term of {head.what} has scale {size}")
        factors = [max((abs(i) for i in array.values()), default=0) for array in (rows, columns)]
        need(max(factors) <= 2047, "19.1", f"a factor of {head.what} is {max(factors)}")
        largest.append(Fraction(size) * factors[0] * factors[1])
    need(sum(largest) < 2 ** 127, "19.2", f"the low-rank part of {head.what} may reach 2^127")
    return terms


def index_array(head, count):  # 6.1
    base, k = head.number("h"), head.u8()
    if k == 255:
        return Same(base)
    need(k <= 15, "6.1", f"k of an index array of {head.what} is {k}")
    out, source = Each(), Bits(head)
    for _ in range(count):
        u = 0
        while source.bit():
            u += 1
            need(u <= 31, "6.1", f"a Rice code of {head.what} has more than 31 ones")
        u = u << k | sum(source.bit() << i for i in range(k))
        entry = base + unzigzag(u)
        need(-1 << 15 <= entry < 1 << 15, "6.1", f"an index of {head.what} does not fit i16")
        out.append(entry)
    return out


def explicit_tables(head, kind):  # 6.2
    count = TABLES[kind]
    present = head.number("I")
    need(present < 1 << count, "6.2", f"{head.what} has a table of unknown number")
    tables = []
    for i in range(count):
        frequencies = [0] * ESCAPE + [TOTAL]
        if present >> i & 1:
            first, symbols = head.u8(), head.u8()
            need(first + symbols <= 63, "6.2", f"table {i} of {head.what} reaches past symbol 62")
            frequencies[first:first + symbols] = [head.varint() for _ in range(symbols)]
            frequencies[ESCAPE] = head.varint()
            need(sum(frequencies) == TOTAL, "6.2", f"table {i} of {head.what} does not sum to 2048")
        tables.append(frequencies)
    return tables


def halfway(even):  # 10.5
    start = [sum(even[:s]) for s in range(SYMBOLS + 1)]
    sums = [0] + [(start[s] + start[s + 1]) // 2 for s in range(1, ESCAPE)] + start[ESCAPE:]
    return [after - before for before, after in zip(sums, sums[1:])]


# --------------------------------------------------------------------------------------------- 7 Classes and tables

class Table:
    """By slot: the symbol, its frequency, and the slot's place among those of the symbol (7.2)."""

    def __init__(self, frequencies):
        self.symbol = [s for s, f in enumerate(frequencies) for _ in range(f)]
        self.frequency = [f for f in frequencies for _ in range(f)]
        self.place = [i for f in frequencies for i in range(f)]


def read_shapes(text):
    """Frequencies by (kind, shape), table and symbol, from SPEC-TABLES.md (7.4)."""
    shapes = {}
    for line in text.splitlines():
        if title := re.match(r"## Kind (\d), shape (\d)", line):
            tables = shapes[int(title[1]), int(title[2])] = []
        elif row := re.fullmatch(r"(\d+): (\d+): ([\d ]+) \| (\d+)", line):
            listed, first = [int(f) for f in row[3].split()], int(row[2])
            frequencies = [0] * first + listed + [0] * (ESCAPE - first - len(listed)) + [int(row[4])]
            assert int(row[1]) == len(tables) and len(frequencies) == SYMBOLS and sum(frequencies) == TOTAL, line
            tables.append(frequencies)
    assert sorted((key, len(tables)) for key, tables in shapes.items()) == \
        [((kind, shape), n) for kind, n in ((FLOAT, 4), (LATTICE, 24)) for shape in range(5)]
    return shapes


# --------------------------------------------- 8 Tiles in the modes float, lattice, refinement and exact

def clamp(n, low, high):
    return low if n < low else high if n > high else n


def read_coded(obj, unit, data, head, classes, coarse=None):
    """Values and plane fields of a tile, both as lists by row and column; so are `classes`, those of the elements, and `coarse`, the
    integers of the layer below, in mode refinement."""
    need(head.kind == unit.mode, "6", f"{unit} has mode {unit.mode}, but its head serves mode {head.kind}")
    _, _, height, width = obj.tile_box(unit.tile)
    tile = Reader(data, "11.1", f"{unit}")
    segments = tile.u8()
    need(1 <= segments <= min(16, height), "8", f"{unit} has {segments} segments for {height} rows")
    lengths = [(tile.number("I"), tile.number("I")) for _ in range(segments)]
    parts = [(tile.take(4 * LANES), tile.take(2 * words), tile.take(escapes)) for words, escapes in lengths]
    size = ceil_div(head.plane * width, 8)
    raw = [fields(tile.take(size), head.plane, width) for _ in range(height)]  # 8.6
    need(tile.at_end(), "8", f"{unit} has bytes left over")
    values = []
    for j, (states, words, escapes) in enumerate(parts):
        states, words = struct.unpack("<32I", states), struct.unpack("<%dH" % (len(words) // 2), words)
        escapes = Reader(escapes, "11.1", f"the escapes of segment {j} of {unit}")
        rows = slice(j * height // segments, (j + 1) * height // segments)  # 8.1
        values += read_segment(head, classes[rows], raw[rows], states, words, escapes, f"segment {j} of {unit}",
                               coarse and coarse[rows])
    return values, raw


def read_segment(head, rows, raw, states, words, escapes, what, coarse=None):
    """Values by row and column, from the classes of the elements and, with a trellis, the fields of the plane, and the integers of
    the layer below if there is one: 8.2 to 8.5."""
    need(min(states) >= 1 << 16, "8.4", f"a lane of {what} starts below 2^16")
    x, words, out, paths = list(states), iter(words), [], Paths(head, len(raw[0]) if raw else 0, coarse)
    try:
        for row, low_fields in zip(rows, raw):
            line = []
            for c, t in enumerate(row):
                table, b, offset = paths.classes(c)[t]
                state = x[c & 31]
                y = state >> b
                slot = y & 2047
                low = state - (y << b)
                s = table.symbol[slot]
                state = table.frequency[slot] * (y >> 11) + table.place[slot]
                if state < 65536:
                    state = state << 16 | next(words)
                x[c & 31] = state
                line.append((s << b) + low + offset if s != ESCAPE else escape(head.kind, escapes))
            paths.take(line, low_fields)
            out.append(line)
    except StopIteration:
        raise Broken("8.4", f"{what} has too few words") from None
    need(next(words, None) is None, "8.4", f"{what} has words left over")
    need(escapes.at_end(), "8.4", f"{what} has escapes left over")
    need(all(state == 1 << 16 for state in x), "8.4", f"a lane of {what} does not end at 2^16")
    return out


def escape(kind, escapes):  # 8.5
    value = escapes.varint()
    need(value < 1 << 32, "8.5", f"{escapes.what}: a value of 2^32 or more")
    return value if kind == FLOAT else unzigzag(value)


# ---------------------------------------------------------------------------------------------------- 9 Mode float

def float_rows(obj, unit, head, data):
    classes = [[clamp(n, 0, 1023) for n in line] for line in head.class_sums(obj, unit)]  # 7.1
    values, raw = read_coded(obj, unit, data, head, classes)
    E, M = FLOATS[obj.dtype]
    v_mask, low_mask = (1 << E + 2) - 1, (1 << M - 2) - 1
    rows = []
    for line, fields_of_row in zip(values, raw):  # 9.2
        patterns = [(field >> M - 2) << E + M | (v & v_mask) << M - 2 | field & low_mask
                    for v, field in zip(line, fields_of_row)]
        rows.append(pack_bits(patterns, obj.size))
    return rows


def pack_bits(patterns, size):
    """Elements of 1, 2 or 4 bytes as bytes."""
    return struct.pack("<%d%s" % (len(patterns), {1: "B", 2: "H", 4: "I"}[size]), *patterns)


# ------------------------------------------------------------------------------------------------- 10 Mode lattice

P = [struct.unpack(">f", bytes.fromhex(word))[0] for word in  # 10.2
     "3F800000 3F8164D2 3F82CD87 3F843A29 3F85AAC3 3F871F62 3F88980F 3F8A14D5 "
     "3F8B95C2 3F8D1ADF 3F8EA43A 3F9031DC 3F91C3D3 3F935A2B 3F94F4F0 3F96942D "
     "3F9837F0 3F99E046 3F9B8D3A 3F9D3EDA 3F9EF532 3FA0B051 3FA27043 3FA43516 "
     "3FA5FED7 3FA7CD94 3FA9A15B 3FAB7A3A 3FAD583F 3FAF3B79 3FB123F6 3FB311C4 "
     "3FB504F3 3FB6FD92 3FB8FBAF 3FBAFF5B 3FBD08A4 3FBF179A 3FC12C4D 3FC346CD "
     "3FC5672A 3FC78D75 3FC9B9BE 3FCBEC15 3FCE248C 3FD06334 3FD2A81E 3FD4F35B "
     "3FD744FD 3FD99D16 3FDBFBB8 3FDE60F5 3FE0CCDF 3FE33F89 3FE5B907 3FE8396A "
     "3FEAC0C7 3FED4F30 3FEFE4BA 3FF28177 3FF5257D 3FF7D0DF 3FFA83B3 3FFD3E0C".split()]


def power(i):  # 10.2, exact in binary32
    return math.ldexp(P[i % 64], i >> 6)


def scale(i):  # 10.2
    return power(4 * i)


def f32(x):
    return f32_list([x])[0]


def f32_list(xs):
    """Each of `xs` rounded to binary32. The product of two binary32 numbers is exact in Python's binary64, and so is an
    i32; hence one rounding to nearest even is what 10.3 asks for."""
    return list(struct.unpack("<%df" % len(xs), pack_floats(xs, "f")))


def pack_floats(xs, code):
    """Bytes of `xs` rounded to nearest even to binary32 ("f") or binary16 ("e"), to infinity beyond the largest."""
    try:
        return struct.pack("<%d%s" % (len(xs), code), *xs)
    except OverflowError:
        if len(xs) == 1:
            return struct.pack("<" + code, math.copysign(math.inf, xs[0]))
        return b"".join(pack_floats([x], code) for x in xs)


def signed(n, bits):
    """`n` modulo 2^bits, as a signed number of so many bits."""
    return (n + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def join_plane(head, values, raw):
    """z0 * 2^q + raw, modulo 2^32 and signed, by row and column: 10.1 and 14.2."""
    return [[signed((z0 << head.plane) + field, 32) for z0, field in zip(line, fields_of_row)]
            for line, fields_of_row in zip(values, raw)]


class Paths:
    """The states of the columns of a segment: 10.4 and 13.3. Without a trellis they stay 0. `coarse`: the integers of the layer
    below, if there is one."""

    def __init__(self, head, width, coarse=None):
        self.head, self.states = head, [0] * width
        self.factor, self.below = (head.factor, iter(coarse)) if coarse else (1, itertools.repeat([0] * width))
        self.next_row()

    def next_row(self):
        self.coarse = next(self.below, None)
        if self.coarse and self.head.states is not None:
            self.parities = [S + self.factor * Z & 1 for S, Z in zip(self.states, self.coarse)]

    def classes(self, column):  # 10.5
        return self.head.odd_classes if self.head.states is not None and self.parities[column] else self.head.classes

    def take(self, line, low_fields):
        if self.head.states is not None:
            self.integers([(z0 << self.head.plane) + field for z0, field in zip(line, low_fields)])

    def integers(self, indices):
        """The integers of the next row, of which these are the indices, or the halves of residuals."""
        feedback, driven = {2: (2, 1), 3: (5, 2), 4: (9, 2), 5: (18, 4), 6: (33, 10)}[self.head.states]
        d = [2 * k + p for k, p in zip(indices, self.parities)]
        z = [signed(self.factor * Z + (e if Z >= 0 else -e), 32) for Z, e in zip(self.coarse, d)]
        self.states = [S >> 1 ^ (S & 1) * feedback ^ (n >> 1 & 1) * driven for n, S in zip(z, self.states)]
        self.next_row()
        return z


def lattice_integers(obj, unit, head, data):
    classes = [[clamp(n, 0, 43) for n in line] for line in head.class_sums(obj, unit)]  # 7.1
    indices = join_plane(head, *read_coded(obj, unit, data, head, classes))
    if head.states is None:
        return indices
    return on_paths(head, data, indices)


def on_paths(head, data, indices, coarse=None):
    """The integers of a tile from its indices, or from halves of residuals and the integers of the layer below."""
    segments, rows = data[0], []
    for j in range(segments):
        of_segment = slice(j * len(indices) // segments, (j + 1) * len(indices) // segments)
        paths = Paths(head, len(indices[0]), coarse and coarse[of_segment])
        rows += map(paths.integers, indices[of_segment])
    return rows


def lattice_rows(obj, unit, base, head, z, elements, clause, multipliers):
    """Rows of weights, as bytes: 10.3. Steps of rows and columns are those of `base`, the head of layer 0; step and
    offset are those of `head`. `elements` are the rows of base elements, or None. `clause` asks that steps are finite."""
    # Of binary64, so exact: float(z) has 24 bits and is below 2^32, the offset is a multiple of 2^-8.
    y = [[x + (x > 0) * head.offset / 256 - (x < 0) * head.offset / 256 for x in f32_list(line)] for line in z]
    return weight_rows(obj, unit, base, head.step, head.step, y, clause, elements, multipliers)


def weight_rows(obj, unit, base, largest, step, numbers, clause, elements=None, multipliers=Same(0)):
    """Rows of weights, as bytes, from numbers of `step`: 10.3, 17.2, 19.2, 21.7. Steps of rows and columns are those of
    `base`. `clause` asks that `largest` times those of rows is finite. `elements` are the rows of base elements, or None."""
    row0, col0, _, width = obj.tile_box(unit.tile)
    most = 4 * max(base.row_steps.values(), default=0) + max(0, *multipliers.values())
    need(math.isfinite(f32(largest * power(most))), clause, f"the step of a row of {base.what} is not finite")
    column_scales = [scale(base.column_steps[c]) for c in range(col0, col0 + width)]
    rows = []
    for r, y in enumerate(numbers, row0):
        w = f32_list([a * b for a, b in zip(f32_list(y), column_scales)])
        row_scale = f32(step * power(4 * base.row_steps[r] + multipliers[r]))
        w = f32_list([a * row_scale for a in w])
        if base.low_rank or elements:
            w = f32_list([a + b for a, b in zip(w, low_rank_row(base, r, col0, width))])
        rows.append(over_elements(obj.dtype, w, elements[r - row0]) if elements else elements_of(obj.dtype, w))
    return rows


def low_rank_row(base, r, col0, width):
    """What a low-rank part adds to a row of a tile: 19.2; zeros, if there is none."""
    d = [0.0] * width
    for size, of_rows, of_columns in base.low_rank:
        of_row = f32(of_rows[r] * size)
        added = f32_list([of_row * of_columns[c] for c in range(col0, col0 + width)])
        d = f32_list([a + b for a, b in zip(d, added)])
    return d


def over_elements(dtype, w, elements):
    """A row of weights as bytes: the sums of `w` and of base elements, unless these are infinite or NaNs: 21.7."""
    size, v = len(elements) // len(w), values_of(dtype, elements)
    sums = elements_of(dtype, f32_list([a + b if math.isfinite(b) else 0.0 for a, b in zip(w, v)]))
    return b"".join((sums if math.isfinite(b) else elements)[i * size:(i + 1) * size] for i, b in enumerate(v))


def values_of(dtype, data):
    """The weights that elements of a dtype in FLOATS are, as numbers."""
    if dtype == "BF16":
        data = b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    if dtype == "F8_E4M3":
        return [math.nan if n & 127 == 127 else math.copysign(e4m3(n & 127), -1 if n & 128 else 1) for n in data]
    if dtype == "F8_E5M2":
        data = b"".join(bytes([0, n]) for n in data)  # the upper byte of a binary16
    code = "f" if dtype in ("F32", "BF16") else "e"
    return list(struct.unpack("<%d%s" % (len(data) // struct.calcsize(code), code), data))


def elements_of(dtype, w):
    """Numbers of binary32, rounded to a dtype, as bytes."""
    if dtype == "BF16":
        words = struct.unpack("<%dI" % len(w), pack_floats(w, "f"))
        return pack_bits([n + 0x7FFF + (n >> 16 & 1) >> 16 for n in words], 2)
    return pack_floats(w, "f" if dtype == "F32" else "e")


def format_rows(obj, unit, groups, z):
    """Rows of weights of a tensor with a format, as bytes: 20.3."""
    row0, col0, _, width = obj.tile_box(unit.tile)
    rows = []
    for r, line in enumerate(z, row0):
        w = f32_list([groups.value(n) * groups.scale_at(r, c) for c, n in enumerate(line, col0)])
        rows.append(elements_of(obj.dtype, f32_list([a * groups.step for a in w])))
    return rows
