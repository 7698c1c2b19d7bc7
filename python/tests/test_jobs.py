"""What the command does, as functions."""

import functools
import http.server
import os
import signal
import threading
import time

import impasto
import numpy as np
import pytest

TEXT = "The sea was calm, and the boat went slowly along the shore. " * 200


def test_sizes(tiny):
    report = impasto.encode(tiny, "small.impasto", size="1.2MB", uncalibrated=True)
    assert report["file"] == "small.impasto" and report["bytes"] == os.path.getsize("small.impasto")
    assert 1_194_000 <= report["bytes"] <= 1_200_000
    assert impasto.verify("small.impasto")["good"]


def test_calibration_and_statistics(tiny, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    stages = set()
    report = impasto.calibrate(
        tiny, "s.safetensors", text="text.txt", tokens=1024, ctx=128, progress=lambda step: stages.add(step.stage)
    )
    assert report["tokens"] <= 1024 and {"forward", "backward", "writing"} <= stages
    encoded = impasto.encode(tiny, "a.impasto", bpw=4, statistics="s.safetensors")
    assert encoded["bits_per_weight"] <= 4
    other = impasto.encode(tiny, "b.impasto", bpw=4, uncalibrated=True)
    assert encoded["root"] != other["root"]


def test_steps_are_told(tiny):
    steps = []
    assert impasto.encode(tiny, "a.impasto", progress=steps.append)["bytes"] > 0
    coding = [step for step in steps if step.stage == "coding"]
    assert [step.done for step in coding] == list(range(coding[0].total)) and len(coding) > 50
    assert "embed_tokens" in "".join(step.message for step in coding)
    assert "stage='coding'" in repr(coding[0]).replace('"', "'")


def test_a_callback_cancels(tiny, tmp_path):
    for after in [1, 30]:
        steps = []

        def cancel(step):
            steps.append(step)
            return len(steps) < after

        with pytest.raises(impasto.CancelledError, match="cancelled"):
            impasto.encode(tiny, "a.impasto", progress=cancel)
        assert len(steps) == after and os.listdir(tmp_path) == []


def test_an_exception_of_a_callback_comes_out(tiny, tmp_path):
    def fail(step):
        raise ZeroDivisionError("of the callback")

    with pytest.raises(ZeroDivisionError, match="of the callback"):
        impasto.encode(tiny, "a.impasto", bpw=4, progress=fail)
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        impasto.calibrate(tiny, "s.safetensors", text="text.txt", progress=fail)
    assert os.listdir(tmp_path) == ["text.txt"]


def test_ctrl_c_interrupts(tiny, tmp_path):
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            impasto.encode(tiny, "a.impasto", bpw=4, progress=lambda step: time.sleep(0.001))
    assert set(os.listdir(tmp_path)) <= {"a.impasto"}


def test_the_interpreter_is_free_meanwhile(tiny):
    counted = 0
    over = threading.Event()

    def count():
        nonlocal counted
        while not over.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    impasto.encode(tiny, "a.impasto", bpw=4, uncalibrated=True)
    over.set()
    thread.join()
    assert counted > 10


def test_errors(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        impasto.encode("nothing", "a.impasto")
    with pytest.raises(impasto.UsageError, match="cannot be used with"):
        impasto.encode(tiny, "a.impasto", bpw=4, size=100)
    with pytest.raises(impasto.UsageError, match="--effort is for lossy files without layers"):
        impasto.encode(tiny, "a.impasto", effort="best")
    with pytest.raises(impasto.SizeError):
        impasto.encode(tiny, "a.impasto", size="10KB", uncalibrated=True)
    with pytest.raises(impasto.UsageError, match="one of|required"):
        impasto.truncate("a.impasto", "b.impasto")
    assert os.listdir(tmp_path) == []


def test_truncation(layered):
    report = impasto.truncate(layered, "two.impasto", layer=2)
    assert report["units"] < report["units_before"]
    with impasto.open("two.impasto") as f, impasto.open(layered, layer=2) as g:
        assert len(f.layers) == 2 and not f.lossless
        for name in f.keys():
            assert f.get_tensor(name).tobytes() == g.get_tensor(name).tobytes()


def test_deltas(tiny, lossless, tmp_path):
    from safetensors.numpy import load_file, save_file

    tune = tmp_path / "tune"
    tune.mkdir()
    for name in os.listdir(tiny):
        (tune / name).write_bytes((tiny / name).read_bytes())
    tensors = load_file(tune / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3] *= 2
    save_file(tensors, tune / "model.safetensors")
    report = impasto.encode(tune, tmp_path / "tune.impasto", base=lossless)
    assert report["bytes"] < os.path.getsize(lossless) / 10
    with impasto.open("tune.impasto") as f:
        assert f.base["name"] == "lossless" and f.base["file"] is None
        with pytest.raises(impasto.AbsentError, match='it is a delta of "lossless" and needs that file'):
            f.get_tensor(name)
    with impasto.open("tune.impasto", base=lossless) as f:
        assert f.lossless and f.base["file"] == os.fspath(lossless)
        assert all(np.array_equal(f.get_tensor(name), tensor) for name, tensor in tensors.items())
        assert np.array_equal(f.get_slice(name)[2:5, 1:], tensors[name][2:5, 1:])
    assert impasto.verify("tune.impasto", base=lossless.parent)["good"]


@pytest.fixture
def server(layered):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=layered.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses(server, layered, tmp_path):
    steps = []
    report = impasto.fetch(f"{server}/layered.impasto", "part.impasto", layer=1, progress=steps.append)
    assert not report["whole"] and report["layers"] == 1
    with impasto.open("part.impasto") as f:
        assert [layer.whole for layer in f.layers] == [True, False, False]
    with impasto.open(f"{server}/layered.impasto", layer=2) as f, impasto.open(layered, layer=2) as g:
        assert f.path.startswith(os.environ["XDG_CACHE_HOME"]) and [layer.whole for layer in f.layers] == [True, True, False]
        assert all(f.get_tensor(name).tobytes() == g.get_tensor(name).tobytes() for name in g.keys())
    with pytest.raises(impasto.Error, match="404"):
        impasto.open(f"{server}/nothing.impasto")
    with pytest.raises(impasto.CancelledError):
        impasto.fetch(f"{server}/layered.impasto", "cancelled.impasto", progress=lambda step: False)
    with pytest.raises(impasto.UsageError):
        impasto.fetch("nothing://a", "b.impasto")
    with pytest.raises(impasto.UsageError, match="options for fetching need an address"):
        impasto.open(layered, tries=3)
