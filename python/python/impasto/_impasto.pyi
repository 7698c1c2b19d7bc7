"""What the package does in Rust. Options come as the words of the command."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "Export",
    "File",
    "Matrix",
    "Model",
    "Pieces",
    "Progress",
    "__version__",
    "calibrate",
    "encode",
    "fetch",
    "main",
    "set_template_worker",
    "truncate",
    "verify",
]

__version__: str

@final
class Progress:
    """A step of a job."""

    @property
    def stage(self) -> str:
        """What the job does, such as "coding"."""

    @property
    def done(self) -> int:
        """How much of that is done, in passes, blocks, tensors or bytes."""

    @property
    def total(self) -> int:
        """How much there is of it; 0 if nobody knows."""

    @property
    def message(self) -> str:
        """The step in words."""

@final
class File:
    @staticmethod
    def open(words: Sequence[str], progress: Callable[[Progress], object] | None = None) -> File: ...
    def keys(self) -> list[str]: ...
    def tensor(self, name: str) -> tuple[str, list[int], list[int], list[int]]: ...
    def is_exact(self, name: str) -> bool: ...
    def read(
        self, name: str, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
    ) -> npt.NDArray[np.uint8]: ...
    def read_into(self, name: str, out: npt.NDArray[np.uint8]) -> None: ...
    def export(self, form: str) -> Export: ...
    def format(self, name: str) -> str | None: ...
    def packed(self, names: Sequence[str], threads: int, int8: bool) -> list[Matrix]: ...
    def assets(self) -> list[str]: ...
    def asset(self, name: str) -> bytes | None: ...
    def layers(self) -> list[tuple[int, float | None, bool]]: ...
    def base(self) -> dict[str, Any] | None: ...
    @property
    def root(self) -> str: ...
    @property
    def weights(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def lossless(self) -> bool: ...

@final
class Export:
    def tensors(self) -> list[tuple[str, str, list[int]]]: ...
    def read(self, name: str) -> npt.NDArray[np.uint8]: ...
    def assets(self) -> list[str]: ...
    def asset(self, name: str) -> bytes | None: ...
    def notes(self) -> list[str]: ...

@final
class Matrix:
    """A matrix in memory as packed integers, as the runtime of Impasto multiplies it."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    def product(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return x W^T for the rows of x: rows x inputs to rows x outputs."""

    def decode(self) -> npt.NDArray[np.float32]:
        """Return the weights: outputs x inputs."""

@final
class Model:
    def __new__(cls, words: Sequence[str], progress: Callable[[Progress], object] | None = None) -> Model: ...
    def generate(self, prompt: str | Sequence[int], options: dict[str, Any]) -> Pieces: ...
    def chat(self, messages: str, tools: str, variables: str, options: dict[str, Any]) -> Pieces: ...
    def tokenize(self, text: str, special: bool = True) -> list[int]: ...
    def detokenize(self, tokens: Sequence[int]) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def max_context(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def notes(self) -> list[str]: ...

@final
class Pieces:
    """A text that is generated: an iterator over its pieces."""

    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...
    def close(self) -> None:
        """Stop the generation."""

    @property
    def text(self) -> str | None:
        """All of the text, once it has ended."""

    @property
    def tokens(self) -> list[int] | None:
        """The generated tokens, once the text has ended."""

    @property
    def prompt_tokens(self) -> int | None:
        """Number of tokens of the prompt, once the text has ended."""

    @property
    def stop_reason(self) -> str | None:
        """Why the text ended, once it has: "eos", "stop_string", "max_tokens", "context_full" or "cancelled"."""

def encode(words: Sequence[str], progress: Callable[[Progress], object] | None = None) -> str: ...
def calibrate(words: Sequence[str], progress: Callable[[Progress], object] | None = None) -> str: ...
def fetch(words: Sequence[str], progress: Callable[[Progress], object] | None = None) -> str: ...
def truncate(words: Sequence[str]) -> str: ...
def verify(words: Sequence[str]) -> str: ...
def main(arguments: Sequence[str]) -> int: ...
def set_template_worker(program: str, arguments: Sequence[str]) -> None: ...
