"""The process that runs a chat template. It is started with this file alone, without the environment of the interpreter."""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from impasto._impasto import main

    sys.exit(main(["impasto", "template-worker"]))
