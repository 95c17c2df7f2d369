"""A program runs under the watch as it would alone; windows see what the device did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.programs

ROOT = Path(__file__).resolve().parents[2]

BUSY = """
import sys, time
import jax, jax.numpy as jnp
product = jax.jit(lambda x: x @ x / 300)
x, end = jnp.ones((300, 300)), time.monotonic() + 6
while time.monotonic() < end:
    x = product(x).block_until_ready()
print("arguments:", sys.argv[1:])
sys.exit(5)
"""


def watched(program, tmp_path, *options):
    file, out = tmp_path / "program.py", tmp_path / "out.json"
    file.write_text(program)
    words = ["-m", "benchmarks.watch", *options, "--out", str(out), str(file), "--flag", "1"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done, out


@pytest.mark.slow
def test_windows_of_a_program(tmp_path):
    done, out = watched(BUSY, tmp_path, "--after", "3", "--every", "1", "--window", "0.3")
    assert done.returncode == 5, done.stderr
    assert "arguments: ['--flag', '1']" in done.stdout
    found = json.loads(out.read_text())
    assert found["command"][1:] == ["--flag", "1"]
    assert found["rows"]
    assert all(0 < row["busy"] <= row["engaged"] <= 1 for row in found["rows"])
    assert all(row["operations"] > 0 for row in found["rows"])


def test_a_short_program_has_no_window(tmp_path):
    done, out = watched("print('done')", tmp_path)
    assert done.returncode == 0
    assert "no window fits" in done.stdout
    assert not out.exists()
