"""Encodes a model in shards on a Ray cluster, and joins them.

    ray_encode.py [--cpus N] [--address ADDRESS] MODEL OUTPUT SHARDS [OPTION OF ENCODE...]

Model and output must be on a file system that all nodes have, under absolute paths. IMPASTO names another command than impasto. Needs
ray (pip install ray).
"""

import argparse
import os
import subprocess
import sys

import ray

# The exit code of a shard that needs others, and of a merge that needs shards to go on.
WAITING = 7
IMPASTO = os.environ.get("IMPASTO", "impasto")


def run(*arguments: str) -> int:
    """Runs the command; returns 0 or WAITING."""
    code = subprocess.run([IMPASTO, "-q", *arguments], check=False).returncode
    if code not in (0, WAITING):
        raise RuntimeError(f"{' '.join(arguments)}: exit code {code}")
    return code


# A task whose node dies is run again, elsewhere.
@ray.remote(max_retries=3, retry_exceptions=True)
def shard(*arguments: str) -> int:
    return run("encode", *arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=int, default=1, help="processors of a shard [default: 1]")
    parser.add_argument("--address", help="of the cluster [default: a new one on this machine, or RAY_ADDRESS]")
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("shards", type=int)
    arguments, options = parser.parse_known_args()
    model, output = os.path.abspath(arguments.model), os.path.abspath(arguments.output)
    ray.init(address=arguments.address, include_dashboard=False, log_to_driver=True)
    task = shard.options(num_cpus=arguments.cpus)
    while True:
        numbers = range(1, arguments.shards + 1)
        common = ["--threads", str(arguments.cpus), *options]
        ray.get([task.remote(model, "-o", output, "--shard", f"{n}/{arguments.shards}", *common) for n in numbers])
        if run("merge", output) != WAITING:
            return


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, ray.exceptions.RayError) as error:
        sys.exit(f"ray_encode.py: {error}")
