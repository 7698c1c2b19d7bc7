"""Clauses 17.11 to 17.17 of docs/SPEC.md: wavelet coefficients of a tile, plane by plane."""

import struct

from naive_coding import P, clamp
from naive_container import Reader, ceil_div, need

PLANES = 64  # the flag of 17.1


class Form:
    """The fields of a unit in layer 0 before its planes: 17.11, 17.12."""

    def __init__(self, reader, height, width, unit):
        self.sides = height, width
        flags, self.index, form, levels, self.point = reader.u8(), reader.number("b"), *reader.take(3)
        need(flags == PLANES, "17.11", f"{unit} has flags {flags}")
        need(form < 4, "17.12", f"{unit} has form {form}")
        self.reversible, self.levels = not form & 1, (levels & 15, levels >> 4)
        for side, halvings in zip(self.sides, self.levels):
            need(halvings == 0 or halved(side, halvings - 1) > 1, "17.12", f"{unit} has {halvings} halvings of {side}")
        self.bands = bands(*self.sides, *self.levels)
        if form & 2:
            self.steps = list(reader.take(len(self.bands)))
        else:
            step = reader.u8()
            self.steps = [max(0, step - 8 * sum(band.halvings)) for band in self.bands]
        self.planes = reader.u8()
        largest = max(self.steps) if form & 2 else step
        need(self.planes + (largest >> 4) <= 30, "17.12", f"{unit} has {self.planes} planes, steps up to {largest}")


def read_planes(units, contents, height, width, decisions):
    """The step index and the samples of a tile, from its units in layers 0 and up. `decisions` is a class for 17.3."""
    reader = Reader(contents[0], "11.1", f"{units[0]}")
    form = Form(reader, height, width, units[0])
    left, probabilities = form.planes, {}
    for layer, (unit, content) in enumerate(zip(units, contents)):
        if layer:
            reader = Reader(content, "11.1", f"{unit}")  # 17.17
            flags, below = reader.u8(), reader.u8()
            need(flags == PLANES, "17.17", f"{unit} has flags {flags}")
            need(below == form.planes - left, "17.17", f"{unit} follows {below} planes")
        sizes = [reader.varint() for _ in range(reader.u8())]
        codes = [reader.take(size) for size in sizes]
        need(reader.at_end(), "17.11", f"{unit} has bytes left over")
        need(len(codes) <= left, "17.11", f"{unit} has {len(codes)} planes, of {left}")
        for code in codes:
            left -= 1
            need(len(code) > 0, "11.1", f"{unit} has an empty plane")
            bits = Reader(code + bytes(3), "11.1", f"{unit}")
            d = decisions(bits, unit)
            d.probabilities = probabilities
            for band in form.bands:
                band.plane(d, left)
            need(bits.at_end(), "17.15", f"a plane of {unit} has bytes left over")
    return form.index, samples(form, left)


def halved(n, times):
    return ceil_div(n, 1 << times)


# ------------------------------------------------------------------------------------------------- 17.13, 17.14 Bands

class Band:
    def __init__(self, rows, columns, high, halvings, parent):
        self.rows, self.columns, self.high, self.halvings, self.parent = rows, columns, high, halvings, parent
        self.is_parent = False
        h, w = len(rows), len(columns)
        self.m = [[0] * w for _ in range(h)]
        self.negative, self.further = [[False] * w for _ in range(h)], [[False] * w for _ in range(h)]
        self.found = [[None] * w for _ in range(h)]  # the plane in which the tree was found
        if parent:
            parent.is_parent = True
            self.shift = [a - b for a, b in zip(parent.halvings, halvings)]

    def parent_of(self, r, c):
        return min(r >> self.shift[0], len(self.parent.rows) - 1), min(c >> self.shift[1], len(self.parent.columns) - 1)

    def inside(self, r, c):
        return 0 <= r < len(self.rows) and 0 <= c < len(self.columns)

    def at(self, values, r, c):
        return values[r][c] if self.inside(r, c) else 0

    def sign(self, r, c):
        return (-1 if self.negative[r][c] else 1) if self.at(self.m, r, c) else 0

    # ------------------------------------------------------------------------------------------------- 17.15 Planes

    def plane(self, d, p):
        for r in range(len(self.rows)):
            for c in range(len(self.columns)):
                kind = 0
                if self.parent:
                    i, j = self.parent_of(r, c)
                    found = self.parent.found[i][j]
                    if found is None:
                        continue
                    kind = 1 if found == p else 3 if self.parent.m[i][j] >= 4 << p else 2
                self.coefficient(d, p, r, c, kind)

    def coefficient(self, d, p, r, c, kind):
        def total(values, *places):
            return sum(int(self.at(values, r + i, c + j)) for i, j in places)
        across, down = ((0, -1), (0, 1)), ((-1, 0), (1, 0))
        a, b = {(False, True): (1, 3), (True, False): (3, 1)}.get(self.high, (2, 2))
        S = a * total(self.m, *across) + b * total(self.m, *down) + total(self.m, (-1, -1), (-1, 1), (1, -1), (1, 1))
        S >>= p
        log = S.bit_length() - 1
        N = S if S < 4 else min(11, 2 * log + (S >> log - 1) % 2)
        if not self.m[r][c]:
            if d.bit("significant", N, kind):
                x, y = (clamp(sum(self.sign(r + i, c + j) for i, j in of), -1, 1) for of in (across, down))
                z = 3 * x + y
                self.negative[r][c] = bool(d.bit("negative", abs(z), self.high)) != (z < 0)
                self.m[r][c] = (1 << p) + (1 << p >> 1)
        else:
            bit = d.bit("further", N // 2, not self.further[r][c])
            self.further[r][c] = True
            self.m[r][c] = (self.m[r][c] >> p + 1 << p + 1) + (bit << p) + (1 << p >> 1)
        if self.is_parent and self.found[r][c] is None:
            m = self.m[r][c] >> p
            root = 0 if m == 0 else 1 if m < 4 else 2
            trees = sum(self.inside(r + i, c + j) and self.found[r + i][c + j] is not None for i, j in across + down)
            if d.bit("tree", root, min(3, trees), 0 if N < 2 else 1 if N < 7 else 2):
                self.found[r][c] = p


def bands(height, width, V, H):
    def part(n, times, levels, high):
        low = halved(n, min(times, levels))
        return range(low, halved(n, min(times - 1, levels))) if high else range(low)
    top = max(V, H)
    out = [Band(range(halved(height, V)), range(halved(width, H)), (False, False), (V, H), None)]
    above = {}
    for d in range(top, 0, -1):
        for high in (False, True), (True, False), (True, True):
            if high[0] and d > V or high[1] and d > H:
                continue
            above[high] = Band(part(height, d, V, high[0]), part(width, d, H, high[1]), high, (min(d, V), min(d, H)),
                               above.get(high))
            out.append(above[high])
    return out


# ------------------------------------------------------------------------------------------------------ 17.16 Samples

M = [struct.unpack("<I", struct.pack("<f", x))[0] % (1 << 23) + (1 << 23) for x in P[::4]]
HALF = 1 << 15
STEPS = {True: [(0, lambda x, u: x - (u + 2 >> 2)), (1, lambda x, u: x + (u >> 1))],
         False: [(0, lambda x, u: 80621 * x + HALF >> 16), (1, lambda x, u: 106548 * x + HALF >> 16)] +
                [(first, lambda x, u, factor=factor: x - (factor * u + HALF >> 16))
                 for first, factor in ((0, 29066), (1, 57862), (0, -3472), (1, -103949))]}


def samples(form, p):
    height, width = form.sides
    plane = [[0] * width for _ in range(height)]
    for band, i in zip(form.bands, form.steps):
        for r, row in enumerate(band.rows):
            for c, column in enumerate(band.columns):
                q = band.m[r][c] >> p
                if q:
                    size = ((256 * q + form.point << p + (i >> 4)) * M[i % 16] - (form.point << 23)) >> 31
                    plane[row][column] = -size if band.negative[r][c] else size
    V, H = form.levels
    for d in range(max(V, H), 0, -1):
        h, w = halved(height, min(d - 1, V)), halved(width, min(d - 1, H))
        if d <= V:
            for c in range(w):
                for r, x in enumerate(synthesized([plane[r][c] for r in range(h)], form.reversible)):
                    plane[r][c] = x
        if d <= H:
            for r in range(h):
                plane[r][:w] = synthesized(plane[r][:w], form.reversible)
    return [[clamp(x, -1 << 29, 1 << 29) for x in row] for row in plane]


def synthesized(line, reversible):
    n = len(line)
    x = [line[i // 2 if i % 2 == 0 else (n + 1) // 2 + i // 2] for i in range(n)]
    for first, step in STEPS[reversible]:
        for i in range(first, n, 2):
            u = x[i - 1 if i else 1] + x[i + 1 if i + 1 < n else n - 2]
            x[i] = step(x[i], u)
    return [clamp(v, -1 << 30, 1 << 30) for v in x]
