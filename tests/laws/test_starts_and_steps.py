"""Where processes start, and the steps of chains of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.models.variance import LearnedVariance
from diffusion.numerics import on_host
from diffusion.testing import gaussian, gaussian_flow

KEY = jax.random.key(0)


def scales(process, t):
    return on_host(process.alpha, t), on_host(process.sigma, t)


def number(x):
    return float(np.ravel(x)[0])


# ---- heat ---------------------------------------------------------------------------------------


def cubed(t):
    return t**3


@pytest.mark.parametrize(
    ("fields", "t_min"),
    [
        ({}, 2.5e-5),
        ({"schedule": "power"}, np.sqrt(2.5e-5)),
        ({"schedule": "power", "power": 0.5}, 2.5e-5**2),
        ({"schedule": "exponential"}, np.log1p(2.5e-5 * np.expm1(8.0)) / 8),
        ({"schedule": cubed}, 2.5e-5 ** (1 / 3)),
        ({"sigma_min": 0.01, "sigma_max": 20.0}, 5e-4),
    ],
)
def test_heat_starts_at_sigma_min_on_every_schedule(fields, t_min):
    process = build("process", {"name": "heat"} | fields)
    np.testing.assert_allclose(process.t_min, t_min, rtol=1e-12)
    sigma = fields.get("sigma_min", 0.002)
    np.testing.assert_allclose(on_host(process.sigma, process.t_min), sigma, rtol=1e-9)


def test_heat_keeps_what_is_said():
    assert build("process", "heat").t_min == 2.5e-5  # to the last bit: that of the linear schedule
    assert build("process", dict(name="heat", schedule="power", t_min=2.5e-5)).t_min == 2.5e-5
    with pytest.raises(ValueError, match="sigma_min"):
        build("process", dict(name="heat", sigma_min=100.0))


def test_twenty_steps_of_heat_lose_nothing_to_a_far_start():
    """Error of DDIM on a Gaussian: 20 steps down to sigma = 0.002 do as well as those of the linear schedule."""

    def error(process):
        times = process.default_times(20)
        x = np.hypot(0.5, 80.0) * jnp.ones((1, 1))
        denoise = gaussian(0.0, 0.5).denoiser(process)
        end = diffusion.sample("ddim", process, denoise, None, x, times, denoise_last=False)
        exact = gaussian_flow(process, x, process.t_max, process.t_min, 0.0, 0.5)
        return abs(number(end - exact))

    linear = error(build("process", "heat"))
    power = build("process", dict(name="heat", schedule="power"))
    np.testing.assert_allclose(error(power), linear, rtol=1e-6)
    before = build("process", dict(name="heat", schedule="power", t_min=2.5e-5))
    assert error(before) > 1.5 * linear


# ---- chains -------------------------------------------------------------------------------------


def chain(steps):
    return build("process", dict(name="ddpm", num_chain_steps=steps, beta_last=20 / steps))


def test_a_chain_starts_at_its_first_point():
    assert build("process", "ddpm").t_min == 1e-3
    short = chain(100)
    assert short.t_min == 0.01
    grid = build("grid", dict(name="chain", num_chain_steps=100))
    np.testing.assert_allclose(grid(short, 99)[-3:], [0.03, 0.02, 0.01], rtol=1e-15)
    for wrapper in ("shifted", "zero_terminal_snr"):
        wrapped = build("process", dict(name=wrapper, process=short))
        assert wrapped.t_min == 0.01
        assert wrapped.chain_step == 0.01


@pytest.mark.parametrize("steps", [100, 250])
def test_what_belongs_to_a_step_follows_the_chain(steps):
    """The weight elbo, previous_mean and the learned variance, from the betas of the chain itself."""
    process, k = chain(steps), 40
    betas = process.betas()
    bar = lambda n: np.prod(1 - betas[:n])
    c = process.coefficients(k / steps, jnp.ones((1, 1)))
    beta, before2, bbar2 = betas[k - 1], 1 - bar(k - 1), 1 - bar(k)
    posterior = beta * before2 / bbar2
    noise_out = build("prediction", "noise").recover(c)[1]
    weight = build("weight", "elbo")(c, noise_out)
    np.testing.assert_allclose(
        number(weight), beta**2 / (2 * posterior * (1 - beta) * bbar2), rtol=1e-7
    )
    skip, out = build("prediction", "previous_mean").recover(c)
    pull = np.sqrt(bar(k - 1)) * beta / bbar2
    keep = np.sqrt(1 - beta) * before2 / bbar2
    np.testing.assert_allclose(
        [1 / number(out), -number(skip) / number(out)], [pull, keep], rtol=1e-7
    )
    learned = LearnedVariance()
    np.testing.assert_allclose(learned.num_steps(process), steps - 1, rtol=1e-12)
    given = LearnedVariance(step=1 / steps)
    share, error = jnp.full((1, 1), 0.3), jnp.full((1, 1), 0.2)
    same = [v.divergence(c, share, error) for v in (learned, given)]
    np.testing.assert_array_equal(*same)


def test_a_step_that_is_said_counts():
    c = chain(100).coefficients(0.4, jnp.ones((1, 1)))
    own, said = (
        build("weight", dict(name="elbo", step=s))(c, jnp.ones((1, 1))) for s in (None, 1e-3)
    )
    assert abs(number(own / said) - 10) < 1
    c = build("process", "vp").coefficients(0.4, jnp.ones((1, 1)))  # no chain: 0.001 as ever
    own, said = (
        build("weight", dict(name="elbo", step=s))(c, jnp.ones((1, 1))) for s in (None, 1e-3)
    )
    np.testing.assert_array_equal(own, said)


# ---- more fresh noise than the posterior has ------------------------------------------------------


def bound(process, times):
    """The largest eta for which no step makes more than all of its noise fresh."""
    alpha, sigma = scales(process, times)
    shared = alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])
    return 1 / np.sqrt((1 - shared**2).max())


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_more_fresh_noise_keeps_the_marginals(share):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - spread^2) z_t + spread z for every spread up to sigma_s (kexue.fm 9181)."""
    process = build("process", "vp")
    times = process.default_times(12)
    eta = 1 + share * (bound(process, times) - 1) * (1 - 1e-12)
    row = build("sampler", dict(name="ancestral", eta=eta)).prepare(process, times)
    alpha, sigma = scales(process, times)
    kept = row.keep * sigma[:-1]  # of z_t, in x_s
    np.testing.assert_allclose(np.hypot(kept, row.spread), sigma[1:], rtol=1e-12)
    np.testing.assert_allclose(row.keep * alpha[:-1] + row.pull, alpha[1:], rtol=1e-12)
    assert row.spread.max() <= sigma.max()
    if share == 1:
        assert abs(row.keep).min() < 1e-6  # of one step all noise is fresh


def test_a_point_is_reached_with_all_noise_fresh():
    """Samples of a point at t_min spread by sigma, whatever eta: moments of 20,000 draws."""
    process, n = build("process", "vp"), 20_000
    times = process.default_times(12)
    eta = bound(process, times) * (1 - 1e-12)
    x_T = process.sample_prior(KEY, (n, 1))
    point = lambda x, t: jnp.full_like(x, 0.7)
    alpha, sigma = scales(process, times[-1])
    start = number(scales(process, times[0])[0]) * 0.7
    found = diffusion.sample(
        dict(name="ancestral", eta=eta), process, point, 1, x_T + start, times, denoise_last=False
    )
    assert abs(found.mean() - alpha * 0.7) < 5 * sigma / np.sqrt(n)
    assert abs(found.std() / sigma - 1) < 5 / np.sqrt(2 * n)


def test_beyond_the_bound_the_bound_is_said():
    process = build("process", "vp")
    times = process.default_times(12)
    most = bound(process, times)
    with pytest.raises(ValueError, match=f"at most {np.floor(1e4 * most) / 1e4:g} on this grid"):
        build("sampler", dict(name="ancestral", eta=most * 1.001)).prepare(process, times)
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="eta"):
            build("sampler", dict(name="ancestral", eta=wrong))
    to_data = np.array([0.4, 0.39, 0.0])  # a step that ends without noise bounds nothing
    row = build("sampler", dict(name="ancestral", eta=2.0)).prepare(process, to_data)
    assert row.spread[-1] == 0
    assert np.isfinite(row.keep).all()
