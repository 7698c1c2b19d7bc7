"""Dtypes of tensors as those of numpy and torch. Neither torch nor ml_dtypes is needed before one of them is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    import numpy as np

PLAIN = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
"""Dtypes that numpy has, and torch by the same names."""

SMALL = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
"""Dtypes that numpy does not have: those of ml_dtypes and, by the same names, torch."""

FRAMEWORKS = {"numpy": "numpy", "np": "numpy", "pt": "pt", "torch": "pt", "pytorch": "pt"}


def framework_of(name: str) -> str:
    """Return "numpy" or "pt" for a name of a framework."""
    if name not in FRAMEWORKS:
        raise UsageError(f"there is no framework {name!r}: use {', '.join(map(repr, FRAMEWORKS))}")
    return FRAMEWORKS[name]


def is_plain(dtype: str) -> bool:
    """Return whether elements are numbers, and not blocks of a GGUF or bytes of an unknown dtype."""
    return dtype in PLAIN or dtype in SMALL


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the dtype of numpy arrays; bytes for what is not plain."""
    import numpy as np

    if dtype in SMALL:
        try:
            import ml_dtypes
        except ImportError:
            raise MissingPackageError(
                f"numpy has no {SMALL[dtype]}: install ml_dtypes (pip install ml_dtypes), "
                'or read tensors of torch with framework="pt"'
            ) from None
        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, SMALL[dtype]))
        return small
    return np.dtype(PLAIN.get(dtype, "uint8")).newbyteorder("<")


def torch() -> Any:
    """Return the module torch."""
    try:
        import torch
    except ImportError:
        raise MissingPackageError('framework="pt" needs torch: pip install torch') from None
    return torch


def array(raw: Any, dtype: str, shape: Sequence[int], framework: str) -> Any:
    """Return bytes as an array of a dtype and shape. Nothing is copied."""
    if framework == "numpy":
        return raw.view(numpy_dtype(dtype)).reshape(shape)
    return torch().from_numpy(raw).view(torch_dtype(dtype)).reshape(shape)


def torch_dtype(dtype: str) -> Any:
    """Return the dtype of tensors of torch; bytes for what is not plain."""
    name = SMALL.get(dtype) or PLAIN.get(dtype, "uint8")
    found = getattr(torch(), name, None)
    if found is None:
        raise MissingPackageError(f"this version of torch has no {name}: a later one is needed")
    return found
