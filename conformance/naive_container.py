"""Clauses 1 to 4 of docs/SPEC.md, and 21.1: fields, the file, its manifest, the division of tensors into tiles; and what
12.1, 12.2 and 21.6 require of units.
"""

import math
import struct

from blake3 import blake3

STORED, ZSTD, HEAD, FLOAT, LATTICE, REFINEMENT, EXACT, OF_BLOCKS, TRANSFORM, DIGITS, SAME = range(11)  # 5
LAST_MODE = SAME
ABOVE = REFINEMENT, EXACT, OF_BLOCKS  # 12.1
ASSET, TENSOR = 0, 1  # 3.4
PREDICTED, IDENTICAL = 1, 2  # 3.4: what an object takes from the base


class Broken(Exception):
    """The file breaks a MUST of the specification."""

    def __init__(self, clause, what):
        super().__init__(f"SPEC {clause}: {what}")


def need(holds, clause, what):
    if not holds:
        raise Broken(clause, what)


# ---------------------------------------------------------------------------------------------------- 1 Conventions

class Reader:
    """Reads fields from bytes; a field that reaches past the end breaks `clause`."""

    def __init__(self, data, clause, what):
        self.data, self.pos, self.clause, self.what = data, 0, clause, what

    def take(self, length):
        need(length <= len(self.data) - self.pos, self.clause, f"{self.what} ends too early")
        self.pos += length
        return self.data[self.pos - length:self.pos]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def u8(self):
        return self.take(1)[0]

    def varint(self):  # 1.2
        value = 0
        for i in range(10):
            byte = self.u8()
            value |= (byte & 127) << 7 * i
            if byte < 128:
                need(byte or i == 0, "1.2", f"a varint of {self.what} is not in its shortest form")
                need(value < 1 << 64, "1.2", f"a varint of {self.what} is not below 2^64")
                return value
        raise Broken("1.2", f"a varint of {self.what} is longer than 10 bytes")

    def at_end(self):
        return self.pos == len(self.data)


class Bits:
    """A bit string (1.4), read bit by bit."""

    def __init__(self, reader):
        self.reader, self.byte, self.left = reader, 0, 0

    def bit(self):
        if self.left == 0:
            self.byte, self.left = self.reader.u8(), 8
        bit = self.byte & 1
        self.byte, self.left = self.byte >> 1, self.left - 1
        return bit


def fields(data, width, count):
    """The `count` fields of `width` bits of a bit string (1.4); what pads it is ignored."""
    store = held = 0
    out, source, mask = [], iter(data), (1 << width) - 1
    for _ in range(count):
        while held < width:
            store |= next(source) << held
            held += 8
        out.append(store & mask)
        store >>= width
        held -= width
    return out


def unzigzag(u):  # 1.3
    return -(u + 1 >> 1) if u & 1 else u >> 1


def ceil_div(a, b):
    return -(-a // b)


# ----------------------------------------------------------------------------------------------------------- 2 File

def align(position, unit=16):
    return ceil_div(position, unit) * unit


class File:
    """What a file says of itself: its root, its base record, if it is a delta, its objects and units."""

    def __init__(self, data, root, objects, units, base):
        self.data, self.root, self.objects, self.units, self.base = data, root, objects, units, base
        self.held = None  # bytes that are present, without padding
        self.over = None  # the base, opened


def read_file(data, allow_expansion=False):
    """The file as its header and its manifest describe it: clauses 2 and 3, and the bound of 11.3 without its base."""
    need(data[:8] == b"\x89IMP\r\n\x1a\n", "2.1", "not an Impasto file")
    header = Reader(data[8:64], "2", "the file header")
    major, _minor, flags = (header.number(code) for code in "HHI")
    need(major == 1, "2.1", f"major version {major}")
    need(flags == 0, "2.1", f"flags {flags:#x}")
    manifest_length, file_length = header.number("Q"), header.number("Q")
    root = header.take(32)
    need(manifest_length <= 1 << 32, "2.2", "the manifest is longer than 2^32 bytes")
    need(64 + manifest_length <= len(data), "2.2", "the manifest reaches past the end of the file")
    manifest = data[64:64 + manifest_length]
    need(blake3(manifest) == root, "2.3", "the manifest's hash is not the root")
    file = File(data, root, *read_manifest(manifest))
    objects, units = file.objects, file.units
    end = 64 + manifest_length
    for unit in units:  # 2.4
        unit.start = align(end)
        end = unit.start + unit.length
        unit.present = end <= min(len(data), file_length)
    need(file_length == end, "2.5", f"file_length is {file_length}, but the last unit ends at {end}")
    file.held = 64 + manifest_length + sum(unit.length for unit in units if unit.present)
    if not allow_expansion:
        check_expansion(expanded_bytes(objects, False), file.held)
    return file


def check_expansion(expanded, held):
    need(expanded <= max(1 << 28, 512 * held), "11.3",
         f"the file's {held} bytes expand to {expanded}, which --allow-expansion allows")


def expanded_bytes(objects, with_base):
    """What the units that are present expand to, and what is taken from the base if it is there: 11.3."""
    total, of_layer_0 = 0, {}
    for obj in objects:
        if not obj.known or (obj.tied or obj).usage and not with_base:
            continue
        of_layer_0[obj] = of_layer_0.get(obj.tied, 0)
        total += of_layer_0[obj]  # of a tied tensor: it has no units of its own
        total += of_layer_0.get((obj.tied or obj).reference, 0)
        if obj.usage == IDENTICAL:
            of_layer_0[obj] = obj.rows * obj.cols * obj.size
            total += of_layer_0[obj]
        for (layer, is_head, tile), unit in obj.units.items():
            if unit.present and unit.mode <= LAST_MODE:
                height, width = (0, 0) if is_head else obj.tile_box(tile)[2:]
                size = height * (align(width, 32) if HEAD < unit.mode < DIGITS else width) * obj.size
                size *= 2 if obj.usage == PREDICTED and not layer and unit.mode != SAME else 1
                of_layer_0[obj] += 0 if layer else size
                total += 1 << 16 if is_head else size
    return total


# ------------------------------------------------------------------------------------------------------- 3 Manifest

PLAIN = {1: ("F32", 4), 2: ("F16", 2), 3: ("BF16", 2), 4: ("F64", 8), 5: ("F8_E4M3", 1), 6: ("F8_E5M2", 1),  # 3.5
         7: ("U8", 1), 8: ("I8", 1), 9: ("U16", 2), 10: ("I16", 2), 11: ("U32", 4), 12: ("I32", 4), 13: ("U64", 8),
         14: ("I64", 8), 15: ("BOOL", 1), 16: ("C64", 8), 17: ("F8_E8M0", 1)}  # name and bytes
BLOCKS = {66: ("Q4_0", 18, 32), 67: ("Q4_1", 20, 32), 70: ("Q5_0", 22, 32), 71: ("Q5_1", 24, 32), 72: ("Q8_0", 34, 32),
          74: ("Q2_K", 84, 256), 75: ("Q3_K", 110, 256), 76: ("Q4_K", 144, 256), 77: ("Q5_K", 176, 256),
          78: ("Q6_K", 210, 256), 80: ("IQ2_XXS", 66, 256), 81: ("IQ2_XS", 74, 256), 82: ("IQ3_XXS", 98, 256),
          83: ("IQ1_S", 50, 256), 84: ("IQ4_NL", 18, 32), 85: ("IQ3_S", 110, 256), 86: ("IQ2_S", 82, 256),
          87: ("IQ4_XS", 136, 256), 93: ("IQ1_M", 56, 256), 98: ("TQ1_0", 54, 256), 99: ("TQ2_0", 66, 256),
          103: ("MXFP4", 17, 32)}  # name, bytes, weights
OPAQUE = 127
FLOATS = {"F32": (8, 23), "F16": (5, 10), "BF16": (8, 7), "F8_E4M3": (4, 3), "F8_E5M2": (5, 2)}  # 9.1: E, M


class Object:
    """An asset or a tensor as a matrix of tiles (4.1 to 4.3); of an unknown class only the name is known."""

    def __init__(self, cls, name):
        self.cls, self.name, self.type, self.tied, self.reference = cls, name, None, None, None
        self.usage, self.base_level, self.base_hash, self.base_name = 0, None, None, name  # what it takes from the base
        self.units = {}  # (layer, is a head, tile): unit; above layer 0 none of an unknown mode
        self.known = cls in (ASSET, TENSOR)

    def set_matrix(self, rows, cols, tile_rows, tile_cols):
        what = f"{self.name!r}"
        self.rows, self.cols, self.tile_rows, self.tile_cols = rows, cols, tile_rows, tile_cols
        need(tile_rows >= 1 and tile_cols >= 1, "3.4", f"the tiles of {what} are empty")
        need(self.cls == ASSET or tile_cols % 32 == 0 or tile_cols >= cols, "4.2",
             f"tile_cols of {what} is neither a multiple of 32 nor all columns")
        tile = min(tile_rows, rows) * min(tile_cols, cols)
        need(tile <= 1 << 24, "4.2", f"a tile of {what} has over 2^24 elements")
        need(tile * self.size <= 1 << 27, "4.2", f"a tile of {what} has over 2^27 bytes")
        self.tiles_across = ceil_div(cols, tile_cols)
        self.tiles = ceil_div(rows, tile_rows) * self.tiles_across
        need(self.tiles < 1 << 32, "4.2", f"{what} has 2^32 tiles or more")

    def tile_box(self, tile):
        """First row, first column, height and width of a tile."""
        r, c = tile // self.tiles_across * self.tile_rows, tile % self.tiles_across * self.tile_cols
        return r, c, min(self.tile_rows, self.rows - r), min(self.tile_cols, self.cols - c)


class Unit:
    """An entry of the units record (3.6)."""

    def __init__(self, number, entry):
        self.entry = entry
        (self.object, self.tile, self.mode, self.layer, self.reserved, self.length,
         self.hash) = struct.unpack("<IIBBHI16s", entry)
        self.number = number

    def __str__(self):
        return f"unit {self.number}"


def read_manifest(manifest):
    records = Reader(manifest, "3.1", "the manifest")
    objects, units, marks, base = [], None, None, None
    while not records.at_end():
        kind, length = records.u8(), records.varint()
        payload = records.take(length)
        if kind == 0x81:
            need(units is None, "3.3", "an object record after the units record")
            objects.append(read_object(Reader(payload, "3.1", f"object record {len(objects)}"), objects))
        elif kind == 0x82:
            need(units is None, "3.3", "a second units record")
            units = read_units(Reader(payload, "3.6.1", "the units record"))
        elif kind == 0x83:
            need(base is None, "21.1", "a second base record")
            base = Base(Reader(payload, "3.1", "the base record"))
        elif kind == 0x01:
            need(marks is None, "3.7", "a second layers record")
            marks = read_marks(Reader(payload, "3.1", "the layers record"))
        else:
            need(kind < 0x80, "3.2", f"a record of unknown kind {kind:#x}")
    need(units is not None, "3.3", "no units record")
    marks = [0, *(marks or []), len(units)]
    need(marks == sorted(marks), "3.7", f"the layers end at units {marks[1:-1]} of {len(units)}")
    for obj in objects:
        need(base or not obj.usage, "3.4.7", f"{obj.name!r} has a base, the file has none")
    check_folders({obj.name for obj in objects if obj.cls == ASSET})
    check_units(objects, units)
    for obj in objects:
        check_layer_0(obj)
        check_layers(obj)
    return objects, units, base


class Base:
    """The base record: 21.1."""

    def __init__(self, record):
        self.root = record.take(32)
        self.name, self.licence = (text(record, "21.1", what, 0) for what in ("the name of the base", "its licence"))
        mirrors = record.varint()
        need(mirrors <= 64, "21.1", f"the base has {mirrors} mirrors")
        self.mirrors = [text(record, "21.1", "a mirror of the base", 1) for _ in range(mirrors)]


def text(record, clause, what, least):
    """A length, and as many bytes of UTF-8, of which there are at most 4096."""
    length = record.varint()
    need(least <= length <= 4096, clause, f"{what} has {length} bytes")
    try:
        return record.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise Broken(clause, f"{what} is not UTF-8") from None


def read_object(record, objects):
    """The next object: 3.4. `objects` are those before it."""
    cls, prefix, suffix = record.u8(), record.varint(), record.varint()
    before = objects[-1].name.encode() if objects else b""
    need(prefix <= len(before), "3.4", f"{record.what} shares more than the name before it has")
    name = before[:prefix] + record.take(suffix)
    need(1 <= len(name) <= 4096, "3.4.1", f"the name of {record.what} has {len(name)} bytes")
    try:
        obj = Object(cls, name.decode("utf-8"))
    except UnicodeDecodeError:
        raise Broken("3.4.1", f"the name of {record.what} is not UTF-8") from None
    need(not objects or (objects[-1].cls, before) < (cls, name), "3.4.1", f"{obj.name!r} is not in ascending order")
    start = record.pos
    if cls == ASSET:
        length, piece = record.varint(), record.varint()
        obj.fields = record.data[start:record.pos]
        need(length <= 1 << 48, "3.4.3", f"asset {obj.name!r} is longer than 2^48")
        for part in obj.name.split("/"):
            need(part and part[0] != "." and not any(c in "\\:" or ord(c) < 32 or 127 <= ord(c) < 160 for c in part),
                 "3.4.4", f"{obj.name!r} is not a name for an asset")
        obj.dtype, obj.size = "U8", 1
        obj.set_matrix(1, length, 1, piece)  # 4.1
        obj.alike, obj.split = length, 0
        read_use(obj, record)
    elif cls == TENSOR:
        read_tensor(obj, record, objects)
    return obj


def read_use(obj, record):
    """What an object takes from the base: 3.4, 3.4.7."""
    usage = 0 if record.at_end() else record.u8()
    need(usage <= IDENTICAL, "3.4", f"{obj.name!r} has base {usage}")
    if usage == 0:
        return
    obj.usage, obj.base_level, obj.base_hash = usage, record.u8(), record.take(16)
    obj.base_name = text(record, "3.4", f"the name that {obj.name!r} has in the base", 0) or obj.name
    may_predict = obj.cls == TENSOR and obj.type is None
    need(usage == IDENTICAL or may_predict, "3.4.7", f"{obj.name!r} has base 1, and is an asset or opaque")
    need(obj.cls == TENSOR or obj.base_level == 0, "3.4.7", f"asset {obj.name!r} has a base at level {obj.base_level}")
    need(obj.tied is None and obj.reference is None, "3.4.7", f"{obj.name!r} is tied, or has a reference, and has a base")


def check_folders(assets):
    """No name of an asset is that of a folder of another: 3.4.4."""
    for name in assets:
        parts = name.split("/")
        for n in range(1, len(parts)):
            folder = "/".join(parts[:n])
            need(folder not in assets, "3.4.4", f"{folder!r} is an asset and a folder of {name!r}")


def read_tensor(obj, record, objects):
    """The fields of a tensor: 3.4, 3.5."""
    start = record.pos
    code, what = record.u8(), f"{obj.name!r}"
    weights, length = 1, None
    if code in PLAIN:
        obj.dtype, obj.size = PLAIN[code]
    elif code in BLOCKS:
        obj.dtype, obj.size, weights = BLOCKS[code]
    else:
        need(code == OPAQUE, "3.5", f"{what} has unknown dtype {code}")
        obj.dtype, obj.size, obj.type = "opaque", 1, read_type(record, what)
        length = record.varint()
        need(length <= 1 << 48, "3.4.3", f"{what} has more than 2^48 bytes")
    ndim = record.varint()
    need(ndim <= 16, "3.4", f"{what} has {ndim} dims")
    obj.dims = [record.varint() for _ in range(ndim)]
    need(math.prod(obj.dims) <= 1 << 48, "3.4.3", f"{what} has more than 2^48 weights")
    split, tile_rows, tile_cols = (record.varint() for _ in range(3))
    obj.fields = record.data[start:record.pos]  # from dtype to tile_cols
    tied = record.varint()
    need(split <= ndim, "3.4", f"split of {what} is above ndim")
    rows, cols = math.prod(obj.dims[:split]), math.prod(obj.dims[split:])
    need(rows < 1 << 64 and cols < 1 << 64, "3.4.3", f"{what} has 2^64 rows or columns")
    if weights > 1:
        need(split < ndim, "3.5.1", f"{what} has no dim for the blocks of {obj.dtype}")
        need(obj.dims[-1] % weights == 0, "3.5.1", f"the last dim of {what} is no multiple of {weights}")
        cols //= weights
    if code == OPAQUE:
        need(split == 0, "3.5.2", f"{what} is opaque and has split {split}")
        rows, cols = 1, length
    obj.set_matrix(rows, cols, tile_rows, tile_cols)  # 4.1, 4.2: for tied tensors too
    obj.alike = code, obj.type, length, obj.dims
    if tied:
        need(tied <= len(objects), "3.4.2", f"{what} is tied to no earlier object")
        obj.tied = objects[tied - 1]
        need(obj.tied.cls == TENSOR and obj.tied.tied is None and obj.tied.alike == obj.alike, "3.4.2",
             f"{what} is tied to an object that does not suit it")
    reference = 0 if record.at_end() else record.varint()
    obj.split, obj.tiling = split, (split, tile_rows, tile_cols)
    if reference:
        need(not tied, "3.4.6", f"{what} is tied and has a reference")
        need(reference <= len(objects), "3.4.6", f"the reference of {what} is no earlier object")
        obj.reference = objects[reference - 1]
        need(obj.reference.cls == TENSOR and obj.reference.tied is None and obj.reference.reference is None, "3.4.6",
             f"the reference of {what} is no tensor, tied, or has a reference itself")
        need((obj.reference.alike, obj.reference.tiling) == (obj.alike, obj.tiling), "3.4.6",
             f"the reference of {what} has another dtype, shape or tiling")
        need(not obj.reference.usage, "3.4.6", f"the reference of {what} has a base")
    read_use(obj, record)


def read_type(record, what):
    """The name of an opaque dtype: 3.5.2."""
    length = record.varint()
    need(1 <= length <= 64, "3.5.2", f"the name of the dtype of {what} has {length} bytes")
    try:
        name = record.take(length).decode("utf-8")
    except UnicodeDecodeError:
        raise Broken("3.5.2", f"the name of the dtype of {what} is not UTF-8") from None
    need(name not in {plain for plain, _ in PLAIN.values()}, "3.5.2", f"{what} has opaque dtype {name}")
    return name


def read_units(record):
    count = record.varint()
    need(len(record.data) - record.pos == 32 * count, "3.6.1", "the units record has not the length of its entries")
    return [Unit(n, record.take(32)) for n in range(count)]


def read_marks(record):
    """Where the writer's layers end, in units: 3.7."""
    count = record.varint()
    need(count <= 255, "3.7", f"{count} layers")
    marks = []
    for _ in range(count):
        marks.append(record.varint())
        record.number("f")
    return marks


def check_units(objects, units):
    """What units tell alone: 3.6, 5.2, 5.3, 12.1, 21.6."""
    seen = set()
    for unit in units:
        need(unit.reserved == 0, "3.6", f"the reserved field of {unit} is not 0")
        need(unit.length <= 1 << 28, "3.6", f"{unit} is longer than 2^28 bytes")
        need(unit.object < len(objects), "3.6.2", f"{unit} belongs to no object")
        obj = objects[unit.object]
        need(obj.tied is None and obj.usage != IDENTICAL, "3.6.2",
             f"{unit} belongs to an object that is tied, or identical to one of the base")
        place = (unit.object, unit.layer, None if unit.mode == HEAD else unit.tile)
        need(place not in seen, "3.6.2", f"{unit} has the place of an earlier unit")
        seen.add(place)
        if not obj.known:
            continue
        if unit.mode == HEAD:
            need(unit.tile == 0, "3.6.2", f"{unit}, a head, has tile {unit.tile}")
            need(obj.tiles > 0, "3.6.2", f"{unit} is a head of {obj.name!r}, which has no tiles")
        else:
            need(unit.tile < obj.tiles, "3.6.2", f"{unit} is for tile {unit.tile} of {obj.tiles}")
        if unit.layer == 0 or unit.mode <= LAST_MODE:  # 3.6.1
            obj.units[unit.layer, unit.mode == HEAD, unit.tile] = unit
            check_mode(obj, unit)


def check_mode(obj, unit):
    need(obj.usage != PREDICTED or unit.mode not in (TRANSFORM, OF_BLOCKS), "21.6",
         f"{unit} of {obj.name!r}, which has a base, has mode {unit.mode}")
    if unit.mode != HEAD and unit.mode <= LAST_MODE:
        may_be_lowest = unit.mode == TRANSFORM or unit.mode == EXACT and obj.usage == PREDICTED
        need(may_be_lowest or (unit.layer > 0) == (unit.mode in ABOVE), "12.1",
             f"{unit} of {obj.name!r} has mode {unit.mode} in layer {unit.layer}")
        need(unit.mode != SAME or obj.usage == PREDICTED, "12.1", f"{unit} of {obj.name!r} has mode same, but no base")
    if obj.cls == ASSET:
        need(not HEAD <= unit.mode <= TRANSFORM, "5.3", f"{unit} of asset {obj.name!r} has mode {unit.mode}")
    check_dtype(obj, unit.mode)
    if unit.mode == STORED:
        _, _, height, width = obj.tile_box(unit.tile)
        need(unit.length == height * width * obj.size, "5.2", f"{unit} has not the size of its tile")


def check_dtype(obj, mode):
    need(mode != FLOAT or obj.dtype in FLOATS, "5.3", f"mode float for dtype {obj.dtype}, {obj.name!r}")
    need(mode != OF_BLOCKS or obj.dtype == "F32", "5.3", f"mode blocks for dtype {obj.dtype}, {obj.name!r}")
    need(mode not in (LATTICE, REFINEMENT, EXACT, TRANSFORM) or obj.dtype in ("F32", "F16", "BF16"), "5.3",
         f"mode {mode} for dtype {obj.dtype}, {obj.name!r}")


def check_layer_0(obj):
    """What the units of layer 0 are together: 3.6.3, 5.4."""
    if not obj.known or obj.tied is not None or obj.usage == IDENTICAL:
        return
    tiles = [unit for (layer, head, _), unit in obj.units.items() if layer == 0 and not head]
    need(len(tiles) == obj.tiles, "3.6.3", f"{obj.name!r} has {len(tiles)} tiles of {obj.tiles}")
    coded = [unit for unit in tiles if unit.mode in (FLOAT, LATTICE, TRANSFORM)]
    need(len({unit.mode == FLOAT for unit in coded}) <= 1, "5.4", f"{obj.name!r} mixes float with lattice or transform")
    check_head(obj, 0, [unit for unit in tiles if unit in coded or unit.mode == EXACT])


def check_layers(obj):
    """What the units of the layers above are: 12.2."""
    for layer in sorted({layer for layer, *_ in obj.units} - {0}):
        tiles = [unit for (k, head, _), unit in obj.units.items() if k == layer and not head]
        for unit in tiles:
            for k in range(layer):
                below = obj.units.get((k, False, unit.tile))
                wanted = TRANSFORM if unit.mode == TRANSFORM else REFINEMENT if k else LATTICE
                need(below and below.number < unit.number and below.mode == wanted, "12.2",
                     f"{unit} of {obj.name!r}, in layer {layer}, has no tile to make finer in layer {k}")
        need(len({unit.mode for unit in tiles}) <= 1, "12.2", f"layer {layer} of {obj.name!r} has tiles of two modes")
        check_head(obj, layer, tiles)


def check_head(obj, layer, tiles):
    """A head stands before the tiles of its layer: 3.6.3."""
    head = obj.units.get((layer, True, 0))
    first = min((unit.number for unit in tiles), default=None)
    need(not tiles or head and head.number < first, "3.6.3",
         f"{obj.name!r} has no head before its tiles in layer {layer}")
