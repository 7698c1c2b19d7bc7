#!/usr/bin/env python3
"""Lossless coding of linear layers: size, decode and encode speed of Impasto, lmzip and ZipNN.

    python -m venv v
    v/bin/pip install numpy ml_dtypes safetensors zstandard torch lmzip==1.3.0 zipnn==0.5.4
    v/bin/python tools/bench_lossless.py --models DIR --impasto target/release/impasto

lmzip builds its kernel on first use and needs a C compiler for that. DIR holds the folders smollm2-135m-continuous,
all-minilm-l6-v2 and whisper-tiny.en, each with a model.safetensors.

Inputs. The linear layers of each model, as one safetensors file: float tensors with two dimensions, both at least 64,
whose names contain neither "embed" nor "position". That excludes norms, biases, embeddings and convolutions. MiniLM is
fp32 and is first cast to bf16 (round to nearest even). Sizes are compressed file over safetensors file.

Tools. Each competitor runs at the best setting we found, through its own in-memory interface. The script checks that its
compiled code is active and that its round trip is exact, byte by byte. No competitor touches a file when it decodes.
- lmzip: `ArchiveIndex.decode` of payloads in memory into one output buffer, chunks shared among threads in tasks of at
  least 4 MiB, as its `decompress` does; checksums off, which is faster. The default chunk of 8 MiB gives the smallest
  files; 1 MiB decodes about twice as fast. Encode has a file interface only: both files are on tmpfs.
- zipnn: `compress` and `decompress` of the whole file as one buffer (the fastest), and tensor by tensor, as its
  safetensors plug-in does (the smallest). `compress` overwrites its input, so each run gets a copy, made untimed.
- impasto: the command line. Encode counts the whole process, with files on tmpfs; `bench decode` times itself.

Memory. "fresh" decodes into memory new to the process, including page faults; "warm" into memory used before, which is
twice as fast for fast decoders. Impasto's figure is listed under "warm", the harder comparison, unless the JSON of
`bench decode` says `"memory": "fresh"`.

Rounds are interleaved (every tool once, then again); figures are medians over rounds. Small inputs are decoded several
times per round, up to at least 128 MB.
"""

import os

# Ordinary 4 KiB pages for every tool: NumPy requests huge pages, and its setting would apply to the shared heap.
os.environ["NUMPY_MADVISE_HUGEPAGE"] = "0"

import argparse
import ctypes
import functools
import importlib.metadata
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

warnings.simplefilter("ignore")  # torch, which zipnn imports, emits warnings

import lmz
import lmz.kernels
import ml_dtypes  # noqa: F401  gives NumPy the dtype "bfloat16"
import numpy as np
import safetensors
import zipnn_core
from safetensors.numpy import save_file
from zipnn import ZipNN

MODELS = {  # folder: dtype to code in
    "smollm2-135m-continuous": "bfloat16",
    "all-minilm-l6-v2": "bfloat16",
    "whisper-tiny.en": "float16",
}
WHOLE = "smollm2-135m-continuous"  # also coded with all its tensors, for sizes only
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES_PER_SAMPLE = 128_000_000
LMZ_TASK = 4 << 20

LIBC = ctypes.CDLL(None)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory():
    """Let malloc keep freed memory, so that the next decode finds its pages mapped; `malloc_trim` returns it."""
    if not (LIBC.mallopt(M_MMAP_THRESHOLD, 1 << 30) and LIBC.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        sys.exit("this benchmark needs glibc's mallopt")


def is_linear(name, tensor):
    shape = tensor["shape"]
    return (
        tensor["dtype"] in DTYPES
        and len(shape) == 2
        and min(shape) >= 64
        and "embed" not in name
        and "position" not in name
    )


def array(tensor, dtype):
    """The tensor as an array of `dtype`; fp32 to bf16 rounds to nearest even."""
    values = np.frombuffer(tensor["data"], np.dtype(DTYPES[tensor["dtype"]])).reshape(tensor["shape"])
    return values.astype(dtype)


def write_linear_layers(model, path, dtype):
    """Write the linear layers of `model` to `path` in `dtype`; returns how many."""
    tensors = safetensors.deserialize((model / "model.safetensors").read_bytes())
    linear = {name: array(t, np.dtype(dtype)) for name, t in tensors if is_linear(name, t)}
    save_file(linear, path)
    return len(linear)


@functools.cache
def pool(threads):
    return ThreadPoolExecutor(threads)


class Lmzip:
    def __init__(self, source, chunk_size=None):
        self.name = "lmzip" if chunk_size is None else f"lmzip, chunks of {chunk_size >> 20} MiB"
        self.source, self.chunk_size, self.raw_bytes = source, chunk_size, source.stat().st_size
        self.archive = source.with_suffix(f".{chunk_size}.lmz")

    def encode(self, threads):
        """Seconds to encode; leaves the payloads in memory and their total size, with header and table, in `self.size`."""
        start = time.perf_counter()
        lmz.compress(str(self.source), str(self.archive), workers=threads, chunk_size=self.chunk_size)
        seconds = time.perf_counter() - start
        self.index = lmz.ArchiveIndex(str(self.archive))
        blob = self.archive.read_bytes()
        self.archive.unlink()
        self.size = len(blob)
        self.tasks, held = [[]], 0
        for chunk in self.index.chunks():
            self.tasks[-1].append((chunk, blob[chunk.off : chunk.off + chunk.clen]))
            held += chunk.rlen
            if held >= LMZ_TASK:
                self.tasks.append([])
                held = 0
        return seconds

    def decode(self, threads):
        out = np.empty(self.raw_bytes, np.uint8)
        view = memoryview(out)

        def run(task):
            for chunk, payload in task:
                place = view[chunk.dst : chunk.dst + chunk.rlen]
                plain = memoryview(self.index.decode(chunk, payload, verify=False, out=place))
                if plain.obj is not out:  # chunks that are not float planes come back in separate memory
                    place[:] = plain

        each = map if threads == 1 else pool(threads).map
        list(each(run, self.tasks))
        return [out]

    def exact(self):
        return self.decode(2)[0].tobytes() == self.source.read_bytes()


class Zipnn:
    def __init__(self, source, dtype, by_tensor=False):
        self.name = "zipnn, by tensor" if by_tensor else "zipnn"
        self.source, self.dtype, self.raw_bytes = source, dtype, source.stat().st_size
        blob = source.read_bytes()
        self.parts = [bytes(t["data"]) for _, t in safetensors.deserialize(blob)] if by_tensor else [blob]
        self.header_bytes = self.raw_bytes - sum(map(len, self.parts))  # tensor by tensor, the header would be stored verbatim

    def coder(self, threads):
        return ZipNN(method="HUFFMAN", input_format="byte", bytearray_dtype=self.dtype, threads=threads)

    def encode(self, threads):
        coder, copies = self.coder(threads), [bytearray(p) for p in self.parts]
        start = time.perf_counter()
        self.coded = [coder.compress(c) for c in copies]
        seconds = time.perf_counter() - start
        self.size = sum(map(len, self.coded)) + self.header_bytes
        return seconds

    def decode(self, threads):
        coder = self.coder(threads)
        return [coder.decompress(c) for c in self.coded]

    def exact(self):
        return self.decode(2) == self.parts


class Impasto:
    name = "impasto"

    def __init__(self, source, command):
        self.source, self.command = source, command
        self.coded = source.with_suffix(".impasto")

    def run(self, *arguments):
        done = subprocess.run([self.command, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.command} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def encode(self, threads):
        self.coded.unlink(missing_ok=True)
        start = time.perf_counter()
        self.run("encode", str(self.source), "-o", str(self.coded), "--lossless", "--threads", str(threads))
        seconds = time.perf_counter() - start
        self.size = self.coded.stat().st_size
        return seconds

    def bench(self, threads, repeat):
        options = ["--threads", str(threads), "--repeat", str(repeat), "--json"]
        result = json.loads(self.run("bench", "decode", str(self.coded), *options))
        return result.get("memory", "warm"), result["bytes"] / result["seconds"] / 1e9


def decode_speed(peer, threads, memory, repeat):
    """GB/s of raw bytes, the median of `repeat` decodes."""
    samples = []
    for _ in range(repeat):
        if memory == "fresh":
            LIBC.malloc_trim(0)
        start = time.perf_counter()
        out = peer.decode(threads)
        samples.append(time.perf_counter() - start)
        del out
    return peer.raw_bytes / statistics.median(samples) / 1e9


def tools_for(source, dtype, command):
    ours = [Impasto(source, command)] if command else []
    return ours + [Lmzip(source), Lmzip(source, 1 << 20), Zipnn(source, dtype), Zipnn(source, dtype, by_tensor=True)]


def first_run(tool, threads):
    """Encode once, untimed (caches, lazy set-up), and check that a competitor is exact; Impasto has tests for that."""
    tool.encode(threads)
    if not isinstance(tool, Impasto) and not tool.exact():
        sys.exit(f"{tool.name} does not give {tool.source.name} back")


def time_round(tool, row, threads, repeat):
    """One encode and the decodes of one tool, added to its row."""
    row["encode"].append(tool.source.stat().st_size / tool.encode(threads) / 1e9)
    for n in sorted({1, threads}):
        if isinstance(tool, Impasto):
            memory, speed = tool.bench(n, repeat)
            row["decode"].setdefault(f"{n} thr., {memory}", []).append(speed)
            continue
        tool.decode(n)  # maps the pages that "warm" reuses
        for memory in ("warm", "fresh"):
            speed = decode_speed(tool, n, memory, repeat)
            row["decode"].setdefault(f"{n} thr., {memory}", []).append(speed)


def measure(source, dtype, command, rounds, threads):
    """One row per tool: its name, size in percent of raw, and GB/s of every round; no rounds means sizes only."""
    raw_bytes = source.stat().st_size
    repeat = -(-BYTES_PER_SAMPLE // raw_bytes)
    tools = tools_for(source, dtype, command)
    rows = []
    for tool in tools:
        first_run(tool, threads)
        rows.append({"tool": tool.name, "size_percent": 100 * tool.size / raw_bytes, "encode": [], "decode": {}})
    for _ in range(rounds):
        for tool, row in zip(tools, rows):
            time_round(tool, row, threads, repeat)
    return rows


def table(rows, threads):
    """The rows in Markdown: sizes, then medians over rounds of the timings."""
    columns = {"size, % of raw": [f"{r['size_percent']:.2f}" for r in rows]}
    timed = {f"encode GB/s, {threads} thr.": [r["encode"] for r in rows]}
    for kind in dict.fromkeys(k for r in rows for k in r["decode"]):
        timed[f"decode GB/s, {kind}"] = [r["decode"].get(kind) for r in rows]
    for head, samples in timed.items():
        if any(samples):
            columns[head] = [f"{statistics.median(s):.2f}" if s else "" for s in samples]
    lines = ["| tool | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    for row, *cells in zip(rows, *columns.values()):
        lines.append(f"| {row['tool']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cpu_ticks():
    """(all, busy, busy with this process and its children) in clock ticks since boot."""
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields), sum(fields) - idle, sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    keys = ("model name", "cpu family", "model")
    return ", ".join(f"{k} {fields.get(k, '?')}" for k in keys) + f", {os.cpu_count()} CPUs"


def check_compiled():
    """Refuse to measure the slow fallback of a competitor."""
    if not lmz.kernels.backend().startswith("native"):
        sys.exit(f"lmzip runs without its compiled kernel ({lmz.kernels.backend()}); it needs a C compiler")
    if not zipnn_core.__file__.endswith((".so", ".pyd")):
        sys.exit("zipnn runs without its compiled core")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the three models")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--impasto", help="the impasto command")
    which.add_argument("--peers-only", action="store_true", help="measure lmzip and zipnn alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every sample here")
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads are at least 1")

    check_compiled()
    keep_freed_memory()
    names = ("lmzip", "zipnn", "zstandard", "numpy", "ml_dtypes", "safetensors", "torch")
    versions = {n: importlib.metadata.version(n) for n in names} | {"python": sys.version.split()[0]}
    versions["lmzip kernel"] = lmz.kernels.backend()
    if args.impasto:
        done = subprocess.run([args.impasto, "--version"], capture_output=True, text=True, check=True)
        versions["impasto"] = done.stdout.split()[-1]
    report = {"machine": machine(), "versions": versions, "rounds": args.rounds, "threads": args.threads, "inputs": []}
    print(report["machine"] + "\n" + ", ".join(f"{k} {v}" for k, v in versions.items()), flush=True)

    def add(source, title, dtype, rounds):
        title += f", {source.stat().st_size / 1e6:.1f} MB"
        rows = measure(source, dtype, args.impasto, rounds, args.threads)
        report["inputs"].append({"input": title, "rows": rows})
        print(f"\n{title}\n\n{table(rows, args.threads)}", flush=True)

    before = cpu_ticks()
    tmpfs = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=tmpfs) as folder:
        for model, dtype in MODELS.items():
            source = Path(folder) / f"{model}.safetensors"
            count = write_linear_layers(args.models / model, source, dtype)
            add(source, f"{model}, {count} linear layers, {dtype}", dtype, args.rounds)
        source = Path(folder) / "whole.safetensors"
        shutil.copyfile(args.models / WHOLE / "model.safetensors", source)
        add(source, f"{WHOLE}, whole file, sizes only", MODELS[WHOLE], 0)
    total, busy, own = (after - since for since, after in zip(before, cpu_ticks()))
    report["other_load_percent"] = 100 * max(0, busy - own) / total
    load = f"{report['other_load_percent']:.0f}%"
    print(f"\nOther programs used {load} of the processors meanwhile; above 3%, run again.")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
