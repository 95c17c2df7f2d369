"""One owner of a work directory: the living are respected, the dead are not, strangers are asked about."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffusion.runtime import exits, lock
from diffusion.runtime.exits import LockedError, SaveError
from diffusion.runtime.lock import Lock, identity, started

HOLD = """
import sys, time
from pathlib import Path
from diffusion.runtime.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def holder(tmp_path_factory):
    """Another process that holds a lock, and its directory."""
    directory = tmp_path_factory.mktemp("held") / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process, directory
    process.kill()
    process.wait()
    process.stdout.close()


def write(directory, **changes):
    (directory / "lock.json").write_text(json.dumps(identity() | changes))


def test_it_is_taken_and_given_back(tmp_path):
    directory = tmp_path / "new" / "run"
    with Lock(directory) as lock:
        assert lock.owner() == identity()
        assert [p.name for p in directory.iterdir()] == ["lock.json"]
        lock.check()
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt(), ValueError()])
def test_it_is_given_back_whatever_ends_the_run(tmp_path, error):
    with pytest.raises(type(error)), Lock(tmp_path):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.programs
def test_a_living_owner_is_respected_and_a_killed_one_is_not(holder):
    process, directory = holder
    with pytest.raises(LockedError, match=f"process {process.pid} on .*another --workdir"):
        Lock(directory).take()
    assert LockedError.exit_code == exits.LOCKED
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lines = []
    with Lock(directory, lines.append):
        pass
    assert lines == [f"process {process.pid} ended without releasing its lock; it is taken over"]


CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
NO_CONTAINERS = "this system has no unshare, or does not permit it"


def holding(directory, *words, program=HOLD):
    """Start a process that holds a lock."""
    command = [*words, sys.executable, "-c", program, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.programs
def test_a_living_owner_in_another_container_is_respected(tmp_path):
    """Its number means another process here, or none: the words in the file say that it is dead."""
    if not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], check=False).returncode:
        pytest.skip(NO_CONTAINERS)
    process = holding(tmp_path, *CONTAINER)
    try:
        assert Lock(tmp_path).owner()["pid"] != process.pid
        with pytest.raises(LockedError, match=r"which is alive, in another container .* --workdir"):
            Lock(tmp_path).take()
        assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
    finally:
        end(process)
    assert_taken_over(tmp_path)


def assert_taken_over(directory, seconds=20):
    """It is free as soon as the process is gone, which may take the kernel a moment."""
    deadline, lines = time.monotonic() + seconds, []
    while not lines:
        try:
            with Lock(directory, lines.append):
                pass
        except LockedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "it is taken over" in lines[0]


@pytest.mark.programs
def test_who_holds_the_file_is_alive_whatever_it_says(tmp_path):
    process = holding(tmp_path)
    try:
        for content in ({"pid": 2**22 + 1}, {"boot": "another"}, {"host": "elsewhere"}, None):
            said = json.dumps(identity() | content) if content else "\0"
            (tmp_path / "lock.json").write_text(said)  # the same file: it stays held
            with pytest.raises(LockedError, match="is alive"):
                Lock(tmp_path).take()
    finally:
        end(process)


@pytest.mark.programs
def test_what_its_owner_forked_does_not_hold_it(tmp_path):
    program = HOLD.replace("    print", "    child = os.fork() or time.sleep(600)\n    print")
    program = program.replace("import sys", "import os, sys").replace(
        '"held"', '"held\\n%d" % child'
    )
    process = holding(tmp_path, program=program)
    child = int(process.stdout.readline())
    try:
        end(process)
        assert started(child)
        assert_taken_over(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_flock_will_do(tmp_path, monkeypatch):
    def refuse(*words):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Lock(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        Lock(tmp_path).take()
    write(tmp_path, started="1")
    assert_taken_over(tmp_path)


def test_a_process_whose_entry_cannot_be_read_is_not_dead(tmp_path, monkeypatch):
    def fail(*words, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    write(tmp_path, pid=os.getppid(), started="1")
    monkeypatch.setattr(lock.Path, "read_text", fail)
    with pytest.raises(LockedError, match=f"process {os.getppid()}"):
        Lock(tmp_path).take()


@pytest.mark.parametrize(
    "changes",
    [{"started": "1"}, {"boot": "another"}, {"pid": 2**22 + 1}, {"pid": "x"}, {"pid": -1}],
)
def test_a_number_that_is_used_again_is_not_the_owner(tmp_path, changes):
    write(tmp_path, **changes)
    with Lock(tmp_path) as lock:
        assert lock.owner() == identity()


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"[1]", b"[" * 10**4, b"\x80\x04\x95"])
def test_what_a_crash_of_the_machine_leaves_is_not_the_owner(tmp_path, content):
    (tmp_path / "lock.json").write_bytes(content)
    with Lock(tmp_path) as lock:
        assert lock.owner() == identity()


def test_a_person_decides_about_another_host(tmp_path):
    write(tmp_path, host="elsewhere", pid=12, command="train.py")
    before = (tmp_path / "lock.json").read_bytes()
    with pytest.raises(LockedError, match=r"process 12 on elsewhere \(train.py\).*delete .*lock"):
        Lock(tmp_path).take()
    assert (tmp_path / "lock.json").read_bytes() == before


def test_of_many_that_take_over_one_succeeds(tmp_path):
    write(tmp_path, started="1")
    locks, refused, ready = [Lock(tmp_path) for _ in range(8)], [], threading.Barrier(8)

    def take(lock):
        ready.wait()
        try:
            lock.take()
        except LockedError:
            refused.append(lock)

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Lock(tmp_path) as lock:
        assert lock.owner() == identity()
        with pytest.raises(LockedError):
            Lock(tmp_path).take()
    assert list(tmp_path.iterdir()) == []


def test_losing_it_is_noticed_and_another_s_is_left_alone(tmp_path):
    lock = Lock(tmp_path)
    lock.take()
    write(tmp_path, host="elsewhere")
    with pytest.raises(SaveError, match="no longer names this process"):
        lock.check()
    lock.release()
    assert json.loads((tmp_path / "lock.json").read_text())["host"] == "elsewhere"


@pytest.mark.programs
def test_start_times():
    assert started(os.getpid()) == started(os.getpid()) != ""
    process = subprocess.Popen([sys.executable, "-c", ""])
    while started(process.pid):  # it ends, and stays a zombie until it is waited for
        time.sleep(0.01)
    process.wait()
    assert started(process.pid) == ""
