"""Paths, running commands, and the file of results."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """A model that is scored with text, and the sizes at which Impasto makes files of it."""

    name: str
    folder: Path
    title: str
    sizes: tuple


def say(*words):
    """Prints progress to stderr."""
    print(*words, file=sys.stderr, flush=True)


def execute(*command):
    """Runs a command and returns its stdout; ends the program with the end of its stderr if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stderr[-3000:]}")
    return done.stdout


class Results:
    """A JSON file of sections, each a dictionary; it is written anew, whole, after each entry.

    Several runs may share it: the file is locked and read again for each entry.
    """

    def __init__(self, path):
        self.path = path
        self.sections = self.read()

    def read(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def section(self, name):
        return self.sections.setdefault(name, {})

    def has(self, section, key, **fields):
        """Whether an entry is there, with these values of its fields."""
        entry = self.section(section).get(key)
        return entry is not None and all(entry.get(name) == value for name, value in fields.items())

    def put(self, section, key, entry):
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.sections = self.read()
            self.section(section)[key] = entry
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.sections, indent=1, sort_keys=True) + "\n")
            os.replace(partial, self.path)


class Bench:
    """The options of a run, and what all steps share."""

    def __init__(self, options):
        self.options = options
        self.results = Results(options.results)
        self.scratch = options.scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.models = [
            Model("smollm2", options.models / "smollm2-135m-continuous", "SmolLM2-135M-continuous", options.sizes),
            Model("tiny", options.tiny, "tiny", options.tiny_sizes),
        ]

    def impasto(self, *words):
        return execute(self.options.impasto, "--quiet", *words)

    def llama(self, program, *words):
        return execute(self.options.llama / program, *words)

    def encoder(self):
        """Names the build of Impasto: the head of its SHA-256."""
        return hashlib.sha256(self.options.impasto.read_bytes()).hexdigest()[:16]

    def data(self, name):
        return self.options.data / name

    def folder(self, name):
        """An empty folder of that name in the scratch space."""
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def calibration(self, model):
        """The text of exactly the first `--tokens` tokens of the calibration text, as a file."""
        from tokenizers import Tokenizer

        path = self.scratch / f"{model.name}-calibration-{self.options.tokens}.txt"
        if not path.exists():
            text = self.data("calibration.txt").read_text(encoding="utf-8")
            tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
            # Enough characters for the tokens, since the whole text takes long.
            head = text[: self.options.tokens * 16]
            offsets = tokenizer.encode(head, add_special_tokens=False).offsets
            if len(offsets) <= self.options.tokens:
                sys.exit(f"calibration.txt has fewer than {self.options.tokens} tokens of {model.name}")
            path.write_text(head[: offsets[self.options.tokens][0]], encoding="utf-8")
        return path

    def kld(self, candidate, model, text="test.txt", windows=None):
        """The result of `impasto eval kld` against the original: all positions."""
        windows = windows or self.options.windows
        text = ("--text", self.data(text), "--windows", windows)
        out = self.impasto("--json", "eval", "kld", candidate, "--reference", model.folder, *text)
        return json.loads(out)["kld"]

    def score(self, family, name, model, candidate, file_bytes, bare_bytes, **more):
        """Scores a file and keeps the result. `bare_bytes` are those without tokenizer and other metadata."""
        kld = self.kld(candidate, model)
        entry = {
            "model": model.name,
            "family": family,
            "name": name,
            "file_bytes": file_bytes,
            "bare_bytes": bare_bytes,
            "kld": kld["mean"]["value"],
            "kld_error": kld["mean"]["error"],
            "same_top": kld["same_top"]["value"],
            "perplexity": kld["model"]["perplexity"]["value"],
            "reference_perplexity": kld["reference"]["perplexity"]["value"],
            "positions": kld["model"]["tokens"],
            "windows": kld["model"]["windows"],
            "tokens": self.options.tokens,
            **more,
        }
        self.results.put("points", f"{model.name}/{family}/{name}", entry)
        say(f"{model.name} {family} {name}: {file_bytes / 1e6:.2f} MB, KLD {entry['kld']:.5f}")
        return entry

    def scored(self, family, name, model, **fields):
        """Whether a score is there, of the same windows and calibrated on as many tokens."""
        wanted = {"windows": self.options.windows, "tokens": self.options.tokens} | fields
        return self.results.has("points", f"{model.name}/{family}/{name}", **wanted)
