"""Open files, in the manner of `safetensors.safe_open`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from . import _dtypes
from ._errors import TensorNotFoundError, UsageError
from ._impasto import Export as NativeExport
from ._impasto import File as Native
from ._impasto import Matrix, Progress
from ._slices import parts, span
from ._words import Layer, Path, Size, words


class LayerInfo(NamedTuple):
    """A quality layer of a file, with all coarser ones."""

    bytes: int
    """Bytes of a file that ends with the layer."""
    bits_per_weight: float
    """The same, in bits over all weights."""
    kld: float | None
    """KL divergence from the original in nats per token, if it was measured."""
    whole: bool
    """Whether all of the layer is there."""


def open(
    path: Path,
    framework: str = "numpy",
    device: str = "cpu",
    *,
    layer: Layer | None = None,
    budget: Size | None = None,
    bpw: float | None = None,
    base: Path | Sequence[Path] | None = None,
    memory_limit: Size | None = None,
    allow_expansion: bool = False,
    progress: Callable[[Progress], object] | None = None,
    **options: Any,
) -> File:
    """Open an .impasto file, or the address of one.

    Nothing is decoded before a tensor is read. Of a layered file, `layer`, `budget` (bytes) or `bpw` (bits per weight) limit how
    much is used. The base of a delta is found as the command finds it, and in `base`: files or folders. An address, such as
    "https://example.org/m.impasto" or "hf://owner/repo/m.impasto", is fetched to the cache folder first, as much of it as is
    used; `progress` is called meanwhile, and cancels by returning `False`. Other options are those of `impasto run` for fetching:
    `connections`, `tries`, `timeout`, `ca_file`, `header`, `token_file`.

    Raises `NotFoundError`, `InvalidError`, `UsageError` and others of the package.
    """
    given = {
        "layer": layer,
        "budget": budget,
        "bpw": bpw,
        "base": base,
        "memory_limit": memory_limit,
        "allow_expansion": allow_expansion,
        **options,
    }
    return File(Native.open(words([path], given), progress), framework, device)


def load_file(path: Path, framework: str = "numpy", device: str = "cpu", **options: Any) -> dict[str, Any]:
    """Read all tensors of a file, by name. Options are those of `open`."""
    with open(path, framework, device, **options) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


class File:
    """An open file. It is a context manager; reading from several threads at once is fine."""

    def __init__(self, native: Native, framework: str = "numpy", device: str = "cpu") -> None:
        self._open: Native | None = native
        self._framework = _dtypes.framework_of(framework)
        self._device = device
        if self._framework == "pt":
            _dtypes.torch()
        elif device != "cpu":
            raise UsageError('arrays of numpy are on the CPU: for another device, use framework="pt"')

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Arrays that were read stay."""
        self._open = None

    @property
    def _native(self) -> Native:
        if self._open is None:
            raise UsageError("the file is closed")
        return self._open

    def __repr__(self) -> str:
        return f"<impasto.File {self._open.path!r}>" if self._open else "<impasto.File, closed>"

    def keys(self) -> list[str]:
        """Return the names of the tensors."""
        return self._native.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata of the safetensors files that a lossless file restores; `None` if there is none."""
        found: dict[str, str] = {}
        for name in self._native.assets():
            if name.endswith(".safetensors#header"):
                header = self._native.asset(name) or b""
                found.update(json.loads(header[header.find(b"{") :]).get("__metadata__", {}))
        return found or None

    def get_shape(self, name: str) -> list[int]:
        """Return the shape of a tensor, in weights."""
        return list(self._native.tensor(name)[1])

    def get_dtype(self, name: str) -> str:
        """Return the dtype of a tensor, by its name in safetensors or ggml: "BF16", "Q4_K"."""
        return self._native.tensor(name)[0]

    def get_format(self, name: str) -> str | None:
        """Return the format of engines that a tensor is read in, such as "int4" (`encode(..., format=...)`); `None` if it has none."""
        return self._native.format(name)

    def is_exact(self, name: str) -> bool:
        """Return whether a tensor is read with the bits that the checkpoint had."""
        return self._native.is_exact(name)

    def get_tensor(self, name: str) -> Any:
        """Read a tensor: an array of numpy, or a tensor of torch, over the memory that it was decoded to.

        Rows of blocks of a GGUF are rows of bytes; a tensor of an unknown dtype is a row of bytes.
        """
        return self._made(self._native.read(name), name, self._array_shape(name))

    def get_slice(self, name: str) -> Slice:
        """Return a tensor to take parts of: `f.get_slice(name)[0:8, :]` decodes only the tiles of these rows."""
        self._native.tensor(name)
        return Slice(self, name)

    def packed(self, names: Sequence[str], threads: int = 0, activations: str = "f32") -> list[Matrix]:
        """Load matrices into memory as packed integers, without decoding them to floats.

        Their products run on `threads` threads, one per processor if it is 0. With `activations="int8"`, inputs are rounded to 8
        bits, as `impasto run` does.
        """
        if activations not in ("f32", "int8"):
            raise UsageError(f'activations are "f32" or "int8", not {activations!r}')
        return self._native.packed([names] if isinstance(names, str) else list(names), threads, activations == "int8")

    def export(self, form: str = "compressed-tensors") -> Export:
        """Return the file in the form of another format, to read instead of to write.

        Forms: "compressed-tensors" (what `decode --to compressed-tensors` writes), "compressed-tensors-8bit" (the same for
        activations of 8 bits), "mlx", "safetensors".
        """
        return Export(self._native.export(form), self._framework, self._device)

    def read_into(self, name: str, out: Any) -> None:
        """Decode a tensor into an array of numpy or a tensor of torch on the CPU: contiguous, writable, with as many bytes."""
        is_torch = hasattr(out, "untyped_storage")
        # Of another array, the bytes in a row would be a copy.
        if not (out.is_contiguous() if is_torch else out.flags.c_contiguous):
            raise UsageError("the array to read into is not contiguous")
        flat = out.detach().reshape(-1).view(_dtypes.torch().uint8).numpy() if is_torch else out.reshape(-1).view("uint8")
        self._native.read_into(name, flat)

    def get_asset(self, name: str) -> bytes | None:
        """Read a file that is kept with the weights, such as "config.json"; `None` if there is none."""
        return self._native.asset(name)

    def assets(self) -> list[str]:
        """Return the names of the files that are kept with the weights."""
        return self._native.assets()

    @property
    def layers(self) -> list[LayerInfo]:
        """The quality layers, the coarsest first; empty for a file without layers."""
        weights = max(self.weights, 1)
        return [LayerInfo(size, size * 8 / weights, kld, whole) for size, kld, whole in self._native.layers()]

    @property
    def lossless(self) -> bool:
        """Whether all tensors are read with the bits that the checkpoint had."""
        return self._native.lossless

    @property
    def weights(self) -> int:
        """Number of weights; those of tied tensors count once."""
        return self._native.weights

    @property
    def root(self) -> str:
        """The hash that identifies the file."""
        return self._native.root

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._native.path

    @property
    def base(self) -> dict[str, Any] | None:
        """The base of a delta: its `name`, `root`, `license`, `mirrors`, and `file` if it was found; `None` for another file."""
        return self._native.base()

    def _array_shape(self, name: str) -> list[int]:
        """Return the shape of the array of a tensor, whose elements are bytes if they are not plain."""
        dtype, shape, (rows, columns), (size, weights) = self._native.tensor(name)
        if _dtypes.is_plain(dtype):
            return list(shape)
        if weights == 1 or not shape:
            return [rows * columns * size]
        return [*shape[:-1], shape[-1] // weights * size]

    def _made(self, raw: Any, name: str, shape: Sequence[int]) -> Any:
        """Return bytes as an array of the dtype of a tensor. Nothing is copied, but to another device."""
        dtype = self.get_dtype(name)
        tensor = _dtypes.array(raw, dtype, shape, self._framework)
        return tensor if self._device == "cpu" else tensor.to(self._device)


class Export:
    """The tensors of an export, in the manner of an open file."""

    def __init__(self, native: NativeExport, framework: str, device: str) -> None:
        self._native = native
        self._framework = framework
        self._device = device
        self._tensors = {name: (dtype, shape) for name, dtype, shape in native.tensors()}

    def keys(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._tensors)

    def get_shape(self, name: str) -> list[int]:
        """Return the shape of a tensor."""
        return list(self._found(name)[1])

    def get_dtype(self, name: str) -> str:
        """Return the dtype of a tensor, by its name in safetensors."""
        return self._found(name)[0]

    def get_tensor(self, name: str) -> Any:
        """Read a tensor: an array of numpy, or a tensor of torch."""
        raw, dtype, shape = self._native.read(name), self.get_dtype(name), self.get_shape(name)
        tensor = _dtypes.array(raw, dtype, shape, self._framework)
        return tensor if self._device == "cpu" else tensor.to(self._device)

    def _found(self, name: str) -> tuple[str, Sequence[int]]:
        if name not in self._tensors:
            raise TensorNotFoundError(f'there is no tensor "{name}"')
        return self._tensors[name]

    def assets(self) -> list[str]:
        """Return the names of the files of the export besides tensors."""
        return self._native.assets()

    def get_asset(self, name: str) -> bytes | None:
        """Read such a file; `None` if there is none."""
        return self._native.asset(name)

    @property
    def notes(self) -> list[str]:
        """What the format cannot express, one line each."""
        return self._native.notes()


class Slice:
    """A tensor of which parts are read, in the manner of `safe_open(...).get_slice`."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name

    def get_shape(self) -> list[int]:
        """Return the shape of the tensor."""
        return self._file.get_shape(self._name)

    def get_dtype(self) -> str:
        """Return the dtype of the tensor."""
        return self._file.get_dtype(self._name)

    def __getitem__(self, index: Any) -> Any:
        """Read a part. Indices are numbers, slices and `...`.

        Only the tiles between the first and last row, and the first and last column, are decoded.
        """
        native, name = self._file._native, self._name
        shape = self._file._array_shape(name)
        wanted = parts(index, shape)
        dtype, _, (rows, _), _ = native.tensor(name)
        if not shape or rows != math.prod(shape[:-1]):
            return self._file.get_tensor(name)[tuple(wanted)]
        # The last dimension is the columns of the matrix that the tensor is coded as, and the others its rows.
        spans = {0: span(wanted[0], shape[0])} if len(shape) > 1 else {}
        if _dtypes.is_plain(dtype):
            spans[len(shape) - 1] = span(wanted[-1], shape[-1])
        down, across = spans.get(0) if len(shape) > 1 else None, spans.get(len(shape) - 1)
        below = math.prod(shape[1:-1])
        raw = native.read(
            name,
            down and (down.start * below, down.stop * below),
            across and (across.start, across.stop),
        )
        read = [spans[at].stop - spans[at].start if at in spans else size for at, size in enumerate(shape)]
        within = tuple(spans[at].rest if at in spans else part for at, part in enumerate(wanted))
        return self._file._made(raw, name, read)[within]
