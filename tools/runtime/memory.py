"""Resident memory of both programs while they generate, including mapped files.

Each program runs its generation benchmark alone (llama-bench -p 0, `impasto bench run -p 0`) in a process of its own.
Files are mapped; their resident pages count. *Peak* is VmHWM of /proc/PID/status, *generating* the median of VmRSS over
the last quarter of the run, *own* the median of RssAnon, which the system cannot drop.
"""

import statistics
import subprocess
import sys
import time

from context import pinned, say
from speed import pairs

ANSWER = 256
SECONDS = 0.005  # between samples


def status(pid):
    """The sizes in /proc/PID/status in bytes, by name; none if the process has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = (line.split() for line in file)
            return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def measure(*command, threads):
    """Runs a command and samples its memory."""
    words, samples = [str(word) for word in command], []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, preexec_fn=pinned(threads), **quiet) as process:
        while process.poll() is None:
            sample = status(process.pid)
            if "VmRSS" in sample:
                samples.append(sample)
            time.sleep(SECONDS)
    if process.returncode != 0 or not samples:
        sys.exit(f"exit code {process.returncode}: {' '.join(words)}")
    late = samples[-max(1, len(samples) // 4) :]
    return {
        "peak": max(sample["VmHWM"] for sample in samples),
        "generating": statistics.median(sample["VmRSS"] for sample in late),
        "own": statistics.median(sample["RssAnon"] for sample in late),
    }


def run(bench):
    """The step `memory`."""
    threads = max(bench.options.threads)
    for model, kind, theirs, ours in pairs(bench):
        llama = ("-m", theirs, "-t", threads, "-p", 0, "-n", ANSWER, "-r", 1)
        impasto = ("-p", 0, "-n", ANSWER, "-r", 1, "--thread-counts", threads)
        entry = {
            "llama": measure(bench.options.llama / "llama-bench", *llama, threads=threads),
            "impasto": measure(bench.options.impasto, "--quiet", "bench", "run", ours, *impasto, threads=threads),
        }
        bench.results.put("memory", f"{model}/{kind}", entry)
        shown = (f"{w} {entry['impasto'][w] / 1e6:.0f} : {entry['llama'][w] / 1e6:.0f}" for w in entry["llama"])
        say(f"{model}/{kind}: {', '.join(shown)} MB")
