#!/usr/bin/env python3
"""A naive decoder and validator of the Impasto format, written from docs/SPEC.md and docs/SPEC-TABLES.md alone.

`naive_container` has clauses 1 to 4 of the specification, `naive_coding` clauses 5 to 10, `naive_layers` clauses 12
to 14, `naive_tokenizer` clause 15, `naive_blocks` clause 16, `naive_transform` and `naive_planes` clause 17,
`naive_digits` clause 18, `naive_formats` clause 20, all in its order; numbers in comments are clauses.
README.md describes the output.
"""

import argparse
import functools
import hashlib
import sys
import urllib.parse
from pathlib import Path

from blake3 import blake3
from naive_coding import Head, read_shapes
from naive_container import ASSET, DIGITS, HEAD, LATTICE, OF_BLOCKS, TRANSFORM, Broken, need, read_file
from naive_layers import band_level, read_layers, tile_layers

TABLES = Path(__file__).resolve().parent.parent / "docs" / "SPEC-TABLES.md"
MEMORY_LIMIT = 1 << 32  # bytes of one decoded object (11.1)
NO_ZSTD = "not decoded: there is no Zstandard library"


def layer_0(obj):
    return [unit for unit in obj.units.values() if unit.layer == 0]


def reference_units(obj):
    """The units of the reference that tiles of an object may need: 4.4."""
    needed = {(0, is_head, 0 if is_head else unit.tile) for unit in layer_0(obj) if unit.mode == TRANSFORM
              for is_head in (False, True)}
    return [unit for place, unit in obj.reference.units.items() if place in needed] if obj.reference else []


def read_object_bytes(obj, data, shapes):
    """The bytes of an object that is not tied, or why there are none: "absent" or "unreadable"."""
    base = layer_0(obj)
    others = reference_units(obj)
    state = None
    if any(unit.mode > DIGITS for unit in base + (layer_0(obj.reference) if obj.reference else [])):  # 3.6.1
        state = "unreadable"
    elif not all(unit.present for unit in base + others):  # 2.5
        state = "absent"
    size = obj.rows * obj.cols * obj.size
    need(size <= MEMORY_LIMIT, "11.1", f"{obj.name!r} has {size} bytes, over this decoder's limit")

    def read(unit):
        content = data[unit.start:unit.start + unit.length]
        need(blake3(content)[:16] == unit.hash, "11.2", f"{unit} of {obj.name!r} is damaged")
        return content

    def reference_rows(tile):
        """The rows of a tile of the reference at level 0: 17.18."""
        other, units = obj.reference, obj.reference.units
        need(all(unit.present for unit in others), "2.5", f"the reference of {obj.name!r} is absent")
        of_head = {0: Head(other, units[0, True, 0], read(units[0, True, 0]), shapes)} if (0, True, 0) in units else {}
        unit = units[0, False, tile]
        return read_layers(other, [unit], [read(unit)], of_head)[0]
    # What is present is read even if other units are not, and above the level of its band too.
    heads = {layer: Head(obj, unit, read(unit), shapes)
             for (layer, is_head, _), unit in obj.units.items() if is_head and unit.present}
    levels = [band_level(obj, band) for band in range(obj.tiles // max(1, obj.tiles_across))]
    of_blocks = next((layer for layer, head in heads.items() if head.kind == OF_BLOCKS), None)
    obj.shown, weights, element = obj.dtype or "", 1, obj.size
    if of_blocks and all(level == of_blocks for level in levels) and all(u.mode in (HEAD, LATTICE) for u in base):
        obj.shown, element, weights = heads[of_blocks].blocks  # the blocks, instead of their weights
    elif of_blocks:
        levels = [min(level, of_blocks - 1) for level in levels]
    row_bytes = obj.cols // weights * element
    out = bytearray(0 if state else obj.rows * row_bytes)
    for unit in sorted(base, key=lambda unit: unit.number):
        if not unit.present or unit.mode == HEAD or unit.mode > DIGITS:
            continue
        units = tile_layers(obj, unit.tile)
        reference = functools.partial(reference_rows, unit.tile) if obj.reference else None
        layers = read_layers(obj, units, [read(unit) for unit in units], heads, reference)
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


def decode(data, allow_expansion=False):
    """Decode a file: yields its objects in order, each with its bytes or the reason why there are none."""
    shapes = read_shapes(TABLES.read_text(encoding="utf-8"))
    objects, _ = read_file(data, allow_expansion)
    sources = {obj.tied for obj in objects if obj.tied}
    kept = {}  # contents that a tied tensor needs again
    for obj in objects:
        if not obj.known:
            continue
        try:
            content = kept[obj.tied] if obj.tied else read_object_bytes(obj, data, shapes)
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
    options = parser.parse_args(arguments)
    missing = set()
    try:
        for obj, content in decode(options.file.read_bytes(), options.allow_expansion):
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
    return 2 if NO_ZSTD in missing else 3 if "absent" in missing else 4 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
