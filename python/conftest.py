"""Files that the tests read: the small model of the repository, encoded in several ways."""

import os
import pathlib

import impasto
import pytest

TINY = pathlib.Path(__file__).parents[1] / "assets" / "tiny"


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def lossless(files):
    impasto.encode(TINY, files / "lossless.impasto")
    return files / "lossless.impasto"


@pytest.fixture(scope="session")
def layered(files):
    impasto.encode(TINY, files / "layered.impasto", layers=[3, 5, "lossless"], uncalibrated=True)
    return files / "layered.impasto"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, tmp_path_factory, monkeypatch):
    """Nothing is written beside the repository, nor to the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def names_of_documents(doctest_namespace):
    doctest_namespace["TINY"] = os.fspath(TINY)
