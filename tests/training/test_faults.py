"""A named place kills the process the n-th time it is reached, and does nothing else."""

import signal
import subprocess
import sys

import pytest

from diffusion.runtime import failpoints as faults

pytestmark = pytest.mark.programs

_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("faults", sys.argv[1])
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)
for i in range(4):
    faults.failpoint("here")
    faults.failpoint("there")
    print(i, flush=True)
"""


def _run(value: str | None) -> subprocess.CompletedProcess:
    environment = {} if value is None else {faults.VARIABLE: value}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, faults.__file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "lines"),
    [("here", 0), ("there:3", 2), ("elsewhere,here:2", 1), ("there:1,here:4", 0)],
)
def test_the_process_dies_at_the_named_place(value, lines):
    done = _run(value)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [str(i) for i in range(lines)]


@pytest.mark.parametrize("value", [None, "", "elsewhere", "here:5"])
def test_nothing_happens_otherwise(value):
    done = _run(value)
    assert done.returncode == 0
    assert len(done.stdout.split()) == 4
