"""The command `impasto`."""

import sys

from ._impasto import main as run


def main() -> int:
    """Run the command with the arguments of this process. Return its exit code."""
    return run(["impasto", *sys.argv[1:]])
