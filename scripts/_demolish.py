"""The command `demolish` from a checkout, whether or not the package is installed: what every program here calls."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

sys.path.insert(0, ROOT)
from diffusion.cli import start  # noqa: E402

# Neither folder is searched any further: a module of the user's may be called like a file in them.
sys.path.remove(ROOT)
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != HERE]


def run(command: str) -> None:
    """Run a command with the words of this process, and leave with its exit code."""
    start([command, *sys.argv[1:]])
