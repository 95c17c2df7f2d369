"""The watchdog: silent while there are signs of life, and the end of a process that waits for ever."""

import errno
import signal
import subprocess
import sys
import time

import pytest

from diffusion.runtime import exits
from diffusion.runtime.watchdog import Watchdog


@pytest.fixture
def scene(tmp_path):
    """A clock that a test turns, a file for the stacks, and the codes that the process would leave with."""
    with open(tmp_path / "said", "w+") as stream:
        yield {"now": 0.0, "stream": stream, "codes": []}


def watchdog(scene, seconds=0.2, **options):
    return Watchdog(
        seconds, clock=lambda: scene["now"], leave=scene["codes"].append, stream=scene["stream"], **options
    )  # fmt: skip


def pass_time(scene, dog, seconds):
    """Let time pass in which the process runs: the watchdog looks as often as it does by itself."""
    for _ in range(round(seconds / 0.02)):
        scene["now"] += 0.02
        dog.look()


def said(scene):
    scene["stream"].seek(0)
    return scene["stream"].read()


def test_it_leaves_with_the_stacks_of_all_threads(scene):
    dog = watchdog(scene)
    dog.beat("training, after step 7")
    pass_time(scene, dog, 0.2)
    assert scene["codes"] == []
    pass_time(scene, dog, 0.06)  # up to two looks later
    assert scene["codes"] == [exits.HUNG]
    text = said(scene)
    assert "'training, after step 7'" in text
    assert "test_it_leaves_with_the_stacks_of_all_threads" in text  # where this thread is


def test_signs_of_life_keep_it_quiet(scene):
    dog = watchdog(scene)
    for _ in range(50):
        dog.beat("step")
        pass_time(scene, dog, 0.18)
    assert scene["codes"] == []
    assert said(scene) == ""


def test_time_in_which_the_process_was_stopped_does_not_count(scene):
    dog = watchdog(scene)
    dog.beat("step")
    for _ in range(4):  # each time as much as two looks
        scene["now"] += 3600.0
        dog.look()
    assert scene["codes"] == []
    pass_time(scene, dog, 0.1)
    assert scene["codes"] == [exits.HUNG]  # what it waits for may be gone all the same


@pytest.mark.parametrize(("phase", "times"), [("compile", 4), ("hook, after step 9", 20)])
def test_what_is_long_by_nature_may_take_longer(scene, phase, times):
    dog = watchdog(scene)
    dog.beat(phase)
    pass_time(scene, dog, 0.2 * times - 0.02)
    assert scene["codes"] == []
    pass_time(scene, dog, 0.08)
    assert scene["codes"] == [exits.HUNG]


def test_a_save_gives_signs_of_life_and_still_has_an_end(scene):
    dog = watchdog(scene)
    for _ in range(200):  # many short ones, and as many moments between them that nobody sees
        dog.beat("save")
        pass_time(scene, dog, 0.1)
        dog.beat("training, after step 7")
    dog.beat("save")
    for _ in range(39):
        pass_time(scene, dog, 0.1)
        dog.beat("save")
    assert scene["codes"] == []
    pass_time(scene, dog, 0.16)
    assert scene["codes"] == [exits.HUNG]
    assert "'save' does not end, after 4 s" in said(scene)
    silent = watchdog(scene)
    silent.beat("save")
    pass_time(scene, silent, 0.26)
    assert scene["codes"] == 2 * [exits.HUNG]  # another process of the job stopped meanwhile


def test_it_leaves_also_where_nobody_reads(scene, tmp_path):
    class Closed:
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    dog = Watchdog(0.2, clock=lambda: scene["now"], leave=scene["codes"].append, stream=Closed())
    with pytest.raises(OSError, match="Input"):
        pass_time(scene, dog, 2)
    assert scene["codes"] == [exits.HUNG]


def test_zero_is_none_and_less_is_refused():
    with Watchdog(0) as dog:
        assert dog._thread is None
        dog.beat("step")
    with pytest.raises(ValueError, match="seconds"):
        Watchdog(-1)


PROGRAM = """
import sys, time
from diffusion.runtime.watchdog import Watchdog
with Watchdog(1.0) as dog:
    for _ in range(40):
        dog.beat('step')
        time.sleep(0.1)
        print(flush=True)
    dog.beat('waiting for a lock')
    while True:
        time.sleep(1)
"""


@pytest.mark.programs
def test_a_stopped_process_goes_on_and_one_that_waits_for_ever_ends_with_its_own_code():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # three times the limit
    process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == exits.HUNG
    assert len(out.splitlines()) == 39  # all signs of life were given, and only then
    assert "'waiting for a lock'" in err
    assert "File" in err  # a stack
    assert time.monotonic() - began < 50
