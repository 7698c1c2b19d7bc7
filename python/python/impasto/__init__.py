"""Compress the weights of large language models into one .impasto file, read any part of it, run models from it.

`open` is like `safetensors.safe_open`; `encode`, `calibrate`, `truncate`, `verify` and `fetch` do what the commands of these names
do; a `Model` generates text. Exceptions are subclasses of `Error`.
"""

import os as _os
import sys as _sys

from ._errors import (
    AbsentError,
    CancelledError,
    DamagedError,
    Error,
    InvalidError,
    MissingPackageError,
    NotFoundError,
    SizeError,
    SystemFailure,
    TensorNotFoundError,
    UsageError,
)
from ._file import Export, File, LayerInfo, Slice, load_file, open
from ._impasto import Matrix, Pieces, Progress, __version__, set_template_worker
from ._jobs import calibrate, encode, fetch, truncate, verify
from ._model import Model

__all__ = [
    "AbsentError",
    "CancelledError",
    "DamagedError",
    "Error",
    "Export",
    "File",
    "InvalidError",
    "LayerInfo",
    "Matrix",
    "MissingPackageError",
    "Model",
    "NotFoundError",
    "Pieces",
    "Progress",
    "SizeError",
    "Slice",
    "SystemFailure",
    "TensorNotFoundError",
    "UsageError",
    "__version__",
    "calibrate",
    "encode",
    "fetch",
    "load_file",
    "open",
    "truncate",
    "verify",
]

# Chat templates are programs, which run in a process of their own.
set_template_worker(_sys.executable or "python3", ["-I", "-S", _os.path.join(_os.path.dirname(__file__), "_worker.py")])
