"""Clause 20 of docs/SPEC.md: formats, without 20.3."""

import math
import struct

from naive_container import ceil_div, need


def e4m3(z):
    e, m = z >> 3, z & 7
    return math.ldexp(8 + m, e - 10) if e else math.ldexp(m, -9)


def e5m2(z):
    e, m = z >> 2, z & 3
    return math.ldexp(4 + m, e - 17) if e else math.ldexp(m, -16)


def power_of_two(i):
    return math.ldexp(1, i - 127)


def bfloat16(i):
    return struct.unpack("<f", struct.pack("<I", i << 16))[0]


def e2m1(z):
    return math.copysign(E2M1[abs(z)], z)


def folded(magnitude):
    """The value of an integer, from that of magnitude bits."""
    return lambda z: math.copysign(magnitude(z + 128 >> 1), -1 if z % 2 else 1)


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E8M0_SCALES, E4M3_SCALES, BF16_SCALES = (power_of_two, 254), (e4m3, 126), (bfloat16, 32639)  # 20.2
FORMATS = {  # 20.1: smallest and largest integer, value of an integer, group width, scales
    1: (-8, 7, float, None, BF16_SCALES), 2: (-128, 127, float, None, BF16_SCALES),
    3: (-7, 7, e2m1, 32, E8M0_SCALES), 4: (-7, 7, e2m1, 16, E4M3_SCALES),
    5: (-128, 125, folded(e4m3), None, BF16_SCALES), 6: (-128, 119, folded(e5m2), None, BF16_SCALES)}
WITH_STEP = 4


class Groups:
    """The format of a tensor and the scales of its groups, from its head, which is read up to these fields."""

    def __init__(self, head, cols, step, flags):
        self.what, self.step = head.what, step
        need(flags & 111 == 0, "20.1", f"{head.what} has a format and flags {flags}")
        code, self.width = head.u8(), head.varint()
        need(code in FORMATS, "20.1", f"{head.what} has format {code}")
        self.least, self.most, self.value_of, width, (self.scale, self.last) = FORMATS[code]
        need(width in (None, self.width), "20.1", f"{head.what} has groups of {self.width} columns")
        need(code == WITH_STEP or step == 1, "20.1", f"{head.what} has step {step}")
        self.across = ceil_div(cols, self.width) if self.width else 1

    def set_scales(self, indices):
        self.indices = indices
        need(all(0 <= i <= self.last for i in indices.values()), "20.2", f"a scale of {self.what} is no number from 0 up")

    def value(self, z):
        return self.value_of(max(self.least, min(z, self.most)))

    def signs(self, z):
        """By row and column, what clause 14 takes for the integers: 20.4."""
        values = [[self.value(n) for n in line] for line in z]
        return [[(value > 0) - (value < 0) for value in line] for line in values]

    def scale_at(self, row, column):
        return self.scale(self.indices[row * self.across + (column // self.width if self.width else 0)])
