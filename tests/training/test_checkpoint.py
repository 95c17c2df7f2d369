"""Checkpoints: what is saved comes back, what does not fit is refused, the newest are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime.exits import CheckpointError
from diffusion.training import MeshLayout
from diffusion.training.state import keys_to_data

from .problem import make, make_batch
from .test_step import assert_equal

CONFIG = {"network": {"name": "mlp", "widths": [16, 16]}, "seed": 0}


@pytest.fixture(scope="module")
def trained():
    state, step = make(build("optimizer", "adamw"), ema=("0.9", "power_0.1"))
    return jax.jit(step)(state, make_batch(0))[0]


@pytest.fixture
def checkpoints(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep=2) as found:
        yield found


def test_a_state_comes_back_bitwise(checkpoints, trained):
    assert checkpoints.latest_step() is None
    assert checkpoints.save(1, trained, CONFIG, block=True)
    assert not checkpoints.save(1, trained, CONFIG)  # this step has one
    restored = checkpoints.restore(1, MeshLayout().template(trained))
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    assert_equal(restored, trained)
    assert restored.key.dtype == trained.key.dtype
    assert_equal(checkpoints.restore(1, trained), trained)  # arrays will do for a template


def test_a_template_needs_no_arrays(checkpoints):
    make_state = lambda: make(build("optimizer", "adamw"))[0]
    shapes = jax.eval_shape(make_state)
    checkpoints.save(0, make_state(), CONFIG, block=True)
    assert_equal(checkpoints.restore(0, MeshLayout().template(shapes)), make_state())


def test_a_raw_key_is_saved_as_well(checkpoints, trained):
    state = trained._replace(key=jax.random.key_data(trained.key))
    checkpoints.save(1, state, CONFIG, block=True)
    assert_equal(checkpoints.restore(1, state), state)


def test_what_is_stored_beside_it(checkpoints, trained):
    checkpoints.save(7, trained, CONFIG, block=True)
    meta = checkpoints.meta(7)
    assert meta["config"] == CONFIG
    assert meta["format"] == 2
    assert meta["step"] == 7
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["devices"] == jax.device_count()
    assert checkpoints.path(7).is_dir()


def test_parameters_alone(checkpoints, trained):
    checkpoints.save(1, trained, CONFIG, block=True)
    assert_equal(checkpoints.restore_params(1), trained.params)
    assert_equal(checkpoints.restore_params(1, "power_0.1"), trained.ema["power_0.1"])
    with pytest.raises(CheckpointError, match=r"power_0\.1"):
        checkpoints.restore_params(1, "power_1")


def test_the_newest_are_kept(checkpoints, trained):
    for step in (1, 2, 9, 10):  # 10 is newer than 9, though not as text
        checkpoints.save(step, trained, CONFIG)
    checkpoints.wait()
    assert checkpoints.steps() == (9, 10)
    assert checkpoints.latest_step() == 10
    with pytest.raises(CheckpointError, match="step 2"):
        checkpoints.path(2)


def wider(x):
    return jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] + 1), x.dtype)


def narrower(x):
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(params=jax.tree.map(wider, s.params)), "differs: params/hidden/bias"),
        (lambda s: s._replace(params=jax.tree.map(narrower, s.params)), "bfloat16"),
        (lambda s: s._replace(params=s.params | {"new": s.params["out"]}), "missing: params/new"),
        (lambda s: s._replace(ema={}), "left over: ema/0.9"),
        (lambda s: s._replace(opt_state=()), "left over: opt_state"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoints, trained, change, message):
    checkpoints.save(1, trained, CONFIG, block=True)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(1, change(trained))


def test_another_format_is_refused(checkpoints, trained, monkeypatch):
    monkeypatch.setattr("diffusion.checkpoints.checkpoint.FORMAT", 3)
    checkpoints.save(1, trained, CONFIG, block=True)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 3"):
        checkpoints.restore(1, trained)


def test_an_unfinished_checkpoint_is_not_there(tmp_path, trained):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trained, CONFIG, block=True)
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert checkpoints.save(2, trained, CONFIG, block=True)
        assert checkpoints.steps() == (1, 2)


def test_a_state_may_be_donated_right_after_saving(checkpoints, trained):
    """The writer works on a copy."""
    state, step = make(build("optimizer", "adamw"), ema=("0.9", "power_0.1"))
    step = jax.jit(step, donate_argnums=0)
    state, _ = step(state, make_batch(0))
    expected = jax.tree.map(lambda x: np.array(x), keys_to_data(state))
    checkpoints.save(1, state, CONFIG)
    for k in range(20):
        state, _ = step(state, make_batch(k))
    assert_equal(checkpoints.restore(1, trained), expected)
