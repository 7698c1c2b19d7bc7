"""What the Python package gguf makes of a GGUF file, and files that it writes.

    gguf_package.py list FILE      every key, value and tensor, one a line (see `listing` in gguf_python.rs)
    gguf_package.py write FOLDER   whole.gguf with values and tensors of every type, and parts-0000N-of-0000M.gguf
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter


def value(field):
    """A value as its type and the hexadecimal digits of its bytes."""
    kind = field.types[0]
    if kind != GGUFValueType.ARRAY:
        return f"{int(kind)} {field.parts[-1].tobytes().hex()}"
    digits = ",".join(field.parts[place].tobytes().hex() for place in field.data)
    return f"9 {int(field.parts[3][0])} {len(field.data)} {digits}"


def mixed(data):
    """A sum that knows the place of every byte."""
    places = np.arange(1, data.size + 1, dtype=np.uint64)
    return int((data.astype(np.uint64) * places).sum(dtype=np.uint64))


def listing(path):
    reader = GGUFReader(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            print("key", key, value(field))
    for tensor in sorted(reader.tensors, key=lambda t: t.name.encode()):
        shape = [int(extent) for extent in reversed(tensor.shape)]
        data = np.frombuffer(tensor.data.tobytes(), dtype=np.uint8)
        print("tensor", tensor.name, tensor.tensor_type.name, shape, data.size, mixed(data))


def fill(writer):
    rng = np.random.default_rng(7)
    writer.add_uint8("t.u8", 255)
    writer.add_int8("t.i8", -128)
    writer.add_uint16("t.u16", 65535)
    writer.add_int16("t.i16", -32768)
    writer.add_uint32("t.u32", 2**32 - 1)
    writer.add_int32("t.i32", -(2**31))
    writer.add_float32("t.f32", 1.1)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "text\n\u00e9\u4e2d")
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float64("t.f64", 1.1)
    writer.add_array("a.strings", ["<s>", "\u2581a", ""])
    writer.add_array("a.floats", [0.5, -1.25])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.bools", [True, False])
    writer.add_key_value("a.u8", b"bytes", GGUFValueType.ARRAY)
    for kind, (weights, size) in GGML_QUANT_SIZES.items():
        if kind != GGMLQuantizationType.Q8_1:  # Never in a file, and of another size in ggml.
            rows = rng.integers(0, 256, (3, 2 * size), dtype=np.uint8)
            writer.add_tensor(f"raw.{kind.name}", rows, raw_dtype=kind)
    for dtype in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64):
        writer.add_tensor(f"np.{dtype.__name__}", np.arange(30).reshape(2, 3, 5).astype(dtype))
    writer.add_tensor("empty", np.zeros((0, 4), dtype=np.float32))
    writer.add_tensor("one", np.ones((1,), dtype=np.float32))


def write(path, **options):
    writer = GGUFWriter(path, "test", **options)
    fill(writer)
    if "split_max_tensors" not in options:
        writer.add_custom_alignment(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    command, path = sys.argv[1], Path(sys.argv[2])
    if command == "list":
        listing(path)
    elif command == "write":
        write(path / "whole.gguf")
        write(path / "parts.gguf", split_max_tensors=16)
    else:
        sys.exit(__doc__)
