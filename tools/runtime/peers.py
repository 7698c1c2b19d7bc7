"""llama.cpp's files of both models.

SmolLM2's matrices have 576 columns, which is not a multiple of 256, so most of them fall back to types of more bits in
Q4_K_M: 6.2 bits per weight, where a model with 2,048 columns has 4.9. The former file is the one that Impasto's file
matches in divergence. So the synthetic model gets a third file, `FALLBACK`, with each matrix in the type of the SmolLM2
matrix that it imitates.
"""

import re

import synthetic

KINDS = ("Q4_K_M", "Q4_0")
FALLBACK = "Q4_K_M-fallback"


def whole(bench):
    """SmolLM2 as a GGUF of binary32."""

    def make(path):
        exact = bench.scratch / "exact.impasto"
        bench.impasto("encode", bench.options.model, "-o", exact)
        # `decode` takes a name for a file only if it ends in .gguf.
        bench.impasto("decode", exact, "--to", "gguf", "--type", "f32", "-o", path)
        exact.unlink()

    return bench.options.whole or bench.made("smollm2-f32.gguf", make)


def imatrix(bench):
    """llama.cpp's importance of SmolLM2's columns, of the first `--tokens` tokens of the calibration text."""

    def make(path):
        text = ("-f", bench.options.data / "calibration.txt", "-c", 512, "--chunks", bench.options.tokens // 512)
        bench.llama("llama-imatrix", "-m", whole(bench), *text, "--no-ppl", "--process-output", "-o", path)

    return bench.options.imatrix or bench.made("smollm2-imatrix.gguf", make)


def smollm2(bench, kind):
    """A GGUF of SmolLM2 of a kind."""
    quantize = lambda path: bench.llama("llama-quantize", "--imatrix", imatrix(bench), whole(bench), path, kind)
    return bench.made(f"smollm2-{kind}.gguf", quantize)


def types(bench, kind):
    """The types of SmolLM2's tensors in a kind of file, by their name in a GGUF."""
    words = ("--dry-run", "--imatrix", imatrix(bench), whole(bench), bench.scratch / "none.gguf", kind)
    out = bench.llama("llama-quantize", *words, stderr=True)
    return dict(re.findall(r"\] +(\S+)\.weight .*\((\w+)\)$", out, re.MULTILINE))


def fallback(bench):
    """Options of llama-quantize that give the synthetic model's matrices SmolLM2's types."""
    found, words = types(bench, KINDS[0]), []
    parts = sorted({name.split(".")[2] for name in found if name.startswith("blk.")})
    blocks, count = sum(name.endswith("attn_q") for name in found), synthetic.CONFIG["num_hidden_layers"]
    for block in range(count):
        source = synthetic.followed(block, count, blocks)
        for part in parts:
            words += ["--tensor-type", f"blk\\.{block}\\.{part}={found[f'blk.{source}.{part}']}"]
    return ["--token-embedding-type", found["token_embd"], *words]


def large(bench, kind, source):
    """A GGUF of the synthetic model of a kind; `source()` is a GGUF of bfloat16, made only if it is needed."""

    def make(path):
        words = fallback(bench) if kind == FALLBACK else ()
        bench.llama("llama-quantize", *words, source(), path, kind.split("-")[0])

    return bench.made(f"synthetic-{kind}.gguf", make)


def run(bench):
    """The step `peers`."""
    for kind in KINDS:
        smollm2(bench, kind)
