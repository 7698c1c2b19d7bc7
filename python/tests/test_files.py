"""Reading files: the same tensors as safetensors reads from the checkpoint."""

import os
import signal
import subprocess
import sys
import threading
import time

import impasto
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module")
def originals(tiny):
    return load_file(tiny / "model.safetensors")


def test_tensors_of_a_lossless_file_are_those_of_the_checkpoint(lossless, tiny, originals):
    with impasto.open(lossless) as f, safetensors.safe_open(tiny / "model.safetensors", "np") as g:
        assert sorted(f.keys()) == sorted(g.keys()) and len(f) == len(list(f)) == len(originals)
        assert f.metadata() == g.metadata()
        assert f.lossless and f.layers == []
        for name, original in originals.items():
            assert f.get_shape(name) == g.get_slice(name).get_shape()
            assert f.get_dtype(name) == f.get_slice(name).get_dtype() == g.get_slice(name).get_dtype()
            found = f.get_tensor(name)
            assert found.dtype == original.dtype == ml_dtypes.bfloat16
            assert found.tobytes() == original.tobytes() and found.shape == original.shape
    tensors = impasto.load_file(lossless)
    assert tensors.keys() == originals.keys()


def test_an_array_owns_the_decoded_memory(lossless):
    with impasto.open(lossless) as f:
        array = f.get_tensor("model.norm.weight")
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert base.dtype == np.uint8 and not base.flags.owndata and type(base.base).__name__ == "PySliceContainer"
    assert array.flags.writeable
    array[0] = 1
    assert array[0] == 1


INDICES = [
    np.s_[0:8, :],
    np.s_[:, 3:17],
    np.s_[100:300, 10:50],
    np.s_[5],
    np.s_[-1, -2],
    np.s_[...],
    np.s_[..., 7],
    np.s_[4:2],
    np.s_[::7, ::3],
    np.s_[40:3:-5, ::-1],
    np.s_[3:1000000],
    np.s_[np.int64(2), ...],
    (),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_parts_are_those_of_numpy(lossless, originals, index):
    with impasto.open(lossless) as f:
        for name in ["model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"]:
            found, wanted = f.get_slice(name)[index], originals[name][index]
            assert found.shape == wanted.shape and np.array_equal(found, wanted), name


@pytest.mark.parametrize("index", [np.s_[3:9], np.s_[-2], np.s_[::-1], np.s_[...], np.s_[9:3]], ids=repr)
def test_parts_of_a_vector(lossless, originals, index):
    with impasto.open(lossless) as f:
        found, wanted = f.get_slice("model.norm.weight")[index], originals["model.norm.weight"][index]
        assert found.shape == wanted.shape and np.array_equal(found, wanted)


def test_all_dtypes_and_shapes(tmp_path):
    random = np.random.default_rng(1)
    tensors = {
        "f64": random.normal(size=(3, 5)),
        "f16": random.normal(size=(4, 3, 5)).astype(np.float16),
        "f32": random.normal(size=(2, 3, 4, 5)).astype(np.float32),
        "large": random.normal(size=(6, 40, 700)).astype(np.float32),
        "f8": random.normal(size=(64, 64)).astype(ml_dtypes.float8_e4m3fn),
        "e5m2": random.normal(size=(8,)).astype(ml_dtypes.float8_e5m2),
        "bool": random.integers(0, 2, size=(7,)).astype(bool),
        "c64": (random.normal(size=(2, 2)) + 1j).astype(np.complex64),
        "scalar": np.array(3, dtype=np.int32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        **{f"{name}": np.arange(10).astype(name) for name in ["i1", "i2", "i8", "u1", "u2", "u4", "u8"]},
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "np", "who": "tests"})
    impasto.encode(tmp_path / "model.safetensors", "all.impasto")
    with impasto.open("all.impasto") as f:
        assert f.metadata() == {"format": "np", "who": "tests"}
        for name, tensor in tensors.items():
            found = f.get_tensor(name)
            assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
            assert found.tobytes() == tensor.tobytes(), name
        for name in ["f32", "large", "f16"]:
            for index in [np.s_[1], np.s_[..., 1:3], np.s_[1:, 2, ::2], np.s_[::-1, ..., -1], np.s_[:, 1:2]]:
                assert np.array_equal(f.get_slice(name)[index], tensors[name][index]), (name, index)
        assert f.get_slice("scalar")[...] == 3
        assert f.get_slice("empty")[:, 1:].shape == (0, 3)


def test_bad_indices(lossless):
    with impasto.open(lossless) as f:
        part = f.get_slice("model.norm.weight")
        for index, error in [(500, IndexError), ((0, 0), IndexError), ((..., ...), IndexError), ("a", TypeError)]:
            with pytest.raises(error):
                part[index]


def test_a_part_reads_only_its_tiles(tmp_path):
    # Units of the last rows are damaged; the first rows are still there.
    tensor = np.random.default_rng(2).normal(size=(4096, 256)).astype(np.float32)
    save_file({"w": tensor}, tmp_path / "model.safetensors")
    path = tmp_path / "w.impasto"
    impasto.encode(tmp_path / "model.safetensors", path)
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    with impasto.open(path) as f:
        assert np.array_equal(f.get_slice("w")[:64, :], tensor[:64])
        with pytest.raises(impasto.DamagedError, match=r"w.impasto: .* is damaged"):
            f.get_tensor("w")
    verdict = impasto.verify(path)
    assert not verdict["good"] and len(verdict["damaged"]) == 1


def test_reading_into_an_array(lossless, originals):
    name = "model.layers.0.mlp.up_proj.weight"
    out = np.zeros(originals[name].shape, ml_dtypes.bfloat16)
    with impasto.open(lossless) as f:
        f.read_into(name, out)
        assert np.array_equal(out, originals[name])
        with pytest.raises(impasto.InvalidError, match="bytes, but the buffer has 2"):
            f.read_into(name, np.zeros(1, ml_dtypes.bfloat16))
        wide = np.zeros((out.shape[0], 2 * out.shape[1]), ml_dtypes.bfloat16)
        for part in [wide[:, : out.shape[1]], wide[:, ::2]]:
            with pytest.raises(impasto.UsageError, match="not contiguous"):
                f.read_into(name, part)


def test_layers(layered, originals):
    name = "model.layers.0.mlp.up_proj.weight"
    with impasto.open(layered) as f:
        assert len(f.layers) == 3 and f.lossless
        assert [layer.whole for layer in f.layers] == [True] * 3
        assert f.layers[0].bits_per_weight < f.layers[1].bits_per_weight < f.layers[2].bits_per_weight
        whole = f.get_tensor(name)
    assert np.array_equal(whole, originals[name])
    errors = []
    for options in [{"layer": 1}, {"layer": 2}, {"layer": {"mlp": 2, "attn": 1}}, {"bpw": 6.5}]:
        with impasto.open(layered, **options) as f:
            assert not f.is_exact(name) and not f.lossless
            errors.append(np.abs(f.get_tensor(name).astype(np.float32) - whole.astype(np.float32)).mean())
    assert errors[0] > errors[1] > 0 and errors[1] == errors[2]


def test_errors_say_what_the_command_says(lossless, layered, tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file") as caught:
        impasto.open("nothing.impasto")
    assert isinstance(caught.value, impasto.NotFoundError) and isinstance(caught.value, impasto.Error)
    with impasto.open(lossless) as f:
        with pytest.raises(KeyError) as caught:
            f.get_tensor("nothing")
        assert isinstance(caught.value, impasto.TensorNotFoundError)
        assert str(caught.value) == f'{lossless}: there is no tensor "nothing"'
        with pytest.raises(impasto.TensorNotFoundError):
            f.get_slice("nothing")
    with pytest.raises(impasto.UsageError, match="the file is closed"):
        f.keys()
    with pytest.raises(impasto.UsageError, match="there is no layer 9: the file has layers 1 to 3"):
        impasto.open(layered, layer=9)
    with pytest.raises(impasto.SizeError, match="bytes are too few: the base takes"):
        impasto.open(layered, budget="1KB")
    with pytest.raises(impasto.UsageError, match="invalid value 'x' for '--layer"):
        impasto.open(layered, layer="x")
    with pytest.raises(impasto.UsageError, match="unexpected argument '--nothing"):
        impasto.open(layered, nothing=1)
    with pytest.raises(impasto.UsageError, match="--residence is not for this"):
        impasto.open(layered, residence="float")
    with pytest.raises(impasto.UsageError, match="there is no framework"):
        impasto.open(layered, framework="jax")
    (tmp_path / "other").write_bytes(b"no file of ours" * 100)
    with pytest.raises(impasto.InvalidError, match="other"):
        impasto.open(tmp_path / "other")
    cut = tmp_path / "cut.impasto"
    cut.write_bytes(lossless.read_bytes()[:500_000])
    with impasto.open(cut) as f, pytest.raises(impasto.AbsentError, match="is absent"):
        [f.get_tensor(name) for name in f.keys()]


def test_options_as_words():
    from impasto._words import words

    given = {"header": {"X-A": "1", "X-B": b"2"}, "kv": {"k": "int8", "v": "f16"}, "base": ["a", "b"], "for_": "memory", "measure": True}
    found = ["--header=X-A: 1", "--header=X-B: 2", "--kv=k=int8,v=f16", "--base=a", "--base=b", "--for=memory", "--measure"]
    assert words(["-m"], given | {"layer": None, "force": False}) == [*found, "--", "-m"]


def test_threads_read_at_the_same_time(lossless, originals):
    found = {}
    with impasto.open(lossless) as f:
        def read(name):
            found[name] = np.array_equal(f.get_tensor(name), originals[name])

        threads = [threading.Thread(target=read, args=(name,)) for name in f.keys()]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(found) == len(originals) and all(found.values())


def test_packages_that_are_not_there(lossless):
    # In a process of its own, in which they cannot be imported.
    code = f"""if True:
        import sys
        sys.modules["ml_dtypes"] = sys.modules["torch"] = None
        import impasto
        assert "numpy" not in sys.modules
        f = impasto.open({str(lossless)!r})
        for read in [lambda: f.get_tensor("model.norm.weight"), lambda: impasto.open({str(lossless)!r}, "pt")]:
            try:
                read()
            except ImportError as error:
                assert isinstance(error, impasto.Error)
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "numpy has no bfloat16: install ml_dtypes (pip install ml_dtypes), or read tensors of torch with framework=\"pt\"",
        'framework="pt" needs torch: pip install torch',
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads(lossless, originals):
    name = "model.layers.0.mlp.up_proj.weight"
    with impasto.open(lossless) as f:
        f.get_tensor(name)
        child = os.fork()
        if child == 0:
            same = np.array_equal(f.get_tensor(name), originals[name]) and f.get_asset("config.json") is not None
            same = same and "".join(impasto.Model(lossless).generate("The sea", max_tokens=4)) != ""
            os._exit(0 if same else 1)
        for _ in range(600):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_blocks_of_a_gguf_are_bytes(lossless, tmp_path):
    command = [sys.executable, "-m", "impasto"]
    subprocess.run([*command, "decode", lossless, "--to", "gguf", "--type", "q8_0", "-o", "tiny.gguf"], check=True, capture_output=True)
    impasto.encode("tiny.gguf", "gguf.impasto")
    data = (tmp_path / "tiny.gguf").read_bytes()
    with impasto.open("gguf.impasto") as f:
        name = "blk.0.ffn_down.weight"
        assert f.lossless and f.get_dtype(name) == "Q8_0" and f.get_shape(name) == [192, 512]
        blocks = f.get_tensor(name)
        assert blocks.dtype == np.uint8 and blocks.shape == (192, 512 // 32 * 34) and blocks.tobytes() in data
        assert np.array_equal(f.get_slice(name)[3:60, 34:68], blocks[3:60, 34:68])
        norm = f.get_tensor("output_norm.weight")
        assert norm.dtype == np.float32 and norm.tobytes() in data
