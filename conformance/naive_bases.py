"""Clause 21 of docs/SPEC.md, without 21.1 and 21.5 to 21.7: the base of a file, its objects, and their elements."""

import math

from blake3 import blake3
from naive_coding import elements_of, values_of
from naive_container import FLOATS, IDENTICAL, check_expansion, expanded_bytes, need, read_file

MOST_FILES = 16  # 21.8: what this reader reads for one file
LATTICES = "F32", "F16", "BF16"


def open_file(data, allow_expansion=False, find=lambda base: None, above=()):
    """The file with its base, the base of that, and so on. `find` returns the content of a base, or None; `above` are the
    roots of the files that this one is needed for."""
    file = read_file(data, allow_expansion)
    need(file.root not in above, "21.8", "the file is, directly or not, its own base")
    need(len(above) < MOST_FILES, "21.8", f"a file needs more than {MOST_FILES} files")
    content = find(file.base) if file.base else None
    if content is not None:
        file.over = open_file(content, allow_expansion, find, (*above, file.root))
        file.held += file.over.held
        check_base(file)
        if not allow_expansion:
            check_expansion(expanded_bytes(file.objects, True), file.held)
    return file


def check_base(file):
    """That the base is the right one, and its objects suit those of the file: 21.2."""
    named = {(obj.cls, obj.name): obj.tied or obj for obj in file.over.objects}
    takers = [obj for obj in file.objects if obj.usage]
    for obj in takers:
        obj.of_base = named.get((obj.cls, obj.base_name))
    same = file.over.root == file.base.root or all(
        obj.of_base and object_hash(obj.of_base, obj.base_level) == obj.base_hash for obj in takers)
    need(same, "21.2", "the base has another root, and other objects")
    for obj in takers:
        other = obj.of_base
        need(other, "21.2", f"the base has no {obj.base_name!r}, which {obj.name!r} is made from")
        if obj.usage == IDENTICAL:
            need((other.alike, other.split) == (obj.alike, obj.split), "21.2", f"{obj.name!r} has not the dtype and shape of what it is identical to")
        else:
            need(other.cols == obj.cols, "21.2", f"{obj.name!r} has not the columns of its base object")
            fits = other.dtype == obj.dtype or obj.dtype in LATTICES and other.dtype in FLOATS
            need(fits, "21.2", f"{obj.name!r} has not the dtype of its base object")


def object_hash(obj, level):
    """The hash of an object that is not tied, at a level: 21.3."""
    content = bytes([level]) + obj.fields
    content += bytes([obj.usage, obj.base_level]) + obj.base_hash if obj.usage else b"\0"
    content += b"\1" + object_hash(obj.reference, 0) if obj.reference else b"\0"
    for layer in range(level + 1):
        head = obj.units.get((layer, True, 0))
        tiles = [unit for (k, is_head, _), unit in obj.units.items() if k == layer and not is_head]
        with_head = [head] if head and (layer == 0 or tiles) else []
        for unit in with_head + sorted(tiles, key=lambda unit: unit.tile):
            content += unit.entry[4:]
    return blake3(content)[:16]


def converted(row, dtype, to):
    """The elements of a row in another dtype: 21.4."""
    if dtype == to:
        return row
    return elements_of(to, [0.0 if math.isnan(v) else v for v in values_of(dtype, row)])


class Bases:
    """Finds the base of a delta by its root, among files and in folders. If none has the root, the first of the files is
    taken; it may have the same objects (21.2)."""

    def __init__(self, paths):
        self.files = [path for path in paths if path.is_file()]
        self.folders = [path for path in paths if path.is_dir()]

    def find(self, base):
        listed = [path for folder in self.folders for path in sorted(folder.glob("*.impasto"))]
        for path in self.files + listed:
            with path.open("rb") as file:
                if file.read(64)[32:] == base.root:
                    return path.read_bytes()
        return self.files[0].read_bytes() if self.files else None
