#!/usr/bin/env python3
"""A large, synthetic, sharded checkpoint: does every command stay within its memory, and how fast is it?

    pip install numpy
    tools/scale.py --impasto target/release/impasto --folder DIR [--gb 8]

Makes a Llama-shaped checkpoint in DIR (which must not exist), encodes it losslessly, verifies and decodes the file, and
compares every decoded file with the original, byte by byte. DIR needs about 2.7 times the size and is removed at the
end, unless --keep is given. Linux only. Exits with status 1 if a command fails, a byte differs or a command exceeds
--limit-mb.

Weights. bf16: a normal variate times a scale of the row and a scale of the column (both log-normal, sigma 0.3, with
random signs), with a standard deviation near 0.02; norms are near 1. The variates are slices of one block of 2^25. The
codec cannot exploit that, because it codes values one by one and searches for no repeats. The weights compress like
trained bf16 weights.

Memory. The peak of RssAnon + RssShmem, sampled every 5 ms from /proc/PID/status: the memory that the program itself
allocates. The checkpoint and the file are mapped, and the system may drop their pages at any time; "with mapped files"
is VmHWM.

Throughput is the size of the weights over the wall time of the whole process, including files; it depends on the page
cache and on the speed of the disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

VOCAB, HIDDEN, INNER = 32000, 4096, 11008
SHARD_BYTES = 2_000_000_000
POOL = 1 << 25  # normal variates that all matrices are made from
CHUNK = 1 << 20  # values per chunk
SAMPLE_SECONDS = 0.005


def tensors(blocks):
    """Names and shapes, in the order of the files."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for block in range(blocks):
        name = f"model.layers.{block}"
        yield f"{name}.input_layernorm.weight", (HIDDEN,)
        yield f"{name}.mlp.down_proj.weight", (HIDDEN, INNER)
        yield f"{name}.mlp.gate_proj.weight", (INNER, HIDDEN)
        yield f"{name}.mlp.up_proj.weight", (INNER, HIDDEN)
        yield f"{name}.post_attention_layernorm.weight", (HIDDEN,)
        for part in "koqv":
            yield f"{name}.self_attn.{part}_proj.weight", (HIDDEN, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def size_of(shape):
    """Bytes of a bf16 tensor."""
    return 2 * int(np.prod(shape))


def to_bf16(values):
    """bf16 bits of float32 values (finite), rounded to nearest even. Works in place."""
    bits = values.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return (bits >> 16).astype("<u2")


def write_tensor(file, shape, pool, rng):
    if len(shape) == 1:
        file.write(to_bf16((1 + 0.1 * rng.standard_normal(shape)).astype(np.float32)).tobytes())
        return
    rows, cols = shape

    def scales(n):
        return (np.exp(0.3 * rng.standard_normal(n)) * rng.choice([-1, 1], n)).astype(np.float32)

    row_scales, col_scales = 0.02 * scales(rows), scales(cols)
    step = CHUNK // cols
    for first in range(0, rows, step):
        part = row_scales[first : first + step, None]
        start = rng.integers(POOL - part.size * cols)
        values = pool[start : start + part.size * cols].reshape(-1, cols) * part
        values *= col_scales
        file.write(to_bf16(values).tobytes())


def write_shard(path, members, pool, rng):
    """Writes a safetensors file of (name, shape) pairs."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in members:
        end = offset + size_of(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in members:
            write_tensor(file, shape, pool, rng)


def make_checkpoint(folder, wanted_bytes):
    """Makes a checkpoint of at least this many bytes; returns the size of its tensors and its number of shards."""
    sizes = lambda blocks: sum(size_of(shape) for _, shape in tensors(blocks))
    blocks = max(1, -(-(wanted_bytes - sizes(0)) // (sizes(1) - sizes(0))))
    shards = [[]]
    for name, shape in tensors(blocks):
        if shards[-1] and sum(size_of(s) for _, s in shards[-1]) + size_of(shape) > SHARD_BYTES:
            shards.append([])
        shards[-1].append((name, shape))
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    pool = rng.standard_normal(POOL, dtype=np.float32)
    places = {}
    for number, members in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, members, pool, rng)
        places |= {tensor: name for tensor, _ in members}
    index = {"metadata": {"total_size": sizes(blocks)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": blocks,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return sizes(blocks), len(shards)


def status_kb(pid):
    """Fields of /proc/PID/status in KiB; empty once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {field[0].rstrip(":"): int(field[1]) for field in fields}


def measure(command):
    """Runs a command; returns its seconds, CPU seconds, peak MB, and peak MB with mapped files."""
    own = with_maps = 0
    before, begun = os.times(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            fields = status_kb(process.pid)
            own = max(own, fields.get("RssAnon", 0) + fields.get("RssShmem", 0))
            with_maps = max(with_maps, fields.get("VmHWM", 0))
            time.sleep(SAMPLE_SECONDS)
    seconds, after = time.monotonic() - begun, os.times()
    if process.returncode != 0:
        sys.exit(f"exit code {process.returncode}: {' '.join(map(str, command))}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, own * 1024 / 1e6, with_maps * 1024 / 1e6


def differing(left, right):
    """Names of the files that differ between two folders."""
    names = {path.name for path in left.iterdir()} | {path.name for path in right.iterdir()}
    return sorted(name for name in names if not same(left / name, right / name))


def same(left, right):
    if not (left.is_file() and right.is_file()) or left.stat().st_size != right.stat().st_size:
        return False
    with open(left, "rb") as a, open(right, "rb") as b:
        while chunk := a.read(1 << 24):
            if chunk != b.read(1 << 24):
                return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impasto", required=True, type=Path, help="the command")
    parser.add_argument("--folder", required=True, type=Path, help="made, and removed at the end")
    parser.add_argument("--gb", type=float, default=8, help="at least this many GB of weights (default 8)")
    parser.add_argument("--limit-mb", type=float, default=1000, help="memory limit in MB, without mapped files (default 1000)")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the machine has")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    args = parser.parse_args()
    if args.folder.exists():
        sys.exit(f"{args.folder}: is there already")
    try:
        ok = check(args)
    finally:
        if not args.keep:
            shutil.rmtree(args.folder, ignore_errors=True)
    sys.exit(0 if ok else 1)


def check(args):
    model, file, decoded = args.folder / "model", args.folder / "a.impasto", args.folder / "decoded"
    load = os.getloadavg()[0]
    begun = time.monotonic()
    raw, shards = make_checkpoint(model, int(args.gb * 1e9))
    print(f"{raw / 1e9:.2f} GB in {shards} shards, made in {time.monotonic() - begun:.0f} s")
    print(f"{len(os.sched_getaffinity(0))} CPUs, load {load:.1f} at the begin", end="\n\n")
    print("| job | s | CPU s | GB/s | peak memory without mapped files, MB | with mapped files, MB |\n|---|---|---|---|---|---|")
    ok = True
    base = [args.impasto.resolve(), "-q", "--threads", str(args.threads)]
    for job in (["encode", model, "-o", file, "--lossless"], ["verify", file], ["decode", file, "-o", decoded]):
        seconds, cpu, own, with_maps = measure(base + job)
        rate = raw / 1e9 / seconds
        print(f"| {job[0]} | {seconds:.1f} | {cpu:.1f} | {rate:.3f} | {own:.0f} | {with_maps:.0f} |", flush=True)
        ok &= own <= args.limit_mb
    if not ok:
        print(f"\na command took more than {args.limit_mb:.0f} MB")
    size = file.stat().st_size
    print(f"\nfile: {size} bytes, {100 * size / raw:.2f}% of the weights' bytes")
    others = differing(model, decoded)
    print(f"decoded files that differ: {', '.join(others)}" if others else "decoded files: all equal byte for byte")
    return ok and not others


if __name__ == "__main__":
    main()
