"""Clause 17 of docs/SPEC.md: tiles in mode transform; those of planes are in `naive_planes`."""

import functools
import math

from naive_coding import clamp, f32, f32_list, scale, weight_rows
from naive_container import LATTICE, Reader, need
from naive_planes import PLANES, read_planes

DCT, DST, IDENTITY, HADAMARD = range(4)  # 17.5
GATHERS = DCT, DST  # 17.6


def transform_rows(obj, units, contents, head):
    """The rows of weights of a tile, as bytes, from its units in layers 0 and up: 17.1, 17.2."""
    need(head is not None and head.kind == LATTICE, "6", f"{units[0]} has mode transform, but no head of kind 4")
    _, _, height, width = obj.tile_box(units[0].tile)
    index, samples = read_samples(units, contents, height, width)
    s = f32(head.step * scale(index))
    samples = [f32_list(row[:width]) for row in samples[:height]]
    return weight_rows(obj, units[0], head, s, f32(s / 256), samples, "17.2")


def read_samples(units, contents, height, width):
    """The step index and the samples of a tile."""
    reader = Reader(contents[0], "11.1", f"{units[0]}")
    flags, index = reader.u8(), reader.number("b")
    if flags & PLANES:
        return read_planes(units, contents, height, width, Decisions)
    need(len(units) == 1, "17.26", f"{units[0]} has no planes, but there are layers above")
    need(flags < 2, "17.1", f"{units[0]} has flags {flags}")
    tile = Tile(height, width, flags & 1, Decisions(reader, units[0]), units[0])
    tile.read()
    return index, tile.samples


# ------------------------------------------------------------------------------------------------ 17.3 Arithmetic code

class Decisions:
    def __init__(self, reader, unit):
        self.reader, self.unit = reader, unit
        self.range, self.code = (1 << 32) - 1, int.from_bytes(reader.take(4), "big")
        self.probabilities = {}

    def decide(self, bound):
        one = self.code < bound
        if one:
            self.range = bound
        else:
            self.code -= bound
            self.range -= bound
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = self.code << 8 | self.reader.u8()
        return int(one)

    def bit(self, *under):
        a, b, n = self.probabilities.get(under, (32768, 32768, 0))
        one = self.decide(self.range * ((a + b) >> 1) >> 16)
        digits = (n + 1).bit_length()
        fast, slow = min(digits, 5), min(digits, 7)
        a, b = (a + (65536 - a >> fast), b + (65536 - b >> slow)) if one else (a - (a >> fast), b - (b >> slow))
        self.probabilities[under] = a, b, min(n + 1, 63)
        return one

    def even(self, bits):
        number = 0
        for _ in range(bits):
            number = number << 1 | self.decide(self.range >> 1)
        return number

    def tree(self, bits, *under):
        number, above = 0, ()
        for _ in range(bits):
            above += self.bit(*under, above),
        for bit in above:
            number = number << 1 | bit
        return number

    def end(self):
        need(self.reader.at_end(), "17.3", f"{self.unit} has bytes left over")
        need(self.code == 0, "17.3", f"the code of {self.unit} ends at {self.code}")


# ----------------------------------------------------------------------------------------------------- 17.4 Partition

def log2(n):
    return n.bit_length() - 1


class Tile:
    def __init__(self, height, width, dependent, decisions, unit):
        self.sides = -(-height // 4) * 4, -(-width // 4) * 4
        self.samples = [[0] * self.sides[1] for _ in range(self.sides[0])]
        self.dependent, self.decisions, self.unit = dependent, decisions, unit
        self.means = {}  # by form: the number of patches, and the means by place

    def read(self):
        for y in range(0, self.sides[0], 64):
            for x in range(0, self.sides[1], 64):
                self.area(y, x, 64, 64)
        self.decisions.end()

    def area(self, y, x, h, w):
        if y >= self.sides[0] or x >= self.sides[1]:
            return
        rows, columns = y + h > self.sides[0], x + w > self.sides[1]
        if not rows and not columns and (h, w) != (4, 4) and self.decisions.bit("split", h, w):
            if h == 4 or w == 4:
                rows, columns = w == 4, h == 4
            elif self.decisions.bit("quarters", h, w):
                rows = columns = True
            else:
                rows = bool(self.decisions.bit("rows", h, w))
                columns = not rows
        if not rows and not columns:
            self.block(y, x, h, w)
            return
        part_h, part_w = h >> rows, w >> columns
        for i in range(0, h, part_h):
            for j in range(0, w, part_w):
                self.area(y + i, x + j, part_h, part_w)

    # --------------------------------------------------------------------------------------------------- 17.5 Block

    def block(self, y, x, h, w):
        d = self.decisions
        prediction = d.tree(3, "prediction", min(2, (log2(h) + log2(w) >> 1) - 2))
        need(prediction <= 6, "17.5", f"{self.unit} has prediction {prediction}")
        factors = (d.tree(6, "f") - 32, d.tree(6, "g") - 32) if prediction == 6 else None
        kinds = None
        for i in range(y, y + h, min(h, 32)):
            for j in range(x, x + w, min(w, 32)):
                size = min(h, 32), min(w, 32)
                residual = [[0] * size[1] for _ in range(size[0])]
                if d.bit("coded", log2(size[0]) + log2(size[1])):
                    if kinds is None:
                        columns = d.tree(2, "columns", prediction)
                        kinds = columns, d.tree(2, "rows", columns)
                    residual = transformed(kinds, self.levels(*size, kinds))
                predicted = self.predicted(i, j, *size, prediction, factors)
                for r, lines in enumerate(zip(predicted, residual)):
                    line = [clamp(p + q, -1 << 29, 1 << 29) for p, q in zip(*lines)]
                    self.samples[i + r][j:j + size[1]] = line

    def predicted(self, y, x, h, w, prediction, factors):
        T = self.samples[y - 1][x:x + w] if y else None
        L = [self.samples[y + r][x - 1] for r in range(h)] if x else None
        if T is None:
            T = [L[0] if L else 0] * w
        if L is None:
            L = [T[0]] * h
        C = self.samples[y - 1][x - 1] if y and x else T[0]
        dc = (sum(T) + sum(L) + (h + w) // 2) // (h + w)
        shift = log2(h) + log2(w) + 1

        def planar(r, c):
            down = (h - 1 - r) * T[c] + (r + 1) * L[h - 1]
            right = (w - 1 - c) * L[r] + (c + 1) * T[w - 1]
            return down * w + right * h + h * w >> shift
        of = (lambda r, c: 0, lambda r, c: dc, lambda r, c: T[c], lambda r, c: L[r], planar,
              lambda r, c: T[c] + L[r] - C, lambda r, c: T[c] * factors[0] + L[r] * factors[1] + 8 >> 4)[prediction]
        return [[of(r, c) for c in range(w)] for r in range(h)]

    # -------------------------------------------------------------------------------------------------- 17.6 Levels

    def levels(self, h, w, kinds):
        """The coefficients of a coded patch, by row and column."""
        d, gathers = self.decisions, tuple(kind in GATHERS for kind in kinds)
        form = h, w, gathers
        order = scan(form)
        count, means = self.means.get(form, (0, None))
        level, Q, state = [[0] * w for _ in range(h)], [[0] * w for _ in range(h)], 0
        end = self.end_of_levels(h, w)
        for i in reversed(range(end)):
            r, c = order[i]
            x, g = expected(level, r, c, means)
            b = max(0, log2(max(x, 1)) - 5)
            y = x >> b
            size = (2 * log2(y) - 1 + (y >> log2(y) - 1) % 2 if y >= 2 else 0) + 2 * (b > 0)
            last = i == end - 1
            magnitude = self.magnitude((size, g), b, state >= 2) + last
            need(magnitude < 1 << 22, "17.6", f"{self.unit} has a level of {magnitude}")
            negative = d.even(1) if magnitude else 0
            level[r][c] = -magnitude if negative else magnitude
            point = 256 * magnitude - 128 * (state >= 2 and magnitude > 0)
            Q[r][c] = -point if negative else point
            if self.dependent:
                state = ((0, 2, 1, 3), (2, 0, 3, 1))[magnitude % 2][state]
        shift = min(4, log2(count + 1))
        means = means or [[0] * w for _ in range(h)]
        self.means[form] = count + 1, [[M + (256 * abs(n) - M >> shift) for M, n in zip(*lines)]
                                       for lines in zip(means, level)]
        return Q

    def end_of_levels(self, h, w):
        d, A = self.decisions, log2(h) + log2(w)
        k = next((k for k in range(A, 0, -1) if d.bit("end", A, k)), 0)
        if k < 2:
            return 1 + k
        return 1 + (2 + d.bit("digit", A, k) << k - 2 | d.even(k - 2))

    def magnitude(self, context, b, odd):
        d = self.decisions
        t = 0
        while t < 14 and (d.bit("larger", context, t, odd) if t == 0 else d.bit("larger", context, min(t, 10))):
            t += 1
        if t == 14:
            k = 0
            while k < 22 and d.bit("escape", k):
                k += 1
            t += (1 << k | d.even(k)) - 1
        return t << b | d.even(b)


@functools.cache
def scan(form):
    h, w, gathers = form
    key = {(True, True): lambda p: (p[0] * w + p[1] * h, p[0]), (False, True): lambda p: (p[1], p[0])}
    return sorted(((r, c) for r in range(h) for c in range(w)), key=key.get(gathers))


def expected(level, r, c, means):
    """What is expected of a level, and how well its neighbours agree with earlier patches."""
    total = weight = 0
    for i, j, factor in ((0, 1, 2), (1, 0, 2), (1, 1, 1), (0, 2, 1), (2, 0, 1)):
        if r + i < len(level) and c + j < len(level[0]):
            total += factor * abs(level[r + i][c + j])
            weight += factor
    N = 16 * total // weight if weight else 0
    if means is None:
        return N, 1
    E = means[r][c] >> 4
    return N + E >> 1, 0 if 2 * N < E else 2 if N > 2 * E else 1


# ------------------------------------------------------------------------------------------------- 17.7 Residual

@functools.cache
def matrix(kind, n):
    """By basis vector and place."""
    def entry(k, i):
        if kind == DCT:
            return math.sqrt((2 if k else 1) / n) * math.cos(math.pi * (2 * i + 1) * k / (2 * n))
        if kind == DST:
            return math.sqrt(4 / (2 * n + 1)) * math.sin(math.pi * (2 * k + 1) * (i + 1) / (2 * n + 1))
        if kind == IDENTITY:
            return float(k == i)
        return math.sqrt(1 / n) * (-1) ** (k & i).bit_count()
    return [[round(65536 * entry(k, i)) for i in range(n)] for k in range(n)]


def transformed(kinds, Q):
    h, w = len(Q), len(Q[0])
    columns, rows = matrix(kinds[0], h), matrix(kinds[1], w)
    used = [u for u in range(h) if any(Q[u])]
    P = [[sum(columns[u][r] * Q[u][v] for u in used) + 32768 >> 16 for v in range(w)] for r in range(h)]
    return [[sum(vector[c] * p for vector, p in zip(rows, line) if p) + 32768 >> 16 for c in range(w)] for line in P]
