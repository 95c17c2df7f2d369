"""Sampling and evaluation that are killed, stopped and harmed, and go on: nothing missing, nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from programs import ROOT, environment_of, error_of, start
from test_programs import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.programs]
error_of = partial(error_of, by=start)
FEW = ["--num_samples", 200, "--shard_size", 32, "--num_steps", 2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    path = tmp_path_factory.mktemp("run") / "digits"
    words = ["--config", "configs/digits.py", "--workdir", path, *SMALL]
    code, _, err = start("train.py", *words, data_dir=data_dir)
    assert code == 0, err
    return path


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """What an undisturbed command writes, in one piece."""
    out = tmp_path_factory.mktemp("whole") / "x.npz"
    words = ["--workdir", workdir, "--num_samples", 200, "--num_steps", 2, "--out", out]
    code, _, err = start("sample.py", *words)
    assert code == 0, err
    return arrays(out)


def arrays(path):
    with np.load(path) as found:
        return {"x": found["x"], "label": found["label"]}


def assert_same(a, b):
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def devices(count):
    flags = os.environ.get("XLA_FLAGS", "")  # others would be another compiler, and refused
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"}


def test_a_killed_command_goes_on_with_other_batches_and_devices(workdir, whole, tmp_path):
    """Killed twice, once on one device and once on four, and ended on two."""
    out = tmp_path / "a folder ü" / "x.npz"  # spaces and other letters on the way
    command = ["--workdir", workdir, *FEW, "--out", out]
    for count, batch, at in ((1, 7, 2), (4, 100, 3)):
        kill = {"DEMOLISH_KILL_AT": f"in_sample_shard:{at}", **devices(count)}
        code, _, _ = start("sample.py", *command, "--batch_size", batch, **kill)
        assert code == -signal.SIGKILL
        assert not out.exists()
    parts = out.with_name("x.npz.parts")
    assert len(list(parts.glob("*.npy"))) == 3  # one of the first, two of the second
    code, message = error_of("sample.py", *command, "--seed", 5, "--sampler", "ddim")
    assert code == 2
    assert "seed: 0 -> 5" in message
    assert "config.sampler.name: dpm_solver_pp_2m -> ddim" in message
    harmed = sorted(parts.glob("*.npy"))[1]
    content = bytearray(harmed.read_bytes())
    content[1000] ^= 1
    harmed.write_bytes(content)
    code, said, err = start("sample.py", *command, **devices(2))
    assert code == 0, err
    assert "64 of 200 examples are there already" in said
    assert "damaged: made anew" in err
    assert [p.name for p in out.parent.iterdir()] == ["x.npz"]
    assert_same(arrays(out), whole)


def signaled(name, words, ready, number, data_dir=None):
    """Run a program, send a signal once `ready()`; return exit code, standard error, seconds to the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, words)],
        cwd=ROOT, env=environment_of(data_dir), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        began = time.monotonic()
        err = process.communicate(timeout=120)[1]
        return process.returncode, err, time.monotonic() - began
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_shard(workdir, tmp_path, number):
    out = tmp_path / "x.npz"
    parts = tmp_path / "x.npz.parts"
    # no run of this length ends before the signal comes
    words = ["--workdir", workdir, "--num_samples", 10**6, "--num_steps", 3, "--out", out]
    ready = lambda: any(parts.glob("*.npy"))
    code, err, _ = signaled("sample.py", words, ready, number)
    assert code == 128 + number
    lines = [line for line in err.splitlines() if line.startswith("stopped by")]
    assert len(lines) == 1
    done = int(lines[0].split(": ")[1].split()[0])
    ranges = [p.name.split(".")[0].split("-") for p in sorted(parts.glob("*.npy"))]
    assert sum(int(count) for _, count in ranges) == done
    assert "the same command goes on" in lines[0]
    assert not list(parts.glob("*.tmp"))


def test_a_second_signal_leaves_at_once(workdir, tmp_path):
    """Both are delivered while the process is stopped, so that no batch ends between them."""
    out = tmp_path / "x.npz"
    words = ["--workdir", workdir, "--num_samples", 10**6, "--num_steps", 3, "--out", out]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "sample.py"), *map(str, words)],
        cwd=ROOT, env=environment_of(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not any((tmp_path / "x.npz.parts").glob("*.npy")) and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(timeout=60) == 131
    finally:
        process.kill()
        process.wait()


def test_an_evaluation_that_is_stopped_keeps_its_examples(workdir, data_dir, tmp_path):
    out = tmp_path / "e.json"
    parts = tmp_path / "e.json.parts"
    words = ["--workdir", workdir, "--metrics", "loss_by_level,frechet", "--out", out]
    words += ["--num_samples", 10**6]
    ready = lambda: any(parts.glob("*.npy"))
    code, err, _ = signaled("evaluate.py", words, ready, signal.SIGTERM, data_dir)
    assert code == 143
    assert err.count("stopped by SIGTERM: frechet not measured yet; the same command goes on.") == 1
    assert list(json.loads(out.read_text())["metrics"]) == ["loss_by_level"]
    assert ready()


def test_a_folder_of_images_is_completed_not_mixed(workdir, tmp_path):
    out = tmp_path / "images"
    command = ["--workdir", workdir, "--num_samples", 70, "--shard_size", 32, "--num_steps", 2]
    kill = {"DEMOLISH_KILL_AT": "in_sample_shard:2"}
    assert start("sample.py", *command, "--out", out, **kill)[0] == -signal.SIGKILL
    first = out / "000003.png"
    before = first.stat().st_mtime_ns
    code, said, err = start("sample.py", *command, "--out", out)
    assert code == 0, err
    assert "32 of 70" in said
    assert first.stat().st_mtime_ns == before  # not made again
    names = {f"{i:06d}.png" for i in range(70)} | {"card.json", ".shards"}
    assert {p.name for p in out.iterdir()} == names
    code, message = error_of("sample.py", *command, "--out", out, "--seed", 1)
    assert code == 2
    assert "seed: 0 -> 1" in message
    other = tmp_path / "unknown"
    other.mkdir()
    (other / "000000.png").write_bytes(first.read_bytes())
    code, message = error_of("sample.py", *command, "--out", other)
    assert code == 2
    assert "what it was made of" in message


def test_an_evaluation_goes_on_and_is_the_undisturbed_one(workdir, data_dir, tmp_path):
    words = ["--workdir", workdir, "--metrics", "loss_by_level,frechet,energy_distance"]
    results = lambda path: json.loads(path.read_text())["results"]
    there, out = tmp_path / "a.json", tmp_path / "b.json"
    code, _, err = start("evaluate.py", *words, "--out", there, data_dir=data_dir)
    assert code == 0, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.json", "a_samples.png"]
    kill = {"DEMOLISH_KILL_AT": "in_eval:2", **devices(1)}
    code, _, _ = start("evaluate.py", *words, "--out", out, data_dir=data_dir, **kill)
    assert code == -signal.SIGKILL
    assert list(json.loads(out.read_text())["metrics"]) == ["loss_by_level"]
    assert list((tmp_path / "b.json.parts").glob("*.npy"))  # the examples are kept as well
    code, said, err = start("evaluate.py", *words, "--out", out, data_dir=data_dir, **devices(4))
    assert code == 0, err
    assert said.count("measured before") == 1
    assert results(out) == results(there)  # to the last bit
    assert not (tmp_path / "b.json.parts").exists()
    harmed = json.loads(out.read_text())
    harmed["metrics"]["frechet"]["results"]["caveat"] = "none"
    out.write_text(json.dumps(harmed))
    code, said, err = start("evaluate.py", *words, "--out", out, data_dir=data_dir)
    assert code == 0, err
    assert "frechet in" in err
    assert "damaged" in err
    assert said.count("measured before") == 2
    assert results(out) == results(there)
    out.write_text(out.read_text()[:-40])
    code, said, err = start(
        "evaluate.py", "--workdir", workdir, "--metrics", "loss_by_level", "--out", out, data_dir=data_dir
    )  # fmt: skip
    assert code == 0, err
    assert "damaged" in err
    assert "measured before" not in said
