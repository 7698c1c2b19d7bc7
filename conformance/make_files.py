#!/usr/bin/env python3
"""Makes what the real encoder never makes of the conformance set: unusual files (`files/`), broken ones (`broken/`).

Then writes the output of the naive decoder for every file in `files/` (`expected/`). The rest of `files/` is written by
the example `make_conformance` of the crate `impasto`. A name begins with the clause of docs/SPEC.md that the file
exercises; in `broken/` it is the clause that the file violates, the first one that a reader finds violated if it reads
from the front.
"""

import contextlib
import io
import sys
from pathlib import Path

import broken_files
import naive_decoder
import odd_files

HERE = Path(__file__).resolve().parent
SMALL_BASE = HERE / "files" / "21-small-base.impasto"  # of deltas whose base has another root


def expected(path):
    """What the naive decoder prints for a file, or None where a Zstandard library is missing."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
        status = naive_decoder.main([str(path), "--base", str(SMALL_BASE), "--base", str(HERE / "files")])
    assert status != 1, (path.name, err.getvalue())
    return None if status == 2 else out.getvalue()


def make():
    """All files: {"files/NAME": bytes, "broken/NAME": bytes}."""
    odd_files.ODD.clear()
    broken_files.BROKEN.clear()
    for step in (odd_files.odd_containers, odd_files.odd_layers, odd_files.odd_codings, odd_files.odd_bases,
                 broken_files.broken_containers, broken_files.broken_layers, broken_files.broken_blocks,
                 broken_files.broken_transforms, broken_files.broken_planes, broken_files.broken_digits,
                 broken_files.broken_formats,
                 broken_files.broken_codings, broken_files.broken_bases):
        step()
    made = {"files": odd_files.ODD, "broken": broken_files.BROKEN}
    return {f"{folder}/{name}.impasto": data for folder, files in made.items() for name, data in files.items()}


def main():
    for folder in ("files", "broken", "expected"):
        (HERE / folder).mkdir(exist_ok=True)
    for name, data in make().items():
        (HERE / name).write_bytes(data)
    for path in sorted((HERE / "files").glob("*.impasto")):
        text = expected(path)
        if text is None:
            sys.exit(f"{path.name} needs a Zstandard library")
        (HERE / "expected" / f"{path.stem}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
