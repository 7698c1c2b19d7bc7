"""A plot as SVG: points, connecting lines, labels. No library; the same data give the same bytes."""

import math
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 880, 560
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 52, 58
FONT = "font-family='Helvetica, Arial, sans-serif'"
# Okabe and Ito's colours, which most people tell apart.
COLOURS = {"blue": "#0072b2", "red": "#d55e00", "orange": "#e69f00", "green": "#009e73", "pink": "#cc79a7"}


@dataclass
class Series:
    """Points (x, y, name) of one kind."""

    title: str
    colour: str
    mark: str
    points: list
    line: bool = False
    names: bool = True
    width: float = 1.6


@dataclass
class Axes:
    """What is plotted over what."""

    title: str
    x: str
    y: str
    log: bool = False
    taken: list = field(default_factory=list)

    def fit(self, series):
        """Sets the ranges so that all points lie inside, with some room."""
        xs = [x for s in series for x, _, _ in s.points]
        ys = [self.height(y) for s in series for _, y, _ in s.points]
        pad = 0.06 * (max(xs) - min(xs)), 0.06 * (max(ys) - min(ys))
        self.x0, self.x1 = min(xs) - pad[0], max(xs) + pad[0]
        self.y0, self.y1 = min(ys) - pad[1], max(ys) + pad[1]

    def height(self, y):
        return math.log10(y) if self.log else y

    def place(self, x, y):
        across = (x - self.x0) / (self.x1 - self.x0)
        up = (self.height(y) - self.y0) / (self.y1 - self.y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def ticks_y(self):
        if not self.log:
            return ticks(self.y0, self.y1)
        powers = range(math.floor(self.y0), math.ceil(self.y1) + 1)
        values = [m * 10.0**p for p in powers for m in (1, 2, 5)]
        return [v for v in values if self.y0 <= math.log10(v) <= self.y1]


def ticks(low, high):
    """Round numbers, about ten of them."""
    rough = (high - low) / 10
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def text(x, y, words, size=13, anchor="start", colour="#222", more=""):
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{colour}' {FONT} {more}>"
        f"{escape(words)}</text>"
    )


def mark(kind, x, y, colour):
    """A mark of about 9 pixels."""
    style = f"fill='{colour}' stroke='white' stroke-width='1'"
    polygons = {
        "square": [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
        "triangle": [(0, -6), (5.5, 4.5), (-5.5, 4.5)],
        "down": [(0, 6), (5.5, -4.5), (-5.5, -4.5)],
    }
    if kind == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.8' {style}/>"
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in polygons[kind])
    return f"<polygon points='{corners}' {style}/>"


def frame(axes):
    out = [
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        text(LEFT, 28, axes.title, 17, more="font-weight='bold'"),
    ]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in axes.ticks_y():
        _, y = axes.place(axes.x0, value)
        out.append(f"<line x1='{LEFT}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e4e4e4'/>")
        out.append(text(LEFT - 8, y + 4, f"{value:g}", 12, "end"))
    for value in ticks(axes.x0, axes.x1):
        x, _ = axes.place(value, 10**axes.y0 if axes.log else axes.y0)
        out.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{bottom}' stroke='#e4e4e4'/>")
        out.append(text(x, bottom + 19, f"{value:g}", 12, "middle"))
    out.append(f"<rect x='{LEFT}' y='{TOP}' width='{right - LEFT}' height='{bottom - TOP}' fill='none' stroke='#666'/>")
    out.append(text((LEFT + right) / 2, HEIGHT - 16, axes.x, 14, "middle"))
    middle = (TOP + bottom) / 2
    out.append(text(20, middle, axes.y, 14, "middle", more=f"transform='rotate(-90 20 {middle:.1f})'"))
    return out


def key(axes, series):
    """The names of the series, at the upper right, where curves that fall leave room."""
    width = 40 + 7.1 * max(len(s.title) for s in series)
    x, y = WIDTH - RIGHT - width - 10, TOP + 10
    height = 21 * len(series) + 8
    out = [f"<rect x='{x:.1f}' y='{y}' width='{width:.1f}' height='{height}' fill='white' stroke='#bbb'/>"]
    for i, s in enumerate(series):
        row = y + 19 + 21 * i
        if s.line:
            out.append(
                f"<line x1='{x + 6:.1f}' x2='{x + 26:.1f}' y1='{row - 4}' y2='{row - 4}' "
                f"stroke='{COLOURS[s.colour]}' stroke-width='{s.width}'/>"
            )
        out += [mark(s.mark, x + 16, row - 4, COLOURS[s.colour]), text(x + 32, row, s.title, 13)]
    axes.taken.append((x, y, x + width, y + height))
    return out


def overlap(box, others):
    return sum(
        max(0, min(box[2], o[2]) - max(box[0], o[0])) * max(0, min(box[3], o[3]) - max(box[1], o[1])) for o in others
    )


def name_beside(axes, x, y, words, colour):
    """A name at the side of its point where it covers least of what is there already."""
    width, choices = 6.3 * len(words), []
    for dx, dy, anchor in [
        (9, 4, "start"),
        (-9, 4, "end"),
        (0, -10, "middle"),
        (0, 19, "middle"),
        (7, -7, "start"),
        (7, 15, "start"),
        (-7, -7, "end"),
        (-7, 15, "end"),
        (14, -18, "start"),
        (14, 26, "start"),
        (-14, -18, "end"),
        (-14, 26, "end"),
    ]:
        left = x + dx - {"start": 0, "end": width, "middle": width / 2}[anchor]
        box = (left, y + dy - 10, left + width, y + dy + 3)
        outside = box[0] < LEFT or box[2] > WIDTH - RIGHT or box[1] < TOP or box[3] > HEIGHT - BOTTOM
        choices.append((overlap(box, axes.taken) + 1e6 * outside, len(choices), dx, dy, anchor, box))
    _, _, dx, dy, anchor, box = min(choices)
    axes.taken.append(box)
    return text(x + dx, y + dy, words, 11.5, anchor, colour)


def svg(axes, series):
    """The whole picture. Series that come later lie on top."""
    series = [s for s in series if s.points]
    axes.fit(series)
    out = frame(axes)
    placed = [(s, [(*axes.place(x, y), name) for x, y, name in sorted(s.points)]) for s in series]
    for s, points in placed:
        axes.taken += [(x - 5, y - 5, x + 5, y + 5) for x, y, _ in points]
        for (x0, y0, _), (x1, y1, _) in pairwise(points) if s.line else []:
            steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6))
            at = [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
            axes.taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in at]
    out += key(axes, series[::-1])
    marks, names = [], []
    for s, points in placed:
        colour = COLOURS[s.colour]
        if s.line:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
            out.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='{s.width}'/>")
        marks += [mark(s.mark, x, y, colour) for x, y, _ in points]
        names += [name_beside(axes, x, y, name, colour) for x, y, name in points if s.names]
    body = "\n".join(out + marks + names)
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'>\n{body}\n</svg>\n"
