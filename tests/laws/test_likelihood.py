"""Laws of likelihood: the ODE, the variational bound, integers, and bad input."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import AffineProcess, GaussianProcess, Process, build, registered
from diffusion.likelihood import (
    DiscretizedDecoder,
    GaussianDecoder,
    LogisticDequantizer,
    PixelNetwork,
    VariationalDequantization,
    elbo,
    exact_divergence,
    hutchinson_divergence,
    log_prob_estimate,
)
from diffusion.likelihood.checks import check_rising, rising_times
from diffusion.numerics import as_key, on_host, sum_features, whole
from diffusion.testing import FinitePoints, GaussianMixture, gaussian, gaussian_flow

KEY = jax.random.key(0)
X = np.array([[0.3, 1.1], [-0.4, 0.2]])
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
logpdf = jax.scipy.stats.norm.logpdf


# ---- the ODE ------------------------------------------------------------------------------------


def closed_form(process, x, mean=0.3, std=0.5):
    """log prior(x_T) + log |dx_T / dx|: what an exact integration gives for N(mean, std^2) data."""
    x_T = gaussian_flow(process, x, process.t_min, process.t_max, mean, std)
    variance = lambda t: process.alpha(t) ** 2 * std**2 + process.sigma(t) ** 2
    growth = jnp.log(variance(process.t_max) / variance(process.t_min)) / 2
    return process.prior_log_prob(x_T) + x[0].size * growth


@pytest.mark.slow
@pytest.mark.parametrize(("t_min", "expected"), [(1e-5, [-0.22581099, -1.50892048]), (1e-3, None)])
def test_reference_values_of_a_gaussian(t_min, expected):
    """N(0.3, 0.25) at 0.3 and 1.1 under VP. The prior's mismatch and the truncation are tested apart."""
    process = build("process", dict(name="vp", t_min=t_min))
    x = jnp.array([[0.3], [1.1]])
    x_T = gaussian_flow(process, x, process.t_min, process.t_max)
    target = gaussian()
    found = diffusion.log_prob(process, target.denoiser(process), x, num_steps=512)
    # the reference uses N(0, 1) as prior, ours is N(0, sigma(t_max)^2)
    unit = found - process.prior_log_prob(x_T) + logpdf(x_T)[:, 0]
    if expected:
        np.testing.assert_allclose(unit, expected, atol=2e-8)
    exact = found - process.prior_log_prob(x_T) + target.log_density(process, x_T, process.t_max)
    truth = [-0.22579285, -1.50578949] if t_min == 1e-5 else [-0.22595624, -1.50558695]
    np.testing.assert_allclose(exact, truth, atol=2e-8)
    np.testing.assert_allclose(exact, target.log_density(process, x, t_min), atol=2e-8)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [None, "Tsit5", "Dopri5"])
def test_solvers_agree_with_the_closed_form(solver):
    process = build("process", "vp")
    found = log_prob_estimate(
        process,
        gaussian(dim=2).denoiser(process),
        X,
        solver=solver,
        rtol=1e-9,
        atol=1e-9,
        num_steps=256,
    )
    np.testing.assert_allclose(found.value, closed_form(process, jnp.asarray(X)), atol=2e-7)
    np.testing.assert_array_equal(found.standard_error, 0.0)
    assert found.nfe == 1024 if solver is None else 100 < found.nfe < 2000


@pytest.mark.parametrize("solver", [None, "Tsit5"])
def test_evaluations_are_counted(solver):
    """What is reported equals what a stub counts; diffrax repeats up to 3 first stages unreported."""
    process, calls = build("process", "vp"), []

    def stub(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian(dim=2).mean(process, x, t)

    found = log_prob_estimate(process, stub, X, key=KEY, solver=solver, num_steps=8)
    jax.effects_barrier()
    assert 0 <= len(calls) - int(found.nfe) <= (3 if solver else 0)


@pytest.mark.slow
def test_the_log_density_is_differentiable():
    """In x, in the model and in the fields of the process, against the gradient of the closed form."""

    def by_ode(x, std, beta_max, t_min, **settings):
        process = build("process", dict(name="vp", beta_max=beta_max, t_min=t_min))
        target = GaussianMixture(jnp.ones(1), jnp.full((1, 2), 0.3), std[None])
        denoise = lambda x, t: target.mean(process, x, t)
        return diffusion.log_prob(process, denoise, x, **settings).sum()

    def exactly(x, std, beta_max, t_min):
        process = build("process", dict(name="vp", beta_max=beta_max, t_min=t_min))
        return closed_form(process, x, std=std).sum()

    at = (jnp.asarray(X), jnp.asarray(0.5), jnp.asarray(12.0), jnp.asarray(0.01))
    expected = jax.jit(jax.grad(exactly, (0, 1, 2, 3)))(*at)
    for settings in (dict(num_steps=64), dict(solver="Tsit5", rtol=1e-8, atol=1e-8, num_steps=8)):
        found = jax.jit(jax.grad(lambda *a, s=settings: by_ode(*a, **s), (0, 1, 2, 3)))(*at)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_exact_divergence_in_chunks():
    """Any chunk gives the trace of the Jacobian; forward and reverse derivatives agree."""
    w = jax.random.normal(KEY, (12, 12))
    velocity = lambda x, t: jnp.tanh(x.reshape(len(x), -1) @ w).reshape(x.shape) * t
    x = jax.random.normal(KEY, (5, 3, 4))
    backward = jax.vmap(lambda y: jnp.trace(jax.jacrev(
        lambda a: velocity(a.reshape(1, 3, 4), 0.7).reshape(-1))(y.reshape(-1))))(x)  # fmt: skip
    for chunk in (None, 1, 5, 12):
        v, divergence = exact_divergence(velocity, x, 0.7, chunk)
        np.testing.assert_allclose(divergence, backward, rtol=1e-12)
        np.testing.assert_allclose(v, velocity(x, 0.7), rtol=1e-14)


def test_hutchinson_variances():
    """2 sum of squared off-diagonals of the symmetric part for signs, 2 |sym|^2 for normal probes."""
    a = jnp.array([[1.0, 2.0, -1.0], [0.5, -0.3, 0.4], [1.5, 0.2, 0.7]])
    sym, n = (a + a.T) / 2, 200_000
    x = jnp.zeros((1, 3))
    off = float((sym**2).sum() - (jnp.diag(sym) ** 2).sum())
    for probes, variance in (
        (jax.random.rademacher(KEY, (n, 1, 3), float), 2 * off),
        (jax.random.normal(KEY, (n, 1, 3)), 2 * float((sym**2).sum())),
    ):
        one = jax.vmap(lambda e: hutchinson_divergence(lambda y, t: y @ a.T, x, 0.0, e[None])[1][0])
        estimates = np.asarray(one(probes))
        assert abs(estimates.mean() - jnp.trace(a)) < 5 * np.sqrt(variance / n)
        assert abs(estimates.var() / variance - 1) < 0.05  # kurtosis below 20: 5 sqrt(20 / n)


@pytest.mark.slow
def test_hutchinson_of_the_log_density():
    """Unbiased, with an honest standard error; without variance for an isotropic field."""
    process = build("process", "vp")
    isotropic = gaussian(dim=2).denoiser(process)
    exact = diffusion.log_prob(process, isotropic, X)
    found = log_prob_estimate(process, isotropic, X, key=KEY, num_probes=3)
    np.testing.assert_allclose(found.value, exact, rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-10)
    denoise = MIXTURE.denoiser(process)
    exact = diffusion.log_prob(process, denoise, X, num_steps=32)
    for probe in ("rademacher", "normal"):
        found = log_prob_estimate(
            process, denoise, X, num_steps=32, key=KEY, num_probes=400, probe=probe
        )
        assert np.all(np.abs(found.value - exact) < 4 * found.standard_error + 1e-9)
        assert np.all(found.standard_error > 0)
    one = log_prob_estimate(process, denoise, X, num_steps=32, key=KEY)
    assert np.all(np.isnan(one.standard_error))


def test_encode_and_decode_invert_each_other():
    process, x = build("process", "vp"), MIXTURE.sample(KEY, 6)
    times = process.default_times(256)
    latent = diffusion.integrate_flow(process, MIXTURE.denoiser(process), x, times[::-1])
    np.testing.assert_allclose(
        diffusion.integrate_flow(process, MIXTURE.denoiser(process), latent, times), x, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("extra_dims", [1, 5])
def test_poisson_flow_of_a_small_set(extra_dims):
    """Heavy-tailed noise: the ODE's density of three points equals the sum of their Green's functions."""
    process = build(
        "process", dict(name="poisson_flow", extra_dims=extra_dims, t_min=0.2, t_max=50.0)
    )
    target = FinitePoints(
        jnp.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]]), jnp.array([0.5, 0.2, 0.3])
    )
    denoise = target.denoiser(process)
    x = jnp.array([[0.1, 0.2], [-1.1, 0.3], [4.0, -7.0]])
    x_T = diffusion.integrate_flow(process, denoise, x, process.default_times(512)[::-1])
    mismatch = process.prior_log_prob(x_T) - target.log_density(process, x_T, process.t_max)
    found = diffusion.log_prob(process, denoise, x, num_steps=512)
    np.testing.assert_allclose(
        found - mismatch, target.log_density(process, x, process.t_min), atol=1e-6
    )


def test_poisson_flow_keeps_its_cumulative_distribution():
    """On a line the ODE conserves the probability to the left of a point."""
    process = build("process", dict(name="poisson_flow", t_min=1e-3, t_max=40.0))
    points, weights = np.array([-1.0, 0.5, 2.0]), np.array([0.5, 0.3, 0.2])
    denoise = FinitePoints(jnp.asarray(points)[:, None], jnp.asarray(weights)).denoiser(process)
    cdf = lambda x, t: (weights * (0.5 + np.arctan((x - points) / t) / np.pi)).sum()
    start = jnp.array([[3.0], [-20.0], [45.0]])
    end = diffusion.integrate_flow(process, denoise, start, process.default_times(4000))
    before = [cdf(float(x), 40.0) for x in start[:, 0]]
    np.testing.assert_allclose([cdf(float(x), 1e-3) for x in end[:, 0]], before, atol=1e-6)


@dataclass(frozen=True, kw_only=True)
class LogisticLine(Process):
    """x_t = (1 - t) x_0 + t z with logistic z: a plain `Process`, not Gaussian, with a density."""

    t_min: float = 0.05

    def interpolate(self, x_0, z, t):
        t = jnp.asarray(t).reshape(-1, *[1] * (x_0.ndim - 1))
        return (1 - t) * x_0 + t * z

    def prior_log_prob(self, x):
        return sum_features(jax.scipy.stats.logistic.logpdf(x))


def test_the_lowest_rung_needs_only_the_density_of_its_prior():
    """All data in one point c: x_t - (1 - t) c is t times logistic noise, at every time."""
    process, c = LogisticLine(), 0.7
    velocity = lambda x, t: (x - c) / t
    x = jnp.array([[0.7, 0.8], [0.5, 0.6]])
    scaled = (x - (1 - process.t_min) * c) / process.t_min
    truth = process.prior_log_prob(scaled) - 2 * np.log(process.t_min)
    found = diffusion.log_prob(process, velocity, x, num_steps=512)
    np.testing.assert_allclose(found, truth, atol=2e-5)  # RK4 on a uniform grid, for dx/dt = x/t
    found = diffusion.log_prob(process, velocity, x, solver="Tsit5", rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, truth, atol=1e-7)


# ---- the variational bound ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LinearGamma(GaussianProcess):
    """-log SNR = -13.3 + 18.3 t^power, variance preserving (Kingma et al., 2021)."""

    t_min: float = 0.0
    power: float = 1.0

    def log_snr(self, t):
        return 13.3 - 18.3 * jnp.asarray(t, float) ** self.power

    def alpha(self, t):
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def sigma(self, t):
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def time_of_log_snr(self, log_snr):
        return (jnp.maximum(13.3 - log_snr, 0.0) / 18.3) ** (1 / self.power)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanError:
    """A denoiser that is off by the root of the ideal squared error for N(0, std^2), around x_0 = 0.

    The diffusion term of its bound then has no noise: it is the expectation.
    """

    std: float
    process: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t, t):
        c = self.process.coefficients(t, x_t)
        variance = (c.alpha * self.std) ** 2 + c.sigma**2
        return jnp.broadcast_to(self.std * c.sigma / jnp.sqrt(variance), x_t.shape)


ZERO = np.zeros((2, 1))


@pytest.mark.slow
def test_vdm_reference_values():
    """The diffusion term of Gaussian data, continuous and with T steps, and the prior term."""
    process = LinearGamma()
    for std, expected in ((0.5, 5.95601463), (1.0, 6.64664316)):
        found = elbo(process, MeanError(std, process), ZERO, KEY, num_draws=20_000)
        np.testing.assert_allclose(
            found.diffusion, expected, rtol=1e-6
        )  # midpoint-like: 1 / draws^1.5
    for num_steps, expected in (
        (10, 15.7275645), (100, 6.48569037), (1000, 6.00623678), (10_000, 5.96101057)
    ):  # fmt: skip
        found = elbo(
            process,
            MeanError(0.5, process),
            ZERO,
            KEY,
            np.linspace(0, 1, num_steps + 1),
            num_draws=None,
        )
        np.testing.assert_allclose(found.diffusion, expected, rtol=1e-8)
    for std, expected in ((0.5, 8.4786e-4), (1.0, 3.35767e-3)):
        found = elbo(process, MeanError(std, process), std + ZERO, KEY, prior_std=1.0)
        np.testing.assert_allclose(found.prior, expected, rtol=1e-5)
        ours = elbo(process, MeanError(std, process), std + ZERO, KEY)
        np.testing.assert_allclose(ours.prior, std**2 * np.exp(-5) / 2, rtol=1e-12)


def test_the_continuous_bound_does_not_depend_on_the_schedule():
    for power in (0.7, 2.0):
        process = LinearGamma(power=power, t_min=0.0)
        found = elbo(process, MeanError(0.5, process), ZERO, KEY, num_draws=20_000)
        np.testing.assert_allclose(found.diffusion, 5.95601463, rtol=1e-6)
    process = LinearGamma(power=2.0)
    found = elbo(process, MeanError(0.5, process), ZERO, KEY, num_draws=20_000, sampling="time")
    np.testing.assert_allclose(found.diffusion, 5.95601463, rtol=1e-5)


def test_random_steps_estimate_the_sum_over_all_steps():
    process, times = LinearGamma(), np.linspace(0, 1, 101)
    model = MeanError(0.5, process)
    exact = elbo(process, model, ZERO, KEY, times, num_draws=None).diffusion[0]
    keys = jax.random.split(KEY, 400)
    draws = np.asarray(
        jax.vmap(lambda k: elbo(process, model, ZERO[:1], k, times, num_draws=4).diffusion[0])(keys)
    )
    assert abs(draws.mean() - exact) < 4 * draws.std() / 20


@pytest.mark.parametrize("name", ["vp", "edm", "rectified_flow", "linear"])
def test_the_ideal_bound_is_the_negative_log_density(name):
    """With the exact posterior mean and decoder the gap is 0, for every x; only the prior may differ."""
    process = LinearGamma() if name == "linear" else build("process", name)
    mean, std, n = 0.3, 0.5, 4000
    alpha, sigma = (float(f(process.t_min)) for f in (process.alpha, process.sigma))
    decoder = GaussianDecoder(std=std * sigma / np.sqrt(alpha**2 * std**2 + sigma**2))
    a_T, s_T = float(process.alpha(process.t_max)), float(process.sigma(process.t_max))
    v_T = a_T**2 * std**2 + s_T**2
    for value in (0.3, 1.1, -0.9):
        x = jnp.full((n, 1), value)
        found = elbo(process, gaussian(mean, std).denoiser(process), x, KEY, decoder=decoder)
        # E log p_T(x_T) - E log prior(x_T) for x_T = a_T x + s_T z
        second = lambda m, at=a_T * value: (at - m) ** 2 + s_T**2
        mismatch = (
            second(0) / (2 * s_T**2) - second(a_T * mean) / (2 * v_T) + 0.5 * np.log(s_T**2 / v_T)
        )
        truth = -float(logpdf(value, mean, std)) + mismatch
        total = np.asarray(found.total)
        assert abs(total.mean() - truth) < 4 * total.std() / np.sqrt(n), (
            value,
            total.mean(),
            truth,
        )


@pytest.mark.slow
def test_no_bound_falls_below_the_entropy():
    """Imperfect models, decoders and coarse chains only raise it: 0.72579135 nats for std 0.5."""
    process, n = LinearGamma(), 4000
    x = gaussian().sample(KEY, n)
    exact = gaussian().denoiser(process)
    for model in (exact, lambda x, t: 0.9 * exact(x, t)):
        for settings in (dict(), dict(num_steps=50), dict(num_steps=5, num_draws=None)):
            paired = np.asarray(elbo(process, model, x, KEY, **settings).total)
            paired = (
                paired + np.asarray(logpdf(x, 0.3, 0.5))[:, 0]
            )  # removes the spread of x itself
            assert paired.mean() > -4 * paired.std() / np.sqrt(n)


@pytest.mark.slow
def test_the_decoder_of_integers():
    """Its probabilities sum to one, and nearly all the mass lies on the true level at gamma = -13.3."""
    process, decoder = LinearGamma(), DiscretizedDecoder(levels=8)
    levels = jnp.linspace(-1, 1, 8)[:, None]  # of 8, for the sum; of 256 below
    x_t = jnp.full((8, 1), 0.13)
    log_p = decoder.log_prob(process, None, levels, x_t, jnp.asarray(0.4))
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-12)
    fine = 2 * jnp.arange(256.0)[:, None] / 255 - 1
    # the noise is sqrt(1.67e-6) / half a spacing = 1 / 3.03 of the way to the next level
    found = elbo(process, lambda x, t: x, fine, KEY, decoder=DiscretizedDecoder())
    assert 0 < found.reconstruction.mean() < 0.05
    point = jnp.full((4, 1), float(levels[3, 0]))  # one level only: the entropy is zero
    knows = lambda x, t: jnp.full_like(x, point[0, 0])
    found = elbo(process, knows, point, KEY, decoder=DiscretizedDecoder(levels=8))
    np.testing.assert_allclose(found.diffusion, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.reconstruction, 0.0, atol=1e-12)


def test_one_key_per_example_frees_it_from_the_batch():
    process = LinearGamma()
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(5))
    x, model = jnp.linspace(-1, 1, 10).reshape(5, 2), gaussian(dim=2).denoiser(process)
    many, few = elbo(process, model, x, keys), elbo(process, model, x[:2], keys[:2])
    for a, b in zip(many, few, strict=True):
        np.testing.assert_allclose(a[:2], b, rtol=1e-10)


@pytest.mark.slow
def test_the_bound_is_differentiable_in_the_model_and_the_schedule():
    """A schedule may be learned through the chain; the gradient agrees with a finite difference."""

    def bound(value, scale):
        process = build("process", dict(name="edm", t_max=value))
        denoise = lambda x, t: scale * gaussian(dim=2).mean(process, x, t)
        return elbo(process, denoise, X, KEY, num_steps=6, num_draws=None).total.sum()

    at = (jnp.asarray(9.0), jnp.asarray(0.95))
    found, h = jax.grad(bound, (0, 1))(*at), 1e-4
    np.testing.assert_allclose(
        found[1], (bound(9.0, 0.95 + h) - bound(9.0, 0.95 - h)) / (2 * h), rtol=1e-5
    )
    assert np.isfinite(found[0])
    assert found[0] != 0


# ---- integers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-255 / 256, 255 / 256)]
)
def test_uniform_density_scores_exactly_eight_bits(low, high):
    """A uniform density over the 256 bins scores 8 bits per dimension, whatever the scaling."""
    quantize = diffusion.Dequantization(low=low, high=high)
    log_p = jnp.array([-10 * np.log(256 * quantize.spacing)])
    np.testing.assert_allclose(quantize.bits_per_dim(log_p, 10), 8.0, rtol=1e-12)
    x = jnp.full((1000, 1), low + (high - low) * 17 / 255)
    back = jnp.round((quantize(KEY, x) - low) / (high - low) * 255)
    np.testing.assert_array_equal(back, 17)


def test_change_of_variables():
    """256 bins on [-1, 1] add exactly 7 bits, on [0, 1] 8; the levels' own scaling adds log2(255/2)."""
    bins = diffusion.Dequantization(low=-1 + 1 / 256, high=1 - 1 / 256)
    np.testing.assert_allclose(bins.log_jacobian / np.log(2), 7.0, rtol=1e-14)
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.25)
    np.testing.assert_allclose(bins.bits_per_dim(jnp.array([-entropy]), 1), 8.04709559, rtol=1e-9)
    unit = diffusion.Dequantization(low=1 / 512, high=1 - 1 / 512)
    np.testing.assert_allclose(unit.log_jacobian / np.log(2), 8.0, rtol=1e-14)
    ours = diffusion.Dequantization().log_jacobian / np.log(2)
    np.testing.assert_allclose(ours, np.log2(255 / 2), rtol=1e-14)


def logistic_noise(shift=0.0, log_scale=0.0):
    fill = lambda value: lambda x: jnp.full_like(x, value)
    return LogisticDequantizer(lambda x: (fill(shift)(x), fill(log_scale)(x)))


def test_variational_noise_begins_as_the_uniform_one():
    quantize = diffusion.Dequantization()
    x = jnp.zeros((500, 3)) + 2 * 17 / 255 - 1
    for flow in (logistic_noise(), LogisticDequantizer(PixelNetwork.init(KEY))):
        variational = VariationalDequantization(dequantizer=flow, scale=quantize)
        noisy, log_q = variational(KEY, x)
        np.testing.assert_allclose(log_q, 0.0, atol=1e-12)
        log_p = jnp.linspace(-3.0, 2.0, 500)
        np.testing.assert_allclose(
            variational.bits_per_dim(log_p, log_q, 3), quantize.bits_per_dim(log_p, 3), rtol=1e-12
        )
        np.testing.assert_array_equal(jnp.round((noisy + 1) * 255 / 2), 17)


@pytest.mark.parametrize(("shift", "log_scale"), [(0.0, 0.3), (0.8, -0.5), (-1.0, 0.0)])
def test_variational_noise_has_the_density_that_it_states(shift, log_scale):
    """E_q[1 / q] over the support is its length, 1."""
    u, log_q = logistic_noise(shift, log_scale).sample_and_log_prob(KEY, jnp.zeros((100_000, 1)))
    assert jnp.all((u > 0) & (u < 1))
    inside = (u[:, 0] > 0.02) & (u[:, 0] < 0.98)  # 1/q is bounded there
    ratio = np.asarray(jnp.where(inside, jnp.exp(-log_q), 0.0))
    assert abs(ratio.mean() - 0.96) < 5 * ratio.std() / np.sqrt(len(ratio))


@pytest.mark.slow
def test_variational_noise_is_learned_and_stays_a_bound():
    """Descent on the bound brings it nearer to the exact bits of a density that slopes within its bins."""
    quantize = diffusion.Dequantization(levels=4)
    density = lambda x: sum_features(logpdf(x, 0.1, 0.4))
    values = jnp.linspace(-1, 1, 4)
    x = jnp.tile(values, 500)[:, None]
    edges = quantize.spacing / 2
    norm = jax.scipy.stats.norm.cdf
    mass = norm(values + edges, 0.1, 0.4) - norm(values - edges, 0.1, 0.4)
    exact = float(-jnp.log2(mass).mean())

    def bits(network, key):
        variational = VariationalDequantization(
            dequantizer=LogisticDequantizer(network), scale=quantize
        )
        noisy, log_q = variational(key, x)
        return variational.bits_per_dim(density(noisy), log_q, 1)

    @jax.jit
    def descend(network, key):
        grad = jax.grad(lambda n: bits(n, key).mean())(network)
        return jax.tree.map(lambda p, g: p - 0.1 * g, network, grad)

    network = PixelNetwork.init(KEY)
    first = bits(network, KEY)
    for k in range(150):
        network = descend(network, jax.random.fold_in(KEY, k))
    last = bits(network, jax.random.fold_in(KEY, 999))
    assert first.mean() > exact + 0.1
    assert last.mean() < exact + 0.25 * (first.mean() - exact)
    assert last.mean() > exact - 4 * last.std() / np.sqrt(len(x))


# ---- bad input ----------------------------------------------------------------------------------


class Unstated(AffineProcess):
    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


def never(x, t):
    raise AssertionError("the model was traced before the input was checked")


OK = jnp.ones((2, 2))
CHAIN = [1e-3, 0.5, 1.0]


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [
        (dict(x=jnp.ones(())), ValueError, "batch"),
        (dict(x=jnp.ones(3)), ValueError, r"x\[None\]"),
        (dict(x=jnp.ones((0, 2))), ValueError, "empty"),
        (dict(x=jnp.ones((2, 2), int)), TypeError, "Dequantization"),
        (dict(times=CHAIN[::-1]), ValueError, "reverse"),
        (dict(times=[1e-3, 0.5, 0.5, 1.0]), ValueError, "increase"),
        (dict(times=[0.0, 0.5, 1.0]), ValueError, "t_min"),
        (dict(times=[1e-3, 0.5, 1.5]), ValueError, "t_max"),
        (dict(times=[1e-3, 0.5, 0.9]), ValueError, "end at t_max"),
        (dict(times=[1.0]), ValueError, "num_steps"),
        (dict(times=0.5), ValueError, "num_steps"),
        (dict(times=[1e-3, float("nan"), 1.0]), ValueError, "finite"),
        (dict(num_steps=0), ValueError, "num_steps"),
        (dict(key=KEY, num_probes=0), ValueError, "num_probes"),
        (dict(key=KEY, probe="rademaher"), ValueError, "'rademacher'"),
        (dict(solver="Tsit6"), ValueError, "'Tsit5'"),
        (dict(solver="Tsit5", rtol=-1.0), ValueError, "rtol"),
        (dict(solver="Tsit5", max_steps=0), ValueError, "max_steps"),
    ],
)
def test_log_prob_refuses_bad_input_before_the_model_is_traced(given, error, word):
    given = dict(x=OK) | given
    with pytest.raises(error, match=word):
        diffusion.log_prob(build("process", "vp"), never, given.pop("x"), **given)


@pytest.mark.parametrize(
    ("x", "times", "error", "word"),
    [
        (jnp.ones(3), CHAIN, ValueError, "batch"),
        (jnp.ones((2, 2), int), CHAIN, TypeError, "floating"),
        (OK, [1e-3, 0.5, 0.2], ValueError, "rise"),
        (OK, [1e-4, 0.5], ValueError, "t_min"),
        (OK, [0.5, 1.2], ValueError, "t_max"),
        (OK, [0.5], ValueError, "num_steps"),
    ],
)
def test_carry_refuses_bad_input(x, times, error, word):
    with pytest.raises(error, match=word):
        diffusion.integrate_flow(build("process", "vp"), never, x, times)


@pytest.mark.parametrize(
    ("process", "given", "error", "word"),
    [
        ("vp", dict(x=jnp.ones((2, 2), int)), TypeError, "floating"),
        ("vp", dict(times=[0.1, 1.0]), ValueError, "begin at t_min"),
        ("vp", dict(times=CHAIN, num_steps=3), ValueError, "one of `times` and"),
        ("vp", dict(num_draws=None), ValueError, "num_draws"),
        ("vp", dict(num_draws=0), ValueError, "num_draws"),
        ("vp", dict(sampling="logsnr"), ValueError, "'log_snr'"),
        (dict(name="edm", t_min=0.0), dict(), ValueError, "t_min"),
    ],
)
def test_elbo_refuses_bad_input(process, given, error, word):
    given = dict(x=OK, key=KEY) | given
    with pytest.raises(error, match=word):
        elbo(build("process", process), never, given.pop("x"), given.pop("key"), **given)


def test_numbers_that_are_not_counts_and_keys_that_are_not_keys():
    for value in (2.5, True, "3", -1):
        with pytest.raises(ValueError, match="num_steps"):
            whole(1, num_steps=value)
    with pytest.raises(TypeError, match="random key"):
        as_key("0")


def test_what_a_process_lacks_is_said():
    with pytest.raises(TypeError, match="Gaussian"):
        elbo(build("process", "poisson_flow"), never, OK, KEY)
    with pytest.raises(TypeError, match="noise_log_prob"):
        diffusion.log_prob(Unstated(), lambda x, t: x, OK)
    with pytest.raises(ValueError, match="shaped like x"):
        diffusion.log_prob(build("process", "vp"), lambda x, t: x[:, :1], OK)
    with pytest.raises(RuntimeError, match="max_steps"):
        diffusion.log_prob(
            build("process", "vp"), gaussian(dim=2).denoiser(build("process", "vp")), OK,
            solver="Tsit5", rtol=1e-10, atol=1e-10, max_steps=3,
        )  # fmt: skip


def test_times_rounded_to_float32_are_accepted():
    process = build("process", "edm")
    times = np.asarray(process.default_times(8)[::-1], np.float32)
    found = diffusion.log_prob(process, gaussian(dim=2).denoiser(process), X, times)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("name", registered("process"))
def test_natural_times_are_accepted(name):
    """The default grid of every process passes the checks of a likelihood."""
    process = build("process", name)
    assert len(check_rising(process, rising_times(process, 4))) == 5
    if isinstance(process, AffineProcess):
        assert on_host(process.sigma, process.default_times(4)[-1]) > 0
