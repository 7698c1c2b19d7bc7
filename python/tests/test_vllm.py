"""The plug-in of vLLM, if vLLM is installed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import impasto
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
from safetensors.torch import save_file  # noqa: E402

ROWS, COLUMNS, RANKS = 2048, 2048, 2
GENERATE = """
import json, sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    options = json.loads(sys.argv[2])
    llm = LLM(sys.argv[1], max_model_len=64, enforce_eager=True, **{"dtype": "float32", **options})
    out = llm.generate(["The sea", "Once upon a time"], SamplingParams(temperature=0, max_tokens=16))
    print("OUT", json.dumps([o.outputs[0].text for o in out]))
"""


@pytest.fixture(scope="module")
def matrix(files):
    """A file with one matrix of many tiles, and the matrix."""
    torch.manual_seed(0)
    weights = torch.randn(ROWS, COLUMNS).bfloat16()
    save_file({"w": weights}, files / "matrix.safetensors")
    impasto.encode(files / "matrix.safetensors", files / "matrix.impasto")
    return files / "matrix.impasto", weights


@pytest.fixture
def ranks(monkeypatch):
    """Parameters of vLLM for each of two ranks, of a matrix that is divided by rows or by columns."""
    from vllm.model_executor import parameter

    def parameter_of(rank, dimension):
        monkeypatch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: rank)
        monkeypatch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: RANKS)
        shape = [ROWS, COLUMNS]
        shape[dimension] //= RANKS
        made = parameter.ModelWeightParameter(
            data=torch.empty(shape, dtype=torch.bfloat16), input_dim=1, output_dim=0, weight_loader=lambda *_: None
        )
        return made, (made.load_column_parallel_weight if dimension == 0 else made.load_row_parallel_weight)

    return parameter_of


def load(path, rank, dimension, ranks):
    """Loads the part of a rank as vLLM does."""
    from impasto.vllm import bands

    parameter, loader = ranks(rank, dimension)
    with impasto.open(path, framework="pt") as file:
        for _, band in bands(file):
            loader(band)
    return parameter.data


@pytest.mark.parametrize("dimension", [0, 1])
def test_a_rank_reads_the_units_of_its_part_only(matrix, ranks, dimension, tmp_path):
    """Each of many bytes of the file is damaged in turn, and only ranks that read its unit notice."""
    path, weights = matrix
    for rank, part in enumerate(weights.chunk(RANKS, dimension)):
        assert torch.equal(load(path, rank, dimension, ranks), part)
    content = path.read_bytes()
    noticed = {(): 0, (0,): 0, (1,): 0, (0, 1): 0}
    for at in range(len(content) // 80, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        (tmp_path / "damaged.impasto").write_bytes(damaged)
        by = []
        for rank in range(RANKS):
            try:
                load(tmp_path / "damaged.impasto", rank, dimension, ranks)
            except impasto.DamagedError:
                by.append(rank)
        noticed[tuple(by)] += 1
    # Tiles that lie across the border of the parts are read by both.
    assert noticed[()] == 0 and noticed[(0, 1)] <= 12, noticed
    assert noticed[(0,)] >= 8 and noticed[(1,)] >= 8, noticed


def test_bands_stay_unread_until_they_are_needed():
    from impasto.vllm import Band

    read = []

    class Source:
        def get_shape(self):
            return [6, 4]

        def __getitem__(self, index):
            read.append(index)
            return torch.arange(24.0).reshape(6, 4)[index]

    whole = Band.whole(Source(), torch.float32)
    part = whole.narrow(0, 2, 3)[1:, -3:]
    assert part.shape == (2, 3) and part.dtype == torch.float32 and not read
    out = torch.zeros(2, 3)
    out.copy_(part)
    assert read == [(slice(3, 5), slice(1, 4))]
    assert torch.equal(out, torch.arange(24.0).reshape(6, 4)[3:5, 1:])
    assert torch.equal(whole.t().contiguous(), torch.arange(24.0).reshape(6, 4).t())
    assert torch.equal(whole[::2], torch.arange(24.0).reshape(6, 4)[::2])
    assert whole[5:2].shape == (0, 4)


def generate(model, options="{}"):
    environment = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="WARNING")
    done = subprocess.run([sys.executable, "-c", GENERATE, os.fspath(model), options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("OUT")]


@pytest.mark.skipif("IMPASTO_SLOW" not in os.environ, reason="minutes: set IMPASTO_SLOW")
def test_text_is_that_of_the_decoded_folder(layered, tiny, files):
    from impasto.transformers import write_folder

    texts = generate(tiny)
    assert texts and generate(layered) == texts
    write_folder(layered, files / "of-vllm")
    assert generate(files / "of-vllm") == texts
    assert generate(tiny, '{"model_weights": "%s"}' % layered) == texts
    base = generate(layered, '{"model_loader_extra_config": {"layer": 1}}')
    assert base != texts
    write_folder(layered, files / "base-of-vllm", layer=1)
    assert generate(files / "base-of-vllm") == base


@pytest.mark.skipif("IMPASTO_SLOW" not in os.environ, reason="minutes: set IMPASTO_SLOW")
@pytest.mark.parametrize(("format", "activations"), [("int4", None), ("int8", 8)])
def test_formats_of_engines_stay_as_they_are(tiny, files, format, activations):
    """Codes and scales go to vLLM's own kernels: the text is that of the exported folder."""
    path, folder = files / f"{format}.impasto", files / f"{format}-exported"
    impasto.encode(tiny, path, format=format, uncalibrated=True)
    words = ["decode", path, "--to", "compressed-tensors", "-o", folder]
    words += ["--activations", f"{activations}bit"] if activations else []
    subprocess.run([sys.executable, "-m", "impasto", *map(os.fspath, words)], check=True)
    dtype = {"dtype": "bfloat16"}
    options = {"model_loader_extra_config": {"activations": activations}} if activations else {}
    texts = generate(path, json.dumps(dtype | options))
    assert texts and texts == generate(folder, json.dumps(dtype))


@pytest.mark.skipif("IMPASTO_SLOW" not in os.environ, reason="minutes: set IMPASTO_SLOW")
@pytest.mark.parametrize(("format", "dtype"), [("int8", "bfloat16"), ("int4", "float32")])
def test_formats_that_kernels_do_not_take_are_decoded(tiny, files, format, dtype):
    """On the CPU, vLLM has no kernel for int8 with activations of 16 bits, nor for int4 with those of 32."""
    path = files / f"{format}-decoded.impasto"
    impasto.encode(tiny, path, format=format, uncalibrated=True)
    texts = generate(path, json.dumps({"dtype": dtype}))
    floats = {"dtype": dtype, "model_loader_extra_config": {"floats": True}}
    assert texts and texts == generate(path, json.dumps(floats))


def test_a_file_with_formats_has_the_form_of_compressed_tensors(tiny, files):
    from impasto.vllm import Options, assets_folder, bands, in_form_of

    path = files / "codes.impasto"
    impasto.encode(tiny, path, format="int8", uncalibrated=True)
    with impasto.open(path, framework="pt") as file:
        tensors = {name: band.clone() for name, band in bands(in_form_of(file, Options(activations=16)))}
        floats = dict(bands(in_form_of(file, Options())))  # on the CPU, vLLM takes int8 with activations of 8 bits only
        name = "model.layers.0.mlp.down_proj"
        assert floats.keys() == set(file.keys())
        codes, scale = tensors[f"{name}.weight_packed"], tensors[f"{name}.weight_scale"]
        numbers = codes.contiguous().view(torch.uint8).reshape(file.get_shape(f"{name}.weight")).float() - 128
        width = numbers.shape[1] // scale.shape[1]
        weights = (numbers * scale.float().repeat_interleave(width, 1)).bfloat16()
        assert torch.equal(weights, file.get_tensor(f"{name}.weight"))
    config = json.loads((assets_folder(path, Options(activations=8)) / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "quantization_config" not in json.loads((assets_folder(path, Options(floats=True)) / "config.json").read_text())
    with pytest.raises(ValueError, match="unknown key 'layers'"):
        Options.of({"layers": 1})


@pytest.mark.skipif("IMPASTO_SLOW" not in os.environ, reason="minutes: set IMPASTO_SLOW")
def test_its_server_answers(layered, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--model", os.fspath(layered), "--dtype", "float32", "--max-model-len", "64", "--enforce-eager", "--port", str(port)]
    environment = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1")
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", *words]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        answer = None
        while answer is None:
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            body = {"model": os.fspath(layered), "prompt": "The sea", "max_tokens": 8, "temperature": 0}
            url, kind = f"http://127.0.0.1:{port}/v1/completions", {"content-type": "application/json"}
            try:
                answer = json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), kind)))
            except ConnectionError:
                time.sleep(1)
            except urllib.error.URLError as error:
                assert isinstance(error.reason, ConnectionError), error
                time.sleep(1)
        assert answer["choices"][0]["text"].startswith(" was a little")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
