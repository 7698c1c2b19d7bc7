#!/usr/bin/env python3
"""Lossless coding of a fine-tune over its base: size and speed of Impasto, XOR and BitX with Zstandard, zstd --patch-from.

    python -m venv v
    v/bin/pip install numpy zstandard
    v/bin/python tools/bench_deltas.py --impasto target/release/impasto BASE FINE_TUNE [--levels 3 19] [--patch-levels 3]

BASE and FINE_TUNE are safetensors files, or folders with a model.safetensors. Prints a table: bytes, share of the fine-tune's
file, and MB of it coded and decoded per second of processor time (user and system, one thread, so that other work on the
machine matters little). Every row is decoded again and compared byte by byte.

- zstd: of the fine-tune alone.
- xor: the bits of each tensor XOR those of the base's tensor of that name, then Zstandard. Where an embedding has more
  rows, its first rows are; what the base lacks stays as it is.
- BitX: the same, exponents of bfloat16 apart from signs and mantissas, as ZipLLM does (arXiv 2505.06252).
- xor, bytes apart: high and low bytes of 16-bit words apart instead.
- patch-from: the command `zstd --patch-from=BASE --long=31`, which finds matches in the base.
- impasto: `encode FINE_TUNE --lossless`, without and with `--base`. The base is encoded first and not counted.

For 269 MB, Zstandard at level 19 takes one to eight minutes of a processor after XOR, and `--patch-from` far longer.
"""

import argparse
import json
import resource
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import zstandard


def tensors(file):
    """Start of the data and, by name, the dtype, shape and range of each tensor."""
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    header = json.loads(file[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], start + t["data_offsets"][0], start + t["data_offsets"][1])
            for name, t in header.items()}


def xor(base, file):
    """XOR of the tensors in `file` with those of the base; twice gives the file back, since the header stays."""
    old = tensors(base)
    out = file.copy()
    for name, (dtype, shape, start, end) in tensors(file).items():
        of_base = old.get(name)
        if of_base and of_base[0] == dtype and of_base[1][1:] == shape[1:]:
            size = min(end - start, of_base[3] - of_base[2])
            out[start:start + size] ^= base[of_base[2]:of_base[2] + size]
    return out


def seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def timed(work):
    """The result of `work` and the processor time it took, in this process and its children."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    start = sum(map(seconds, both))
    result = work()
    return result, sum(map(seconds, both)) - start


def zstd(level):
    return zstandard.ZstdCompressor(level=level).compress, zstandard.ZstdDecompressor().decompress


def with_buffers(name, file, encode, decode):
    coded, encoding = timed(lambda: encode(file))
    restored, decoding = timed(lambda: decode(coded))
    check(name, bytes(file), bytes(restored))
    return name, sum(map(len, coded)), encoding, decoding


def alone(file, level):
    compress, decompress = zstd(level)
    return with_buffers(f"zstd -{level}", file, lambda f: [compress(f)], lambda c: decompress(c[0]))


def xored(base, file, level):
    compress, decompress = zstd(level)
    return with_buffers(f"xor, zstd -{level}", file, lambda f: [compress(xor(base, f))],
                        lambda c: xor(base, np.frombuffer(decompress(c[0]), "u1")))


SPLITS = {  # of 16-bit words into two bytes, and back
    "xor, bytes apart": (lambda x: (x >> 8, x), lambda high, low: high << 8 | low),
    "BitX": (lambda x: (x >> 7, x >> 15 | x << 1), lambda exponents, others: exponents << 7 | others << 15 | others >> 1),
}


def split(name, base, file, level):
    apart, together = SPLITS[name]
    compress, decompress = zstd(level)

    def encode(f):
        x = xor(base, f)
        x, odd = x[:len(x) // 2 * 2].view("<u2"), x[len(x) // 2 * 2:]
        return [compress(part.astype("u1")) for part in apart(x)] + [odd.tobytes()]

    def decode(coded):
        x = together(*(np.frombuffer(decompress(c), "u1").astype("<u2") for c in coded[:2]))
        return xor(base, np.concatenate([x.view("u1"), np.frombuffer(coded[2], "u1")]))

    return with_buffers(f"{name}, zstd -{level}", file, encode, decode)


def command(*words):
    return subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)


def patch_from(base, fine_tune, level, folder):
    coded, restored = folder / "patch.zst", folder / "restored"
    options = ("-q", "-f", "--long=31", f"--patch-from={base}")
    _, encoding = timed(lambda: command("zstd", *options, f"-{level}", fine_tune, "-o", coded))
    _, decoding = timed(lambda: command("zstd", *options, "-d", coded, "-o", restored))
    name = f"patch-from, zstd -{level}"
    check(name, fine_tune.read_bytes(), restored.read_bytes())
    return name, coded.stat().st_size, encoding, decoding


def impasto(binary, fine_tune, base, folder):
    """`base` is an .impasto file, or None."""
    coded, restored = folder / "fine-tune.impasto", folder / "restored-folder"
    over = ("--base", base) if base else ()
    _, encoding = timed(lambda: command(binary, "encode", fine_tune, *over, "-o", coded, "--lossless", "--threads", 1))
    _, decoding = timed(lambda: command(binary, "decode", coded, *over, "-o", restored, "--force", "--threads", 1))
    name = "impasto, with base" if base else "impasto"
    check(name, fine_tune.read_bytes(), (restored / fine_tune.name).read_bytes())
    return name, coded.stat().st_size, encoding, decoding


def check(name, file, restored):
    if file != restored:
        raise SystemExit(f"{name}: what was decoded differs from the fine-tune")


def rows(args, base_path, path):
    base, file = np.fromfile(base_path, "u1"), np.fromfile(path, "u1")
    for level in args.levels:
        if args.alone:
            yield alone(file, level)
        yield xored(base, file, level)
        for name in SPLITS:
            yield split(name, base, file, level)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for level in args.levels if args.patch_levels is None else args.patch_levels:
            yield patch_from(base_path, path, level, folder)
        if args.impasto:
            yield impasto(args.impasto, path, None, folder)
            if "--base " in command(args.impasto, "encode", "--help").stdout:
                coded = folder / "base.impasto"
                command(args.impasto, "encode", base_path, "-o", coded, "--lossless")
                yield impasto(args.impasto, path, coded, folder)
            else:
                print(f"({args.impasto} has no option --base)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("fine_tune", type=Path)
    parser.add_argument("--impasto", type=Path, help="the command; without it, peers only")
    parser.add_argument("--levels", type=int, nargs="+", default=[3, 19], help="of Zstandard")
    parser.add_argument("--patch-levels", type=int, nargs="*", help="of --patch-from, which is slow; as --levels by default")
    parser.add_argument("--alone", action="store_true", help="Zstandard of the fine-tune alone, too")
    args = parser.parse_args()
    base, path = (p / "model.safetensors" if p.is_dir() else p for p in (args.base, args.fine_tune))
    size = path.stat().st_size
    print(f"{args.fine_tune.name} over {args.base.name}: {size} bytes\n")
    print("| | bytes | share | encode MB/s | decode MB/s |\n|---|---:|---:|---:|---:|", flush=True)
    for name, coded, encoding, decoding in rows(args, base, path):
        print(f"| {name} | {coded} | {100 * coded / size:.2f}% | {size / 1e6 / encoding:.2f} | {size / 1e6 / decoding:.0f} |",
              flush=True)
    print()


if __name__ == "__main__":
    main()
