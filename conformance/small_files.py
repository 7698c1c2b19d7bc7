"""The small valid files that unusual and broken ones are made from."""

import functools
import struct

from minimal_encoder import Coder, File, base_record, coded_file, layered_file, pack, varint, weights
from naive_bases import object_hash
from naive_container import EXACT, FLOAT, HEAD, IDENTICAL, LATTICE, PREDICTED, REFINEMENT, SAME, STORED, ZSTD, read_file


def put(where, name, content):
    """Adds a file; `content` is a `File` or bytes."""
    assert name not in where, name
    where[name] = content.build() if isinstance(content, File) else content


def replace(file, number, content):
    file.units[number][5:] = [len(content), content]


def plain():
    """A small file: an asset of three tiles and a tensor of two."""
    file = File()
    file.asset("asset", b"some bytes", 4)
    n = file.tensor("w", "U16", [2, 3], 1, 1, 32)
    file.unit(n, 0, STORED, b"abcdef")
    file.unit(n, 1, STORED, b"ghijkl")
    return file


FLOATS = [[0x3F80 + 9 * r + c for c in range(5)] for r in range(4)]
WIDE = [[0x3F800000 + (r * 32 + c << 17) for c in range(32)] for r in range(2)]
BYTES = [[5 * r + c for c in range(5)] for r in range(4)]
INTEGERS = [[7 * r - 3 * c for c in range(5)] for r in range(4)]


def floats(tile_rows=4, **options):
    """A file with a 4 x 5 tensor in mode float; unit 0 is the head."""
    return coded_file(Coder(FLOAT, "BF16", 4, 5, row_classes=[507] * 4), FLOATS, tile_rows, 32, **options)


def lattice(dtype="F32", z=None, change=lambda *_: None, **options):
    """A file with a 4 x 5 tensor in mode lattice."""
    return coded_file(Coder(LATTICE, dtype, 4, 5, **{"plane": 3, "step": 1.0, **options}), z or INTEGERS, 4, 32,
                      change=change)


NARROW = [0] * 24 + [128] * 14 + [0] * 25 + [256]  # frequencies: symbols 24 to 37, the escape


def layered_coders(dtype="BF16", rows=6, cols=40, factors=(3, 4), offsets=(0, 0, 9), exact=True, planes=(0, 0),
                   **base):
    """Coders of a lattice, of refinements and of an exact layer."""
    step, coders = base.get("step", 0.5), [Coder(LATTICE, dtype, rows, cols, **{
        "plane": planes[0], "step": 0.5, "offset": offsets[0], "row_classes": [16] * rows,
        "column_steps": [c % 9 - 4 for c in range(cols)], **base})]
    for factor, offset in zip(factors, offsets[1:]):
        step /= factor
        coders.append(Coder(REFINEMENT, dtype, rows, cols, shape=255, step=step, factor=factor, offset=offset,
                            row_classes=[r % 3 for r in range(rows)], tables={t: NARROW for t in range(0, 24, 2)}))
    if exact:
        E = {"F16": 15}.get(dtype, 127)  # the bias
        coders.append(Coder(EXACT, dtype, rows, cols, shape=255, plane=planes[1], row_classes=[4 * E + 9] * rows,
                            column_classes=[c % 4 for c in range(cols)], tables={t: NARROW for t in range(1, 32, 3)}))
    return coders


def layered_integers(coders, z0=lambda r, c: (7 * r + 5 * c) % 11 - 5, d=lambda k, r, c: (r * c + k) % 5 - 2):
    """Integers of the layers below an exact one."""
    base = coders[0]
    z = [[[z0(r, c) for c in range(base.cols)] for r in range(base.rows)]]
    for k, coder in enumerate(coders[1:], 1):
        if coder.kind == REFINEMENT:
            z.append([[coder.factor * n + d(k, r, c) for c, n in enumerate(line)] for r, line in enumerate(z[-1])])
    return z


def layered(tile_rows=3, tile_cols=32, segments=1, change={}, coders=None):
    """A file with a 6 x 40 tensor of a lattice, two refinements and an exact layer, in two rows of two tiles: units 0,
    5, 10 and 15 are the heads."""
    coders = coders or layered_coders()
    z = layered_integers(coders)
    near = [[n + (r + c) % 7 - 3 & 0xFFFF for c, n in enumerate(line)] for r, line in enumerate(weights(coders, z))]
    return layered_file(coders, z, near, tile_rows, tile_cols, segments, change)


def frame(head, *blocks):
    """A Zstandard frame of raw blocks and (byte, count) blocks."""
    out = b"\x28\xb5\x2f\xfd" + head
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        if isinstance(block, bytes):
            out += (last | len(block) << 3).to_bytes(3, "little") + block
        else:
            out += (last | 1 << 1 | block[1] << 3).to_bytes(3, "little") + bytes([block[0]])
    return out


MANY = 1 << 24


@functools.cache
def small_base():
    """A file that deltas are made of: bytes. Its tensors are of many dtypes, `w` is that of `layered`, `z` is large."""
    file = File()
    file.asset("asset", b"some bytes", 4)
    stored = {"bf16": ("BF16", [4, 5], pack("BF16", FLOATS)), "f32": ("F32", [2, 32], pack("F32", WIDE)),
              "f8": ("F8_E4M3", [4, 5], pack("F8_E4M3", BYTES)),
              "opaque": ((b"F4", 7), [14], b"7 bytes"), "u16": ("U16", [2, 3], b"abcdefghijkl")}
    for name, (dtype, dims, data) in stored.items():
        opaque = isinstance(dtype, tuple)
        n = file.tensor(name, dtype, dims, 0 if opaque else 1, 9, 32)
        file.unit(n, 0, STORED, data)
    n = file.tensor("w", "BF16", [6, 40], 1, 3, 32)
    for _, tile, mode, layer, _, _, data in layered().units:
        file.unit(n, tile, mode, data, layer=layer)
    n = file.tensor("z", "U8", [MANY], 0, 1, MANY)
    file.unit(n, 0, ZSTD, frame(b"\xa0" + struct.pack("<I", MANY), *[(0, 1 << 17)] * 128))
    return file.build()


@functools.cache
def opened_base():
    return read_file(small_base())


def use_of(name, usage=PREDICTED, level=0, rename=b"", **spoiled):
    """What an object takes from that of the small base with a name: 3.4."""
    obj = next(obj for obj in opened_base().objects if obj.name == name)
    fields = {"usage": usage, "level": level, "hash": object_hash(obj, level), **spoiled}
    return bytes([fields["usage"], fields["level"]]) + fields["hash"] + varint(len(rename)) + rename


ANOTHER_ROOT = b"no file has this root anywhere  "


def delta(root=None):
    """A delta of the small base, without objects."""
    file = File()
    file.records_before = base_record(root or opened_base().root, b"small")
    return file


def small_delta():
    """A delta with an asset and two tensors: one identical to a tensor of the base; one like it, unit 0 its head and unit 1
    its tile in mode exact."""
    file = delta()
    file.asset("asset", b"", 1, length=10, use=use_of("asset", IDENTICAL))
    file.tensor("bf16", "BF16", [4, 5], 1, 4, 32, use=use_of("bf16", IDENTICAL))
    n = file.tensor("like", "BF16", [4, 5], 1, 4, 32, use=use_of("bf16", rename=b"bf16"))
    coder = over_coder()
    file.unit(n, 0, HEAD, coder.head)
    file.unit(n, 0, EXACT, over_tile(coder))
    return file


def rich_delta():
    """A delta of lattices over the base, one with a low-rank part and steps, one below a refinement, and of tiles in mode
    same."""
    file = delta()
    terms = [(0.001, [3, -5, 7, 9], [2, 4, -6, 8, 10]), (0.25, [1] * 4, [-1] * 5)]
    coder = Coder(LATTICE, "F32", 4, 5, step=0.01, plane=2, offset=20, low_rank=terms, row_steps=[-3, 0, 9, 40],
                  column_steps=[5, 4, 3, 2, 1])
    n = file.tensor("low-rank", "F32", [4, 5], 1, 4, 32, use=use_of("bf16", rename=b"bf16"))
    file.unit(n, 0, HEAD, coder.head)
    file.unit(n, 0, LATTICE, coder.lattice_tile(INTEGERS))
    coders = layered_coders("F16", rows=8, factors=(3,), exact=False)
    n = file.tensor("refined", "F16", [8, 40], 1, 8, 64, use=use_of("w", level=2, rename=b"w"))
    for unit in layered_file(coders, layered_integers(coders), None, 8, 64).units:
        file.unit(n, *unit[1:3], unit[6], layer=unit[3])
    n = file.tensor("same", "F32", [8, 40], 1, 5, 32, use=use_of("w", level=3, rename=b"w"))
    for tile in range(4):
        file.unit(n, tile, SAME, b"")
    file.tensor("tied", "F16", [8, 40], 1, 8, 64, tied=2)
    return file


def over_coder(rows=4, cols=5, dtype="BF16", **options):
    """A coder of exact tiles near those of a base."""
    tables = {t: NARROW for t in range(1, 32, 3)}
    return Coder(EXACT, dtype, rows, cols, shape=255, row_classes=[4 * 127 + 9] * rows, tables=tables, **options)


def over_tile(coder, elements=FLOATS):
    """A tile over these elements; its own are near."""
    signs = [[-1 if n >> 15 else 1 for n in line] for line in elements]
    near = [[n + (3 * r + c) % 5 - 2 for c, n in enumerate(line)] for r, line in enumerate(elements)]
    return coder.exact_tile(signs, elements, near)
