"""Files as folders of Hugging Face, for libraries that read such folders."""

from ._errors import InvalidError
from ._file import Export, File

DERIVED = ("#header", "#compiled")
"""Ends of names of assets that are no files: they restore files, and make tokenizers load faster."""


def assets_of(source: File | Export) -> dict[str, bytes]:
    """Return the files of a folder besides weights, by name."""
    names = [name for name in source.assets() if not name.endswith(DERIVED)]
    return {name: source.get_asset(name) or b"" for name in names}


def refuse_gguf(file: File) -> None:
    """Raise `InvalidError` for the names of a GGUF, under which libraries would find no weights."""
    if "token_embd.weight" in file:
        raise InvalidError(
            f"{file.path}: it was made from a GGUF, whose tensors have names of their own; "
            "`impasto decode FILE --to safetensors -o FOLDER` writes a folder for other libraries"
        )
