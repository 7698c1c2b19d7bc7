"""Clause 17 of docs/SPEC.md: tiles in mode transform; those of planes are in `naive_planes`."""

import functools
import math
import struct

from naive_coding import clamp, f32, f32_list, scale, weight_rows
from naive_container import LATTICE, Reader, need
from naive_planes import PLANES, read_planes

DCT, DST, IDENTITY, HADAMARD, LEARNED = range(5)  # 17.5, 17.10
GATHERS = DCT, DST, LEARNED  # 17.6
DEPENDENT, RUNS, ROWS, COLUMNS, LEARNED_COLUMNS, LEARNED_ROWS = (1 << bit for bit in range(6))  # 17.1
CO_LOCATED = 1 << 7


def transform_rows(obj, units, contents, head, reference=None):
    """The rows of weights of a tile, as bytes, from its units in layers 0 and up: 17.1, 17.2. `reference` returns the rows
    of the reference's tile."""
    need(head is not None and head.kind == LATTICE, "6", f"{units[0]} has mode transform, but no head of kind 4")
    need(not head.groups, "20.4", f"{units[0]} has mode transform, but its tensor has a format")
    _, _, height, width = obj.tile_box(units[0].tile)

    def co_located(step):
        need(reference is not None, "17.18", f"{units[0]} needs a reference, but {obj.name!r} has none")
        return co_located_samples(obj, units[0], head, step, reference())
    index, samples = read_samples(units, contents, height, width, lambda index: co_located(f32(head.step * scale(index))))
    s = f32(head.step * scale(index))
    samples = [f32_list(row[:width]) for row in samples[:height]]
    return weight_rows(obj, units[0], head, s, f32(s / 256), samples, "17.2")


def co_located_samples(obj, unit, head, step, rows):
    """The rows of the reference's tile as samples of this one, whose step is given: 17.18."""
    row0, col0, _, width = obj.tile_box(unit.tile)
    columns = [scale(head.column_steps[c]) for c in range(col0, col0 + width)]
    out = []
    for r, row in enumerate(rows, row0):
        if obj.dtype == "BF16":
            row = b"".join(b"\0\0" + row[i:i + 2] for i in range(0, len(row), 2))
        values = struct.unpack("<%d%s" % (width, "e" if obj.dtype == "F16" else "f"), row)
        unit_of_row = f32(f32(step / 256) * scale(head.row_steps[r]))
        out.append([rounded(divided(divided(v, column), unit_of_row)) for v, column in zip(values, columns)])
    return out


def divided(a, b):
    """The quotient in binary32. One that is rounded to binary64 before has the same nearest number."""
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return f32(a / b)


def rounded(x):
    return 0 if math.isnan(x) else clamp(x if math.isinf(x) else round(x), -1 << 29, 1 << 29)


def read_samples(units, contents, height, width, co_located):
    """The step index and the samples of a tile. `co_located` returns those of the reference at a step index."""
    reader = Reader(contents[0], "11.1", f"{units[0]}")
    flags, index = reader.u8(), reader.number("b")
    if flags & PLANES:
        return read_planes(units, contents, height, width, Decisions)
    need(len(units) == 1, "17.17", f"{units[0]} has no planes, but there are layers above")
    need(not (flags & DEPENDENT and flags & RUNS), "17.8", f"{units[0]} has flags {flags}")
    others = co_located(index) if flags & CO_LOCATED else None
    tile = Tile(height, width, flags, Decisions(reader, units[0]), units[0], others)
    tile.read()
    return index, tile.weights()


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

    def below(self, l):
        """A number below `l`: 17.9."""
        k = log2(l)
        u = (2 << k) - l
        x = self.even(k)
        return x if x < u else 2 * x + self.even(1) - u

    def permutation(self, n):
        places = list(range(n))
        for i in range(n):
            j = i + self.below(n - i)
            places[i], places[j] = places[j], places[i]
        return places

    def learned(self):
        """The matrix of a learned transform: 17.10."""
        n = 4 << self.even(2)
        def entry():
            number = self.even(13)
            return 16 * (number - (1 << 13) if number >= 1 << 12 else number)
        return [[entry() for _ in range(n)] for _ in range(n)]

    def end(self):
        need(self.reader.at_end(), "17.3", f"{self.unit} has bytes left over")
        need(self.code == 0, "17.3", f"the code of {self.unit} ends at {self.code}")


# ----------------------------------------------------------------------------------------------------- 17.4 Partition

def log2(n):
    return n.bit_length() - 1


class Tile:
    def __init__(self, height, width, flags, decisions, unit, others=None):
        self.height, self.width = height, width
        self.sides = -(-height // 4) * 4, -(-width // 4) * 4
        self.samples = [[0] * self.sides[1] for _ in range(self.sides[0])]
        self.flags, self.decisions, self.unit = flags, decisions, unit
        self.means = {}  # by form: the number of patches, and the means by place
        self.rows = decisions.permutation(height) if flags & ROWS else range(height)
        self.columns = decisions.permutation(width) if flags & COLUMNS else range(width)
        self.learned = [decisions.learned() if flags & flag else () for flag in (LEARNED_COLUMNS, LEARNED_ROWS)]
        if flags & CO_LOCATED:  # as they are decoded: 17.18
            rows, columns = ([places[min(i, n - 1)] for i in range(side)] for places, n, side in
                             ((self.rows, height, self.sides[0]), (self.columns, width, self.sides[1])))
            self.others = [[others[r][c] for c in columns] for r in rows]

    def read(self):
        for y in range(0, self.sides[0], 64):
            for x in range(0, self.sides[1], 64):
                self.area(y, x, 64, 64)
        self.decisions.end()

    def weights(self):
        """The samples at their places in the tile: 17.9."""
        out = [[0] * self.width for _ in range(self.height)]
        for r, to in enumerate(self.rows):
            for c, across in enumerate(self.columns):
                out[to][across] = self.samples[r][c]
        return out

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
        need(prediction != 7 or self.flags & CO_LOCATED, "17.5", f"{self.unit} has prediction {prediction}")
        factors = [d.tree(6, name) - 32 for name in {6: "fg", 7: "e"}.get(prediction, "")]
        kinds = None
        for i in range(y, y + h, min(h, 32)):
            for j in range(x, x + w, min(w, 32)):
                size = min(h, 32), min(w, 32)
                residual = [[0] * size[1] for _ in range(size[0])]
                if d.bit("coded", log2(size[0]) + log2(size[1])):
                    if kinds is None:
                        columns = self.kind(0, size[0], "columns", prediction)
                        kinds = columns, self.kind(1, size[1], "rows", columns)
                    Q = (self.runs if self.flags & RUNS else self.levels)(*size, kinds)
                    matrices = [self.learned[side] if kinds[side] == LEARNED else matrix(kinds[side], size[side])
                                for side in (0, 1)]
                    residual = transformed(*matrices, Q)
                predicted = self.predicted(i, j, *size, prediction, factors)
                for r, lines in enumerate(zip(predicted, residual)):
                    line = [clamp(p + q, -1 << 29, 1 << 29) for p, q in zip(*lines)]
                    self.samples[i + r][j:j + size[1]] = line

    def kind(self, side, n, *under):
        if len(self.learned[side]) == n and self.decisions.bit("learned", side):
            return LEARNED
        return self.decisions.tree(2, *under)

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
              lambda r, c: T[c] + L[r] - C, lambda r, c: T[c] * factors[0] + L[r] * factors[1] + 8 >> 4,
              lambda r, c: self.others[y + r][x + c] * factors[0] + 8 >> 4)[prediction]
        return [[of(r, c) for c in range(w)] for r in range(h)]

    # -------------------------------------------------------------------------------------------------- 17.6 Levels

    def levels(self, h, w, kinds):
        """The coefficients of a coded patch, by row and column."""
        form = h, w, tuple(kind in GATHERS for kind in kinds)
        order = scan(form)
        means = self.means.get(form, (0, None))[1]
        level, Q, state = [[0] * w for _ in range(h)], [[0] * w for _ in range(h)], 0
        end = self.end_of_levels(h, w)
        for i in reversed(range(end)):
            r, c = order[i]
            context = context_of(near(level, r, c), means and means[r][c] >> 4)
            level[r][c] = self.level(context, state >= 2, i == end - 1)
            magnitude = abs(level[r][c])
            point = 256 * magnitude - 128 * (state >= 2 and magnitude > 0)
            Q[r][c] = -point if level[r][c] < 0 else point
            if self.flags & DEPENDENT:
                state = ((0, 2, 1, 3), (2, 0, 3, 1))[magnitude % 2][state]
        self.update(form, level)
        return Q

    def update(self, form, level):
        """Changes the means of a form."""
        zeros = [[0] * form[1] for _ in range(form[0])]
        count, means = self.means.get(form, (0, zeros))
        shift = min(4, log2(count + 1))
        self.means[form] = count + 1, [[M + (256 * abs(n) - M >> shift) for M, n in zip(*lines)]
                                       for lines in zip(means, level)]

    def level(self, context, odd, least):
        """A level whose magnitude is at least `least`."""
        magnitude = self.magnitude(*context, odd) + least
        need(magnitude < 1 << 22, "17.6", f"{self.unit} has a level of {magnitude}")
        return -magnitude if magnitude and self.decisions.even(1) else magnitude

    # ---------------------------------------------------------------------------------------------------- 17.8 Runs

    def runs(self, h, w, kinds):
        """The coefficients of a coded patch, by row and column."""
        d, form = self.decisions, (h, w, tuple(kind in GATHERS for kind in kinds))
        order, level, p, m, n = scan(form), [[0] * w for _ in range(h)], 0, 0, 0
        means = self.means.get(form, (0, None))[1]
        while True:
            q = h * w - p
            c = 10 + q if q <= 3 else p.bit_length()
            if p and (not q or d.bit("end of runs", log2(h * w), c, min(2, m))):
                break
            k = 0
            while k < log2(q) and d.bit("longer", c, min(2, m), k):
                k += 1
            r = ((2 + d.bit("run", k) << k - 1) + d.even(k - 1) if k else 1) - 1
            need(r < q, "17.8", f"{self.unit} has a run of {r} where {q} places are left")
            row, column = order[p + r]
            E = means and means[row][column] >> 4
            N = (32 * m + 16 * n) // 3 if n else 16 * m if m else 16 if means is None else E
            level[row][column] = self.level(context_of(N, E), False, 1)
            p, m, n = p + r + 1, abs(level[row][column]), m
        self.update(form, level)
        return [[256 * z for z in line] for line in level]

    def end_of_levels(self, h, w):
        d, A = self.decisions, log2(h) + log2(w)
        k = next((k for k in range(A, 0, -1) if d.bit("end", A, k)), 0)
        if k < 2:
            return 1 + k
        return 1 + (2 + d.bit("digit", A, k) << k - 2 | d.even(k - 2))

    def magnitude(self, context, b, odd):
        """A number under a context, with `b` low bits."""
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


def near(level, r, c):
    """What the neighbours of a level let expect of it."""
    total = weight = 0
    for i, j, factor in ((0, 1, 2), (1, 0, 2), (1, 1, 1), (0, 2, 1), (2, 0, 1)):
        if r + i < len(level) and c + j < len(level[0]):
            total += factor * abs(level[r + i][c + j])
            weight += factor
    return 16 * total // weight if weight else 0


def context_of(N, E):
    """The context of a level, and its number of low bits. `E` is the mean of earlier patches, if there are any."""
    x, g = (N, 1) if E is None else (N + E >> 1, 0 if 2 * N < E else 2 if N > 2 * E else 1)
    b = max(0, log2(max(x, 1)) - 5)
    y = x >> b
    size = (2 * log2(y) - 1 + (y >> log2(y) - 1) % 2 if y >= 2 else 0) + 2 * (b > 0)
    return (size, g), b


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


def transformed(columns, rows, Q):
    """By the matrices of columns and of rows."""
    h, w = len(Q), len(Q[0])
    used = [u for u in range(h) if any(Q[u])]
    P = [[sum(columns[u][r] * Q[u][v] for u in used) + 32768 >> 16 for v in range(w)] for r in range(h)]
    return [[sum(vector[c] * p for vector, p in zip(rows, line) if p) + 32768 >> 16 for c in range(w)] for line in P]
