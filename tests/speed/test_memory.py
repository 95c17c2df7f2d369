"""Memory of one process: what a function holds dies with it, and programs of what has passed are few."""

import gc
import subprocess
import sys
import textwrap
import weakref
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.guidance import classifier
from diffusion.numerics import on_host
from diffusion.numerics.programs import Programs, Static, as_pytree
from diffusion.samplers.base import _compiled_loop

VP, DDIM = build("process", "vp"), build("sampler", "ddim")
KEY, X = jax.random.key(0), jnp.ones((3, 2))
TIMES = VP.default_times(3)
PLAIN = lambda x, t: 0.5 * x


def sampled(name):
    return lambda f: diffusion.sample(build("sampler", name), VP, f, KEY, X, TIMES)


def guided(guide):
    return lambda f: diffusion.sample(DDIM, VP, guide(f), None, X, TIMES)


CALLS = {
    "ddim": sampled("ddim"),
    "ancestral": sampled("ancestral"),
    "dpm_solver_12": sampled("dpm_solver_12"),
    "diffrax": sampled("diffrax"),
    "diffrax_sde": sampled("diffrax_sde"),
    "trajectory": lambda f: diffusion.trajectory(DDIM, VP, f, None, X, TIMES),
    "preview": lambda f: diffusion.preview(VP, f, jnp.ones((4, 3, 2)), TIMES),
    "callback": lambda f: diffusion.solve(
        DDIM, VP, f, None, X, TIMES, callback=lambda *state: None
    ),
    "log_prob": lambda f: diffusion.log_prob(VP, f, X, num_steps=2),
    "log_prob adaptive": lambda f: diffusion.log_prob(VP, f, X, solver="Tsit5", rtol=0.1, atol=0.1),
    "gradient of log_prob": lambda f: jax.grad(
        lambda x: diffusion.log_prob(VP, f, x, num_steps=2).sum()
    )(X),
    "integrate_flow": lambda f: diffusion.integrate_flow(VP, f, X, TIMES[::-1]),
    "elbo": lambda f: diffusion.elbo(VP, f, X, KEY),
    "classifier_free": guided(lambda f: diffusion.classifier_free(f, PLAIN, 2.0)),
    "scale": guided(
        lambda f: diffusion.classifier_free(PLAIN, PLAIN, lambda t: f(t, t).mean())
    ),
    "classifier": guided(
        lambda f: classifier(VP, PLAIN, lambda x, t: f(x, t).sum(axis=-1))
    ),
    "within jit": lambda f: jax.jit(lambda x: diffusion.sample(DDIM, VP, f, None, x, TIMES))(X),
}  # fmt: skip


class Model:
    """A model as people write them: weights of its own, compared by identity."""

    def __init__(self, weights):
        self.weights = weights

    def denoise(self, x, t):
        return x * self.weights[0, 0]

    __call__ = denoise


def closure(weights):
    return lambda x, t: x * weights[0, 0]


def custom(weights):
    """A closure whose derivatives are closures too."""

    @jax.custom_jvp
    def fn(x):
        return x * weights[0, 0]

    fn.defjvp(lambda x, d: (fn(x[0]), d[0] * weights[0, 0]))
    return lambda x, t: fn(x)


def remains(make, call):
    """The references to a function and to its weights that are left after a call with it."""

    def use():
        weights = jnp.full((100, 100), 0.3)
        fn = make(weights)
        jax.block_until_ready(call(fn))
        return [weakref.ref(weights), weakref.ref(getattr(fn, "__self__", fn))]

    references = use()
    gc.collect()
    return [r() for r in references if r() is not None]


@pytest.mark.parametrize("name", CALLS)
def test_a_function_and_its_weights_die(name):
    assert remains(closure, CALLS[name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [Model, lambda w: Model(w).denoise, custom])
def test_whatever_kind_of_function_it_is(make):
    assert remains(make, CALLS["ddim"]) == []
    assert remains(make, CALLS["log_prob"]) == []


@dataclass(frozen=True)
class Scaled:
    """A model that compares by its values."""

    c: float

    def __call__(self, x, t):
        return self.c * x


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "log_prob", "classifier_free", "diffrax"])
def test_a_living_function_is_compiled_once(compilations, name):
    """Also as a method that Python makes anew at every access, or as another object of the same value."""
    model, call = Model(jnp.full((2, 2), 0.5)), CALLS[name]
    for fn in (lambda: model, lambda: model.denoise, lambda: Scaled(0.5)):
        call(fn())
        before = len(compilations)
        assert before > 0
        call(fn())
        gc.collect()
        call(fn())
        assert compilations[before:] == []


def test_a_function_that_lives_does_not_lose_its_programs_to_others(compilations):
    """However many come and go."""
    programs = Programs(lambda c, model, x: c * model(x, 0.0), 1, keep=2)
    programs(2.0, Static(PLAIN), X)
    for k in range(5):
        programs(2.0, Static(lambda x, t, k=k: x + k), X)
    before = len(compilations)
    np.testing.assert_array_equal(programs(2.0, Static(PLAIN), X), X)
    assert compilations[before:] == []


def test_the_programs_used_last_are_kept(compilations):
    """By the values of what is static, among the first arguments and within the others."""
    programs = Programs(lambda c, model, x: c * model(x, 0.0), 1, keep=2)
    run = lambda c, scale: programs(c, as_pytree(Scaled(scale)), X)
    for c, scale in ((1.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1.0, 3.0)):
        np.testing.assert_array_equal(run(c, scale), c * scale * X)
    assert programs._cache_size() == 2
    before = len(compilations)
    run(1.0, 1.0), run(1.0, 3.0)
    assert compilations[before:] == []
    run(2.0, 1.0)
    assert len(compilations) == before + 1


def test_two_functions_keep_their_places():
    programs = Programs(lambda models, x: models[0](x, 0.0) - models[1](x, 0.0), 0)
    a, b = Static(lambda x, t: 3 * x), Static(lambda x, t: x)
    np.testing.assert_array_equal(programs((a, b), X), 2 * X)
    np.testing.assert_array_equal(programs((b, a), X), -2 * X)
    np.testing.assert_array_equal(programs((a, a), X), 0 * X)


def test_memory_that_is_given_up_is_that_of_the_argument():
    programs = Programs(lambda c, model, x: c + model(x, 0.0), 1, donate_argnums=[2])
    x = jnp.ones((4, 4))
    programs(1.0, Static(PLAIN), x)
    assert x.is_deleted()


def executables():
    gc.collect()
    return len(jax.devices("cpu")[0].client.live_executables())


@pytest.mark.slow
def test_programs_of_processes_and_samplers_that_have_passed_are_few():
    """A call with another process compiles six programs of some 1.3 MiB each; 15 calls would leave 90."""

    def use(k):
        process = build("process", dict(name="vp", beta_max=10.0 + k))
        diffusion.sample(DDIM, process, PLAIN, None, X, process.default_times(3))
        on_host(process.log_snr, np.float64(0.5))

    use(0)
    before = executables()
    for k in range(1, 15):
        use(k)
    assert executables() - before <= 32
    assert _compiled_loop._cache_size() <= 12 * 2  # no plain function, and this one


PROGRAM = """
    import gc
    import jax
    import jax.numpy as jnp
    import diffusion
    from diffusion import build

    vp, ddim, x = build("process", "vp"), build("sampler", "ddim"), jnp.ones((3, 2))
    times = vp.default_times(3)

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20

    def one(k, kind):
        weights = jnp.full((512, 512), 0.1 * k)  # 1 MiB
        model = lambda x, t: x * weights[0, 0]
        if kind == "closure":
            diffusion.sample(ddim, vp, model, None, x, times)
        elif kind == "likelihood":
            diffusion.integrate_flow(vp, model, x, times[::-1])
        else:
            process = build("process", dict(name="vp", beta_max=5.0 + k))
            diffusion.sample(ddim, process, model, None, x, process.default_times(3))

    kinds = ["closure"] * 120 + ["likelihood"] * 50 + ["process"] * 30
    for kind in sorted(set(kinds)):
        one(0, kind)
    before = resident()
    for k, kind in enumerate(kinds, 1):
        one(k, kind)
    print(resident() - before)
"""


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_hundred_calls_with_new_objects_stay_within_fifty_mebibytes():
    """Kept for ever they would hold some 800."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    assert float(found.stdout) < 50
