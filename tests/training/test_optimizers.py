"""Optimizers optimize, schedules pass through their knots, decay leaves vectors alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import build, registered
from diffusion.training.optimizers import decay_mask

RATES = {"lion": 0.01, "sgd": 0.05}  # the others: 0.05


@pytest.mark.parametrize("name", registered("optimizer"))
def test_every_optimizer_minimizes_a_quadratic(name):
    optimizer = build(
        "optimizer",
        {"name": name, "learning_rate": RATES.get(name, 0.05), "schedule": "cosine", "warmup": 5},
        total_steps=1000,
    )
    target = {"kernel": jnp.array([[1.0, -2.0], [0.5, 1.5]]), "bias": jnp.array([0.3, -0.7])}
    params = jax.tree.map(lambda x: jnp.full_like(x, 0.2), target)

    def value(params):
        return optax.tree.norm(optax.tree.sub(params, target), squared=True)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(value)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, start = optimizer.init(params), float(value(params))
    for _ in range(1000):
        params, state = step(params, state)
    # weight decay (AdamW: 0.01 by default) moves the minimum by far less than this
    assert float(value(params)) < 1e-3 * start


@pytest.mark.parametrize("name", registered("optimizer"))
def test_optimizers_are_values(name):
    first, second = (
        build("optimizer", {"name": name, "schedule": {"name": "rsqrt"}}) for _ in "ab"
    )
    assert first == second
    assert hash(first) == hash(second)
    assert dataclasses.replace(first, clip=1.0) != first


@pytest.mark.slow
@pytest.mark.parametrize("name", registered("optimizer"))
def test_weight_decay_leaves_vectors_and_norms_alone(name):
    rate, decay = 0.1, 0.5
    spec = {"name": name, "learning_rate": rate, "weight_decay": decay}
    optimizer = build("optimizer", spec)
    params = {
        "dense": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((3,), 2.0)},
        "norm_1": {"scale": jnp.full((1, 3), 2.0)},
        "heads": {"bias": jnp.full((2, 3), 2.0)},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    moved, _ = optimizer.update(zero, optimizer.init(params), params)
    mask = decay_mask(params)
    assert mask == {
        "dense": {"kernel": True, "bias": False},
        "norm_1": {"scale": False},
        "heads": {"bias": False},
    }
    for path, update in jax.tree_util.tree_leaves_with_path(moved):
        decayed = "kernel" in str(path)
        if not decayed:
            np.testing.assert_array_equal(update, 0)
        elif name == "lamb":  # its step is |params| long, whatever the decay
            np.testing.assert_allclose(update, -rate * 2.0, rtol=1e-5)
        else:
            np.testing.assert_allclose(update, -rate * decay * 2.0, rtol=1e-5)


@pytest.mark.parametrize("name", registered("optimizer"))
def test_clipping_bounds_the_gradient(name):
    """A gradient of norm 1000 acts as the same direction with norm 1."""
    params = {"kernel": jnp.ones((2, 2))}
    gradient = {"kernel": jnp.array([[3.0, -4.0], [0.0, 0.0]])}
    clipped = build("optimizer", {"name": name, "clip": 1.0})
    plain = build("optimizer", name)
    scaled = lambda k: jax.tree.map(lambda g: k * g, gradient)
    a, _ = clipped.update(scaled(200.0), clipped.init(params), params)
    b, _ = plain.update(scaled(0.2), plain.init(params), params)
    np.testing.assert_allclose(a["kernel"], b["kernel"], rtol=1e-5)


def factors(spec, steps, **known):
    schedule = build("schedule", spec, **known)
    return [float(schedule(s)) for s in steps]


def test_schedules_at_their_knots(x64):
    assert factors("constant", [0, 10**6]) == [1, 1]
    known = {"total_steps": 110, "warmup": 10}
    exact = {"abs": 1e-15}  # one cosine of a number of order one
    assert factors("cosine", [0, 10, 60, 110, 200], **known) == pytest.approx(
        [1, 1, 0.5, 0, 0], **exact
    )
    assert factors("linear", [0, 10, 60, 110, 200], **known) == pytest.approx(
        [1, 1, 0.5, 0, 0], **exact
    )
    final = {"name": "cosine", "final": 0.1}
    assert factors(final, [10, 60, 110], **known) == pytest.approx([1, 0.55, 0.1], **exact)
    rsqrt = {"name": "rsqrt", "reference": 100}
    assert factors(rsqrt, [0, 100, 400, 10_000]) == pytest.approx([1, 1, 0.5, 0.1], **exact)
    knots = [0, 2000, 4000, 12_000, 20_000, 30_000, 40_000, 10**6]
    expected = [0, 0.5, 1, 0.75, 0.5, 0.3, 0.1, 0.1]
    assert factors("piecewise", knots) == pytest.approx(expected, **exact)


@pytest.mark.parametrize("name", registered("schedule"))
def test_every_schedule_is_a_factor(name):
    schedule = build("schedule", name, total_steps=1000, warmup=10)
    values = jax.jit(jax.vmap(schedule))(jnp.arange(0, 100_000, 997))
    assert bool(((values >= 0) & (values <= 1)).all())


def test_warmup_multiplies(x64):
    optimizer = build("optimizer", {"name": "adam", "learning_rate": 0.1, "warmup": 4})
    assert [float(optimizer.rate(k)) for k in range(6)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    )


def test_the_rate_is_the_one_that_is_applied():
    optimizer = build(
        "optimizer",
        {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "schedule": "linear", "warmup": 2},
        total_steps=10,
    )
    params = {"kernel": jnp.zeros((2, 2))}
    state = optimizer.init(params)
    for k in range(6):
        update, state = optimizer.update({"kernel": jnp.ones((2, 2))}, state, params)
        np.testing.assert_allclose(update["kernel"], -optimizer.rate(k), rtol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "adamw", "learning_rte": 1.0}, "learning_rate"),
        ({"name": "adamw", "learning_rate": -1.0}, "learning_rate"),
        ({"name": "adamw", "clip": 0.0}, "clip"),
        ({"name": "adamw", "schedule": "cosin"}, "cosine"),
        ({"name": "adamw", "schedule": {"name": "cosine", "end": 1}}, "final"),
        ({"name": "adamw", "schedule": "cosine"}, "total_steps"),
        (
            {"name": "adamw", "schedule": {"name": "piecewise", "knots": [(5, 1.0), (5, 0.0)]}},
            "increase",
        ),
    ],
)
def test_wrong_fields_are_explained(spec, message):
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        build("optimizer", spec)


# ---- blocks in one array ------------------------------------------------------------------------


def dits():
    """The same transformer with its blocks written out and looped over."""
    fields = dict(name="dit", patch=2, width=16, depth=3, heads=2, qk_norm=True)
    return build("network", fields), build("network", fields | {"scan_blocks": True})


def stack_blocks(params):
    """Turn the parameters of three written-out blocks into those of looped ones."""
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    blocks = [params[f"block_{i}"] for i in range(3)]
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def drawn(tree, seed):
    """Draw a tree of this shape; block i is 1, 3 or 5 times as large."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = structure.unflatten(
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )
    sizes = {"block_1": 3.0, "block_2": 5.0}
    return {
        name: jax.tree.map(functools.partial(jnp.multiply, sizes.get(name, 1.0)), part)
        for name, part in drawn.items()
    }


def total_update(optimizer, params, gradients):
    """Return what three updates of this optimizer add to the parameters."""
    state, new = optimizer.init(params), params
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, new)
        new = optax.apply_updates(new, updates)
    return jax.tree.map(jnp.subtract, new, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", registered("optimizer"))
def test_looped_blocks_are_trained_like_those_that_are_written_out(name, x64):
    """Whatever an optimizer measures of whole arrays, it measures of each block by itself."""
    plain, looped = dits()
    x, level = jnp.ones((1, 4, 4, 1)), jnp.zeros(1)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), x, level)
    params, *gradients = (drawn(shapes, seed) for seed in range(4))
    spec = {"name": name, "learning_rate": 0.01, "weight_decay": 0.1}
    spec |= {"min_dim_to_factor": 8} if name == "adafactor" else {}
    assert looped.stacked == ("blocks",)
    assert plain.stacked == ()
    expected = stack_blocks(total_update(build("optimizer", spec), params, gradients))
    arguments = stack_blocks(params), [stack_blocks(g) for g in gradients]
    found = total_update(build("optimizer", spec, stacked=looped.stacked), *arguments)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)
    jax.tree.map(close, found, expected)
    before = total_update(build("optimizer", spec), *arguments)  # as one array
    kernel = lambda tree: tree["blocks"]["mlp_in"]["kernel"]
    apart = float(jnp.abs(kernel(before) / kernel(expected) - 1).max())
    assert (apart > 0.4) == (name in ("lamb", "adafactor"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lamb", "adafactor"])
def test_by_block_false_is_the_earlier_rule(name):
    _, looped = dits()
    shapes = jax.eval_shape(looped.init, jax.random.key(0), jnp.ones((1, 4, 4, 1)), jnp.zeros(1))
    params, gradient = drawn(shapes, 0), drawn(shapes, 1)
    earlier = build("optimizer", {"name": name, "by_block": False}, stacked=looped.stacked)
    unaware = build("optimizer", name)
    assert jax.tree.structure(earlier.init(params)) == jax.tree.structure(unaware.init(params))
    a, b = (total_update(o, params, [gradient]) for o in (earlier, unaware))
    jax.tree.map(np.testing.assert_array_equal, a, b)
