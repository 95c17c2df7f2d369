"""The training step: accumulation, label drop-out, non-finite batches, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.training import drop_cond, init_state, make_ema, make_train_step
from diffusion.training.state import keys_to_data
from diffusion.training.step import LEVEL_EDGES, NUM_LEVELS, levels

from .problem import init_params, loss, make, make_batch

ADAMW = {"name": "adamw", "learning_rate": 1e-2, "clip": 1.0, "weight_decay": 0.1}


def assert_equal(a, b):
    """Bitwise, NaN included."""
    for x, y in zip(
        jax.tree.leaves(keys_to_data(a)), jax.tree.leaves(keys_to_data(b)), strict=True
    ):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        assert np.asarray(x).dtype == np.asarray(y).dtype


def three_steps(accumulate):
    options = {"ema": ("0.9", "half_life_64"), "dtype": jnp.float64, "label_dropout": 0.3}
    state, step = make(build("optimizer", ADAMW), accumulate=accumulate, **options)
    step, metrics = jax.jit(step), {}
    for k in range(3):
        state, metrics = step(state, make_batch(k, 16, np.float64))
    return keys_to_data(state), metrics


@pytest.fixture(scope="module")
def big_batch():
    with jax.enable_x64(True):
        return three_steps(1)


@pytest.mark.parametrize("accumulate", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_accumulation_equals_the_big_batch(x64, big_batch, accumulate):
    found = three_steps(accumulate)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(big_batch), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)  # some 1e3 roundings of 1e-16


def test_a_batch_that_does_not_divide_is_refused():
    state, step = make(build("optimizer", "adam"), accumulate=3)
    with pytest.raises(ValueError, match="accumulate"):
        step(state, make_batch(0, 16))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_batch_changes_nothing_but_the_counters(poison, accumulate):
    state, step = make(build("optimizer", ADAMW), ema=("0.9", "power_0.1"), accumulate=accumulate)
    step = jax.jit(step)
    state, _ = step(state, make_batch(0))
    bad = make_batch(1)
    bad["data"][3, 1] = poison

    after, metrics = step(state, bad)
    for name in ("params", "opt_state", "ema", "key"):
        assert_equal(getattr(after, name), getattr(state, name))
    assert int(after.step) == 2
    assert int(after.bad_steps) == int(metrics["bad_steps"]) == 1
    assert int(metrics["bad_run"]) == 1
    assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
    assert float(metrics["level_count"].sum()) == 0
    assert np.isfinite(metrics["level_sum"]).all()

    after, metrics = step(after, bad)
    assert int(metrics["bad_run"]) == 2
    after, metrics = step(after, make_batch(2))
    assert int(metrics["bad_run"]) == 0
    assert int(metrics["bad_steps"]) == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_the_first_step_may_be_bad():
    """Averages that take their first value from the first step wait for a good one."""
    state, step = make(build("optimizer", ADAMW), ema=("power_0.1",))
    bad = make_batch(0)
    bad["data"][:] = np.nan
    state, _ = jax.jit(step)(state, bad)
    state, _ = jax.jit(step)(state, make_batch(1))
    for a, p in zip(
        jax.tree.leaves(state.ema["power_0.1"]), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(
            a, p, rtol=0, atol=4e-7
        )  # a + 1 (p - a): two roundings of order 1


def test_one_compilation_for_all_steps():
    traces = []

    def counted(params, key, batch):
        traces.append(None)
        return loss(params, key, batch)

    optimizer = build("optimizer", ADAMW)
    averages = make_ema(("0.9",))
    state = init_state(init_params(jax.random.key(0)), optimizer, averages, jax.random.key(1))
    step = jax.jit(make_train_step(counted, optimizer, averages), donate_argnums=0)
    for k in range(5):
        state, _ = step(state, make_batch(k))
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_no_two_leaves_share_a_buffer():
    """Otherwise the state could not be donated."""
    state, _ = make(build("optimizer", ADAMW), ema=("0.9", "0.99"))
    addresses = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(keys_to_data(state))]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.slow
def test_metrics_are_those_of_the_batch(x64):
    state, step = make(build("optimizer", ADAMW), dtype=jnp.float64)
    batch = make_batch(0, 64, np.float64)
    _, metrics = jax.jit(step)(state, batch)
    key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    each, aux = loss(state.params, key, batch)
    gradient = jax.grad(lambda p: loss(p, key, batch)[0].mean())(state.params)
    flat = np.concatenate([g.ravel() for g in jax.tree.leaves(gradient)])
    close = {"rtol": 1e-12}  # sums of a few hundred terms
    np.testing.assert_allclose(metrics["loss"], each.mean(), **close)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(flat), **close)
    np.testing.assert_allclose(metrics["learning_rate"], 1e-2)
    edges = [-np.inf, *LEVEL_EDGES, np.inf]
    count, _ = np.histogram(aux["log_snr"], edges)
    total, _ = np.histogram(aux["log_snr"], edges, weights=each)
    np.testing.assert_array_equal(metrics["level_count"], count)
    np.testing.assert_allclose(metrics["level_sum"], total, **close)


def test_levels_take_everything():
    log_snr = jnp.array([-1e9, -8.5, -7.0, 0.5, 7.5, 30.0])
    total, count = levels(log_snr, jnp.ones(6))
    assert total.shape == (NUM_LEVELS,)
    np.testing.assert_array_equal(count, [2, 1, 0, 0, 0, 1, 0, 0, 1, 1])


def test_a_plain_optax_transformation_is_accepted():
    import optax

    state, step = make(optax.adam(1e-3))
    state, metrics = jax.jit(step)(state, make_batch(0))
    assert "learning_rate" not in metrics
    assert int(state.step) == 1


def test_dropped_conditions_belong_to_rows():
    cond = {"label": jnp.arange(1000) % 7, "text": jnp.ones((1000, 3))}
    row, key = jnp.arange(1000), jax.random.key(3)
    dropped = drop_cond(key, row, cond, 0.25)
    out = dropped["label"] == -1
    # four standard errors of a frequency
    assert float(out.mean()) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 1000))
    nothing = np.nan  # what a vector says where it says nothing
    np.testing.assert_array_equal(dropped["text"], np.tile(np.where(out[:, None], nothing, 1.0), 3))
    np.testing.assert_array_equal(dropped["label"][~out], cond["label"][~out])
    part = slice(300, 600)  # the same decisions wherever the rows are
    some = drop_cond(key, row[part], jax.tree.map(lambda x: x[part], cond), 0.25)
    assert_equal(some, jax.tree.map(lambda x: x[part], dropped))
    assert drop_cond(key, row, None, 0.25) is None
    assert_equal(drop_cond(key, row, cond, 0.0), cond)
    assert bool((drop_cond(key, row, cond, 1.0)["label"] == -1).all())


def test_averages_are_at_least_float32():
    optimizer, averages = build("optimizer", "adam"), make_ema("0.9")
    params = init_params(jax.random.key(0), jnp.bfloat16)
    state = init_state(params, optimizer, averages, jax.random.key(1))
    assert {x.dtype for x in jax.tree.leaves(state.ema)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    batch = make_batch(0)
    after, _ = jax.jit(make_train_step(loss, optimizer, averages))(state, batch)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
