"""Layered files: the quality of their prefixes, with units in Impasto's order and in others, against files without
layers."""

import json
import random
import re
import struct
from math import prod

from blake3 import blake3
from context import say

import ours
from plot import Axes, Series, svg

ALIGNMENT = 16
ENTRY = struct.Struct("<IIBBHI16s")
OBJECT, UNITS, HEAD, OPAQUE = 0x81, 0x82, 2, 127
LAYERS = "2.5,3.5,5"
PREFIXES = 20
ORDERS = ("worth", "blocks", "random 1", "random 2", "random 3")


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def encoded(value):
    """A varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def described(payload, before):
    """The name of an object, that of the object before it given, and how many tiles of it lie side by side (SPEC 3.4, 4.2);
    1 where it is no tensor of floats."""
    prefix, at = varint(payload, 1)
    suffix, at = varint(payload, at)
    name = before[:prefix] + payload[at : at + suffix]
    at += suffix
    if payload[0] != 1 or payload[at] == OPAQUE:
        return name, 1
    ndim, at = varint(payload, at + 1)
    fields = []
    for _ in range(ndim + 3):
        value, at = varint(payload, at)
        fields.append(value)
    dims, (split, _, tile_cols) = fields[:ndim], fields[ndim:]
    return name, max(1, -(-prod(dims[split:]) // tile_cols))


class Layered:
    """The units of a file (SPEC 2 and 3), to be written again in another order."""

    def __init__(self, path):
        self.data = path.read_bytes()
        length = struct.unpack_from("<Q", self.data, 16)[0]
        manifest, at = self.data[64 : 64 + length], 0
        # Object records as they are; the layers record holds for one order only.
        self.objects, entries, self.across, self.names, name = b"", b"", [], [], b""
        while at < length:
            kind, (size, payload) = manifest[at], varint(manifest, at + 1)
            if kind == OBJECT:
                self.objects += manifest[at : payload + size]
                name, across = described(manifest[payload : payload + size], name)
                self.across.append(across)
                self.names.append(name.decode())
            elif kind == UNITS:
                _, first = varint(manifest, payload)
                entries = manifest[first : payload + size]
            at = payload + size
        self.units, end = [], 64 + length
        for entry in ENTRY.iter_unpack(entries):
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + entry[5]
            self.units.append((entry, self.data[start:end]))
        self.base = sum(1 for entry, _ in self.units if entry[3] == 0)

    def write(self, path, order):
        """A file of these units in this order."""
        entries = encoded(len(order)) + b"".join(ENTRY.pack(*self.units[i][0]) for i in order)
        manifest = self.objects + bytes([UNITS]) + encoded(len(entries)) + entries
        body, first = bytearray(), 64 + len(manifest)
        for i in order:
            body += bytes(-(first + len(body)) % ALIGNMENT) + self.units[i][1]
        header = bytearray(self.data[:64])
        struct.pack_into("<QQ", header, 16, len(manifest), first + len(body))
        header[32:64] = blake3(manifest).digest()
        path.write_bytes(bytes(header) + manifest + body)

    def bands(self):
        """The steps of each band above the base, in their order: lists of unit numbers; and the heads of layers."""
        steps, heads = {}, {}
        for i, (entry, _) in enumerate(self.units[self.base :], self.base):
            number, tile, mode, layer = entry[:4]
            if mode == HEAD:
                heads[number, layer] = i
            else:
                steps.setdefault((number, tile // self.across[number]), {}).setdefault(layer, []).append(i)
        return steps, heads

    def place(self, band):
        """Where a band stands in the model: numbers in names count as such."""
        return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", self.names[band[0]])], band[1]

    def reordered(self, kind):
        """All units: the base as it is, then the steps of bands in the order of that name."""
        steps, heads = self.bands()
        if kind == "worth":
            return list(range(len(self.units)))
        if kind == "blocks":
            chosen = [(band, layer) for band in sorted(steps, key=self.place) for layer in sorted(steps[band])]
        else:
            # Each band's own steps stay in their order.
            bands = [band for band in sorted(steps) for _ in steps[band]]
            random.Random(kind).shuffle(bands)
            left = {band: sorted(steps[band]) for band in steps}
            chosen = [(band, left[band].pop(0)) for band in bands]
        order, done = list(range(self.base)), set()
        for band, layer in chosen:
            for below in range(1, layer + 1):
                if (band[0], below) not in done:
                    done.add((band[0], below))
                    order.append(heads[band[0], below])
            order += steps[band][layer]
        assert sorted(order) == list(range(len(self.units)))
        return order


def measure(bench, model):
    encoder = bench.encoder()
    keys = {(o, n): f"{model.name}/{o}/{n}" for o in ORDERS for n in range(PREFIXES)}
    fields = {"encoder": encoder, "windows": bench.options.prefix_windows}
    if all(bench.results.has("prefixes", key, **fields) for key in keys.values()):
        return
    found, _ = ours.statistics(bench, model)
    file = bench.scratch / f"{model.name}-layers.impasto"
    bench.impasto("encode", model.folder, "-o", file, "--layers", LAYERS, "--statistics", found)
    layered, most = Layered(file), file.stat().st_size
    base = bench.scratch / f"{model.name}-base.impasto"
    layered.write(base, range(layered.base))
    least = base.stat().st_size
    base.unlink()
    for kind in ORDERS:
        other = bench.scratch / f"{model.name}-{kind.replace(' ', '-')}.impasto"
        layered.write(other, layered.reordered(kind))
        for n in range(PREFIXES):
            key = keys[kind, n]
            if bench.results.has("prefixes", key, **fields):
                continue
            budget = most if n == PREFIXES - 1 else least + (most - least) * n // (PREFIXES - 1)
            text = ("--text", bench.data("test.txt"), "--windows", bench.options.prefix_windows)
            out = bench.impasto("--json", "eval", "kld", other, "--reference", model.folder, *text, "--budget", budget)
            kld = json.loads(out)["kld"]["mean"]["value"]
            bench.results.put("prefixes", key, fields | {"budget": budget, "kld": kld})
            say(f"{model.name}, {kind}: {budget / 1e6:.2f} MB, KLD {kld:.5f}")
        other.unlink()
    file.unlink()


def plot(bench, model):
    entries = bench.results.section("prefixes")

    def series(order, colour, mark, width):
        points = [entries.get(f"{model.name}/{order}/{n}") for n in range(PREFIXES)]
        points = [(p["budget"] / 1e6, p["kld"], "") for p in points if p]
        title = {"worth": "prefixes, Impasto's order", "blocks": "prefixes, block after block"}.get(order, f"prefixes, {order}")
        return Series(title, colour, mark, points, line=True, names=False, width=width)

    alone = [e for key, e in bench.results.section("points").items() if key.startswith(f"{model.name}/{ours.FAMILY}/")]
    low = min((p["budget"] for key, p in entries.items() if key.startswith(f"{model.name}/")), default=0) / 1e6
    alone = [(e["file_bytes"] / 1e6, e["kld"], "") for e in alone if e["file_bytes"] / 1e6 >= low * 0.97]
    colours = {"worth": "blue", "blocks": "orange"}
    lines = [series(order, colours.get(order, "pink"), "circle" if order == "worth" else "diamond", 1.2) for order in ORDERS]
    axes = Axes(f"{model.title}: a file in layers cut at {PREFIXES} sizes", "MB", "KLD (nats)", log=True)
    return svg(axes, lines[::-1] + [Series("files without layers", "green", "square", alone, line=True, names=False)])


def run(bench, only):
    for model in bench.models:
        if not only or model.name in only:
            measure(bench, model)
            bench.options.plots.mkdir(parents=True, exist_ok=True)
            (bench.options.plots / f"{model.name}-prefixes.svg").write_text(plot(bench, model))
