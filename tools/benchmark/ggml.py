"""ggml's quantization of single matrices, through its shared library."""

import ctypes

import gguf
import numpy as np
from gguf.quants import dequantize


class Ggml:
    """libggml-base. The types are those that gguf names."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        floats = ctypes.POINTER(ctypes.c_float)
        self.chunk = self.library.ggml_quantize_chunk
        self.chunk.restype = ctypes.c_size_t
        self.chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]

    def quantized(self, w, kind, importance):
        """`w` (rows x columns) in a type and back, and the bytes that it takes; None if columns do not fit.

        `importance` is the mean square of each input, as llama-imatrix collects it.
        """
        kind = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = w.shape
        if columns % block:
            return None
        w = np.ascontiguousarray(w, dtype=np.float32)
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        out = np.empty((rows, columns // block * size), dtype=np.uint8)
        pointer = ctypes.POINTER(ctypes.c_float)
        source, weight = w.ctypes.data_as(pointer), importance.ctypes.data_as(pointer)
        written = self.chunk(int(kind), source, out.ctypes.data, 0, rows, columns, weight)
        if written != out.nbytes:
            raise SystemExit(f"ggml wrote {written} bytes of {kind.name}, not {out.nbytes}")
        return dequantize(out, kind), out.nbytes
