"""The command `demolish` from a checkout, whether or not the package is installed; used by every script here."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

sys.path.insert(0, ROOT)
from diffusion.cli import start  # noqa: E402

# Remove both folders from the search path: a module of the user may have the same name as a file in them.
sys.path.remove(ROOT)
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != HERE]


def run(command: str) -> None:
    """Run a command with the arguments of this process, and exit with its code."""
    start([command, *sys.argv[1:]])
