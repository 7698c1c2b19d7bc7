"""Indices of parts of a tensor."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple


class Span(NamedTuple):
    """What an index takes of one dimension: it lies in `start` to before `stop`, and is `rest` within that."""

    start: int
    stop: int
    rest: int | slice


def span(part: int | slice, size: int) -> Span:
    """Return what an index or slice takes of a dimension."""
    if isinstance(part, int):
        return Span(part, part + 1, 0)
    taken = range(*part.indices(size))
    if not taken:
        return Span(0, 0, slice(None))
    return Span(min(taken[0], taken[-1]), max(taken[0], taken[-1]) + 1, slice(None, None, taken.step))


def parts(index: Any, shape: Sequence[int]) -> list[int | slice]:
    """Return one index, from 0, or slice for each dimension.

    Raises `IndexError` if there are too many or one is outside its dimension, `TypeError` for other kinds of indices.
    """
    given = list(index) if isinstance(index, tuple) else [index]
    ellipses = [at for at, part in enumerate(given) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index has at most one ellipsis")
    missing = len(shape) - (len(given) - len(ellipses))
    if missing < 0:
        raise IndexError(f"there are {len(given) - len(ellipses)} indices for {len(shape)} dimensions")
    at = ellipses[0] if ellipses else len(given)
    given[at : at + len(ellipses)] = [slice(None)] * missing
    return [part if isinstance(part, slice) else number(part, size) for part, size in zip(given, shape, strict=True)]


def number(part: Any, size: int) -> int:
    """Return an index from 0."""
    try:
        at = operator.index(part)
    except TypeError:
        raise TypeError(f"indices are numbers, slices and ..., not {type(part).__name__}") from None
    if not -size <= at < size:
        raise IndexError(f"index {at} is outside a dimension of {size}")
    return at % size
