"""Checkpoints through the programs: killed, damaged, locked, restarted and exported runs."""

import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from programs import ROOT, environment_of, error_of, run, start

from diffusion.checkpoints.reader import CheckpointReader
from diffusion.runtime.lock import Lock

WORDS = [
    "train.py", "--config", "configs/toy2d.py", "--config.network.width=16", "--config.data.batch_size=16",
    "--config.train.checkpoint_every=2", "--config.train.log_every=1", "--config.train.sample_every=0",
    "--config.train.keep=2",
]  # fmt: skip
BUDGET = "--config.train.num_steps=8"


def train(path, *words, **environment):
    """Train in a process that may be killed; the bits of two runs are those of equal processes."""
    return start(*WORDS, "--workdir", path, *words, **environment)


def sample(path, count):
    words = ["--num_samples", count, "--num_steps", 2, "--out", path / "x.npz"]
    return run("sample.py", "--workdir", path, *words)


def whole(path):
    """What must be equal: the final weights, and the log but for its clock."""
    with CheckpointReader(path / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(checkpoints.recover())
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]
    return [np.asarray(x) for x in jax.tree.leaves(params)], log


def assert_whole(path, other):
    for a, b in zip(whole(path)[0], whole(other)[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole(path)[1] == whole(other)[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    code, _, err = train(path, BUDGET)
    assert code == 0, err
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.slow
def test_a_clean_exit_leaves_no_lock_and_nothing_hidden(finished):
    names = {p.name for p in finished.iterdir()}
    assert "lock.json" not in names
    assert not [n for n in names if n.startswith(".")]
    assert {p.name for p in (finished / "checkpoints").iterdir()} == {"6", "8"}


@pytest.mark.slow
@pytest.mark.programs
@pytest.mark.parametrize("place", ["mid_write", "before_rename:3", "mid_prune"])
def test_a_killed_run_becomes_the_uninterrupted_one(finished, tmp_path, place):
    path = tmp_path / "run"
    code, _, err = train(path, BUDGET, DEMOLISH_KILL_AT=place)
    assert code == -signal.SIGKILL, err
    with CheckpointReader(path / "checkpoints") as checkpoints:
        before = checkpoints.recover() or 0
    code, _, err = train(path, BUDGET)
    assert code == 0, err
    assert "it is taken over" in err
    assert (f"resumed from step {before}" in err) == (before > 0)
    assert_whole(path, finished)
    assert not [p for p in (path / "checkpoints").iterdir() if p.name.startswith(".")]


IN_A_TERMINAL = """
import os, pty, sys, time
from pathlib import Path
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
os.set_blocking(terminal, False)
deadline = time.monotonic() + 120
while not list(Path(sys.argv[1]).glob("[0-9]*")) and time.monotonic() < deadline:
    try:
        os.read(terminal, 2**16)
    except BlockingIOError:
        time.sleep(0.02)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
"""


@pytest.mark.slow
@pytest.mark.programs
def test_a_terminal_that_is_closed_saves_the_state(tmp_path):
    path = tmp_path / "run"
    words = [sys.executable, ROOT / "scripts" / "train.py", *WORDS[1:], "--workdir", path]
    words += ["--config.train.num_steps=1000000"]
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_TERMINAL, *map(str, [path / "checkpoints", *words])],
        cwd=ROOT, env=environment_of(), timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 129
    lines = (path / "metrics.jsonl").read_text().splitlines()
    with CheckpointReader(path / "checkpoints") as checkpoints:
        assert checkpoints.recover() == json.loads(lines[-1])["step"]
    assert not (path / "lock.json").exists()


@pytest.mark.slow
def test_the_one_before_a_damaged_one_is_used(copy, finished):
    file = next(p for p in (copy / "checkpoints" / "8" / "state").rglob("*") if p.is_file())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, out, err = sample(copy, 4)
    assert code == 0, err
    assert "step 8 is damaged" in err
    assert "of step 6" in out
    assert (copy / "checkpoints" / "8").is_dir()  # it only looked
    code, _, err = train(copy, BUDGET)
    assert code == 0, err
    assert "it is now 8.damaged-checksum-1; step 6 is used, 2 before it" in err
    assert_whole(copy, finished)


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_unasked(copy, finished):
    for step in "68":
        (copy / "checkpoints" / step / "manifest.json").unlink()
    before = sorted((copy / "checkpoints").rglob("*"))
    for name in ([*WORDS, BUDGET], ["sample.py", "--num_samples", 2]):
        code, message = error_of(*name, "--workdir", copy)
        assert code == 4
        assert "--restart" in message
        assert sorted((copy / "checkpoints").rglob("*")) == before
    code, _, err = train(copy, BUDGET, "--restart")
    assert code == 0, err
    assert sorted((copy / "earlier-1" / "checkpoints").iterdir())
    assert_whole(copy, finished)


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_unasked(copy, finished, tmp_path):
    files = lambda: [p for p in copy.rglob("*") if copy / "cache" not in p.parents]
    snapshot = lambda: {p: p.is_file() and p.read_bytes() for p in files()}
    (copy / "checkpoints").rename(tmp_path / "elsewhere")
    (copy / "checkpoints").mkdir()
    before = snapshot()
    code, message = error_of(*WORDS, "--workdir", copy, BUDGET)
    assert code == 4
    assert "completed a checkpoint of step 8" in message
    assert snapshot() == before
    for step in "68":  # links to whole ones: what they point to may change at any time
        (copy / "checkpoints" / step).symlink_to(tmp_path / "elsewhere" / step)
    before = snapshot()
    code, message = error_of(*WORDS, "--workdir", copy, BUDGET)
    assert code == 4
    assert "is not a folder" in message
    assert snapshot() == before
    code, _, err = train(copy, BUDGET, "--restart", DEMOLISH_KILL_AT="mid_restart:1")
    assert code == -signal.SIGKILL, err
    code, _, err = train(copy, BUDGET)  # what was begun is finished
    assert code == 0, err
    assert f"the earlier run is now in {copy / 'earlier-1'}" in err
    assert (copy / "earlier-1" / "checkpoints" / "8").is_symlink()
    assert (copy / "earlier-1" / "metrics.jsonl").read_bytes() == before[copy / "metrics.jsonl"]
    assert_whole(copy, finished)
    assert json.loads((copy / "newest.json").read_text()) == {"step": 8}


@pytest.mark.slow
def test_a_work_directory_has_one_owner(copy):
    with Lock(copy):
        code, message = error_of(*WORDS, "--workdir", copy, BUDGET, "--restart")
        assert code == 7
        assert f"process {Lock(copy).owner()['pid']} on " in message
        code, _, err = sample(copy, 2)  # whoever only looks needs no lock
        assert code == 0, err
    assert not (copy / "earlier-1").exists()


@pytest.mark.slow
def test_a_model_goes_out_and_comes_back(finished, tmp_path):
    path, made = tmp_path / "model.safetensors", tmp_path / "made"
    code, out, err = run("export.py", "--workdir", finished, "--out", path)
    assert code == 0, err
    assert "step 8" in out
    code, _, err = run("export.py", "--from", path, "--workdir", made)
    assert code == 0, err
    drawn = []
    for workdir in (finished, made):
        file = tmp_path / f"{workdir.name}.npz"
        code, _, err = run(
            "sample.py", "--workdir", workdir, "--num_samples", 4, "--num_steps", 2, "--out", file
        )
        assert code == 0, err
        drawn.append(np.load(file)["x"])
    np.testing.assert_array_equal(*drawn)
    code, _, err = train(made, "--config.train.num_steps=3")
    assert code == 0, err
    assert "step 3/3" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--workdir is required"),
        (["--workdir", "x"], "give one of --out"),
        (["--workdir", "x", "--out", "a.safetensors", "--from", "b.safetensors"], "give one of"),
        (["--workdir", "x", "--out", "model.bin"], ".safetensors"),
        (["--workdir", "x", "--out", "a.safetensors", "--config.seed=1"], "no place"),
        (["--workdir", "x", "--out", "a.safetensors"], "config.json is missing"),
    ],
)
def test_wrong_words_to_export_are_explained(words, said, tmp_path):
    code, message = error_of("export.py", *words, cwd=tmp_path)
    assert code == 2
    assert said in message


def test_a_file_that_is_not_there(tmp_path):
    code, message = error_of(
        "export.py", "--from", "none.safetensors", "--workdir", "x", cwd=tmp_path
    )
    assert code == 6
    assert "there is no file none.safetensors" in message
