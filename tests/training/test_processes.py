"""One job of two processes gives what one process gives, restores, and stops as one."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.runtime import exits

from .problem import make, make_batch

pytestmark = pytest.mark.programs

LAYOUTS = ("data_2_fsdp_2", "fsdp_4", "pmap")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "training.processes_program"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(port), str(folder)],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [p.communicate(timeout=200) for p in processes]
    finally:
        for p in processes:
            p.kill()
            p.wait()
    assert [p.returncode for p in processes] == [0, 0], (
        outputs[0][1][-2000:] + outputs[1][1][-2000:]
    )
    return [json.loads(out[out.index("{") :]) for out, _ in outputs]


@pytest.mark.slow
def test_two_processes_train_what_one_trains(x64, reports):
    optimizer = build("optimizer", {"name": "adamw", "learning_rate": 1e-2, "clip": 1.0})
    options = {"ema": ("0.9", "half_life_64"), "dtype": np.float64, "label_dropout": 0.3}
    state, step = make(optimizer, **options)
    step = jax.jit(step)
    for k in range(6):
        state, _ = step(state, make_batch(k, 32, np.float64))
    for report in reports:
        for name in LAYOUTS:
            found = report[name]
            exact = {"rtol": 0, "atol": 1e-12}  # some 1e3 roundings of 1e-16
            np.testing.assert_allclose(found["bias"], state.params["out"]["bias"], **exact)
            np.testing.assert_allclose(found["average"], state.ema["0.9"]["out"]["bias"], **exact)
            assert found["reread"] == 0
            assert found["steps"] == [6]


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(reports):
    first, second = (report["stopped"] for report in reports)
    assert first == second
    assert first["code"] == exits.TERMINATED
    assert 10 <= first["step"] < 1000


@pytest.mark.slow
def test_two_processes_find_the_same_checkpoint_and_the_same_errors(reports):
    first, second = (report["agreed"] for report in reports)
    for found in (first, second):
        assert found["recovered"] == 1
        assert found["left"] == [1]
        assert found["locked"] == exits.LOCKED
    assert "step 3 could not be saved" in first["save"]
    assert "Another process" in second["save"]
