"""A schedule in training: gradients through the ordinary loss, and the variance that they lower."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from schedule_bound import terms

import diffusion
from diffusion import build
from diffusion.processes import LearnedSchedule, init_schedule
from diffusion.testing import gaussian

KEY = jax.random.key(0)


@jax.jit
def variance(params):
    """Of an estimate from one example at one uniform time: the error is normal, its square chi-squared."""
    mean, dt = terms(LearnedSchedule(params=params), 0.5)
    return jnp.sum(dt * 3 * mean**2) - jnp.sum(dt * mean) ** 2


class Ideal:
    """E[x_0 | x_t] of N(0, 1/4), as a network that sees the log-SNR of a variance-preserving process."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.zeros(())

    def apply(self, params, x, log_snr, cond=None, key=None):
        alpha2, sigma2 = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
        return (0.25 * jnp.sqrt(alpha2) / (0.25 * alpha2 + sigma2))[:, None] * x


def estimates(params, key, num=512, **fields):
    """The terms of the likelihood bound, one per example, under the schedule of these parameters."""
    process = LearnedSchedule(params=params, **fields)
    time = build("time", "uniform")
    parts = build("prediction", "data"), build("weight", "likelihood"), time
    loss = diffusion.regression_loss(Ideal(), process, *parts, batch_size=num)
    key_data, key = jax.random.split(key)
    batch = dict(data=0.5 * jax.random.normal(key_data, (num, 1)), row=jnp.arange(num))
    return loss(None, key, batch)[0]


@pytest.mark.slow
def test_gradients_reach_a_schedule_and_its_ends():
    """They flow through the ordinary loss; the schedule's share vanishes on average, the ends' does not."""
    params = init_schedule(KEY, num_hidden=8, ends=(6.0, -5.0))
    keys = jax.random.split(jax.random.key(1), 64)
    slope = jax.jit(jax.vmap(jax.grad(lambda p, k: estimates(p, k).mean()), (None, 0)))(
        params, keys
    )
    assert all(np.any(np.asarray(part) != 0) for part in slope)
    for part in slope:
        mean, error = np.mean(part, axis=0), np.std(part, axis=0) / np.sqrt(64)
        if part is not slope.ends:
            assert np.all(np.abs(mean) < 5 * error + 1e-12)  # five standard errors, 25 numbers
    # d/d log_snr_max of 1/2 log((1 + s^2 SNR_0) / (1 + s^2 SNR_1)) is s^2 SNR_0 / (1 + s^2 SNR_0) / 2
    snr = 0.25 * np.exp(6.0)
    found, error = slope.ends[:, 0].mean(), slope.ends[:, 0].std() / 8
    assert abs(found - snr / (1 + snr) / 2) < 4 * error


@pytest.mark.slow
def test_training_a_schedule_lowers_the_variance_of_the_loss():
    """Descent on the square of the estimates, whose mean is fixed, is descent on their variance."""
    params, optimizer = init_schedule(KEY, num_hidden=16), optax.adam(0.1)
    state = optimizer.init(params)
    before = variance(params)

    @jax.jit
    def step(params, state, key):
        slope = jax.grad(lambda p: (estimates(p, key) ** 2).mean())(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state

    for k in range(40):
        params, state = step(params, state, jax.random.fold_in(KEY, k))
    least = 2 * 5.95601463**2  # where every time has the same mean; the chi-squared remains
    assert variance(params) - least < 0.5 * (before - least)
    after = estimates(params, jax.random.key(9), 4096)
    assert abs(after.mean() - 5.95601463) < 4 * np.sqrt(variance(params)) / 64
    process = LearnedSchedule(params=params)  # and what was learned can be sampled from
    times = process.default_times(20)
    x_T = process.sample_prior(KEY, (2000, 1))
    denoise = gaussian(mean=0.0).denoiser(process)
    x = diffusion.sample(build("sampler", "dpm_solver_pp_2m"), process, denoise, None, x_T, times)
    assert abs(x.std() / 0.5 - 1) < 4 / np.sqrt(4000) + 0.02  # 20 steps
