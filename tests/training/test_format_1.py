"""Checkpoints of format 1, which had no manifest, open; one is kept beside this file."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.reader import CheckpointReader
from diffusion.runtime.exits import CheckpointError

from .problem import make

STORED = Path(__file__).parent / "fixtures" / "format_1"
# SHA-256 of all leaves in order, as they were when the checkpoint was written
BYTES = "05d2afd6388b4153c584678317174d1efeb1d48f129fcb61bab03ffcf694ca14"


def digest(tree):
    content = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(STORED, tmp_path / "checkpoints"))


def test_it_opens_and_is_said_to_have_no_checksums():
    lines = []
    with CheckpointReader(STORED, say=lines.append) as checkpoints:
        step = checkpoints.recover()
        assert step == 1
        assert checkpoints.meta(step)["format"] == 1
        like = make(build("optimizer", "adamw"), ema=("0.9",))[0]
        state = checkpoints.restore(step, like)
        average = checkpoints.restore_params(step, "0.9")
    assert digest([state.params, state.ema, state.opt_state, state.step]) == BYTES
    assert digest(average) == digest(state.ema["0.9"])
    assert lines == ["checkpoint of step 1 has no checksums: it was written in format 1"]


def test_a_run_goes_on_in_the_new_format(folder):
    state = make(build("optimizer", "adamw"), ema=("0.9",))[0]
    with Checkpoints(folder, keep=1) as checkpoints:
        assert checkpoints.recover() == 1
        checkpoints.save(2, checkpoints.restore(1, state), {}, block=True)
        assert checkpoints.steps() == (2,)
        assert checkpoints.meta(2)["format"] == 2


@pytest.mark.parametrize("change", ["empty", "another step", "pickle", "deep"])
def test_metadata_that_is_not_its_own_is_damage(folder, change):
    file = folder / "1" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    file.write_bytes({
        "empty": b"",
        "another step": json.dumps(meta | {"step": 2}).encode(),
        "pickle": b"\x80\x04\x95",
        "deep": b"[" * 10**6,
    }[change])  # fmt: skip
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(CheckpointError, match=r"No checkpoint .* is whole"),
    ):
        checkpoints.recover()
    assert (folder / "1").is_dir()


def test_data_that_cannot_be_read_is_an_error(folder):
    for file in (folder / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * 10)
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.restore_params(1)
