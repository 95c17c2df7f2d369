"""Saving: it does not hold up training, its failures stop it, and nothing that is not finite is written."""

import errno
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints import folders as folders_module
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime import exits
from diffusion.runtime.exits import DivergedError, SaveError

from .problem import make

FULL_DISK = """
import resource, signal, sys
from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime.exits import SaveError
from training.problem import make

state = make(build("optimizer", "adamw"), ema=("0.9",))[0]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is an error, not the end
with Checkpoints(sys.argv[1]) as checkpoints:
    checkpoints.save(1, state, {}, block=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, state, {}, block=True)
    except SaveError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checkpoints.steps() == (1,), checkpoints.steps()
    checkpoints.save(3, state, {}, block=True)
    assert checkpoints.steps() == (1, 3)
    print(message)
"""


@pytest.fixture(scope="module")
def state():
    return make(build("optimizer", "adamw"), ema=("0.9",))[0]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def hidden(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_saving_holds_up_nothing(folder, state, monkeypatch):
    """Hashing and the disk may take as long as they like."""
    go_on, write_manifest = threading.Event(), folders_module.write_manifest

    def slowly(*arguments, **facts):
        assert go_on.wait(60)
        write_manifest(*arguments, **facts)

    monkeypatch.setattr(folders_module, "write_manifest", slowly)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.save(1, state, {})
        assert checkpoints.steps() == ()
        assert hidden(folder) == [".saving-1"]
        go_on.set()
    assert os.listdir(folder) == ["1"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"),
              MemoryError(), SystemExit(0), ValueError("anything")],
    ids=lambda e: type(e).__name__ + str(getattr(e, "errno", "")),
)  # fmt: skip
def test_a_thread_that_dies_stops_training_at_the_next_save(folder, state, monkeypatch, error):
    def fail(*arguments, **facts):
        raise error

    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, {}, block=True)
        with monkeypatch.context() as patch:
            patch.setattr(folders_module, "write_manifest", fail)
            assert checkpoints.save(2, state, {})
            with pytest.raises(SaveError) as failure:
                checkpoints.save(3, state, {})
        message = str(failure.value)
        assert "step 2 could not be saved" in message
        assert str(folder) in message
        assert "MiB are free there. Whole: 1." in message
        assert failure.value.exit_code == exits.FILES == 6
        assert not hidden(folder)
        assert checkpoints.save(3, state, {}, block=True)  # where there is room again
        assert checkpoints.steps() == (1, 3)


def test_an_error_on_its_way_is_not_hidden(folder, state, monkeypatch):
    def fail(*arguments, **facts):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders_module, "write_manifest", fail)
    lines = []

    def interrupted():
        with Checkpoints(folder, say=lines.append) as checkpoints:
            checkpoints.save(1, state, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "step 1 could not be saved" in lines[0]
    with pytest.raises(SaveError), Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, {})


@pytest.mark.programs
@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_a_full_disk_leaves_what_was_whole(folder, limit):
    """The limit is that of one file, which is how a disk without room looks to a process."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), str(limit)],
        cwd=os.path.dirname(os.path.dirname(__file__)), capture_output=True, text=True, check=False,
        env=dict(os.environ, JAX_PLATFORMS="cpu"), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 2 could not be saved" in done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(folder)) == ["1", "3"]


def test_a_folder_that_is_deleted_is_noticed(folder, state):
    with Checkpoints(folder) as checkpoints:
        folder.rmdir()
        with pytest.raises(SaveError, match="the folder cannot be reached"):
            checkpoints.save(1, state, {})
    assert not folder.exists()


def test_what_processes_that_died_have_left_is_deleted(folder, state):
    for name in (".saving-7", ".removing-3", "9.orbax-checkpoint-tmp-123"):
        (folder / name / "state").mkdir(parents=True)
    (folder / ".mine").mkdir()
    with Checkpoints(folder):
        assert os.listdir(folder) == [".mine"]


def spoil(tree, value):
    """Put one number into the first leaf below a name."""
    leaves, structure = jax.tree.flatten(tree)
    at = next(i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating))
    leaves[at] = leaves[at].at[(0,) * leaves[at].ndim].set(value)
    return structure.unflatten(leaves)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["params", "opt_state", "ema"])
@pytest.mark.parametrize("where", ["device", "host"])
def test_what_is_not_finite_is_not_saved(folder, state, part, value, where):
    spoiled = state._replace(**{part: spoil(getattr(state, part), value)})
    if where == "host":
        host = {k: jax.device_get(getattr(spoiled, k)) for k in ("params", "opt_state", "ema")}
        spoiled = spoiled._replace(**host)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, {}, block=True)
        with pytest.raises(
            DivergedError, match=f"step 2 is not saved: {part}/.* Newest .*: step 1"
        ):
            checkpoints.save(2, spoiled, {})
        assert checkpoints.steps() == (1,)
