"""The small good files that odd and broken ones are made of."""

from minimal_encoder import Coder, File, coded_file
from naive_container import FLOAT, LATTICE, STORED


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
BYTES = [[5 * r + c for c in range(5)] for r in range(4)]
INTEGERS = [[7 * r - 3 * c for c in range(5)] for r in range(4)]


def floats(tile_rows=4, **options):
    """A file with a 4 x 5 tensor in mode float; unit 0 is the head."""
    return coded_file(Coder(FLOAT, "BF16", 4, 5, row_classes=[507] * 4), FLOATS, tile_rows, 32, **options)


def lattice(dtype="F32", z=None, change=lambda *_: None, **options):
    """A file with a 4 x 5 tensor in mode lattice."""
    return coded_file(Coder(LATTICE, dtype, 4, 5, **{"plane": 3, "step": 1.0, **options}), z or INTEGERS, 4, 32,
                      change=change)


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
