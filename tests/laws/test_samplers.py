"""Laws of every registered sampler: order, point masses, moments, purity, price."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest
from pairwise import pairwise

import diffusion
from diffusion import build, registered
from diffusion.numerics import on_host
from diffusion.processes import GaussianProcess
from diffusion.samplers.base import StepSampler
from diffusion.testing import FinitePoints, GaussianMixture, gaussian, gaussian_flow

SAMPLERS = registered("sampler")
FIXED = [n for n in SAMPLERS if isinstance(build("sampler", n), StepSampler)]
DETERMINISTIC = [n for n in FIXED if not build("sampler", n).stochastic]
STOCHASTIC = [n for n in FIXED if build("sampler", n).stochastic]
PROCESSES = known_processes.names(GaussianProcess)
KEY = jax.random.key(0)
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])


def natural(process, num_steps):
    return build("grid", "uniform_log_snr")(process, num_steps)


def start(process, shape, key=KEY):
    """Draws of the exact marginal at t_max for data N(0.3, 0.25)."""
    alpha, sigma = process.alpha(process.t_max), process.sigma(process.t_max)
    spread = jnp.sqrt(alpha**2 * 0.25 + sigma**2)
    return alpha * 0.3 + spread * jax.random.normal(key, shape)


@functools.cache
def mixture_problem(process):
    """Starts drawn from the marginal at t_max, and where the exact flow takes them, by 2,048 RK4 steps."""
    process = build("process", process)
    x_0 = MIXTURE.sample(KEY, 16)
    x = process.interpolate(x_0, jax.random.normal(KEY, x_0.shape), process.t_max)
    return x, diffusion.integrate_flow(
        process, MIXTURE.denoiser(process), x, process.default_times(2048)
    )


@pytest.mark.parametrize("process", ["vp", "edm", "rectified_flow"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order(name, process):
    """On a mixture of Gaussians, error against the exact flow, halving the steps: the slope is the order.

    A Gaussian alone is too easy a problem: its leading error term vanishes for several methods.
    """
    sampler = build("sampler", name)
    x, exact = mixture_problem(process)
    process = build("process", process)
    denoise = MIXTURE.denoiser(process)
    coarse, fine = (
        jnp.sqrt(
            jnp.mean((diffusion.sample(
                sampler, process, denoise, None, x, natural(process, n), denoise_last=False
            ) - exact) ** 2)
        )
        for n in (160, 320)
    )  # fmt: skip
    assert abs(np.log2(coarse / fine) - sampler.order - sampler.gains) < 0.15, (coarse, fine)


def test_ddim_reference_errors():
    """Seven samplers on VP, from t = 1 to 1e-3, against errors computed independently."""
    process = build("process", "vp")
    x = jnp.full((1, 1), 1.7)
    exact = gaussian_flow(process, x, 1.0, 1e-3)
    np.testing.assert_allclose(exact, 1.1491515265104215, rtol=1e-12)
    expected = {
        "ddim": ("uniform_log_snr", 80, 2.50e-2),
        "dpm_solver_pp_2m": ("uniform_log_snr", 80, 7.56e-4),
        "dpm_solver_2": ("uniform_log_snr", 80, 7.77e-4),
        "dpm_solver_3": ("uniform_log_snr", 80, 1.89e-6),
        "euler": ("uniform", 80, 3.41e-3),
        "heun": ("uniform", 80, 3.04e-4),
        "rk4": ("uniform", 80, 5.06e-8),
    }
    for name, (grid, num_steps, error) in expected.items():
        times = build("grid", grid)(process, num_steps)
        end = diffusion.sample(
            build("sampler", name),
            process,
            gaussian().denoiser(process),
            None,
            x,
            times,
            denoise_last=False,
        )
        np.testing.assert_allclose(
            abs(end - exact).max(), error, rtol=5e-3
        )  # three digits are given


@pytest.mark.parametrize(
    ("name", "process"),
    pairwise(
        name=["ddim", "ancestral"], process=PROCESSES, kinds=dict(process=known_processes.family)
    ),
)
def test_point_mass_is_recovered_in_any_number_of_steps(name, process):
    """Where the linear part is exact, a denoiser that knows the answer ends at alpha c + sigma z."""
    process, n = build("process", process), 4096
    point = jnp.array([1.5, -2.0])
    knows = lambda x, t: jnp.broadcast_to(point, x.shape)
    for num_steps in (1, 3):
        times = natural(process, num_steps)
        noise = process.sigma(times[0]) * process.sample_noise(KEY, (n, 2))
        x = process.alpha(times[0]) * point + noise
        end = diffusion.sample(
            build("sampler", name), process, knows, KEY, x, times, denoise_last=False
        )
        spread, center = process.sigma(times[-1]), process.alpha(times[-1]) * point
        assert jnp.all(
            jnp.abs(end.mean(0) - center) < 5 * spread / np.sqrt(n)
        )  # five standard errors
        assert jnp.all(jnp.abs(end.std(0) / spread - 1) < 5 / np.sqrt(2 * n))
    last = diffusion.sample(build("sampler", name), process, knows, KEY, x, times)
    np.testing.assert_allclose(last, jnp.broadcast_to(point, x.shape), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["sub_vp", "edm"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_have_the_right_moments(name, process):
    """Mean and standard deviation on a Gaussian, within five standard errors and the step error.

    The weak error of first-order methods at 500 steps uniform in log-SNR is below 4 percent: measured
    by the variance recursion of the linear problem.
    """
    process, n = build("process", process), 4000
    key_start, key = jax.random.split(KEY)
    x = start(process, (n, 1), key_start)
    end = diffusion.sample(
        build("sampler", name), process, gaussian().denoiser(process), key, x, natural(process, 500),
        denoise_last=False,
    )  # fmt: skip
    alpha, sigma = float(process.alpha(process.t_min)), float(process.sigma(process.t_min))
    mean, std = alpha * 0.3, np.sqrt(alpha**2 * 0.25 + sigma**2)
    assert abs(end.mean() - mean) < 5 * std / np.sqrt(n) + 0.01
    assert abs(end.std() / std - 1) < 5 / np.sqrt(2 * n) + 0.04


def chain_variance(variance, num_steps, data_variance=0.25):
    """The variance after ancestral sampling of N(0, data_variance), by recursion."""
    process = build("process", "ddpm")
    k = np.round(np.linspace(1000, 1, num_steps)).astype(int)
    times = np.append(k / 1000, 0.0)
    sampler = build("sampler", variance)
    row = sampler.prepare(process, times)
    alpha, sigma = on_host(process.alpha, times[:-1]), on_host(process.sigma, times[:-1])
    gain = alpha * data_variance / (alpha**2 * data_variance + sigma**2)
    spread = getattr(row, "spread", np.zeros(len(k))).copy()
    spread[-1] = 0.0  # no noise at the last step
    v = 1.0
    for keep, pull, s, g in zip(row.keep, row.pull, spread, gain, strict=True):
        v = (keep + pull * g) ** 2 * v + s**2
    return v


@pytest.mark.parametrize(
    ("num_steps", "small", "large", "ddim"),
    [
        (10, 0.104222, 0.358521, 0.130763),
        (50, 0.196420, 0.267883, 0.222704),
        (1000, 0.246125, 0.250752, 0.248498),
    ],
)
def test_variance_of_the_ddpm_chain(num_steps, small, large, ddim):
    """Sample variance on N(0, 0.25) by recursion, for the two classical variances and DDIM."""
    beta = dict(name="ancestral", variance="beta")
    for sampler, expected in (("ancestral", small), (beta, large), ("ddim", ddim)):
        np.testing.assert_allclose(chain_variance(sampler, num_steps), expected, atol=1e-6)


def test_ancestral_coefficients_are_the_posterior():
    """The posterior of the DDPM chain at t = 2, 10, 100, 500, 1000."""
    process = build("process", "ddpm")
    expected = {
        2: (5.453187661e-5, 0.5452914995, 0.454708499),
        10: (2.381820278e-4, 0.1472737174, 0.8527262261),
        100: (2.034596259e-3, 0.01907634532, 0.9808960213),
        500: (0.01003135541, 0.003070071114, 0.9941066702),
        1000: (0.01999998353, 1.283514872e-4, 0.9899486783),
    }
    for k, (variance, pull, keep) in expected.items():
        row = build("sampler", "ancestral").prepare(process, np.array([k, k - 1]) / 1000)
        found = (row.spread[0] ** 2, row.pull[0], row.keep[0])
        np.testing.assert_allclose(found, (variance, pull, keep), rtol=2e-8)


def test_ancestral_without_fresh_noise_is_ddim():
    process, x = build("process", "vp"), start(build("process", "vp"), (8, 2))
    denoise, times = gaussian(dim=2).denoiser(process), natural(process, 7)
    quiet = diffusion.sample(
        build("sampler", dict(name="ancestral", eta=0.0)), process, denoise, KEY, x, times
    )
    ddim = diffusion.sample(build("sampler", "ddim"), process, denoise, None, x, times)
    np.testing.assert_allclose(quiet, ddim, rtol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ends_where_no_noise_is_left(name):
    """Times that end at sigma = 0 exactly, in 1, 2 and 3 steps, stay finite; deterministic ones end at x_0."""
    process = build("process", "edm")
    points = FinitePoints(jnp.array([[0.5], [-1.0]]))
    x = 80.0 * jax.random.normal(KEY, (16, 1))
    grids = ([80.0, 0.0], [80.0, 1.0, 0.0], [80.0, 5.0, 0.05, 0.0])
    for times in grids if name in FIXED else grids[1:2]:  # adaptive ones compile long
        s = diffusion.solve(
            build("sampler", name), process, points.denoiser(process), KEY, x, times
        )
        assert jnp.all(jnp.isfinite(s.x)), (name, times)


@pytest.mark.parametrize("name", FIXED)
def test_evaluations_are_counted_honestly(name):
    """The reported number equals what a stub counts at run time."""
    process, calls = build("process", "edm"), []

    def stub(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return 0.1 * x

    for times in (natural(process, 4), np.append(natural(process, 3), 0.0)):
        calls.clear()
        solution = diffusion.solve(
            build("sampler", name), process, stub, KEY, jnp.ones((2, 1)), times
        )
        jax.block_until_ready(solution.x)
        jax.effects_barrier()
        assert len(calls) == solution.nfe, (name, times)


@pytest.mark.parametrize("solver", ["Tsit5", "Heun", "Dopri5", "Bosh3"])
def test_adaptive_evaluations_are_counted_honestly(solver):
    process, calls = build("process", "vp"), []
    sampler = build("sampler", dict(name="diffrax", solver=solver))

    def stub(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian().mean(process, x, t)

    solution = diffusion.solve(sampler, process, stub, None, jnp.ones((2, 1)), natural(process, 4))
    jax.effects_barrier()
    # diffrax evaluates the first stage anew after a few irregular steps and does not report it
    assert 0 <= len(calls) - int(solution.nfe) <= 3


@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_adaptive_solver_reaches_its_tolerance(norm):
    process = build("process", "vp")
    sampler = build("sampler", dict(name="diffrax", rtol=1e-9, atol=1e-9, norm=norm))
    x, times = start(process, (5, 1)), natural(process, 6)
    end = diffusion.sample(
        sampler, process, gaussian().denoiser(process), None, x, times, denoise_last=False
    )
    np.testing.assert_allclose(
        end, gaussian_flow(process, x, process.t_max, process.t_min), atol=1e-7
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_key_same_sample_and_jit_changes_nothing(name):
    process = build("process", "vp")
    sampler, denoise = build("sampler", name), gaussian(dim=3).denoiser(process)
    x, times = start(process, (4, 3)), natural(process, 6)
    run = lambda key, x: diffusion.sample(sampler, process, denoise, key, x, times)
    first, again, jitted = run(KEY, x), run(KEY, x), jax.jit(run)(KEY, x)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, jitted, rtol=1e-9, atol=1e-12)
    assert first.dtype == x.dtype
    assert jax.eval_shape(run, KEY, x.astype(jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("name", FIXED)
def test_example_i_does_not_depend_on_the_batch(name):
    """With one key per example the first rows are the same in a batch of 3 and of 8."""
    process = build("process", "vp")
    sampler, denoise, times = (
        build("sampler", name),
        gaussian(dim=2).denoiser(process),
        natural(process, 5),
    )
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(8))
    x = process.sample_prior(keys, (8, 2))
    many = diffusion.sample(sampler, process, denoise, keys, x, times)
    few = diffusion.sample(sampler, process, denoise, keys[:3], x[:3], times)
    np.testing.assert_allclose(many[:3], few, rtol=1e-10)


@pytest.mark.parametrize("name", FIXED)
def test_compiled_once_across_calls(name):
    """New parameters, a new key and a new start do not trace the model again."""
    process, sampler, traced = build("process", "vp"), build("sampler", name), []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        scale: jax.Array

        def __call__(self, x, t):
            traced.append(1)
            return self.scale * x

    times = natural(process, 5)
    run = lambda scale, seed: diffusion.sample(
        sampler,
        process,
        Scaled(jnp.asarray(scale)),
        jax.random.key(seed),
        jnp.ones((2, 2)) * seed,
        times,
    )
    run(0.1, 1)
    count = len(traced)
    run(0.2, 2)
    assert len(traced) == count


@pytest.mark.parametrize("name", FIXED)
def test_trajectory(name):
    process, x = build("process", "vp"), start(build("process", "vp"), (3, 2))
    sampler, denoise, times = (
        build("sampler", name),
        gaussian(dim=2).denoiser(process),
        natural(process, 4),
    )
    states = diffusion.trajectory(sampler, process, denoise, KEY, x, times)
    assert states.shape == (5, 3, 2)
    np.testing.assert_array_equal(states[0], x)
    end = diffusion.sample(sampler, process, denoise, KEY, x, times, denoise_last=False)
    np.testing.assert_allclose(states[-1], end, rtol=1e-12)


@pytest.mark.slow
def test_poisson_flow_samples_weighted_points():
    """Three points of unequal weight under 1, 5 and 128 extra dimensions: frequencies by count."""
    points, weights, n = jnp.array([[-1.0, 0], [1, 0], [0, 1.5]]), np.array([0.5, 0.25, 0.25]), 2000
    for extra_dims in (1, 5, 128):
        process = build("process", dict(name="poisson_flow", extra_dims=extra_dims))
        denoise = FinitePoints(points, weights).denoiser(process)
        x = process.sample_prior(KEY, (n, 2))
        end = diffusion.sample(
            build("sampler", "heun"), process, denoise, None, x, natural(process, 128)
        )
        nearest = np.argmin(np.linalg.norm(end[:, None] - points, axis=-1), axis=1)
        frequency = np.bincount(nearest, minlength=3) / n
        # the prior at t_max = 200 is off by the data's spread over t_max, one percent
        assert np.all(np.abs(frequency - weights) < 4 * np.sqrt(weights * (1 - weights) / n) + 0.01)


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ([1e-3, 1.0], "decrease"),
        ([1.0, 1.0, 0.1], "decrease"),
        ([1.0], "num_steps"),
        ([2.0, 0.1], "domain"),
        ([1.0, float("nan")], "finite"),
    ],
)
def test_bad_times_are_refused(times, word):
    process = build("process", "vp")
    with pytest.raises(ValueError, match=word):
        diffusion.sample(
            build("sampler", "ddim"), process, lambda x, t: x, None, jnp.ones((2, 2)), times
        )


def test_what_is_missing_is_said():
    poisson, vp = build("process", "poisson_flow"), build("process", "vp")
    with pytest.raises(TypeError, match="Gaussian"):
        diffusion.sample(
            build("sampler", "ancestral"),
            poisson,
            lambda x, t: x,
            KEY,
            jnp.ones((2, 2)),
            [2.0, 1.0],
        )
    with pytest.raises(TypeError, match="key"):
        diffusion.sample(
            build("sampler", "ancestral"), vp, lambda x, t: x, None, jnp.ones((2, 2)), [1.0, 0.5]
        )
    s = build("sampler", dict(name="diffrax", solver="Tsit6"))
    with pytest.raises(ValueError, match="Tsit5"):
        diffusion.sample(s, vp, lambda x, t: x, None, jnp.ones((2, 2)), [1.0, 0.5])


@pytest.mark.parametrize("process_name", registered("process"))
def test_a_sampler_runs_on_a_process_or_says_what_it_needs(process_name):
    """One sampler per class on every process: that of its own class in two steps, those above say no."""
    process = build("process", process_name)
    x, times = process.sample_prior(KEY, (2, 2)), natural(process, 2)
    for name in ("heun", "unipc", "ancestral"):
        sampler = build("sampler", name)
        run = lambda s=sampler: diffusion.sample(s, process, lambda x, t: 0.5 * x, KEY, x, times)
        if not isinstance(process, sampler.requires):
            with pytest.raises(TypeError, match="needs"):
                run()
        else:
            highest = run
    assert jnp.all(jnp.isfinite(highest()))
