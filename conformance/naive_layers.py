"""Clauses 12 to 14, 16, and 21.5 to 21.7, of docs/SPEC.md: layers that refine the tiles of layer 0, or of a base."""

import struct

from naive_blocks import block_rows
from naive_coding import (Same, clamp, join_plane, lattice_rows, low_rank_row, on_paths, over_elements, pack_bits, read_coded,
                          read_tile, signed)
from naive_container import DIGITS, EXACT, FLOATS, LATTICE, REFINEMENT, SAME, TRANSFORM, need
from naive_digits import digit_rows
from naive_transform import transform_rows


# ---------------------------------------------------------------------------------------------------------- 12 Layers

def tile_layers(obj, tile):
    """The units of a tile from layer 0 up, as far as they are there, with their heads."""
    units = [obj.units[0, False, tile]]
    while units[0].mode in (LATTICE, TRANSFORM):
        unit, head = (obj.units.get((len(units), is_head, 0 if is_head else tile)) for is_head in (False, True))
        if not (unit and unit.present and head and head.present):
            break
        units.append(unit)
    return units


def band_level(obj, band, is_there=lambda unit: unit.present):
    """The level of a row of tiles: 12.3."""
    tiles = range(band * obj.tiles_across, (band + 1) * obj.tiles_across)
    refined = [t for t in tiles if obj.units[0, False, t].mode == LATTICE or
               obj.units[0, False, t].mode == TRANSFORM and (1, False, t) in obj.units]
    level = 0
    while refined and all(reaches(obj, t, level + 1, is_there) for t in refined):
        level += 1
    return level


def reaches(obj, tile, layer, is_there):
    """Whether a tile that is refined, and its head, are there in a layer; one in mode transform may end below it."""
    unit, head = obj.units.get((layer, False, tile)), obj.units.get((layer, True, 0))
    may_end = obj.units[0, False, tile].mode == TRANSFORM
    return bool(head and is_there(head) and (is_there(unit) if unit else may_end))


def read_layers(obj, units, contents, heads, reference=None, elements=None):
    """The rows of a tile at every level up to that of the last of its units, each the bytes of its elements; of its
    blocks in a layer of blocks. `reference` returns the rows of the reference's tile, if there is a reference; `elements` are
    the rows of base elements, if the tensor has base 1 and the tile needs them."""
    if units[0].mode == TRANSFORM:
        for unit in units[1:]:
            need(heads[unit.layer].kind == REFINEMENT, "6", f"{unit} has mode transform, but no head of kind 5")
        return [transform_rows(obj, units[:n], contents[:n], heads.get(0), reference)
                for n in range(1, len(units) + 1)]
    if units[0].mode == DIGITS:
        return [digit_rows(obj, units[0], contents[0])]
    if units[0].mode == SAME:
        need(not contents[0], "21.5", f"{units[0]} has mode same and {len(contents[0])} bytes")
        return [elements]
    if units[0].mode == EXACT:
        below = predicted_rows(obj, units[0], heads[0], elements)
        return [exact_rows(obj, units[0], heads[0], contents[0], signs_of(obj, below), below)]
    rows, z = read_tile(obj, units[0], contents[0], heads.get(0), elements)
    levels = [rows]
    for unit, content in zip(units[1:], contents[1:]):
        head = heads[unit.layer]
        need(not (heads[0].groups and head.kind == REFINEMENT), "20.4", f"{unit} is above a tensor with a format")
        if unit.mode == REFINEMENT:
            z = refined(obj, unit, head, content, z)
            rows = lattice_rows(obj, unit, heads[0], head, z, elements, "12.4", head.multipliers)
            levels.append(rows)
            continue
        if not heads[0].groups:  # 12.5
            rows = lattice_rows(obj, unit, heads[0], heads[unit.layer - 1], z, elements, "12.4", Same(0))
        if unit.mode == EXACT:
            signs = heads[0].groups.signs(z) if heads[0].groups else signs_of(obj, rows) if elements else z
            rows = exact_rows(obj, unit, head, content, signs, rows)
        else:
            rows = block_rows(obj, unit, head, content, rows)
        levels.append(rows)
    return levels


# ------------------------------------------------------------------------------------------------- 13 Mode refinement

def refined(obj, unit, head, data, coarse):
    """The integers of a layer from those of the layer below."""
    classes = [[3 * clamp(n, 0, 7) + min(abs(Z), 2) for n, Z in zip(*lines)]  # 13.1
               for lines in zip(head.class_sums(obj, unit), coarse)]
    values, _ = read_coded(obj, unit, data, head, classes, coarse)
    if head.states is not None:
        return on_paths(head, data, values, coarse)  # 13.3
    return [[signed(head.factor * Z + (d if Z >= 0 else -d), 32) for Z, d in zip(*lines)]  # 13.2
            for lines in zip(coarse, values)]


# ------------------------------------------------------------------------------------------------------ 14 Mode exact

def exact_rows(obj, unit, head, data, z, below):
    """The rows of the elements, from the integers and the rows of weights of the layer below."""
    bits = 8 * obj.size  # 14.1
    M, sign = FLOATS[obj.dtype][1], 1 << bits - 1
    code = {2: "H", 4: "I"}[obj.size]
    p = [[n % sign for n in struct.unpack("<%d%s" % (len(row) // obj.size, code), row)] for row in below]
    sums = head.class_sums(obj, unit)
    classes = [[clamp(R - 4 * max(P >> M, 1), 0, 30) if Z else 31 for R, Z, P in zip(*lines)]  # 14.3
               for lines in zip(sums, z, p)]
    values = join_plane(head, *read_coded(obj, unit, data, head, classes))

    def element(R, Z, P, u):
        if Z == 0:  # 14.5
            return ((max(R - 42, 0) << M - 2) + (u >> 1)) % sign + (u & 1) * sign
        o = signed(P + u, bits)  # 14.4
        return (o if o >= 0 else -1 - o) + ((Z < 0) != (o < 0)) * sign
    return [pack_bits([element(*of) for of in zip(*lines)], obj.size) for lines in zip(sums, z, p, values)]


# ---------------------------------------------------------------------------------------- 21.6 Mode exact over a base

def predicted_rows(obj, unit, head, elements):
    """The rows that an exact tile in layer 0 is coded over."""
    row0, col0, _, width = obj.tile_box(unit.tile)
    if not head.low_rank:
        return elements
    return [over_elements(obj.dtype, low_rank_row(head, r, col0, width), row) for r, row in enumerate(elements, row0)]


def signs_of(obj, rows):
    """What clause 14 takes for the integers: the signs of the elements, of 0 too."""
    return [[-1 if row[i] & 128 else 1 for i in range(obj.size - 1, len(row), obj.size)] for row in rows]
