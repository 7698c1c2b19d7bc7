"""llama.cpp's files of both models."""

KINDS = ("Q4_K_M", "Q4_0")


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


def synthetic(bench, kind, source):
    """A GGUF of the synthetic model of a kind; `source()` is a GGUF of bfloat16, made only if it is needed."""
    return bench.made(f"synthetic-{kind}.gguf", lambda path: bench.llama("llama-quantize", source(), path, kind))


def run(bench):
    """The step `peers`."""
    for kind in KINDS:
        smollm2(bench, kind)
