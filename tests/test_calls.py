"""Calls from Python as people write them: names, seeds and slips at the door of the public functions."""

import inspect
import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build, editing
from diffusion import inverse_problems as posterior
from diffusion.inverse_problems.operators import Operator
from diffusion.models.denoiser import make_denoiser, make_velocity
from diffusion.numerics import as_key
from diffusion.registry import OBJECTS
from diffusion.samplers import Heun

X = jnp.asarray([[0.3, -1.0], [0.8, 0.1], [-0.2, 0.5]])
TIMES = [0.9, 0.5, 0.2, 0.05]


def halved(x, t):
    return 0.5 * x


def flat(x, t):
    return 0.5 * x[:, :1]


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_names_stand_where_objects_do():
    vp, heun = build("process", "vp"), build("sampler", "heun")
    same = lambda a, b: np.testing.assert_array_equal(a, b)
    same(
        diffusion.sample("heun", "vp", halved, None, X, TIMES),
        diffusion.sample(heun, vp, halved, None, X, TIMES),
    )
    given = {"name": "ancestral", "eta": 0.5}
    same(
        diffusion.sample(given, "vp", halved, jax.random.key(1), X, TIMES),
        diffusion.sample(build("sampler", given), vp, halved, jax.random.key(1), X, TIMES),
    )
    found = diffusion.solve(sampler="ddim", process="vp", model=halved, key=None, x=X, times=TIMES)
    assert found.nfe == 4
    same(
        diffusion.log_prob("vp", halved, X, num_steps=4),
        diffusion.log_prob(vp, halved, X, num_steps=4),
    )
    same(build("grid", "karras")("edm", 5), build("grid", "karras")(build("process", "edm"), 5))
    losses = [
        diffusion.regression_loss(
            FlatNetwork(), p, "data", "snr", "uniform", batch_size=3, loss_target=target
        )
        for p, target in (("vp", "velocity"), (vp, build("prediction", "velocity")))
    ]
    batch = {"data": X[:, :1], "row": jnp.arange(3)}
    same(*(loss({}, jax.random.key(0), batch)[0] for loss in losses))
    assert diffusion.shift("vp", 2.0) == diffusion.shift(vp, 2.0)


def public_functions():
    modules = (diffusion, editing, posterior)
    for module in modules:
        for name in module.__all__:
            fn = getattr(module, name)
            if isinstance(fn, types.FunctionType) and not name.startswith("check_"):
                yield f"{module.__name__}.{name}", fn


def test_every_public_function_takes_names():
    """`check_process` and `check_sampler` say in a sentence that they want an object."""
    taking = {
        n: f for n, f in public_functions() if {*inspect.signature(f).parameters} & {*OBJECTS}
    }
    assert len(taking) > 10
    bare = [name for name, function in taking.items() if not hasattr(function, "__wrapped__")]
    assert not bare, f"decorate them with registry.takes_names: {bare}"


def test_a_class_in_the_place_of_an_object_is_named():
    with pytest.raises(TypeError, match=r"`sampler` is the class Heun itself: call it"):
        diffusion.sample(Heun, "vp", halved, None, X, TIMES)
    with pytest.raises(KeyError, match=r"Unknown sampler 'heunn'. Did you mean 'heun'"):
        diffusion.sample("heunn", "vp", halved, None, X, TIMES)


# ---- keys ---------------------------------------------------------------------------------------


def test_a_whole_number_is_the_seed_of_a_key():
    vp, key = build("process", "vp"), jax.random.key(0)
    same = lambda a, b: np.testing.assert_array_equal(a, b)
    same(vp.sample_prior(0, (4, 2)), vp.sample_prior(key, (4, 2)))
    for seed in (0, np.int64(0)):
        same(
            diffusion.sample("ancestral", vp, halved, seed, X, TIMES),
            diffusion.sample("ancestral", vp, halved, key, X, TIMES),
        )
    same(
        diffusion.log_prob(vp, halved, X, key=0, num_steps=4),
        diffusion.log_prob(vp, halved, X, key=key, num_steps=4),
    )
    same(
        diffusion.elbo(vp, halved, X, 0, num_draws=2).total,
        diffusion.elbo(vp, halved, X, key, num_draws=2).total,
    )
    same(
        editing.vary("ddim", vp, halved, 0, X, TIMES),
        editing.vary("ddim", vp, halved, key, X, TIMES),
    )


@pytest.mark.parametrize("key", ["seed", 0.0, True])
def test_what_is_no_key_is_said_in_a_sentence(key):
    with pytest.raises(TypeError, match=r"random key, as jax.random.key\(0\)"):
        as_key(key)
    with pytest.raises(ValueError, match="not negative"):
        diffusion.sample("ancestral", "vp", halved, -1, X, TIMES)


# ---- shapes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlatNetwork:
    """A network that forgets a coordinate."""

    def init(self, key, x, log_snr, cond=None):
        return {}

    def apply(self, params, x, log_snr, cond=None, key=None):
        return x[:, :1]


@pytest.mark.parametrize(
    "name", ["ddim", "heun", "dpm_solver_pp_2m", "ancestral", "dpm_solver_12", "diffrax"]
)
def test_a_model_of_another_shape_is_refused_by_every_sampler(name):
    with pytest.raises(ValueError, match=r"shaped like x, \[3, 2\]; got \[3, 1\]"):
        diffusion.sample(name, "vp", flat, 0, X, TIMES)


@pytest.mark.parametrize(
    "call",
    [
        lambda: diffusion.log_prob("vp", flat, X),
        lambda: diffusion.integrate_flow("vp", flat, X, TIMES),
        lambda: diffusion.elbo("vp", flat, X, 0),
        lambda: diffusion.score("vp", flat)(X, 0.5),
        lambda: diffusion.preview("vp", flat, X[None], [0.5]),
        lambda: diffusion.estimate_variance("vp", flat, [X], TIMES, jax.random.key(0)),
        lambda: posterior.dps("vp", flat, "identity", X, std=1.0)(X, 0.5),
        lambda: posterior.replacement("vp", flat, "identity", X)(X, 0.5),
        lambda: make_denoiser(FlatNetwork(), {}, "vp", "noise")(X, 0.5),
        lambda: make_velocity(FlatNetwork(), {}, "parabola")(X, 0.5),
    ],
)
def test_so_does_what_else_takes_a_model(call):
    with pytest.raises(ValueError, match=r"shaped like x, \[3, 2\]; got \[3, 1\]"):
        call()


def test_so_do_the_losses():
    batch = {"data": X, "row": jnp.arange(3)}
    loss = diffusion.regression_loss(
        FlatNetwork(), "vp", "noise", "simple", "uniform", batch_size=3
    )
    flow = diffusion.flow_matching_loss(FlatNetwork(), "parabola", "uniform", batch_size=3)
    for fn in (loss, flow):
        with pytest.raises(ValueError, match=r"the network must return an array shaped like x"):
            fn({}, jax.random.key(0), batch)


def test_a_model_with_more_than_a_mean_is_still_found_behind_the_check():
    process = build("process", "vp")
    model = diffusion.with_variance(halved, process, TIMES, np.full(4, 0.1))
    sampler = {"name": "ancestral", "variance": "analytic"}
    assert jnp.isfinite(diffusion.sample(sampler, process, model, 0, X, TIMES)).all()


# ---- dtypes -------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Sum64(Operator):
    """A x = x_1 + x_2 by a matrix of float64, whose dtype is that of its numbers."""

    has_pinv = True

    def forward(self, x):
        return x @ jnp.asarray(np.ones((2, 1)))

    def gram(self, shape):
        return np.float64(2.0)


@pytest.mark.parametrize("method", ["moment_matching", "dps", "pigdm", "replacement"])
def test_a_float64_operator_serves_float32_states(method):
    """With x64 on: the measured sum of every example comes out, in the dtype of the state."""
    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float32)
        y, operator = jnp.asarray([[0.7]]), Sum64()
        given = {"times": TIMES} if method == "dps" else {}
        model = getattr(posterior, method)("vp", halved, operator, y, std=1e-3, **given)
        found = diffusion.sample("ddim", "vp", model, None, x, TIMES)
        assert found.dtype == jnp.float32
        if method in ("moment_matching", "replacement"):  # the others are no projection
            np.testing.assert_allclose(found.sum(axis=1), 0.7, atol=0.01)
        repaint = {"name": "repaint", "repeats": 2}
        found = diffusion.sample(repaint, "vp", model, 0, x, TIMES)
        assert found.dtype == jnp.float32


def test_so_does_a_model_that_answers_in_float64():
    with jax.enable_x64(True):
        x, wide = jnp.asarray(X, jnp.float32), lambda x, t: 0.5 * x * jnp.asarray(np.float64(1.0))
        for sampler in ("ddim", "heun", "dpm_solver_pp_2m"):
            found = diffusion.sample(sampler, "vp", wide, None, x, TIMES)
            expected = diffusion.sample(sampler, "vp", halved, None, x, TIMES)
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5)
