"""What the command does, as functions. They return what its `--json` prints, as a dictionary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from . import _impasto
from ._impasto import Progress
from ._words import Layer, Path, Size, joined, words

Callback: TypeAlias = Callable[[Progress], object]
"""Is told each step of a job. The job is cancelled when it returns `False` (`CancelledError`) or raises."""


def encode(
    model: Path,
    output: Path,
    *,
    size: Size | None = None,
    bpw: float | None = None,
    kld: float | None = None,
    lossless: bool = False,
    layers: str | Sequence[float | str] | None = None,
    format: str | Mapping[str, str] | None = None,
    statistics: Path | None = None,
    calibration: Path | None = None,
    calibration_tokens: int | None = None,
    uncalibrated: bool = False,
    recover: bool | int = False,
    base: Path | Sequence[Path] | None = None,
    threads: int = 0,
    memory_limit: Size | None = None,
    progress: Callback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Encode a checkpoint (a Hugging Face folder, a safetensors file or a GGUF) to an .impasto file.

    Losslessly, unless it is given a `size` ("80MB"), bits per weight (`bpw`), a divergence (`kld`), `layers` such as
    `[2.5, 3.5, 5, "lossless"]`, or a `format` such as "mxfp4" or `{"mlp": "nvfp4", "attention": "fp8"}`. A lossy file is
    calibrated on `statistics` (see `calibrate`), on the text in the file `calibration`, or on a built-in text. With a `base`, the
    new file is a delta of that file. `options` are the others of `impasto encode`, with underscores: `for_="download"`,
    `trellis=8`, `measure=True`, `license_check="strict"`.

    If it is cancelled or fails, there is no new file, and an old one stays. The result has the keys "file", "root", "bytes",
    "weights", "bits_per_weight", "layers", "tensors", "notes" and others.
    """
    given = {
        "size": size,
        "bpw": bpw,
        "kld": kld,
        "lossless": lossless,
        "layers": joined(layers),
        "format": format,
        "statistics": statistics,
        "calibration": calibration,
        "calibration_tokens": calibration_tokens,
        "uncalibrated": uncalibrated,
        "recover": recover,
        "base": base,
        "threads": threads,
        "memory_limit": memory_limit,
        **options,
        "output": output,
    }
    return result(_impasto.encode(words([model], given), progress))


def calibrate(
    model: Path,
    output: Path,
    *,
    text: Path,
    tokens: int | None = None,
    gradient_tokens: int | None = None,
    ctx: int | None = None,
    threads: int = 0,
    memory_limit: Size | None = None,
    progress: Callback | None = None,
) -> dict[str, Any]:
    """Calibrate a model on the text in a file, and write the statistics to `output`, for `encode(statistics=...)`."""
    given = {
        "text": text,
        "tokens": tokens,
        "gradient_tokens": gradient_tokens,
        "ctx": ctx,
        "threads": threads,
        "memory_limit": memory_limit,
        "output": output,
    }
    return result(_impasto.calibrate(words([model], given), progress))


def truncate(
    path: Path,
    output: Path,
    *,
    layer: Layer | None = None,
    budget: Size | None = None,
    bpw: float | None = None,
    base: Path | Sequence[Path] | None = None,
) -> dict[str, Any]:
    """Write a smaller file from a layered one, up to a `layer`, a `budget` in bytes, or bits per weight. Nothing is coded again."""
    given = {"layer": layer, "budget": budget, "bpw": bpw, "base": base, "output": output}
    return result(_impasto.truncate(words([path], given)))


def verify(
    path: Path,
    *,
    base: Path | Sequence[Path] | None = None,
    threads: int = 0,
    memory_limit: Size | None = None,
    allow_expansion: bool = False,
) -> dict[str, Any]:
    """Check all hashes, and that every tensor decodes. Damage is no exception: the result has the key "good", and lists."""
    given = {"base": base, "threads": threads, "memory_limit": memory_limit, "allow_expansion": allow_expansion}
    return result(_impasto.verify(words([path], given)))


def fetch(
    url: str,
    output: Path,
    *,
    layer: int | None = None,
    budget: Size | None = None,
    bpw: float | None = None,
    bases: bool = False,
    force: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fetch a file, or the first part of it; continue one that is there. Options are those of `impasto fetch`."""
    given = {"layer": layer, "budget": budget, "bpw": bpw, "bases": bases, "force": force, **options, "output": output}
    return result(_impasto.fetch(words([url], given), progress))


def result(text: str) -> dict[str, Any]:
    """Return a result that came as JSON."""
    return cast("dict[str, Any]", json.loads(text))
