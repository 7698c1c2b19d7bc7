"""Types: the package passes mypy, and its stubs are those of the compiled module."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("mypy")
PACKAGE = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("check", [["mypy"], ["mypy.stubtest", "impasto._impasto", "--mypy-config-file", "pyproject.toml"]], ids=" ".join)
def test_types(check):
    done = subprocess.run([sys.executable, "-m", *check], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
