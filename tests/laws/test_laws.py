"""The laws themselves: they hold for what is right, and fail legibly for what is wrong."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import GaussianProcess, Process, build, check_process
from diffusion.numerics import normal_like
from diffusion.samplers import StepSampler
from diffusion.samplers.base import Row, State
from diffusion.testing import (
    CorrelatedGaussian,
    GaussianMixture,
    affine_laws,
    check_sampler,
    gaussian_laws,
    prior_mismatch,
)
from diffusion.testing.report import findings_of

KEY = jax.random.key(0)
DATA = CorrelatedGaussian([0.3, -0.2, 0.1], [[0.5, 0.2, 0.1], [0.2, 0.3, 0.0], [0.1, 0.0, 0.2]])


# ---- samplers -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddim", "heun", "ancestral", "unipc"])
def test_the_laws_of_samplers_hold(name):
    """One of each kind; test_samplers.py holds everything registered to the same laws."""
    report = check_sampler(build("sampler", name))
    assert report.holds, f"\n{report}"


@dataclass(frozen=True, kw_only=True)
class HalfStep(StepSampler):
    """Euler's method that goes half as far as it should, and claims order 2."""

    order: ClassVar[int] = 2

    def prepare(self, process, times):
        return Row(times[:-1], times[1:])

    def step(self, process, model, key, state, row):
        velocity = process.flow(model).velocity(state.x, row.t)
        return State(state.x + (row.s - row.t) / 2 * velocity)


@dataclass(frozen=True, kw_only=True)
class Noisy(StepSampler):
    """Euler's method with noise on top that nothing removes, and two evaluations that it denies."""

    stochastic: ClassVar[bool] = True

    def prepare(self, process, times):
        return Row(times[:-1], times[1:])

    def step(self, process, model, key, state, row):
        velocity = process.flow(model).velocity
        slope = (velocity(state.x, row.t) + velocity(state.x, row.t)) / 2
        return State(state.x + (row.s - row.t) * slope + 0.5 * normal_like(key, state.x))


@pytest.mark.parametrize(
    ("sampler", "broken"),
    [
        (HalfStep, {"S1", "S2"}),
        pytest.param(Noisy, {"S3", "S4"}, marks=pytest.mark.slow),
    ],
)
def test_wrong_samplers_are_found_out(sampler, broken):
    report = check_sampler(sampler())
    assert broken <= {f.law for f in report.findings if not f.holds}, f"\n{report}"
    assert "look at" in str(report)


def test_what_is_no_sampler_is_refused():
    for wrong in (HalfStep, "ddim"):
        with pytest.raises(TypeError):
            check_sampler(wrong)
    with pytest.raises(TypeError):
        check_sampler(build("sampler", "ddim"), build("process", "poisson_flow"))


# ---- wrong processes ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Swapped(GaussianProcess):
    """Time runs the wrong way."""

    t_max: float = 0.999

    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


@dataclass(frozen=True, kw_only=True)
class Straight(GaussianProcess):
    """Right."""

    t_max: float = 0.999

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@dataclass(frozen=True, kw_only=True)
class WrongNoise(Straight):
    """g^2 lacks a factor 2."""

    def g(self, t):
        return jnp.sqrt(t / (1 - t))


@dataclass(frozen=True, kw_only=True)
class Cancels(GaussianProcess):
    """sigma from 1 - alpha^2."""

    def alpha(self, t):
        return jnp.exp(-5 * t**2)

    def sigma(self, t):
        return jnp.sqrt(1 - self.alpha(t) ** 2)


@dataclass(frozen=True, kw_only=True)
class UnitStart(GaussianProcess):
    """EDM that starts generation from unit noise."""

    t_min: float = 0.002
    t_max: float = 80.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return t

    def sample_prior(self, key, shape):
        return self.sample_noise(key, shape)


@dataclass(frozen=True, kw_only=True)
class Stops(GaussianProcess):
    """Half of the data is left at t_max."""

    def alpha(self, t):
        return jnp.exp(-0.3 * t)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(-0.6 * t))


@dataclass(frozen=True, kw_only=True)
class Backward(Process):
    """A velocity of the wrong sign, for a plain `Process`."""

    def interpolate(self, x_0, z, t):
        t = jnp.asarray(t).reshape(-1, 1)
        return (1 - t) * x_0 + t * z

    def velocity(self, x_0, z, t):
        return x_0 - z


@dataclass(frozen=True, kw_only=True)
class Raises(Straight):
    """An error inside a method."""

    def g(self, t):
        raise RuntimeError("no such table")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "first", "word"),
    [
        (Swapped, "P0", "direction of time"),
        (WrongNoise, "P4", "`f` or `g`"),
        (Backward, "P2", "velocity"),
        (Raises, "P4", "RuntimeError: no such table"),
    ],
)
def test_wrong_processes_are_found_out(process, first, word):
    """The first law that fails names the mistake, with a number, a bound and what to look at."""
    report = check_process(process())
    failed = [f for f in report.findings if not f.holds]
    assert not report
    assert failed[0].law == first, f"\n{report}"
    assert word in failed[0].advice, f"\n{report}"


@pytest.mark.parametrize(
    ("law", "process", "word"),
    [
        (affine_laws.accurate_in_float32, Cancels, "expm1"),
        (gaussian_laws.prior_std, UnitStart, "sample_prior"),
        (gaussian_laws.prior_std, Stops, "t_max"),
        (gaussian_laws.fokker_planck, WrongNoise, "P4"),
        (gaussian_laws.family_moments, WrongNoise, "`g`"),
        (gaussian_laws.forward_moments, WrongNoise, "factors"),
    ],
)
def test_single_laws_break(law, process, word):
    """Each law that a mistake breaks says so by itself."""
    failed = [f for f in findings_of(law, process()) if not f.holds]
    assert any(word in f.advice for f in failed), failed
    assert not [f for f in findings_of(law, Straight()) if not f.holds]


def test_what_is_no_process_is_refused():
    for wrong in (Swapped, "vp"):
        with pytest.raises(TypeError):
            check_process(wrong)
    with pytest.raises(ValueError, match="data_std"):
        check_process(build("process", "vp"), data_std=-1.0)


def test_the_mismatch_of_the_prior():
    """KL of two Gaussians: DDPM's chain at E[x_0^2] = 1, against N(0, sigma^2) and by quadrature."""
    process = build("process", "rectified_flow")
    found = prior_mismatch(process, data_mean=3.0, data_std=2.0)
    alpha, sigma = 1 - process.t_max, process.t_max
    x = np.linspace(-12, 12, 200_001)
    std = np.hypot(alpha * 2.0, sigma)
    log_p = lambda m, s: -0.5 * ((x - m) / s) ** 2 - np.log(s * np.sqrt(2 * np.pi))
    ours = log_p(3.0 * alpha, std)
    kl = np.trapezoid(np.exp(ours) * (ours - log_p(0.0, sigma)), x)
    np.testing.assert_allclose(list(found.values())[1], kl, rtol=1e-6)


# ---- targets ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "edm"])
def test_correlated_gaussian(name):
    """Denoiser by regression of joint moments, score by autodiff, flow by its density."""
    process = build("process", name)
    t = float(process.default_times(6)[3])
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    x = alpha * DATA.sample(KEY, 5) + sigma
    total = alpha**2 * DATA.covariance + sigma**2 * np.eye(3)
    centered = (np.asarray(x) - alpha * DATA.mean).T
    expected = DATA.mean + (alpha * DATA.covariance @ np.linalg.solve(total, centered)).T
    np.testing.assert_allclose(DATA.denoiser(process)(x, t), expected, rtol=1e-10)
    by_tweedie = diffusion.score(process, DATA.denoiser(process))(x, t)
    np.testing.assert_allclose(by_tweedie, DATA.score(process)(x, t), rtol=1e-8)
    x_s, volume = DATA.flow(process, x, t, process.t_max)
    moved = DATA.log_density(process, x_s, process.t_max) + volume
    np.testing.assert_allclose(moved, DATA.log_density(process, x, t), rtol=1e-10)
    multivariate = jax.scipy.stats.multivariate_normal.logpdf(x, alpha * DATA.mean, total)
    np.testing.assert_allclose(DATA.log_density(process, x, t), multivariate, rtol=1e-10)
    times = np.geomspace(t, process.t_max, 400)
    carried = diffusion.integrate_flow(process, DATA.denoiser(process), x, times)
    np.testing.assert_allclose(carried, x_s, rtol=1e-6)


def test_correlated_gaussian_draws_its_covariance():
    x = np.asarray(DATA.sample(KEY, 50_000))
    spread = DATA.variances.sum() * np.sqrt(2 / 50_000)  # above the standard error of every entry
    np.testing.assert_allclose(np.cov(x.T), DATA.covariance, atol=5 * spread)
    with pytest.raises(ValueError, match="symmetric"):
        CorrelatedGaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="covariance"):
        CorrelatedGaussian([0.0, 0.0], [[1.0]])


def test_the_exact_classifier_obeys_bayes():
    """score of a component = score of the mixture + grad log posterior of the component."""
    process, t = build("process", "vp"), 0.4
    mixture = GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [0.8, 0.1]], [0.2, 0.4])
    x = jax.random.normal(KEY, (6, 2))
    slope = jax.grad(lambda y: mixture.log_posterior(process, y, t)[:, 1].sum())(x)
    whole = diffusion.score(process, mixture.denoiser(process))(x, t)
    part = diffusion.score(process, mixture.component(1).denoiser(process))(x, t)
    np.testing.assert_allclose(whole + slope, part, rtol=1e-9)
