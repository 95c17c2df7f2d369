"""The small tier of the campaign: nothing silent, everything whole or refused by its documented code."""

import json
import subprocess
import sys

import pytest

from .recipe import ROOT

pytestmark = pytest.mark.programs


@pytest.mark.slow
def test_nothing_is_silent(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.faults", "--tier", "commit", "--out", str(report)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-4000:]
    found = json.loads(report.read_text())
    tried = {case["case"]: case["tried"] for case in found["cases"]}
    interrupted = sum(n for case, n in tried.items() if case.startswith(("kill -9", "SIGTERM")))
    assert interrupted >= 40
    assert tried["one flipped bit"] >= 200
    assert tried["malformed configs"] >= 300
    assert found["configs"]["true_key_named"] >= 0.95 * found["configs"]["typos"]
