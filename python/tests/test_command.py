"""The command of the wheel."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import impasto

COMMAND = pathlib.Path(sys.executable).parent / "impasto"


def run(*arguments, **options):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, **options)


def test_help_and_version():
    assert run("--version").stdout == f"impasto {impasto.__version__}\n"
    assert "Compress LLM weights" in run("--help").stdout


def test_exit_codes(lossless, tmp_path):
    assert run("verify", lossless).returncode == 0
    missing = run("verify", "nothing.impasto")
    assert missing.returncode == 1 and missing.stderr.startswith("impasto: nothing.impasto: ")
    assert run("verify").returncode == 2
    (tmp_path / "other").write_bytes(b"x" * 1000)
    assert run("verify", "other").returncode == 3


def test_a_name_that_is_no_text(lossless, tmp_path):
    shutil.copy(lossless, os.fsencode(tmp_path) + b"/\xff.impasto")
    assert run("verify", b"\xff.impasto").returncode == 0
    with impasto.open(os.fsdecode(b"\xff.impasto")) as f:
        assert len(f) > 0


def test_signals_end_it_without_temporary_files(tiny, tmp_path):
    for number in [signal.SIGINT, signal.SIGTERM]:
        process = subprocess.Popen([COMMAND, "encode", tiny, "-o", "a.impasto", "--bpw", "3"], stderr=subprocess.DEVNULL)
        while not os.listdir(tmp_path):
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait() == -number
        assert os.listdir(tmp_path) == []


def test_a_template_runs_in_its_own_process(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    done = run("run", folder, "-p", "Once upon a time", "-n", "4")
    assert done.returncode == 0 and done.stdout.strip()
