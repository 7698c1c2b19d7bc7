#!/usr/bin/env python3
"""A naive decoder and validator of the Impasto format, written from docs/SPEC.md and docs/SPEC-TABLES.md alone.

`naive_container` has clauses 1 to 4 of the specification, `naive_coding` clauses 5 to 10, `naive_layers` clauses 12
to 14, `naive_tokenizer` clause 15, `naive_blocks` clause 16, `naive_transform` and `naive_planes` clause 17,
`naive_digits` clause 18, `naive_formats` clause 20, `naive_bases` clause 21, all in its order; numbers in comments are
clauses.
README.md describes the output.
"""

import argparse
import functools
import hashlib
import sys
import urllib.parse
from pathlib import Path

from blake3 import blake3
from naive_bases import Bases, converted, open_file
from naive_coding import Head, read_shapes
from naive_container import (ASSET, EXACT, FLOAT, HEAD, IDENTICAL, LAST_MODE, LATTICE, OF_BLOCKS, PREDICTED, SAME,
                             TRANSFORM, Broken, ceil_div, need)
from naive_layers import band_level, read_layers, tile_layers

TABLES = Path(__file__).resolve().parent.parent / "docs" / "SPEC-TABLES.md"
MEMORY_LIMIT = 1 << 32  # bytes of one decoded object (11.1)
NO_ZSTD = "not decoded: there is no Zstandard library"
NO_BLOCKS = "not decoded: its base is read as blocks, whose weights ggml defines"


def layer_0(obj):
    return [unit for unit in obj.units.values() if unit.layer == 0]


class Missing(Exception):
    """Why a tile cannot be decoded."""


class Content:
    """Reads the tiles of an object that is not tied."""

    def __init__(self, file, obj, shapes):
        self.file, self.obj, self.shapes, self.heads, self.tiles = file, obj, shapes, {}, {}

    def of(self, file, obj):
        return Content(file, obj, self.shapes)

    @functools.cached_property
    def base(self):
        if not self.file.over:
            raise Missing("without its base")
        return self.of(self.file.over, self.obj.of_base)

    @functools.cached_property
    def reference(self):
        return self.of(self.file, self.obj.reference)

    def read(self, unit):
        if not unit.present:  # 2.5
            raise Missing("absent")
        content = self.file.data[unit.start:unit.start + unit.length]
        need(blake3(content)[:16] == unit.hash, "11.2", f"{unit} of {self.obj.name!r} is damaged")
        return content

    def head(self, layer):
        if layer not in self.heads:
            unit = self.obj.units[layer, True, 0]
            self.heads[layer] = Head(self.obj, unit, self.read(unit), self.shapes)
        return self.heads[layer]

    def layers(self, units):
        """The rows of a tile at each level up to the last of its units."""
        tile, mode = units[0].tile, units[0].mode
        contents = [self.read(unit) for unit in units]
        heads = {unit.layer: self.head(unit.layer) for unit in units if FLOAT <= unit.mode <= TRANSFORM}
        reference = functools.partial(self.reference.rows, tile, 0) if self.obj.reference else None
        elements = None
        if self.obj.usage == PREDICTED and mode in (SAME, EXACT, LATTICE):
            elements = self.base_elements(*self.obj.tile_box(tile))
        return read_layers(self.obj, units, contents, heads, reference, elements)

    def rows(self, tile, level):
        """The rows of a tile at a level, or the highest below it that is listed: for a reference (17.18), or a delta (21.4)."""
        if (tile, level) not in self.tiles:
            obj = self.obj
            if any(unit.mode > LAST_MODE for unit in layer_0(obj)):  # 3.6.1
                raise Missing("unreadable")
            level = min(level, band_level(obj, tile // obj.tiles_across, lambda unit: True))
            units = [obj.units[k, False, tile] for k in range(level + 1) if (k, False, tile) in obj.units]
            if units[-1].mode == OF_BLOCKS:
                raise Missing(NO_BLOCKS)
            self.tiles[tile, level] = self.layers(units)[-1]
        return self.tiles[tile, level]

    def base_elements(self, row0, col0, height, width):
        """The base elements in a box, row by row: 21.4."""
        box, dtype = (col0, width), self.obj.dtype
        there = self.base.band(max(0, min(row0 + height, self.obj.of_base.rows) - row0), row0, *box, self.obj.base_level)
        rows = [converted(row, self.obj.of_base.dtype, dtype) for row in there]
        return rows + [bytes(width * self.obj.size)] * (height - len(rows))

    def band(self, height, row0, col0, width, level):
        """The elements in a box at a level, row by row."""
        obj = self.obj
        if obj.usage == IDENTICAL:
            return self.base_elements(row0, col0, height, width)
        out = []
        for r in range(row0, row0 + height):
            row = bytearray()
            for across in range(col0 // obj.tile_cols, ceil_div(col0 + width, obj.tile_cols)):
                tile = r // obj.tile_rows * obj.tiles_across + across
                first_row, first, _, _ = obj.tile_box(tile)
                line = self.rows(tile, level)[r - first_row]
                row += line[max(0, col0 - first) * obj.size:(col0 + width - first) * obj.size]
            out.append(bytes(row))
        return out

    def whole(self):
        """The bytes of the object, or why there are none."""
        obj = self.obj
        base = layer_0(obj)
        state, obj.shown, element, weights = None, obj.dtype or "", obj.size, 1
        size = obj.rows * obj.cols * obj.size
        need(size <= MEMORY_LIMIT, "11.1", f"{obj.name!r} has {size} bytes, over this decoder's limit")
        if obj.usage == IDENTICAL:
            try:
                return b"".join(self.base_elements(0, 0, obj.rows, obj.cols))
            except Missing as missing:
                return str(missing)
        if any(unit.mode > LAST_MODE for unit in base + (layer_0(obj.reference) if obj.reference else [])):  # 3.6.1
            state = "unreadable"
        # What is present is read even if other units are not, and above the level of its band too.
        for (layer, is_head, _), unit in obj.units.items():
            if is_head and unit.present:
                self.head(layer)
            elif not unit.present and layer == 0:
                state = state or "absent"
        levels = [band_level(obj, band) for band in range(obj.tiles // max(1, obj.tiles_across))]
        of_blocks = next((layer for layer, head in self.heads.items() if head.kind == OF_BLOCKS), None)
        if of_blocks and all(level == of_blocks for level in levels) and all(u.mode in (HEAD, LATTICE) for u in base):
            obj.shown, element, weights = self.heads[of_blocks].blocks  # the blocks, instead of their weights
        elif of_blocks:
            levels = [min(level, of_blocks - 1) for level in levels]
        row_bytes = obj.cols // weights * element
        out = bytearray(0 if state else obj.rows * row_bytes)
        for unit in sorted(base, key=lambda unit: unit.number):
            if not unit.present or unit.mode == HEAD or unit.mode > LAST_MODE:
                continue
            try:
                layers = self.layers(tile_layers(obj, unit.tile))
            except Missing as missing:
                state = state or str(missing)
                continue
            if state is None:
                row0, col0, _, _ = obj.tile_box(unit.tile)
                level = min(levels[unit.tile // obj.tiles_across], len(layers) - 1)
                for r, row in enumerate(layers[level], row0):
                    start = r * row_bytes + col0 // weights * element
                    out[start:start + len(row)] = row
        return state or bytes(out)


def safe(name, keep=""):
    """The name, percent-encoded but for letters, digits and `_.-~` (and `keep`)."""
    return urllib.parse.quote(name, safe=keep)


def file_path(folder, name):
    """A path in `folder` for an object; names that no file can have become the hash of the name."""
    file = safe(name)
    if len(file) > 240 or file in (".", ".."):
        file = "sha256-" + hashlib.sha256(name.encode()).hexdigest()
    return folder / file


def decode(data, allow_expansion=False, bases=Bases([])):
    """Decode a file: yields its objects in order, each with its bytes or the reason why there are none."""
    shapes = read_shapes(TABLES.read_text(encoding="utf-8"))
    file = open_file(data, allow_expansion, bases.find)
    objects = file.objects
    sources = {obj.tied for obj in objects if obj.tied}
    kept = {}  # contents that a tied tensor needs again
    for obj in objects:
        if not obj.known:
            continue
        try:
            content = kept[obj.tied] if obj.tied else Content(file, obj, shapes).whole()
        except ImportError:
            content = NO_ZSTD
        if obj in sources:
            kept[obj] = content
        if obj.tied:
            obj.shown = obj.tied.shown
        yield obj, content


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Decode an Impasto file slowly and check it against docs/SPEC.md.")
    parser.add_argument("file", type=Path)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="also write the decoded bytes here")
    parser.add_argument("--allow-expansion", action="store_true", help="read a file that expands beyond SPEC 11.3")
    parser.add_argument("--base", type=Path, action="append", default=[], metavar="PATH",
                        help="a file, or a folder, in which the base of a delta is found, besides the folder of the file")
    options = parser.parse_args(arguments)
    bases = Bases([*options.base, options.file.parent])
    missing = set()
    try:
        for obj, content in decode(options.file.read_bytes(), options.allow_expansion, bases):
            if isinstance(content, str):
                missing.add(content)
                print(f"{safe(obj.name, '/')} is {content}", file=sys.stderr)
                continue
            digest = hashlib.sha256(content).hexdigest()
            if obj.cls == ASSET:
                print("asset", safe(obj.name, "/"), len(content), digest)
            else:
                dtype = obj.shown if obj.type is None else f"{obj.dtype}:{safe(obj.type, '/')}"
                print(safe(obj.name, "/"), dtype, "x".join(map(str, obj.dims)) or "scalar", digest)
            if options.output:
                folder = options.output / "assets" if obj.cls == ASSET else options.output
                folder.mkdir(parents=True, exist_ok=True)
                path = file_path(folder, obj.name)
                (path if obj.cls == ASSET else path.with_name(path.name + ".bin")).write_bytes(content)
    except Broken as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot decode: {error}", file=sys.stderr)
        return 2
    return 2 if missing & {NO_ZSTD, NO_BLOCKS} else 3 if "absent" in missing else 4 if "unreadable" in missing else \
        5 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
