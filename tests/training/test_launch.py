"""Real processes: train.py through launch_local.sh trains what one process trains, and nobody waits for ever."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime import exits
from diffusion.runtime.distributed import initialize_distributed

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ["bash", str(ROOT / "scripts" / "launch_local.sh")]
TRAIN = [
    sys.executable,
    str(ROOT / "scripts" / "train.py"),
    "--config=configs/toy2d.py",
    "--config.network.width=16",
    "--config.network.depth=1",
    "--config.data.batch_size=32",
    "--config.train.checkpoint_every=3",
    "--config.train.sample_every=0",
    "--config.train.log_every=3",
]


def environment(devices=1, **given):
    """Each process with so many virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=flags, **given)


def run(words, devices=1, **given):
    return subprocess.run(
        list(map(str, words)), cwd=ROOT, env=environment(devices, **given), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip


def params(workdir, step):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore_params(step))


def farthest(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max()) for x, y in pairs)


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_what_one_process_with_as_many_devices_trains(tmp_path, count):
    many, one = tmp_path / "many", tmp_path / "one"
    words = ["--config.train.num_steps=6"]
    done = run([*LAUNCH, count, *TRAIN, *words, f"--workdir={many}"])
    assert done.returncode == 0, done.stderr[-3000:]
    done = run([*TRAIN, *words, f"--workdir={one}"], devices=count)
    assert done.returncode == 0, done.stderr[-3000:]
    # the same sums over the same devices: gradients may be added in another order by another transport,
    # six steps of rate 2e-3 with some 1e1 roundings of 1e-7 each in gradients of order one
    assert farthest(params(many, 6), params(one, 6)) < 1e-6
    done = run([*TRAIN, "--config.train.num_steps=8", f"--workdir={many}"])  # by one process
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed from step 6" in done.stderr
    done = run([*TRAIN, "--config.train.num_steps=8", f"--workdir={one}"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert farthest(params(many, 8), params(one, 8)) < 1e-6


def started(words, **given):
    return subprocess.Popen(
        list(map(str, words)), cwd=ROOT, env=environment(**given), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def ranks(job):
    """The processes of a job, without the guard and what else its shell starts."""
    found = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    is_rank = lambda pid: b"DEMOLISH_PROCESS=" in Path(f"/proc/{pid}/environ").read_bytes()
    return [int(pid) for pid in found if is_rank(pid)]


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.fixture
def endless(tmp_path):
    """A job of two processes that trains for ever, with a watchdog of five seconds, past its first checkpoint."""
    words = ["--config.train.num_steps=1000000", "--config.train.watchdog_seconds=5"]
    job = started([*LAUNCH, 2, *TRAIN, *words, f"--workdir={tmp_path / 'run'}"])
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: (log.is_file() and log.stat().st_size > 0) or job.poll() is not None)
        yield job, tmp_path / "run"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        job.stderr.close()


@pytest.mark.programs
@pytest.mark.slow
def test_a_process_that_stops_does_not_hang_the_other(endless):
    job, _ = endless
    frozen = ranks(job)[1]
    os.kill(frozen, signal.SIGSTOP)
    began = time.monotonic()
    _, err = job.communicate(timeout=60)
    assert job.returncode == exits.HUNG, err[-3000:]
    # five seconds, half of one between looks, ten of grace for the frozen one, and the rest for a slow machine
    assert time.monotonic() - began < 40
    assert "no sign of life" in err
    assert "loop.py" in err  # the stacks say where it waited


@pytest.mark.programs
@pytest.mark.slow
def test_a_process_that_dies_takes_the_job_with_it(endless):
    job, _ = endless
    os.kill(ranks(job)[1], signal.SIGKILL)
    _, err = job.communicate(timeout=60)
    assert job.returncode not in (0, None)
    assert "ended with code 137" in err


@pytest.mark.programs
@pytest.mark.slow
def test_a_signal_reaches_all_and_the_state_is_saved(endless):
    job, workdir = endless
    os.kill(job.pid, signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == exits.TERMINATED, err[-3000:]
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() > 0


@pytest.mark.programs
@pytest.mark.slow
def test_killing_the_launcher_ends_its_processes_with_the_state_saved(endless):
    job, workdir = endless
    pids = ranks(job)
    assert len(pids) == 2
    os.kill(job.pid, signal.SIGKILL)
    wait_for(lambda: gone(pids), 60)
    job.wait()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() > 0
    assert not (workdir / "lock.json").exists()  # SIGTERM came first, and was heeded


STUBBORN = """
import os, signal, sys, time
heard = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: heard.append(number))
print("up", flush=True)
until = time.monotonic() + 60
while time.monotonic() < until and (sys.argv[1] == "stubborn" or not heard):
    time.sleep(0.02)
time.sleep(0.3)
print(heard, flush=True)
sys.exit(128 + heard[0])
"""


@pytest.mark.programs
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGINT, True), (signal.SIGHUP, True)],
)
def test_whatever_ends_the_launcher_ends_its_processes(number, group):
    """Also what a terminal sends, to the whole group: each process hears of it once."""
    kind = "stubborn" if number == signal.SIGKILL else "polite"
    if kind == "polite" and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("who started these tests ignores this signal, and so does what they start")
    job = subprocess.Popen(
        [*LAUNCH, "2", sys.executable, "-c", STUBBORN, kind], env=environment(LAUNCH_GRACE="1"),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert [job.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
        pids = ranks(job)
        (os.killpg if group else os.kill)(job.pid, number)
        job.wait(timeout=60)
        wait_for(lambda: gone(pids), 60)
        if kind == "polite":
            assert job.returncode == 128 + number
            assert job.stdout.read() == 2 * f"[{int(number)}]\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        job.stdout.close()


@pytest.mark.programs
@pytest.mark.parametrize("words", [[], ["0", "true"], ["two", "true"], ["2"], ["-1", "true"]])
def test_a_wrong_command_line_of_the_launcher(words):
    done = run([*LAUNCH, *words])
    assert done.returncode == exits.USAGE
    assert done.stderr.startswith("error: ")


@pytest.mark.programs
def test_the_launcher_ends_with_the_code_of_the_first_failure():
    script = 'if [ "$DEMOLISH_PROCESS" = 1 ]; then exit 9; fi; exec sleep 600'
    began = time.monotonic()
    done = run([*LAUNCH, 3, "bash", "-c", script, "x"], LAUNCH_GRACE="0")
    assert done.returncode == 9
    assert time.monotonic() - began < 300  # it did not wait for the others to end by themselves
    tell = 'echo "$DEMOLISH_PROCESS of $DEMOLISH_NUM_PROCESSES at $DEMOLISH_COORDINATOR $*"'
    done = run([*LAUNCH, 2, "bash", "-c", tell, "x", "a b"], LAUNCH_PORT="4711")
    assert sorted(done.stdout.splitlines()) == [
        f"{i} of 2 at localhost:4711 a b --distributed" for i in range(2)
    ]


@pytest.mark.parametrize("value", ["x", "-1", "1.5"])
def test_a_variable_that_is_no_number(monkeypatch, value):
    monkeypatch.setenv("DEMOLISH_NUM_PROCESSES", value)
    with pytest.raises(ValueError, match="DEMOLISH_NUM_PROCESSES"):
        initialize_distributed("localhost:1")


def test_a_rank_outside_the_job(monkeypatch):
    monkeypatch.setenv("DEMOLISH_NUM_PROCESSES", "2")
    monkeypatch.setenv("DEMOLISH_PROCESS", "2")
    with pytest.raises(ValueError, match="must lie in 0"):
        initialize_distributed("localhost:1")
