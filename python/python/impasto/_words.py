"""Options of functions as words of the command, so that both have the same names, rules and messages."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Path: TypeAlias = str | os.PathLike[str]
Size: TypeAlias = int | str
"""Bytes, as a number or in words such as "80MB"."""
Layer: TypeAlias = int | str | Mapping[str, int]
"""The number of a layer, from 1, or of layers by words in names of tensors: {"attn": 3, "mlp": 1}."""


def words(paths: Iterable[Path], options: Mapping[str, Any]) -> list[str]:
    """Return the words for positional arguments and options.

    `None` and `False` leave an option out, `True` gives it without a value. A mapping is a list of `key=value`, any other
    iterable repeats the option. A mapping of headers repeats `header`. An underscore at the end is for names that Python
    reserves: `for_`.
    """
    result = []
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            result.append(option)
            continue
        if name == "header" and isinstance(value, Mapping):
            value = [f"{key}: {word(part)}" for key, part in value.items()]
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={word(part)}" for key, part in value.items())
        values = [value] if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable) else value
        result.extend(f"{option}={word(part)}" for part in values)
    return [*result, "--", *(os.fsdecode(path) for path in paths)]


def word(value: Any) -> str:
    """Return a value in words."""
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else str(value)


def joined(values: Any) -> Any:
    """Return values separated by commas, for an option that takes a list in one word."""
    return ",".join(map(word, values)) if isinstance(values, Iterable) and not isinstance(values, str) else values
