"""Paths, running and pinning programs, and what the steps share."""

import hashlib
import json
import os
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

QUIET = 0.05  # share of the processors
ROOT = Path(__file__).resolve().parents[2]


def say(*words):
    """Prints progress to stderr."""
    print(*words, file=sys.stderr, flush=True)


def pinned(threads):
    """Has a child run on the first `threads` processors that this program may use."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    if len(processors) < threads:
        sys.exit(f"{threads} threads need as many processors; {len(processors)} are there")
    return lambda: os.sched_setaffinity(0, processors)


def execute(*command, threads=None, stderr=False):
    """Runs a command, pinned if `threads` are given, and returns its stdout, with its stderr if that is asked for.

    Ends the program with the end of its stderr if it fails.
    """
    before = pinned(threads) if threads else None
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", preexec_fn=before)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {' '.join(words)}\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr if stderr else done.stdout


class Others:
    """What the rest of the machine does beside this program and the children that it has waited for."""

    def __init__(self):
        self.begun = self.now()

    @staticmethod
    def now():
        """Seconds of all processors, of those that were busy, and of this program and its children."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        second, idle = os.sysconf("SC_CLK_TCK"), ticks[3] + ticks[4]  # idle, and waiting for disks
        return sum(ticks) / second, (sum(ticks) - idle) / second, sum(os.times()[:4])

    def share(self):
        """The share of the processors that others have used since."""
        everything, used, own = (b - a for a, b in zip(self.begun, self.now(), strict=True))
        return max(0.0, (used - own) / max(everything, 1e-9))


def await_quiet(patience):
    """Waits until others leave the machine alone, at most so many seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        others = Others()
        time.sleep(1)
        if others.share() <= QUIET:
            break


class Results:
    """A JSON file of sections, each a dictionary; it is written anew, whole, after each entry."""

    def __init__(self, path):
        self.path = path
        self.sections = json.loads(path.read_text()) if path.exists() else {}

    def section(self, name):
        return self.sections.setdefault(name, {})

    def put(self, section, key, entry):
        self.section(section)[key] = entry
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.sections, indent=1, sort_keys=True) + "\n")
        os.replace(partial, self.path)
        return entry


class Bench:
    """The options of a run, its results, and files that are made once."""

    def __init__(self, options):
        self.options = options
        self.results = Results(options.results)
        self.scratch = options.scratch
        self.scratch.mkdir(parents=True, exist_ok=True)

    def impasto(self, *words, **how):
        return execute(self.options.impasto, "--quiet", *words, **how)

    def llama(self, program, *words, **how):
        return execute(self.options.llama / program, *words, **how)

    @cached_property
    def build(self):
        """Names the build of Impasto: the head of its SHA-256."""
        return hashlib.sha256(self.options.impasto.read_bytes()).hexdigest()[:16]

    def inspect(self, file):
        """What `impasto inspect --tensors --json` says of a file."""
        return json.loads(self.impasto("--json", "inspect", "--tensors", file))

    def made(self, name, make):
        """A file of the scratch space; `make(path)` writes it if it is not there. It is never there in part."""
        path = self.scratch / name
        if not path.exists():
            say(f"making {name}")
            partial = self.scratch / f"partial-{name}"
            make(partial)
            partial.rename(path)
        return path
