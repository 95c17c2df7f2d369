"""The watchdog: silent while there are signs of life, and the end of a process that waits for ever."""

import subprocess
import sys
import time

import pytest

from diffusion.training import exits
from diffusion.training.watchdog import Watchdog


@pytest.fixture
def scene(tmp_path):
    """A clock that a test turns, a file for the stacks, and the codes that the process would leave with."""
    with open(tmp_path / "said", "w+") as stream:
        yield {"now": 0.0, "stream": stream, "codes": []}


def watchdog(scene, seconds=0.2, **options):
    return Watchdog(
        seconds, clock=lambda: scene["now"], leave=scene["codes"].append, stream=scene["stream"], **options
    )  # fmt: skip


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def said(scene):
    scene["stream"].seek(0)
    return scene["stream"].read()


def test_it_leaves_with_the_stacks_of_all_threads(scene):
    with watchdog(scene) as dog:
        dog.beat("training, after step 7")
        scene["now"] += 0.21
        assert wait(lambda: scene["codes"])
    assert scene["codes"] == [exits.HUNG]
    text = said(scene)
    assert "'training, after step 7'" in text
    assert "test_it_leaves_with_the_stacks_of_all_threads" in text  # where this thread is


def test_signs_of_life_keep_it_quiet(scene):
    with watchdog(scene) as dog:
        for _ in range(5):
            scene["now"] += 0.19
            time.sleep(0.03)  # longer than it sleeps
            dog.beat("step")
            time.sleep(0.03)
    assert scene["codes"] == []
    assert said(scene) == ""


def test_compiling_may_take_longer(scene):
    with watchdog(scene, allowances={"compile": 4.0}) as dog:
        dog.beat("compile")
        scene["now"] += 0.75
        time.sleep(0.1)
        assert scene["codes"] == []
        scene["now"] += 0.1
        assert wait(lambda: scene["codes"])


def test_zero_is_none_and_less_is_refused():
    with Watchdog(0) as dog:
        assert dog._thread is None
        dog.beat("step")
    with pytest.raises(ValueError, match="seconds"):
        Watchdog(-1)


def test_a_process_that_waits_for_ever_ends_with_its_own_code():
    program = (
        "import threading\n"
        "from diffusion.training.watchdog import Watchdog\n"
        "with Watchdog(0.5) as dog:\n"
        "    dog.beat('waiting for a lock')\n"
        "    threading.Lock().acquire() and threading.Event().wait()\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == exits.HUNG
    assert "'waiting for a lock'" in done.stderr
    assert "File" in done.stderr  # a stack
    assert time.monotonic() - began < 50
