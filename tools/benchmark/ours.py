"""Impasto's files."""

import json
import time

from context import say

FAMILY = "Impasto"


def statistics(bench, model):
    """Statistics of the model on the calibration text by this build; with the seconds that they took."""
    path = bench.scratch / f"{model.name}-{bench.encoder()}-{bench.options.tokens}.safetensors"
    took = path.with_suffix(".seconds")
    if not path.exists() or not took.exists():
        begun = time.monotonic()
        text = ("--text", bench.data("calibration.txt"), "--tokens", bench.options.tokens)
        bench.impasto("calibrate", model.folder, *text, "-o", path, *bench.options.calibrate_options)
        took.write_text(f"{time.monotonic() - begun:.1f}")
    return path, float(took.read_text())


def inspect(bench, file):
    """What `impasto inspect --tensors --json` says of a file."""
    return json.loads(bench.impasto("--json", "inspect", "--tensors", file))


def assets(bench, model):
    """Bytes that the tokenizer and the other metadata take in one of our files."""
    file = bench.scratch / f"{model.name}-assets.impasto"
    if not file.exists():
        bench.impasto("encode", model.folder, "-o", file)
    return sum(o["bytes"] for o in inspect(bench, file)["objects"] if not o["tensor"])


def points(bench, model):
    """Files of the sizes of the model, each calibrated on the same tokens."""
    encoder = bench.encoder()
    fields = {"encoder": encoder, "options": bench.options.encode_options}
    for size in model.sizes:
        name = f"{size}MB"
        if bench.scored(FAMILY, name, model, **fields):
            continue
        found, seconds = statistics(bench, model)
        file = bench.scratch / f"{model.name}-{name}.impasto"
        begun = time.monotonic()
        words = ("--size", name, "--statistics", found, *bench.options.encode_options)
        bench.impasto("encode", model.folder, "-o", file, *words)
        took = time.monotonic() - begun
        length = file.stat().st_size
        bare = length - sum(o["bytes"] for o in inspect(bench, file)["objects"] if not o["tensor"])
        more = fields | {"calibrate_seconds": seconds, "encode_seconds": round(took, 1)}
        bench.score(FAMILY, name, model, file, length, bare, **more)
        file.unlink()
    say(f"{model.name}: Impasto's files by {encoder} are scored")
