"""`scripts/check.py` as a person runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--process", "edm", "--data_mean", "1", "--data_std", "0.5"], 0, "prior mismatch"),
        (["--sampler", "ancestral", "--sampler.eta=0.5", "--process", "edm"], 0, "eta=0.5"),
        (["--sampler", "ddmi"], 2, "'ddim'"),
        (["--sampler.eta=0.5", "--process", "vp"], 2, "--sampler"),
        (["--process", "vp", "--data_std=-1"], 2, "--data_std"),
        (["--all", "--process", "vp"], 2, "--all"),
        ([], 2, "required"),
    ],
)
def test_the_program(words, code, said):
    run = subprocess.run(
        [sys.executable, "scripts/check.py", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stdout + run.stderr
    assert said in run.stdout + run.stderr
