"""Nonlinear SDEs: the law of the simulated demolition, and what the regression target expects to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.processes import NonlinearSDE
from diffusion.processes.linear_sde import linear_beta_diffusion, linear_beta_drift

KEY = jax.random.key(0)


def linear_drift(x, t):
    """The drift of `vp`."""
    return linear_beta_drift(t) * x


def linear(num_demolition_steps=50, **fields):
    """The SDE of `vp` for a plain `Process`."""
    steps = dict(num_demolition_steps=num_demolition_steps)
    return build("process", dict(name="nonlinear_sde", drift_fn=linear_drift, **steps, **fields))


def chain_moments(t, num_steps, mean=0.3, variance=0.25):
    """Mean and variance of the chain under the linear drift, by recursion in float64."""
    pull = lambda t: -0.5 * (0.1 + 19.9 * t)
    back = np.arange(num_steps, -1, -1) / num_steps
    times = np.maximum(t - back, 0.0)
    half = np.diff(times) / 2
    before, after = np.append(0, half), np.append(half, 0)
    noise = (0.1 + 19.9 * (times + (after - before) / 2)) * (before + after)
    variance += noise[0]
    for start, end, extra in zip(times[:-1], times[1:], noise[1:], strict=True):
        h, first, middle = (
            end - start,
            pull(start),
            pull((start + end) / 2),
        )
        gain = 1 + h * middle * (1 + h / 2 * first)
        mean, variance = gain * mean, gain**2 * variance + extra
    return mean, variance


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.013, 0.3, 0.57, 1.0])
def test_moments_agree_with_the_linear_sde(t):
    """Simulated moments equal those of the chain, which are second order in the step from the SDE's."""
    n = 40_000
    process, exact = linear(), build("process", "linear_sde")
    x_0 = 0.3 + 0.5 * jax.random.normal(KEY, (n, 1))
    x_t = process.interpolate(x_0, process.sample_noise(jax.random.key(1), (n, 1)), t)
    mean, variance = chain_moments(t, 50)
    assert abs(x_t.mean() - mean) < 4 * np.sqrt(variance / n)  # four standard errors
    assert abs(x_t.var() / variance - 1) < 4 * np.sqrt(2 / n)
    alpha, sigma = float(exact.alpha(t)), float(exact.sigma(t))
    truth = alpha**2 / 4 + sigma**2
    errors = [abs(chain_moments(t, k)[1] - truth) for k in (200, 400)]
    assert errors[1] < errors[0] / 3.5 + 1e-12  # second order divides by 4


@pytest.mark.parametrize("t", [0.013, 0.3, 1.0])
def test_the_target_expects_to_the_velocity_of_the_probability_flow(t):
    """Least squares on (1, x_t) finds f x + g^2/2 (x - m) / V, within four standard errors."""
    n, process = 40_000, linear()
    x_0 = 0.3 + 0.5 * jax.random.normal(KEY, (n, 1))
    z = process.sample_noise(jax.random.key(1), (n, 1))
    x, v = (np.asarray(fn(x_0, z, t))[:, 0] for fn in (process.interpolate, process.velocity))
    mean, variance = chain_moments(t, 50)
    g2 = 0.1 + 19.9 * t
    slope, intercept = -g2 / 2 + g2 / 2 / variance, -g2 / 2 * mean / variance
    features = np.stack([np.ones(n), x], axis=1)
    found, *_ = np.linalg.lstsq(features, v, rcond=None)
    residual = np.std(v - features @ found)
    error = residual * np.sqrt(np.diag(np.linalg.inv(features.T @ features)))
    assert np.all(np.abs(found - [intercept, slope]) < 4 * error)
    span = min(t, 1 / 50) / 2  # of the last noise, whose share in the target is g^2 z / (2 s)
    share = g2**2 / (4 * (0.1 + 19.9 * (t - span / 2)) * span)
    assert residual**2 < share * (1 + 4 * np.sqrt(2 / n))


@pytest.mark.slow
def test_the_last_noise_expects_to_the_score_for_a_nonlinear_drift():
    """E[(velocity - drift) phi(x_t)] = g^2/2 E[phi'(x_t)] for any phi, by parts: exact for the chain."""
    n, process = 100_000, build("process", "nonlinear_sde")
    x_0 = 0.6 * jnp.sign(jax.random.normal(KEY, (n, 1)))
    z = process.sample_noise(jax.random.key(1), (n, 1))
    for t in (0.05, 0.5):
        x_t = process.interpolate(x_0, z, t)
        excess = process.velocity(x_0, z, t) - process.drift(x_t, jnp.asarray(t))
        g2 = process.diffusion(jnp.asarray(t)) ** 2
        for phi in (jnp.sin, jnp.tanh, lambda x: x):
            values, slopes = jax.jvp(phi, (x_t,), (jnp.ones_like(x_t),))
            difference = np.asarray(excess * values - g2 / 2 * slopes)
            assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)


@pytest.mark.slow
def test_a_regressed_field_carries_the_prior_to_the_data():
    """Five features of x per time, fitted by least squares to the targets, are a generative model."""
    n, process = 8_000, build("process", "nonlinear_sde")
    times = process.default_times(48)

    def features(x):
        bent = x / jnp.sqrt(1 + x**2)
        return jnp.stack([jnp.ones_like(x), x, bent, bent**2, bent**3], axis=-1)

    @jax.jit
    def fit(key, t):
        key_data, key_z = jax.random.split(key)
        x_0 = 0.5 + 0.3 * jax.random.normal(key_data, (n, 1))
        z = process.sample_noise(key_z, (n, 1))
        x, v = process.interpolate(x_0, z, t)[:, 0], process.velocity(x_0, z, t)[:, 0]
        return jnp.linalg.lstsq(features(x), v)[0]

    keys = jax.random.split(KEY, len(times))
    weights = jnp.stack([fit(k, t) for k, t in zip(keys, times, strict=True)])

    def model(x, t):
        w = jnp.stack([jnp.interp(t, times[::-1], weights[::-1, j]) for j in range(5)])
        return (features(x[:, 0]) @ w)[:, None]

    x_T = process.sample_prior(jax.random.key(1), (n, 1))
    x = diffusion.sample(build("sampler", "heun"), process, model, None, x_T, times)
    # the data at t_min has the deviation 0.30. The splitting's error of second order adds 0.017 at 50
    # steps, measured as a quarter of that at 25; the rest is the regression's own error
    assert abs(x.mean() - 0.5) < 0.03
    assert abs(x.std() - 0.317) < 0.03


def test_the_labels_of_a_row_do_not_depend_on_the_batch():
    process = build("process", "nonlinear_sde")
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(8))
    many, few = process.sample_noise(keys, (8, 2, 3)), process.sample_noise(keys[:3], (3, 2, 3))
    assert many.shape == (8, 51, 2, 3)
    np.testing.assert_array_equal(many[:3], few)
    prior = process.sample_prior(keys, (8, 2, 3)), process.sample_prior(keys[:3], (3, 2, 3))
    np.testing.assert_allclose(prior[0][:3], prior[1], rtol=1e-12)


@pytest.mark.slow
def test_paths_are_continuous_where_a_step_is_added():
    process, x_0 = linear(10), jnp.array([[0.4], [-1.0]])
    z = process.sample_noise(KEY, (2, 1))
    # the noise of a new step of length 1e-12 has the deviation 1e-6 / sqrt(2) sqrt(beta)
    before, after = (process.interpolate(x_0, z, 0.3 + e) for e in (-1e-12, 1e-12))
    np.testing.assert_allclose(before, after, atol=2e-5)
    by_row = process.interpolate(x_0, z, jnp.array([0.2, 0.77]))
    for i, t in enumerate((0.2, 0.77)):
        np.testing.assert_allclose(by_row[i], process.interpolate(x_0, z, t)[i], rtol=1e-12)
    slope = jax.jvp(lambda t: process.interpolate(x_0, z, t), (0.25,), (1.0,))[1]
    assert jnp.all(jnp.isfinite(slope))


def test_a_drift_of_ones_own_with_a_traced_field():
    from dataclasses import dataclass
    from typing import Any

    @dataclass(frozen=True, kw_only=True)
    class Pull(NonlinearSDE):
        strength: Any = 1.0
        t_max: float = 2.0

        def drift(self, x, t):
            return -self.strength * jnp.sinh(x)

        def diffusion(self, t):
            return 1.0 + 0 * t

    x_0, z = jnp.full((4, 2), 0.5), Pull().sample_noise(KEY, (4, 2))
    value = lambda s: Pull(strength=s).interpolate(x_0, z, 1.5).sum()
    slope = (
        value(1.001) - value(0.999)
    ) / 0.002  # central difference, error 1e-6 of the third derivative
    np.testing.assert_allclose(jax.grad(value)(1.0), slope, rtol=1e-4)


def test_prior():
    process = linear(prior_std=1.0)
    x = jnp.array([[0.3, -1.0]])
    np.testing.assert_allclose(
        process.prior_log_prob(x), jax.scipy.stats.norm.logpdf(x).sum(-1), rtol=1e-12
    )
    drawn = process.sample_prior(KEY, (10_000, 1))
    assert abs(drawn.std() - 1) < 4 / np.sqrt(20_000)
    with pytest.raises(TypeError, match="prior_std"):
        build("process", "nonlinear_sde").prior_log_prob(x)


def test_default_ends_in_its_stationary_law():
    """exp(-2 sqrt(1 + x^2)): its second moment by quadrature, the prior's within errors and step."""
    n, process = 40_000, build("process", "nonlinear_sde")
    x = np.linspace(-30, 30, 60_001)
    density = np.exp(-2 * np.sqrt(1 + x**2))
    second, fourth = (np.sum(density * x**k) / np.sum(density) for k in (2, 4))
    np.testing.assert_allclose(np.sqrt(second), 0.95, atol=5e-3)
    found = (np.asarray(process.sample_prior(KEY, (n, 1))) ** 2).mean()
    # the slowest mode has decayed by exp(-5), and the steps of h beta = 0.4 are off by their square / 4
    assert abs(found - second) < 4 * np.sqrt((fourth - second**2) / n) + 0.05 * second


def test_functions_by_name_and_bad_input():
    name = "diffusion.processes.linear_sde:linear_beta_diffusion"
    process = build("process", dict(name="nonlinear_sde", diffusion_fn=name))
    t = jnp.linspace(0.1, 1, 4)
    np.testing.assert_array_equal(process.diffusion(t), linear_beta_diffusion(t))
    assert hash(process) == hash(build("process", dict(name="nonlinear_sde", diffusion_fn=name)))
    with pytest.raises(ValueError, match="`z`"):
        process.interpolate(jnp.ones((4, 2)), jnp.ones((4, 7, 3)), 0.5)
    with pytest.raises(ValueError, match="num_demolition_steps"):
        build("process", dict(name="nonlinear_sde", num_demolition_steps=0))
    with pytest.raises(ValueError, match="prior_std"):
        build("process", dict(name="nonlinear_sde", prior_std=-1.0))
    with pytest.raises(TypeError, match="AffineProcess"):
        diffusion.sample(
            build("sampler", "ddim"), process, lambda x, t: x, None, jnp.ones((2, 2)), [1.0, 0.5]
        )
