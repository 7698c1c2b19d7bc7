"""Files that violate docs/SPEC.md; the name of each begins with the violated clause."""

import math
import struct

import naive_transform
from minimal_encoder import (Chosen, Coder, File, base_record, coded_file, explicit, layered_file, planes_unit, same,
                             transform_unit, varint)
from minimal_digits import mask, string
from naive_container import (DIGITS, EXACT, FLOAT, HEAD, IDENTICAL, LATTICE, OF_BLOCKS, PREDICTED, REFINEMENT, SAME,
                             STORED, TRANSFORM, ZSTD)
from small_files import (ANOTHER_ROOT, BYTES, FLOATS, MANY, NARROW, delta, floats, frame, lattice, layered,
                         layered_coders, opened_base, over_coder, over_tile, plain, put, replace, small_delta, use_of)

BROKEN = {}  # by name


def broken_containers():
    def broken(name, change):
        file = plain()
        result = change(file)
        put(BROKEN, name, result if isinstance(result, bytes) else file)

    def manifest(change):
        return lambda file: setattr(file, "spoil_manifest", change)

    def tensor(*fields, **options):
        return lambda file: file.tensor(*fields, **options) and None

    broken("2-short-header", lambda file: file.build()[:63])
    for name, key, value in (("2.1-magic", "magic", b"\x89IMP\n\r\x1a\n"), ("2.1-major-2", "major", 2),
                             ("2.1-flags", "flags", 1), ("2.2-manifest-too-long", "manifest_length", 2 ** 32 + 1),
                             ("2.2-manifest-past-the-end", "manifest_length", 10 ** 6), ("2.3-root", "root", bytes(32)),
                             ("2.5-file-length", "file_length", 10 ** 6)):
        broken(name, lambda file: file.header.update({key: value}))
    for name, length in (("1.2-varint-not-shortest", b"\x81\x00"), ("1.2-varint-too-large", b"\xff" * 9 + b"\x02")):
        file = File()
        file.add(0, "a", length + varint(1))
        put(BROKEN, name, file)
    broken("3.1-record-past-the-manifest", manifest(lambda m: m + b"\x05\x09abc"))
    broken("3.2-unknown-record-needed", manifest(lambda m: m + b"\x84\x00"))
    broken("3.3-no-units-record", manifest(lambda m: b""))
    broken("3.3-two-units-records", manifest(lambda m: m + b"\x82\x01\x00"))
    broken("3.3-object-after-units", manifest(lambda m: m + b"\x81\x0b\x01\x00\x01x\x07\x01\x00\x00\x01\x01\x00"))
    broken("3.4-17-dims", tensor("x", "U8", [1] * 17, 0, 1, 1))
    broken("3.4-split-above-ndim", tensor("x", "U8", [0], 2, 1, 1))
    broken("3.4-tile-without-rows", tensor("x", "U8", [0], 1, 0, 1))

    def prefix(file):
        file.tensor("xy", "U8", [0], 1, 1, 1)
        file.objects[-1] = b"\x01\x02\x02xy" + file.objects[-1][5:]
    broken("3.4-prefix-past-the-name", prefix)
    broken("3.4.1-name-empty", tensor(b"", "U8", [0], 1, 1, 1))
    broken("3.4.1-name-not-utf8", tensor(b"x\xff", "U8", [0], 1, 1, 1))
    broken("3.4.1-name-twice", tensor("w", "U8", [0], 1, 1, 1))
    broken("3.4.1-names-descending", tensor("v", "U8", [0], 1, 1, 1))
    broken("3.4.2-tied-to-itself", tensor("x", "U16", [2, 3], 1, 1, 32, 3))
    broken("3.4.2-tied-to-an-asset", tensor("x", "U8", [10], 1, 1, 32, 1))
    broken("3.4.2-tied-to-another-dtype", tensor("x", "I16", [2, 3], 1, 1, 32, 2))

    def tied_opaque(dtype, dims=()):
        def tie(file):
            file.tensor("x", (b"F4", 3), [], 0, 1, 3)
            file.unit(2, 0, STORED, b"abc")
            file.tensor("y", dtype, dims, 0, 1, 32, tied=3)
        return tie
    broken("3.4.2-tied-to-another-type", tied_opaque((b"F6", 3)))
    broken("3.4.2-tied-to-another-number-of-bytes", tied_opaque((b"F4", 2)))
    broken("3.4.2-tied-to-other-opaque-dims", tied_opaque((b"F4", 3), [1]))
    broken("3.4.2-tied-to-other-blocks", lambda file: [
        file.tensor("x", "Q4_0", [0, 32], 1, 1, 1), file.tensor("y", "IQ4_NL", [0, 32], 1, 1, 1, tied=3)] and None)

    def chain(file):
        file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2)
        file.tensor("y", "U16", [2, 3], 1, 1, 32, tied=3)
    broken("3.4.2-tied-to-tied", chain)
    def refer(reference, name="x", dims=(2, 3), dtype="U16", split=1, tile=(1, 32), **options):
        return lambda file: file.tensor(name, dtype, dims, split, *tile, reference=reference, **options) and None
    for name, change in (("to-no-object", refer(9)), ("to-itself", refer(3)), ("to-an-asset", refer(1)),
                         ("of-a-tied-tensor", refer(2, tied=2)), ("of-another-dtype", refer(2, dtype="F16")),
                         ("of-other-dims", refer(2, dims=(3, 2))), ("of-other-tiles", refer(2, tile=(2, 32)))):
        broken("3.4.6-reference-" + name, change)
    broken("3.4.6-reference-of-another-split", lambda file: [
        file.tensor("x", "U8", [1, 0], 1, 1, 32), file.tensor("y", "U8", [1, 0], 0, 1, 32, reference=3)] and None)
    broken("3.4.6-reference-later", lambda file: [
        refer(4)(file), file.tensor("y", "U16", [2, 3], 1, 1, 32, tied=2)] and None)
    broken("3.4.6-reference-tied", lambda file: [
        file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2), refer(3, "y")(file)] and None)

    def referring(file):
        refer(2)(file)
        for unit in [unit for unit in file.units if unit[0] == 1]:
            file.unit(2, *unit[1:3], unit[6])
        refer(3, "y")(file)
    broken("3.4.6-reference-with-a-reference", referring)
    broken("3.4.3-too-many-elements", tensor("x", "U8", [2 ** 30, 2 ** 19], 1, 1, 32))
    broken("3.4.3-too-many-columns", tensor("x", "U8", [0, 2 ** 63, 2], 1, 1, 32))
    broken("3.4.3-too-many-weights-of-blocks", tensor("x", "Q4_0", [2 ** 40, 2 ** 9], 1, 1, 32))
    broken("3.4.3-too-many-opaque-bytes", tensor("x", (b"F4", 2 ** 48 + 1), [0], 0, 1, 32))
    broken("3.4.3-too-many-opaque-weights", tensor("x", (b"F4", 1), [2 ** 49], 0, 1, 32))

    def assets(*names):
        file = File()
        for name in names:
            file.asset(name, b"x", 1)
        return file
    for name, bad in (("a-dot", b".git/config"), ("two-dots", b"a/../b"), ("an-empty-part", b"a//b"), ("a-slash-first", b"/a"),
                      ("a-backslash", b"a\\b"), ("a-colon", b"C:a"), ("an-escape", b"a\x1b[31m"),
                      ("a-control-above-127", b"a\xc2\x9bm")):
        put(BROKEN, "3.4.4-name-with-" + name, assets(bad))
    put(BROKEN, "3.4.4-a-file-and-a-folder", assets(b"a", b"a-b", b"a/b"))
    for name, code in (("18", 18), ("65", 65), ("126", 126), ("128", 128)):
        broken("3.5-dtype-" + name, tensor("x", code, [0], 1, 1, 1))
    broken("3.5.1-blocks-without-dims", tensor("x", "Q8_0", [], 0, 1, 1))
    broken("3.5.1-blocks-split-off", tensor("x", "Q8_0", [0, 32], 2, 1, 1))
    broken("3.5.1-half-a-block", tensor("x", "Q8_0", [0, 48], 1, 1, 32))
    broken("3.5.1-blocks-along-another-dim", tensor("x", "Q6_K", [0, 256, 32], 1, 1, 32))
    broken("3.5.2-no-type", tensor("x", (b"", 0), [], 0, 1, 1))
    broken("3.5.2-long-type", tensor("x", (b"F" * 65, 0), [], 0, 1, 1))
    broken("3.5.2-type-not-utf8", tensor("x", (b"F\xff", 0), [], 0, 1, 1))
    broken("3.5.2-type-of-a-plain-dtype", tensor("x", (b"F8_E8M0", 0), [0], 0, 1, 1))
    broken("3.5.2-opaque-rows", tensor("x", (b"F4", 0), [2, 4], 1, 1, 1))
    broken("4.2-tile-cols-33", tensor("x", "U8", [0, 70], 1, 1, 33))
    broken("4.2-tile-cols-33-of-a-tied-tensor", tensor("x", "U16", [2, 3], 1, 1, 2, 2))
    broken("4.2-tile-cols-33-of-blocks", tensor("x", "Q4_1", [0, 34 * 32], 1, 1, 33))
    broken("4.2-tile-cols-33-of-opaque-bytes", tensor("x", (b"F4", 34), [], 0, 1, 33))
    broken("4.2-tile-of-too-many-bytes", tensor("x", "Q8_0", [32 * 2 ** 22], 0, 1, 2 ** 22))
    broken("4.2-tile-too-large", tensor("x", "U8", [2 ** 13, 2 ** 13], 1, 2 ** 12, 2 ** 13))
    broken("4.2-too-many-tiles", tensor("x", "U8", [2 ** 40, 2], 1, 1, 32))

    def entry(number, position, value):
        return lambda file: file.units[number].__setitem__(position, value)
    broken("3.6-reserved", entry(3, 4, 1))
    broken("3.6-unit-too-long", entry(3, 5, 2 ** 28 + 1))
    file = File()
    file.spoil_manifest = lambda m: b"\x82\x01\x01"
    put(BROKEN, "3.6.1-count", file)
    broken("3.6.2-no-such-object", entry(3, 0, 2))
    broken("3.6.2-no-such-tile", entry(3, 1, 2))
    broken("3.6.2-a-tile-twice", entry(4, 1, 0))

    def two_heads(file):
        file.add(5, "x", b"")
        file.unit(2, 1, HEAD, b"")
        file.unit(2, 2, HEAD, b"")
    broken("3.6.2-two-heads-of-unknown-class", two_heads)
    broken("3.6.2-head-of-tile-1", lambda file: file.unit(1, 1, HEAD, b"") and None)

    def without_tiles(file):
        file.tensor("x", "BF16", [0, 3], 1, 1, 32)
        file.unit(2, 0, HEAD, floats().units[0][6])
    broken("3.6.2-head-without-tiles", without_tiles)

    def unit_of_tied(file):
        file.tensor("x", "U16", [2, 3], 1, 1, 32, tied=2)
        file.unit(2, 0, STORED, b"abcdef")
    broken("3.6.2-unit-of-a-tied-tensor", unit_of_tied)
    broken("3.6.3-tile-without-unit", lambda file: file.units.pop() and None)
    broken("12.1-stored-above-the-base", entry(4, 3, 1))
    file = floats()
    file.units.reverse()
    put(BROKEN, "3.6.3-head-after-its-tile", file)
    file = floats()
    file.units.pop(0)
    put(BROKEN, "3.6.3-no-head", file)
    # Each unit is valid; together they expand to a little more than 2^28 bytes.
    zeros = frame(b"\xa0" + struct.pack("<I", 1 << 24), *[(0, 1 << 17)] * 128)

    def expanding(tiles, ties):
        def add(file):
            file.tensor("x", "U8", [tiles, 1 << 24], 1, 1, 1 << 24)
            for tile in range(tiles):
                file.unit(2, tile, ZSTD, zeros)
            for tie in range(ties):
                file.tensor(f"y{tie}", "U8", [tiles, 1 << 24], 1, 1, 1 << 24, tied=3)
        return add
    broken("11.3-tiles", expanding(17, 0))
    broken("11.3-ties", expanding(4, 4))
    broken("11.2-damaged", lambda file: file.build()[:-1] + b"x")


def broken_layers():
    """The units of `layered` are 0, 5, 10 and 15, the heads, and four tiles after each: 1 to 4, 6 to 9, ..."""
    def layers(name, change, **options):
        file = layered(**options)
        change(file)
        put(BROKEN, name, file)

    def marks(*ends, count=None):
        payload = varint(len(ends) if count is None else count)
        payload += b"".join(varint(end) + struct.pack("<f", 0.5) for end in ends)
        return b"\x01" + varint(len(payload)) + payload
    for name, records in (("two-records", marks(5) + marks(5)), ("layers-falling", marks(9, 5)),
                          ("layer-past-the-end", marks(21)), ("256-layers", marks(*[5] * 256))):
        layers(f"3.7-{name}", lambda file: setattr(file, "spoil_manifest", lambda m: records + m))

    layers("3.6.3-no-head-in-a-layer", lambda file: file.units.pop(5))
    layers("3.6.3-head-after-its-tile-in-a-layer", lambda file: file.units.insert(8, file.units.pop(5)))
    layers("3.6.2-a-tile-twice-in-a-layer", lambda file: file.units[9].__setitem__(1, 0))
    for name, number, mode in (("refinement-in-layer-0", 1, REFINEMENT), ("exact-in-layer-0", 4, EXACT),
                               ("lattice-above-the-base", 6, LATTICE), ("float-above-the-base", 19, FLOAT)):
        layers(f"12.1-{name}", lambda file: file.units[number].__setitem__(2, mode))

    def stored(file):
        file.units[1][2] = STORED
        replace(file, 1, bytes(3 * 32 * 2))
    layers("12.2-finer-than-stored", stored)
    layers("12.2-finer-than-float", lambda file: [unit.__setitem__(2, FLOAT) for unit in file.units[1:5]])
    layers("12.2-nothing-in-the-layer-below", lambda file: file.units.pop(11))
    layers("12.2-no-layer-below", lambda file: file.units.__delitem__(slice(10, 15)))
    layers("12.2-before-the-layer-below", lambda file: file.units.insert(11, file.units.pop(6)))
    layers("12.2-two-modes-in-a-layer", lambda file: file.units[17].__setitem__(2, REFINEMENT))

    def above_exact(file):
        for unit in file.units[15:]:
            file.unit(*unit[:3], unit[6], layer=4)
    layers("12.2-above-exact", above_exact)

    def head(name, number, *edits, **options):
        """Spoils a head: each edit is (position, bytes to take away, bytes to put there)."""
        file = layered(**options)
        content = file.units[number][6]
        for at, length, new in edits:
            content = content[:at] + new + content[at + length:]
        replace(file, number, content)
        put(BROKEN, name, file)
    base, first, _, exact = (coder.head for coder in layered_coders())
    head("6-kind-5-in-layer-0", 0, (0, len(base), first))
    head("6-kind-4-in-layer-1", 5, (0, len(first), base))
    head("6-kind-6-of-a-refinement", 5, (0, len(first), exact))
    head("6-shape-of-a-refinement", 5, (1, 1, b"\0"))
    head("6-shape-of-an-exact-layer", 15, (1, 1, b"\4"))
    head("6-plane-of-a-refinement", 5, (2, 1, b"\1"))
    head("6-plane-21-of-an-exact-layer", 15, (2, 1, b"\x15"))
    head("6-flags-of-a-refinement", 5, (3, 1, b"\1"))
    head("6-flags-of-an-exact-layer", 15, (3, 1, b"\4"))
    for states in (1, 7):
        spoiled = first[:3] + bytes([first[3] | 64]) + first[4:9] + bytes([states]) + first[9:]
        head(f"6-states-{states}-of-a-refinement", 5, (0, len(first), spoiled + explicit({t: NARROW for t in range(24)})))
    on_a_trellis = first[:3] + bytes([first[3] | 64]) + first[4:9] + b"\3" + first[9:]
    head("11.1-odd-tables-of-a-refinement-cut", 5, (0, len(first), on_a_trellis))
    head("6.2-odd-table-of-no-class-of-a-refinement", 5, (0, len(first), on_a_trellis + b"\0\0\0\1"))
    for factor in (1, 65):
        head(f"6-factor-{factor}", 5, (4, 1, bytes([factor])))
    head("6-multipliers-of-an-exact-layer", 15, (3, 1, b"\x20"))
    for name, multiplier in (("64", 64), ("below-64", -65)):
        finer = Coder(REFINEMENT, "BF16", 6, 40, shape=255, step=0.5, factor=3, tables={0: NARROW}, multipliers=[multiplier] * 6)
        head(f"6-multiplier-{name}-of-a-refinement", 5, (0, len(first), finer.head))
    head("6-step-of-a-refinement", 5, (5, 4, struct.pack("<f", -0.5)))
    for offset in (0, 128):
        head(f"6-offset-{offset}-of-a-refinement", 10, (9, 1, bytes([offset])))
    head("6-bytes-left-over-of-a-layer", 15, (len(exact), 0, b"\0"))
    tables = len(explicit({t: NARROW for t in range(0, 24, 2)}))
    head("6.2-table-of-no-class-of-a-refinement", 5, (len(first) - tables + 3, 1, b"\1"))
    head("6.2-sum-of-a-layer", 5, (len(first) - 1, 1, b"\3"))
    head("12.4-row-step-infinite-in-a-layer", 5, (5, 4, struct.pack("<f", 3e38)),
         coders=layered_coders(row_steps=[4] * 6))

    def tile(name, number, change):
        layers(name, lambda file: replace(file, number, change(file.units[number][6])))
    tile("8-plane-of-a-refinement", 6, lambda t: t + bytes(12))
    tile("8-more-segments-than-rows-of-a-layer", 16, lambda t: b"\4" + t[1:9] * 4 + t[9:])
    layers("11.1-plane-of-an-exact-layer-cut", lambda file: replace(file, 16, file.units[16][6][:-1]),
           coders=layered_coders(planes=(0, 3)))

    def segment(name, layer, change, **options):
        put(BROKEN, name, layered(change={layer: change}, **options))
    segment("8.4-a-word-left-over-of-a-refinement", 1, lambda j, states, words, escapes: words.append(1))
    segment("8.4-a-word-missing-of-an-exact-layer", 3, lambda j, states, words, escapes: words.pop(), tile_rows=6)
    segment("8.4-lane-starts-too-low-of-a-refinement", 2, lambda j, states, words, escapes: states.__setitem__(0, 9))
    for name, layer in (("a-refinement", 1), ("an-exact-layer", 3)):
        segment(f"8.5-escape-too-large-of-{name}", layer, spoil_escape)
    put(BROKEN, "11.2-damaged-above-the-base", layered().build()[:-1] + b"\xff")


def spoil_escape(j, states, words, escapes):
    """Makes the first escape of a segment too large."""
    first = next((i for i, escape in enumerate(escapes) if escape), None)
    if first is not None:
        escapes[first] = varint(2 ** 32)


def of_blocks(dtype="F32", cols=64, tile_cols=64, code=103, plane=0, heads=bytes(range(68)), rest=b""):
    """A file with one tensor of blocks above a lattice: in both layers a head, then the tiles."""
    base = Coder(LATTICE, dtype, 2, cols, step=0.5)
    file = coded_file(base, [[0] * cols] * 2, 2, tile_cols)
    head = Coder(EXACT, dtype, 2, cols, shape=255, tables={0: NARROW}).head
    file.unit(0, 0, HEAD, bytes([OF_BLOCKS, 255, plane, 0, code]) + head[4:], layer=1)
    content = frame(b"\x20" + bytes([len(heads)]), heads)
    for tile in range(cols // tile_cols):
        file.unit(0, tile, OF_BLOCKS, struct.pack("<I", len(content)) + content + rest, layer=1)
    return file


def broken_blocks():
    put(BROKEN, "5.1-heads-of-blocks-too-short", of_blocks(heads=bytes(67)))
    put(BROKEN, "5.3-layer-of-blocks-of-f16", of_blocks(dtype="F16"))
    put(BROKEN, "6-dtype-of-blocks-without-blocks", of_blocks(code=1))
    put(BROKEN, "6-plane-of-blocks", of_blocks(plane=1))
    file = of_blocks()
    file.units[1][2] = OF_BLOCKS
    put(BROKEN, "12.1-blocks-in-layer-0", file)
    file = of_blocks()
    for unit in file.units[2:]:
        file.unit(*unit[:3], unit[6], layer=2)
    put(BROKEN, "12.2-above-blocks", file)
    put(BROKEN, "16.1-columns-in-part", of_blocks(code=76))
    put(BROKEN, "16.1-tiles-in-part", of_blocks(cols=512, tile_cols=128, code=76))
    put(BROKEN, "16.2-bytes-left-over", of_blocks(rest=b"\0"))


def broken_formats():
    def with_format(groups=(2, 3, [16256] * 8), step=1.0, dtype="BF16", **options):
        return Coder(LATTICE, dtype, 4, 5, step=step, groups=groups, **options)

    def broken(name, coder, mode=LATTICE):
        file = coded_file(coder, [[0] * 5] * 4, 4, 32)
        file.units[1][2] = mode
        if mode == TRANSFORM:
            replace(file, 1, transform_unit(4, 5, lambda name, *_: 0))
        put(BROKEN, name, file)
    broken("20.1-row-steps", with_format(row_steps=[1, 2, 3, 4]))
    broken("20.1-column-steps", with_format(column_steps=[0] * 5))
    broken("20.1-offset", with_format(offset=9))
    broken("20.1-low-rank-part", with_format(low_rank=[(1.0, [3] * 4, [5] * 5)]))
    file = coded_file(with_format(), [[0] * 5] * 4, 4, 32)
    head = file.units[0][6]
    replace(file, 0, head[:3] + bytes([head[3] | 64]) + head[4:8] + b"\3" + head[8:])
    put(BROKEN, "20.1-trellis", file)
    broken("20.1-multipliers", with_format(multipliers=[1, 2, 3, 4]))
    broken("20.1-step-of-int8", with_format(step=0.5))
    for code in (0, 7):
        broken(f"20.1-format-{code}", with_format((code, 3, [16256] * 8)))
    for name, code, width in (("mxfp4", 3, 16), ("nvfp4", 4, 32), ("nvfp4-of-rows", 4, 0)):
        broken("20.1-groups-of-" + name, with_format((code, width, [100] * 4)))
    for name, code, width, scale in (("negative", 2, 5, -1), ("infinite", 5, 5, 0x7F80), ("not-a-number-of-e8m0", 3, 32, 255),
                                     ("not-a-number-of-e4m3", 4, 16, 127)):
        broken("20.2-scale-" + name, with_format((code, width, [scale] * 4)))
        broken(f"20.2-one-scale-{name}", with_format((code, width, [100, 100, scale, 100]), rice_k=11))
    broken("11.1-group-scales-cut", with_format((2, 3, [1, 2, 3, 4])))
    broken("20.4-transform", with_format(), TRANSFORM)
    base, first, *_ = layered_coders(rows=4, cols=5)
    file = layered_file([with_format((1, 0, [16256] * 4), dtype=base.dtype), first], [[[0] * 5] * 4] * 2, None, 4, 32)
    put(BROKEN, "20.4-refinement", file)


def broken_transforms():
    def plain(name, *_):
        """Blocks of prediction 0, without levels."""
        return 0

    def broken(name, unit=None, mode=TRANSFORM, head=None, **options):
        coder = Coder(LATTICE, "F32", 4, 5, **{"step": 1.0, **options})
        file = File()
        file.tensor("w", "F32", [4, 5], 1, 4, 32)
        file.unit(0, 0, HEAD, head or coder.head)
        file.unit(0, 0, mode, transform_unit(4, 5, plain) if unit is None else unit)
        put(BROKEN, name, file)
    good = transform_unit(4, 5, plain)
    broken("6-transform-under-a-head-of-floats", head=Coder(FLOAT, "F32", 4, 5).head)
    broken("11.1-transform-without-code", good[:4])
    broken("11.1-code-cut", good[:-1])
    broken("17.18-no-reference", b"\x80" + good[1:])
    broken("17.8-runs-with-dependent-quantization", b"\3" + good[1:])
    broken("11.1-permutation-cut", b"\x0c" + bytes(5))
    broken("11.1-learned-transform-cut", b"\x10" + bytes(5))
    broken("17.2-step-infinite", good[:1] + b"\x7f" + good[2:], step=1e38)
    broken("17.2-row-step-infinite", good[:1] + b"\x7f" + good[2:], step=1e36, row_steps=[0, 0, 0, 16])
    broken("17.3-bytes-left-over", good + b"\0")
    broken("17.3-code-does-not-end-at-0", (int.from_bytes(good, "big") + 1).to_bytes(len(good), "big"))

    class Enough(Exception):
        pass

    def until(stop, ones, flags=0):
        """A code that is 1 in the decisions named, up to the first that `stop` names, and from there on."""
        def choose(name, *under):
            if name == stop:
                raise Enough
            return name in ones
        code = Chosen(choose, 1)
        try:
            naive_transform.Tile(4, 5, flags, code, "").read()
        except Enough:
            pass
        code.low <<= 8 * 200
        code.length += 200
        code.end()
        return bytes([flags, 0]) + code.code
    broken("17.5-prediction-7", until("prediction", ()))
    broken("17.11-flags-of-blocks", b"\xc0" + good[1:])
    broken("17.6-level-too-large", until("end", ("coded",)))
    broken("17.8-run-past-the-end", until("longer", ("coded",), naive_transform.RUNS))
    file = File()
    file.tensor("w", "F8_E4M3", [4, 5], 1, 4, 32)
    file.unit(0, 0, HEAD, Coder(LATTICE, "F32", 4, 5, step=1.0).head)
    file.unit(0, 0, TRANSFORM, good)
    put(BROKEN, "5.3-transform-of-f8", file)
    file = File()
    file.tensor("w", "F32", [4, 5], 1, 4, 32)
    file.unit(0, 0, TRANSFORM, good)
    put(BROKEN, "3.6.3-transform-without-head", file)
    file = lattice()
    file.unit(0, 0, HEAD, file.units[0][6], layer=1)
    file.unit(0, 0, TRANSFORM, good, layer=1)
    put(BROKEN, "12.2-transform-above-a-lattice", file)


def broken_planes():
    def zeros(*_):
        return 0

    def file_of(*units, above=REFINEMENT):
        base = Coder(LATTICE, "F32", 4, 5, step=1.0)
        file = File()
        file.tensor("w", "F32", [4, 5], 1, 4, 32)
        file.unit(0, 0, HEAD, base.head)
        for layer, unit in enumerate(units):
            if layer:
                head = Coder(above, "F32", 4, 5, shape=255, tables={}, factor=2, step=1.0).head
                file.unit(0, 0, HEAD, head, layer=layer)
            file.unit(0, 0, TRANSFORM, unit, layer=layer)
        return file

    def broken(name, *units, **options):
        put(BROKEN, name, file_of(*units, **options))
    good = planes_unit(4, 5, zeros, levels=0x22, planes=3)  # 9 bytes, then the planes
    first, above = planes_unit(4, 5, zeros, levels=0x22, planes=3, count=1), good[:1] + b"\1\2\1\1" + good[-2:]
    assert len(good) == 14 and good[8:11] == b"\1\1\1", good
    file_of(good).build(), file_of(first, above).build()

    def edit(at, *new):
        return good[:at] + bytes(new) + good[at + len(new):]
    broken("17.11-flags-with-planes", edit(0, 65))
    broken("17.11-bytes-left-over", good + b"\0")
    broken("17.11-more-planes-than-there-are", edit(6, 2))
    broken("11.1-planes-without-a-count", good[:7])
    broken("11.1-plane-past-the-end", edit(10, 2))
    broken("11.1-plane-empty", edit(10, 0)[:-1])
    broken("1.2-size-of-a-plane-not-shortest", good[:10] + b"\x81\0" + good[11:])
    broken("17.12-form", edit(2, 4))
    broken("17.12-halvings-of-rows", edit(3, 0x23))
    broken("17.12-halvings-of-columns", edit(3, 0x42))
    broken("17.12-planes", edit(6, 31))
    broken("17.12-planes-with-a-step", edit(5, 16, 30))
    broken("11.1-steps-of-bands-missing", edit(2, 2)[:9])
    broken("17.15-bytes-left-over", good[:10] + b"\2" + good[11:] + b"\0")
    broken("17.17-flags-above", first, b"\1" + above[1:])
    broken("17.17-planes-below", first, above[:1] + b"\2" + above[2:])
    broken("17.11-more-planes-than-there-are-above", first, above[:2] + b"\3\1\1\1" + bytes(3))
    broken("17.17-above-blocks", transform_unit(4, 5, zeros), above)
    broken("6-transform-under-a-head-of-exact", first, above, above=EXACT)
    file = file_of(first, above)
    file.units[2][2], file.units[3][2] = HEAD, REFINEMENT
    put(BROKEN, "12.2-refinement-above-planes", file)
    file = file_of(first, above)
    del file.units[2]
    put(BROKEN, "3.6.3-planes-above-without-head", file)


def broken_digits():
    def broken(name, unit, layer=0):
        file = File()
        file.tensor("w", "U8", [3, 4], 1, 3, 4)
        file.unit(0, 0, DIGITS, unit)
        file.unit(0, 0, DIGITS, unit, layer=layer) if layer else None
        put(BROKEN, name, file)

    def spoiled(change):
        return b"\1" + string(range(200, 212), 1, change=change)
    good = b"\1" + string(range(200, 212), 1)
    table = good[1:2 + 2 + 32]
    broken("11.1-digits-without-an-element", b"\0")
    broken("11.1-words-of-digits-past-the-end", good[:-1])
    broken("12.1-digits-above-the-base", good, layer=1)
    broken("18.1-form-4", b"\4" + good[1:])
    broken("11.1-palette-cut", b"\3\2ab")
    broken("18.1-index-beyond-the-palette", b"\3\2abc" + string([0, 1, 2, 3] * 3, 1))
    broken("18.1-bytes-left-over", good + b"\0")
    broken("18.1-bytes-left-over-after-an-element", b"\0ab")
    broken("18.1-bits-beyond-the-mask", b"\2a" + mask([1] * 16) + string([1] * 12, 1))
    broken("18.2-no-table", b"\1\0" + good[2:])
    broken("18.2-25-tables", b"\1\x19" + table[1:] * 25 + good[1 + len(table):])
    broken("18.2-frequency-0", good.replace(table, table[:3] + b"\0\x80\2" + table[7:]))
    broken("18.2-frequencies-2049", good.replace(table, table[:-2] + b"\x81\1"))
    broken("18.2-table-that-does-not-exist", good.replace(table + b"\0\0", table + b"\0\1"))
    broken("18.2-first-digit-after-another", good.replace(table + b"\0\0", table + b"\xff" + bytes(17)))
    broken("8.4-lane-of-digits-starts-too-low", spoiled(lambda states, words: states.__setitem__(31, 0xFFFF)))
    broken("8.4-lane-of-digits-ends-too-high", spoiled(lambda states, words: states.__setitem__(31, 0x10001)))
    broken("8.4-a-word-of-digits-left-over", spoiled(lambda states, words: words.append(1)))
    broken("8.4-digits-of-fewer-elements", b"\1" + string(range(200, 211), 1))


def broken_codings():
    def zstd(name, content):
        file = File()
        file.tensor("w", "U8", [8], 0, 1, 8)
        file.unit(0, 0, ZSTD, content)
        put(BROKEN, name, file)
    good = frame(b"\x20\x08", b"abcdefgh")
    zstd("5.1-bytes-after-the-frame", good + b"\0")
    zstd("5.1-two-frames", frame(b"\x20\x04", b"abcd") + frame(b"\x20\x04", b"efgh"))
    zstd("5.1-frame-cut", good[:-1])
    zstd("5.1-content-too-short", frame(b"\0\0", b"abcdefg"))
    zstd("5.1-content-too-long", frame(b"\0\0", b"abcdefghi"))
    zstd("5.1-skippable-frame", b"\x50\x2a\x4d\x18\x08\0\0\0abcdefgh")
    zstd("5.1-skippable-frame-before", b"\x50\x2a\x4d\x18\x01\0\0\0a" + good)
    zstd("5.1-dictionary", frame(b"\x21\x07\x08", b"abcdefgh"))
    file = plain()
    replace(file, 4, b"ghijk")
    put(BROKEN, "5.2-stored-size", file)
    file = File()
    file.tensor("w", "Q4_0", [2, 64], 1, 2, 2)
    file.unit(0, 0, STORED, bytes(128))  # a byte a weight
    put(BROKEN, "5.2-stored-size-of-blocks", file)
    for name, dtype in (("blocks", "Q8_0"), ("an-opaque-tensor", (b"F4", 32))):
        file = File()
        file.tensor("w", dtype, [32], 0, 1, 32)
        file.unit(0, 0, HEAD, floats().units[0][6])
        file.unit(0, 0, FLOAT, floats().units[1][6])
        put(BROKEN, f"5.3-float-of-{name}", file)
    file = File()
    file.tensor("w", "Q8_0", [32], 0, 1, 1)
    file.unit(0, 0, STORED, bytes(34))
    file.unit(0, 0, HEAD, floats().units[0][6])
    put(BROKEN, "5.3-blocks-with-a-head", file)
    for name, number, mode in (("5.3-float-of-integers", 3, FLOAT), ("5.3-asset-with-a-head", 0, HEAD)):
        file = plain()
        if mode == FLOAT:
            file.unit(1, 0, HEAD, floats().units[0][6])
            file.units.insert(3, file.units.pop())
        else:
            file.unit(0, 0, HEAD, floats().units[0][6])
        if mode == FLOAT:
            file.units[4][2] = mode
        put(BROKEN, name, file)
    file = coded_file(Coder(FLOAT, "F8_E4M3", 4, 5), BYTES, 4, 32)
    file.units[0][6] = lattice().units[0][6]
    file.units[0][5] = len(file.units[0][6])
    file.units[1][2] = LATTICE
    put(BROKEN, "5.3-lattice-of-f8", file)
    file = floats(tile_rows=2)
    file.units[2][2] = LATTICE
    put(BROKEN, "5.4-float-and-lattice", file)

    def head(name, make, *edits):
        """Spoils the head: each edit is (position, bytes to take away, bytes to put there)."""
        file = make
        content = file.units[0][6]
        for at, length, new in edits:
            content = content[:at] + new + content[at + length:]
        replace(file, 0, content)
        put(BROKEN, name, file)
    head("6-kind-8", floats(), (0, 1, b"\x08"))
    head("6-shape-5", floats(), (1, 1, b"\5"))
    head("6-plane-of-a-float", floats(), (2, 1, b"\7"))
    head("6-plane-21", lattice(), (2, 1, b"\x15"))
    head("6-flags-of-a-float", floats(), (3, 1, b"\1"))
    head("6-flags", lattice(), (3, 1, b"\x80"))
    for offset in (0, 128):
        head(f"6-offset-{offset}", lattice(offset=5), (8, 1, bytes([offset])))
    for name, step in (("0", 0.0), ("negative", -1.0), ("nan", math.nan), ("infinite", math.inf)):
        head(f"6-step-{name}", lattice(), (4, 4, struct.pack("<f", step)))
    for states in (0, 1, 7):
        head(f"6-states-{states}", lattice(), (3, 1, b"\x40"), (8, 0, bytes([states])))
    head("6-row-step-1024", lattice(row_steps=[0] * 4), (14, 3, same(1024)))
    head("6-column-step-below-1024", lattice(column_steps=[0] * 5), (14, 3, same(-1025)))
    head("6-bytes-left-over", floats(), (10, 0, b"\0"))
    file = floats()
    file.units[1][2] = LATTICE
    put(BROKEN, "6-kind-not-that-of-the-tile", file)
    head("6.1-k-16", floats(), (4, 3, b"\0\0\x10"))
    head("6.1-32-ones", floats(), (4, 3, b"\0\0\0" + b"\xff" * 4 + b"\0" * 9))
    head("6.1-entry-past-i16", floats(), (4, 3, struct.pack("<hB", 32767, 0) + b"\x03\0"))
    head("11.1-head-cut", floats(), (9, 1, b""))
    coder = Coder(FLOAT, "BF16", 4, 5, shape=255, tables={0: [32] * 64})
    listed = b"\x20" * 63
    for name, tables in (("6.2-sum-2049", b"\1\0\0\0\0\x3f" + listed + b"\x21"),
                         ("6.2-table-of-no-class", b"\x10\0\0\0\0\x3f" + listed + b"\x20"),
                         ("6.2-symbol-63-listed", b"\1\0\0\0\1\x3f" + listed + b"\x20")):
        head(name, coded_file(coder, FLOATS, 4, 32), (10, 99, tables))
    head("10.3-row-step-infinite", lattice(row_steps=[0] * 4), (4, 4, struct.pack("<f", 3e38)), (14, 3, same(4)))
    head("10.3-row-step-infinite-with-a-multiplier",
         lattice(step=1.2e38, row_steps=[0, 16, 0, 0], multipliers=[63, 0, 0, 0]))
    head("10.3-row-step-infinite-without-multipliers",
         lattice(step=1.8e38, row_steps=[0, 16, 0, 0], multipliers=[-64, -64, -64, -63]))
    for name, multiplier in (("64", 64), ("below-64", -65)):
        head("6-multiplier-" + name, lattice(multipliers=[0, multiplier, 0, 0]))
        head("6-all-multipliers-" + name, lattice(multipliers=[multiplier] * 4))
    head("6-multipliers-of-a-float", floats(), (3, 1, b"\x20"))
    head("11.1-multipliers-cut", lattice(multipliers=[0] * 4), (16, 1, b""))
    head("6-bytes-after-multipliers", lattice(multipliers=[0] * 4), (17, 0, b"\0"))
    # The part begins at byte 14; its scale at 15, the factors of rows at 19, those of columns at 22.
    def low_rank(*terms):
        return lattice(low_rank=terms or [(1.0, [3] * 4, [5] * 5)])
    head("6-low-rank-of-a-float", floats(), (3, 1, b"\x08"))
    head("19.1-rank-0", low_rank(), (14, 1, b"\0"))
    for name, scale in (("0", 0.0), ("negative", -1.0), ("nan", math.nan), ("infinite", math.inf)):
        head(f"19.1-scale-{name}", low_rank(), (15, 4, struct.pack("<f", scale)))
    head("19.1-row-factor-2048", low_rank(), (19, 3, same(2048)))
    head("19.1-column-factor-below-2047", low_rank(), (22, 3, same(-2048)))
    head("11.1-low-rank-part-cut", low_rank(), (24, 1, b""))
    head("6-bytes-after-a-low-rank-part", low_rank(), (25, 0, b"\0"))
    put(BROKEN, "19.2-terms-reach-2-127", low_rank(*[(1e33, [200] * 4, [-200] * 5)] * 5))

    def tile(name, change):
        file = floats()
        replace(file, 1, change(file.units[1][6]))
        put(BROKEN, name, file)
    tile("8-no-segment", lambda t: b"\0" + t[1:])
    tile("8-more-segments-than-rows", lambda t: b"\5" + t[1:9] * 5 + t[9:])
    tile("8-bytes-left-over", lambda t: t + b"\0")
    tile("11.1-plane-cut", lambda t: t[:-1])
    tile("11.1-words-past-the-end", lambda t: t[:1] + b"\xff\xff\xff\xff" + t[5:])

    def segment(name, change, make=floats):
        put(BROKEN, name, make(change=change))
    segment("8.4-lane-starts-too-low", lambda j, states, words, escapes: states.__setitem__(31, 0xFFFF))
    segment("8.4-lane-ends-too-high", lambda j, states, words, escapes: states.__setitem__(31, 0x10001))
    segment("8.4-a-word-left-over", lambda j, states, words, escapes: words.append(1))
    segment("8.4-an-escape-left-over", lambda j, states, words, escapes: escapes.append(b"\1"))

    def many(change):
        matrix = [[(r * 977 + c * 331) * 53 & 0xFFFF for c in range(33)] for r in range(12)]
        return coded_file(Coder(FLOAT, "BF16", 12, 33, row_classes=[507] * 12), matrix, 12, 64, change=change)
    segment("8.4-a-word-missing", lambda j, states, words, escapes: words.pop(), many)
    segment("11.1-an-escape-missing", lambda j, states, words, escapes: escapes.pop(), many)

    def first(content):
        return lambda j, states, words, escapes: escapes.__setitem__(0, content)
    segment("8.5-escape-too-large", first(varint(2 ** 32)), many)
    segment("8.5-escape-too-large-of-a-lattice", first(varint(2 ** 32)),
            lambda change: lattice(z=[[10 ** 6] * 5] * 4, change=change))
    segment("1.2-escape-not-shortest", first(b"\x80\x00"), many)


def broken_bases():
    """Units 0 and 1 of `small_delta` are the head and the tile of object 2, which has base 1; objects 0 and 1 have base 2."""
    root = opened_base().root

    def broken(name, change=None):
        file = small_delta()
        change and change(file)
        put(BROKEN, name, file)

    def record(name, *fields, **more):
        broken(name, lambda file: setattr(file, "records_before", base_record(root, *fields, **more)))
    broken("21.1-two-records", lambda file: setattr(file, "records_after", file.records_before))
    record("21.1-65-mirrors", b"", b"", [b"m"] * 65)
    for field, name in enumerate(("name", "licence", "mirror")):
        for what, text in (("too-long", b"x" * 4097), ("not-utf8", b"\xff")):
            texts = [text if field == i else b"x" for i in range(3)]
            record(f"21.1-{name}-{what}", *texts[:2], [texts[2]])
    record("21.1-mirror-empty", b"", b"", [b""])
    broken("3.1-base-record-cut-in-its-root", lambda file: setattr(file, "records_before", b"\x83\x1f" + bytes(31)))
    record("3.1-base-record-cut-in-its-mirrors", b"", b"", [b"m"], count=2)

    def tensor(name, use=b"", dtype="BF16", dims=(4, 5), split=1, tile=(4, 32), units=((SAME, b""),), **options):
        """A delta with one tensor."""
        file = delta()
        n = file.tensor("t", dtype, dims, split, *tile, use=use, **options)
        for mode, data in units:
            file.unit(n, 0, mode, data)
        if name is not None:
            put(BROKEN, name, file)
        return file

    def predicted(name, of="bf16", **options):
        return tensor(name, use_of(of, rename=of.encode()), **options)

    def identical(name, of="bf16", **options):
        return tensor(name, use_of(of, IDENTICAL, rename=of.encode()), units=(), **options)
    for where, length in (("level", 1), ("hash", 17), ("length", 18), ("name", 21)):
        tensor(f"3.1-base-cut-before-the-end-of-its-{where}", use_of("bf16", rename=b"bf16")[:length])
    tensor("3.4-base-3", use_of("bf16", rename=b"bf16", usage=3))
    tensor("3.4-name-in-the-base-too-long", use_of("bf16", rename=b"x" * 4097))
    tensor("3.4-name-in-the-base-not-utf8", use_of("bf16", rename=b"\xff"))

    broken("3.4.7-no-base-record", lambda file: setattr(file, "records_before", b""))

    def asset(name, use, length=10, units=0):
        file = delta()
        file.asset("asset", bytes(units), 1, length=length, use=use)
        put(BROKEN, name, file)
    asset("3.4.7-asset-with-base-1", use_of("asset"))
    asset("3.4.7-asset-at-level-1", use_of("asset", IDENTICAL, level=1))
    asset("3.6.2-unit-of-an-identical-asset", use_of("asset", IDENTICAL), units=10)
    opaque = {"dtype": (b"F4", 7), "dims": [14], "split": 0}
    predicted("3.4.7-opaque-with-base-1", "opaque", **opaque)
    broken("3.4.7-tied-with-a-base", lambda file: file.tensor(
        "t", "BF16", [4, 5], 1, 4, 32, tied=2, use=use_of("bf16", IDENTICAL, rename=b"bf16")))

    def refer(to, use=b""):
        def change(file):
            n = file.tensor("s", "BF16", [4, 5], 1, 4, 32)
            file.unit(n, 0, STORED, bytes(40))
            n = file.tensor("t", "BF16", [4, 5], 1, 4, 32, reference=to, use=use)
            file.unit(n, 0, STORED, bytes(40))
        return change
    broken("3.4.7-reference-and-base", refer(4, use_of("bf16", rename=b"bf16")))
    broken("3.4.6-reference-with-base-1", refer(3))
    broken("3.4.6-reference-with-base-2", refer(2))
    broken("3.6.2-unit-of-an-identical-tensor", lambda file: file.unit(1, 0, SAME, b""))
    broken("3.6.2-head-of-an-identical-tensor", lambda file: file.unit(1, 0, HEAD, b""))
    broken("3.6.3-no-head-before-exact-in-layer-0", lambda file: file.units.pop(0))
    broken("3.6.3-no-unit-over-a-base", lambda file: file.units.pop())

    tensor("12.1-same-without-a-base")
    file = delta()
    file.asset("asset", b"", 1, length=1)
    file.unit(0, 0, SAME, b"")
    put(BROKEN, "12.1-same-of-an-asset", file)
    broken("12.1-same-in-layer-1", lambda file: file.unit(2, 0, SAME, b"", layer=1))

    def above(file):
        for unit in file.units[:2]:
            file.unit(*unit[:3], unit[6], layer=1)
    broken("12.2-exact-above-exact-in-layer-0", above)
    file = predicted(None)
    file.unit(0, 0, HEAD, over_coder().head, layer=1)
    file.unit(0, 0, EXACT, over_tile(over_coder()), layer=1)
    put(BROKEN, "12.2-exact-above-same", file)
    predicted("21.5-same-with-a-byte", units=[(SAME, b"x")])

    whole = [Coder(LATTICE, "BF16", 4, 5, step=1.0), Coder(LATTICE, "BF16", 4, 5, step=1.0, groups=(2, 3, [16256] * 8))]
    heads, tile = [coder.head for coder in whole], whole[0].lattice_tile([[0] * 5] * 4)
    predicted("21.6-transform", units=[(HEAD, heads[0]), (TRANSFORM, transform_unit(4, 5, lambda *_: 0))])
    predicted("21.6-format", units=[(HEAD, heads[1]), (LATTICE, tile)])
    of_kind_7 = bytes([OF_BLOCKS, 255, 0, 0, 66]) + over_coder(2, 32, "F32").head[4:]
    blocks = Coder(LATTICE, "F32", 2, 32, step=1.0)
    wide = {"dtype": "F32", "dims": (2, 32), "tile": (2, 32)}
    units = [(HEAD, blocks.head), (LATTICE, blocks.lattice_tile([[0] * 32] * 2))]
    file = predicted(None, "f32", **wide, units=units)
    file.unit(0, 0, HEAD, of_kind_7, layer=1)
    file.unit(0, 0, REFINEMENT, b"", layer=1)
    put(BROKEN, "21.6-head-of-blocks", file)
    file = predicted(None, "f32", **wide, units=units)
    file.unit(0, 0, HEAD, of_kind_7, layer=1)
    file.unit(0, 0, OF_BLOCKS, b"", layer=1)
    put(BROKEN, "21.6-blocks", file)

    low_rank = [(1.0, [3] * 4, [5] * 5)]
    with_part = over_coder(low_rank=low_rank)
    tensor("6-kind-6-in-layer-0", units=[(HEAD, over_coder().head), (STORED, bytes(40))])
    tensor("6-low-rank-of-kind-6-without-a-base", units=[(HEAD, with_part.head), (STORED, bytes(40))])
    file = lattice("BF16")
    file.unit(0, 0, HEAD, with_part.head, layer=1)
    file.unit(0, 0, EXACT, over_tile(with_part), layer=1)
    put(BROKEN, "6-low-rank-of-an-exact-layer", file)
    file = predicted(None, units=[(HEAD, heads[0]), (LATTICE, tile)])
    file.unit(0, 0, HEAD, with_part.head, layer=1)
    file.unit(0, 0, EXACT, over_tile(with_part), layer=1)
    put(BROKEN, "6-low-rank-of-an-exact-layer-over-a-base", file)
    predicted("6-flags-of-exact-in-layer-0",
              units=[(HEAD, over_coder().head[:3] + b"\1" + over_coder().head[4:]), (EXACT, over_tile(over_coder()))])
    predicted("6-exact-under-a-head-of-a-lattice", units=[(HEAD, heads[0]), (EXACT, over_tile(over_coder()))])
    predicted("6-lattice-under-a-head-of-exact", units=[(HEAD, over_coder().head), (LATTICE, tile)])
    head = with_part.head  # the part begins at byte 10
    predicted("19.1-rank-0-over-a-base", units=[(HEAD, head[:10] + b"\0" + head[11:]), (EXACT, over_tile(with_part))])
    predicted("5.3-exact-of-f8-over-a-base", dtype="F8_E4M3", of="f8",
              units=[(HEAD, over_coder().head), (EXACT, over_tile(over_coder()))])
    predicted("8-bytes-left-over-of-exact-in-layer-0",
              units=[(HEAD, over_coder().head), (EXACT, over_tile(over_coder()) + b"\0")])

    def another(name, change):
        """A delta of a base with another root."""
        file = small_delta()
        file.records_before = base_record(ANOTHER_ROOT)
        change(file)
        put(BROKEN, name, file)
    other = use_of("bf16", IDENTICAL, rename=b"bf16", hash=bytes(16))
    another("21.2-another-base", lambda file: file.tensor("t", "BF16", [4, 5], 1, 4, 32, use=other))
    other = use_of("bf16", IDENTICAL, rename=b"bf17")
    another("21.2-another-base-without-an-object", lambda file: file.tensor("t", "BF16", [4, 5], 1, 4, 32, use=other))
    other = use_of("bf16", IDENTICAL, rename=b"bf16", level=1, hash=use_of("bf16")[2:18])
    another("21.2-another-level", lambda file: file.tensor("t", "BF16", [4, 5], 1, 4, 32, use=other))
    other = use_of("bf16", IDENTICAL, rename=b"bf16")
    another("21.2-another-base-of-other-dims", lambda file: file.tensor("t", "BF16", [5, 4], 1, 5, 32, use=other))

    tensor("21.2-no-such-object", use_of("bf16", rename=b"bf17"))
    tensor("21.2-object-of-another-class", use_of("bf16", rename=b"asset"))
    predicted("21.2-other-columns", dims=(5, 4), tile=(5, 32))
    predicted("21.2-another-dtype", dtype="I16")
    predicted("21.2-floats-of-integers", "u16", dims=(2, 3))
    predicted("21.2-f8-of-bf16", dtype="F8_E4M3")
    predicted("21.2-floats-of-an-opaque-tensor", "opaque", dims=(2, 7), dtype="F32")
    identical("21.2-identical-to-other-dims", dims=(2, 2, 5))
    identical("21.2-identical-to-more-rows", dims=(3, 5))
    identical("21.2-identical-to-another-split", split=0)
    identical("21.2-identical-to-another-dtype", dtype="F16")
    identical("21.2-identical-to-other-opaque-bytes", "opaque", dtype=(b"F4", 8), dims=[14], split=0)
    identical("21.2-identical-to-another-type", "opaque", dtype=(b"F6", 7), dims=[14], split=0)
    asset("21.2-identical-to-a-longer-asset", use_of("asset", IDENTICAL), length=9)

    large = {"dtype": "U8", "dims": [MANY], "split": 0, "tile": (1, MANY)}

    def expanding(name, first, count, add):
        file = first
        for i in range(count):
            add(file, f"u{i:02}")
        put(BROKEN, name, file)

    def as_large(file, name, **options):
        return file.tensor(name, "U8", [MANY], 0, 1, MANY, **options)
    expanding("11.3-identical-objects", delta(), 17, lambda file, name: as_large(
        file, name, use=use_of("z", IDENTICAL, rename=b"z")))
    expanding("11.3-ties-to-an-identical-object", identical(None, "z", **large), 16,
              lambda file, name: as_large(file, name, tied=1))
    expanding("11.3-same", delta(), 17, lambda file, name: file.unit(as_large(
        file, name, use=use_of("z", rename=b"z")), 0, SAME, b""))
    zeros = b"\0\0"  # mode digits, one element everywhere
    expanding("11.3-over-a-base", delta(), 9, lambda file, name: file.unit(as_large(
        file, name, use=use_of("z", rename=b"z")), 0, DIGITS, zeros))
