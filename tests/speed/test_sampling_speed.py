"""Samplers: compiled once per shape and number of steps, one loop on the device, no word with the host."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import callbacks, equations

import diffusion
from diffusion import build, registered
from diffusion.evaluation import generate
from diffusion.guidance.model import ConditionalModel
from diffusion.models.denoiser import make_denoiser
from diffusion.samplers.base import StepSampler, _table
from diffusion.samplers.solve import _finish_in_place

VP = build("process", "vp")
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 3))
TIMES = VP.default_times(6)
FIXED = [n for n in registered("sampler") if isinstance(build("sampler", n), StepSampler)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shrink:
    """A denoiser that costs nothing: x_0 = c x_t. Its applications can be counted in a jaxpr."""

    c: Any

    def __call__(self, x, t):
        return jax.jit(network_application)(self.c, x)


def network_application(c, x):
    return c * x


def applications(jaxpr):
    """The batch sizes of the applications of the network, in the order of the program."""
    return [
        eqn.outvars[0].aval.shape[0]
        for eqn in equations(jaxpr)
        if eqn.primitive.name == "jit" and eqn.params["name"] == "network_application"
    ]


def traced(name, times=TIMES, **options):
    """The programs that a call of the public sampler sends to the device, one equation each."""
    sampler = build("sampler", name)
    call = lambda model, key, x: diffusion.sample(sampler, VP, model, key, x, times, **options)
    return jax.make_jaxpr(call)(Shrink(jnp.float32(0.5)), KEY, X)


@pytest.mark.parametrize("name", registered("sampler"))
def test_no_sampler_asks_the_host(name):
    """Diffrax checks its arguments by a callback, but in a branch that is taken only if they are wrong."""
    program = traced(name)
    assert callbacks(program, branches=False) == set()
    if not name.startswith("diffrax"):
        assert callbacks(program) == set()


@pytest.mark.parametrize("name", FIXED)
def test_a_batch_is_one_loop_and_one_last_evaluation(name):
    """Two programs, neither of which waits for the host; one if the end is not to be denoised."""
    programs = lambda **options: [e.params["name"] for e in traced(name, **options).jaxpr.eqns]
    assert programs() == ["_loop", "_finish"]
    assert programs(denoise_last=False) == ["_loop"]


@pytest.mark.parametrize("name", FIXED)
def test_a_step_applies_the_network_as_often_as_it_says(name):
    """Counted in the program: the body of the loop is there once."""
    found = applications(traced(name, denoise_last=False))
    assert found == [len(X)] * build("sampler", name).evaluations


@pytest.mark.parametrize("name", ["ddim", "heun", "ancestral", "dpm_solver_12", "diffrax"])
def test_a_second_call_compiles_nothing(compilations, name):
    """Other weights, another key, another start, other times of the same number."""
    sampler = build("sampler", name)
    call = lambda c, key, x, times: jax.block_until_ready(
        diffusion.sample(sampler, VP, Shrink(jnp.float32(c)), key, x, times)
    )
    another, twice = jax.random.key(1), jnp.concatenate([X, X])
    start = 2 * X
    call(0.5, KEY, X, TIMES)
    first = len(compilations)
    assert first > 0
    other = build("grid", "quadratic")(VP, 6)
    call(0.25, another, start, other)
    assert compilations[first:] == []
    call(0.25, KEY, twice, TIMES)  # what is counted is seen
    assert compilations[first:] != []


def test_a_long_run_of_samples_compiles_for_its_first_block_alone(compilations):
    """A last block that is not asked for in full included."""
    sampler, seen = build("sampler", "ancestral"), []
    model = Shrink(jnp.float32(0.5))
    drawn = generate(
        sampler, VP, lambda cond: model, 0, 27, (3,), TIMES, batch_size=8, block=4
    )  # fmt: skip
    for x in drawn:
        assert np.isfinite(x).all()
        seen.append(len(compilations))
    assert len(seen) == 4
    assert seen[0] == seen[-1]


@pytest.mark.parametrize("entry", ["classifier_free", "negative", "cfg_pp"])
@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_guidance_applies_the_network_once_to_a_doubled_batch(name, entry):
    """In the compiled loop of the sampler."""

    @dataclass(frozen=True)
    class Network:
        def init(self, key, x, log_snr, cond=None):
            return {"c": jnp.ones(())}

        def apply(self, params, x, log_snr, cond=None, key=None):
            return jax.jit(network_application)(params["c"], x)

    cond = {"label": jnp.arange(len(X))}
    base = make_denoiser(Network(), {"c": jnp.ones(())}, VP, build("prediction", "v"), cond)
    given = {"negative": {"label": jnp.asarray(3)}, "times": TIMES}
    guided = build("guidance", entry)(ConditionalModel(base, None, given))
    sampler = build("sampler", name)
    call = lambda x: diffusion.sample(sampler, VP, guided, None, x, TIMES, denoise_last=False)
    assert applications(jax.make_jaxpr(call)(X)) == [2 * len(X)] * sampler.evaluations


def test_coefficients_are_computed_once_for_a_grid():
    """A second batch sends its loop to the device without asking for anything first."""
    prepared = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watched(type(build("sampler", "ddim"))):
        def prepare(self, process, times):
            prepared.append(len(times))
            return super().prepare(process, times)

    sampler = Watched()
    for times in (TIMES, np.array(TIMES), VP.default_times(5), TIMES):
        diffusion.sample(sampler, VP, Shrink(jnp.float32(0.5)), None, X, times)
    assert prepared == [7, 6]


@pytest.mark.parametrize("process", ["vp", "rectified_flow"])
@pytest.mark.parametrize("name", FIXED)
def test_kept_coefficients_are_those_of_a_fresh_table(name, process):
    """Bit for bit, in both precisions, also if the first who asked was being traced."""
    sampler, process = build("sampler", name), build("process", process)
    times = process.default_times(5)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            fresh = jax.tree.leaves(sampler.prepare(process, times))
            jax.make_jaxpr(lambda x: (x, _table(sampler, process, times))[0])(1.0)
            kept = jax.tree.leaves(_table(sampler, process, times))
            for a, b in zip(kept, fresh, strict=True):
                assert not isinstance(a, jax.core.Tracer)
                assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())


def test_processes_that_are_traced_keep_nothing():
    """A schedule that is learned gets a table, and a derivative, of its own."""

    def end(beta):
        process = build("process", {"name": "vp", "beta_max": beta})
        sampler = build("sampler", "ddim")
        return diffusion.sample(sampler, process, Shrink(jnp.float32(0.5)), None, X, TIMES).sum()

    slopes = [jax.grad(end)(beta) for beta in (10.0, 20.0)]
    assert slopes[0] != slopes[1]
    assert all(s != 0 for s in slopes)


def test_the_next_batch_is_begun_before_one_is_handed_out():
    begun = []
    model_of = lambda cond: Shrink(jnp.float32(0.5))
    cond_of = lambda indices: begun.append(len(indices))
    parts = generate(
        build("sampler", "ddim"), VP, model_of, 0, 16, (3,), TIMES, cond_of, batch_size=4, block=4
    )
    counts = [(len(x), sum(begun)) for x in parts]
    devices = len(jax.local_devices())
    one = 4 * devices  # a block for each device
    handed = [min(one, 16 - first) for first in range(0, 16, one)]
    ahead = [min(one * (i + 2), one * len(handed)) for i in range(len(handed))]
    assert counts == list(zip(handed, ahead, strict=True))


@pytest.mark.parametrize("save", [False, True])
def test_the_last_state_is_overwritten_and_what_the_caller_has_is_not(save):
    """The posterior mean takes the memory of the loop's result."""
    sampler, model, x = build("sampler", "ddim"), Shrink(jnp.float32(0.5)), jnp.array(X)
    found = diffusion.solve(sampler, VP, model, KEY, x, TIMES, save=save)
    again = diffusion.solve(sampler, VP, model, KEY, x, TIMES, save=save)
    np.testing.assert_array_equal(found.x, again.x)  # x can still be read, and so can all results
    if save:
        np.testing.assert_array_equal(found.trajectory, again.trajectory)
    text = _finish_in_place.lower(VP, model, x, jnp.float32(0.1)).as_text()
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text
