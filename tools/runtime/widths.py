"""The widths of the integers of a coded model: the scale classes of its rows and columns, and their shape.

A class is a quarter octave: integers in row r and column c have a standard deviation of about 2^((row_class[r] +
column_class[c] - 15) / 4) (SPEC 7.1, 7.4). Tensor headers are read by the naive decoder of `conformance`.
"""

import json
import mmap
import sys
from dataclasses import dataclass

import numpy as np
from context import ROOT

# The decoder's blake3.py has the name of the package that synthetic.py takes: neither must find the other's.
sys.modules.pop("blake3", None)
sys.path.insert(0, str(ROOT / "conformance"))
from naive_coding import Head, read_shapes  # noqa: E402
from naive_container import LATTICE, TENSOR, read_file  # noqa: E402

sys.path.pop(0)
sys.modules.pop("blake3")

KINDS = ("embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
UNIT = 15  # the class of standard deviation 1
WIDEST = 43  # SPEC 7.1
POOL = 1 << 18  # integers of a tensor whose shape is looked at
COARSE = UNIT + 4  # classes from a standard deviation of 2: below, an integer says little of the weight


def kind_of(name):
    """q_proj and so on, of a tensor's name."""
    return name.split(".")[-2]


@dataclass
class Widths:
    """What a head says: classes of rows and columns, and the steps (natural numbers, not indices)."""

    rows: np.ndarray
    columns: np.ndarray
    row_steps: np.ndarray
    column_steps: np.ndarray

    def deviations(self, rows, columns):
        """The standard deviations of integers in these rows and columns."""
        return 2.0 ** ((np.clip(self.rows[rows] + self.columns[columns], 0, WIDEST) - UNIT) / 4)

    def moments(self):
        """Mean and standard deviation over all integers of log2 of their standard deviation, and of its two parts."""
        octaves = (np.clip(self.rows[:, None] + self.columns, 0, WIDEST) - UNIT) / 4
        return octaves.mean(), octaves.std(), self.rows.std() / 4, self.columns.std() / 4


def read(path):
    """The widths of every matrix on the lattice in a file, by name."""
    shapes = read_shapes((ROOT / "docs/SPEC-TABLES.md").read_text(encoding="utf-8"))
    found = {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        objects, _ = read_file(data)
        for obj in objects:
            unit = obj.units.get((0, True, 0)) if obj.known and obj.cls == TENSOR else None
            if unit is None:
                continue
            head = Head(obj, unit, data[unit.start : unit.start + unit.length], shapes)
            if head.kind == LATTICE:
                found[obj.name] = widths(obj, head)
    return found


def widths(obj, head):
    def entries(array, count):
        return np.array([array[i] for i in range(count)])

    rows = entries(head.row_classes, obj.rows) + 4 * head.plane  # raw bits below the class double its width
    return Widths(
        rows,
        entries(head.column_classes, obj.cols),
        head.step * 2.0 ** (entries(head.row_steps, obj.rows) / 16),
        2.0 ** (entries(head.column_steps, obj.cols) / 16),
    )


class Folder:
    """The tensors of a Hugging Face folder with one safetensors file of bfloat16."""

    def __init__(self, folder):
        self.raw = np.memmap(folder / "model.safetensors", dtype=np.uint8, mode="r")
        length = int.from_bytes(self.raw[:8].tobytes(), "little")
        self.header = json.loads(self.raw[8 : 8 + length].tobytes())
        self.begin = 8 + length

    def sample(self, name, rows, columns):
        """Some weights as float32."""
        entry = self.header[name]
        if entry["dtype"] != "BF16":
            sys.exit(f"{name} is {entry['dtype']}: only BF16 is read")
        begin, end = (self.begin + at for at in entry["data_offsets"])
        bits = self.raw[begin:end].view("<u2").reshape(entry["shape"])[rows, columns]
        return (bits.astype(np.uint32) << 16).view(np.float32)


def shapes(found, folder, rng):
    """Integers over their standard deviation, of each kind of matrix: how heavy their tails are.

    `folder` holds the same model decoded. Only wide integers are taken, dithered: rounding hides how narrow ones lie.
    """
    decoded, pools = Folder(folder), {kind: [] for kind in KINDS}
    for name, w in found.items():
        rows, columns = (rng.integers(len(part), size=POOL) for part in (w.rows, w.columns))
        deviations = w.deviations(rows, columns)
        wide = deviations >= 2 ** ((COARSE - UNIT) / 4)
        rows, columns, deviations = rows[wide], columns[wide], deviations[wide]
        z = np.rint(decoded.sample(name, rows, columns) / (w.row_steps[rows] * w.column_steps[columns]))
        pools[kind_of(name)].append((z + rng.uniform(-0.5, 0.5, len(z))) / deviations)
    joined = {kind: rng.permutation(np.concatenate(parts)).astype(np.float32) for kind, parts in pools.items()}
    return {kind: pool / np.sqrt(np.mean(pool**2)) for kind, pool in joined.items()}
