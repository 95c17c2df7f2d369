"""Laws of every registered process, and the closed forms of the built-in ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import AffineProcess, GaussianProcess, LinearSDE, build, check_process, registered
from diffusion.numerics import on_host

NAMES = registered("process")


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_process_obeys_its_laws(name):
    report = check_process(build("process", name))
    assert report.holds, f"\n{report}"


def table(process, times):
    return on_host(process.alpha, np.array(times)), on_host(process.sigma, np.array(times))


def test_vp_closed_form():
    """alpha and sigma from exp(-B/2), B = 0.1 t + 9.95 t^2, evaluated independently in 50 digits."""
    alpha, sigma = table(build("process", "vp"), [1e-5, 1e-3, 0.1, 0.5, 1.0])
    expected_alpha = [0.9999994995, 0.9999450265, 0.9467217988, 0.2811828808, 0.006571586495]
    expected_sigma = [0.001000497126, 0.01048541634, 0.3220525355, 0.9596542021, 0.9999784069]
    np.testing.assert_allclose(alpha, expected_alpha, rtol=5e-10)  # ten digits are given
    np.testing.assert_allclose(sigma, expected_sigma, rtol=5e-10)


def test_sub_vp_closed_form():
    process = build("process", "sub_vp")
    np.testing.assert_allclose(
        table(process, [1e-5, 0.25, 0.75])[1],
        [1.000994499e-6, 0.4763202785, 0.9965585934],
        rtol=1e-9,
    )
    g = on_host(process.g, np.array([1e-5, 0.25, 0.75]))
    np.testing.assert_allclose(g**2, [2.005971952e-7, 3.683229713, 15.02482205], rtol=1e-9)


def test_ve_closed_form():
    sigma = table(build("process", "ve"), [0, 0.25, 0.5, 0.75, 1])[1]
    np.testing.assert_allclose(
        sigma, 0.01 * 5000.0 ** np.array([0, 0.25, 0.5, 0.75, 1]), rtol=1e-14
    )


def test_cosine_closed_form():
    alpha = table(build("process", "cosine"), [0.25, 0.5, 0.75, 0.99])[0]
    expected = [0.8470121613, 0.4938435904, 0.1442721024, 2.428572279e-4]
    np.testing.assert_allclose(alpha**2, expected, rtol=1e-9)


def test_ddpm_is_exact_at_its_grid_points():
    k = np.arange(1, 1001)
    alpha = table(build("process", "ddpm"), k / 1000)[0]
    np.testing.assert_allclose(alpha**2, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-11)


def test_article_chain_and_its_limit():
    """alpha_k = sqrt(1 - 0.02 k/T): the sum of squares identity, log abar_T, and exp(-5 t^2) nearby."""
    k = np.arange(1, 1001)
    alpha = table(build("process", "article"), k / 1000)[0]
    np.testing.assert_allclose(np.log(alpha[-1]), -5.0387, atol=5e-5)
    limit = table(build("process", "article_limit"), k / 1000)[0]
    assert abs(np.max(np.abs(np.log(alpha) - np.log(limit))) - 0.039) < 5e-4
    step = np.sqrt(1 - 0.02 * k / 1000)
    after = np.cumprod(step[::-1])[::-1]  # alpha_k ... alpha_T
    squares = after[0] ** 2 + np.sum(np.append(after[1:], 1.0) ** 2 * (1 - step**2))
    np.testing.assert_allclose(squares, 1, rtol=1e-13)


def test_linear_sde_reproduces_vp():
    t = np.linspace(1e-3, 1, 7)
    given, vp = build("process", "linear_sde"), build("process", "vp")
    for a, b in zip(table(given, t), table(vp, t), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    single = jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(given.sigma(single), vp.sigma(single), rtol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_time_of_log_snr_inverts(name):
    process = build("process", name)
    if not isinstance(process, AffineProcess):
        return
    t = process.natural_times(16)
    back = on_host(process.time_of_log_snr, on_host(process.log_snr, t))
    np.testing.assert_allclose(back, t, rtol=1e-8, atol=1e-12)  # flat ends cost digits


@pytest.mark.parametrize("name", NAMES)
def test_accurate_near_the_data(name):
    """Relative accuracy of sigma in float32 down to t = 1e-5 (where the definition reaches it)."""
    process = build("process", name)
    if not isinstance(process, AffineProcess):
        return
    for t in (np.float32(1e-5), np.float32(1e-4), np.float32(1e-3)):
        exact = float(process.sigma(jnp.asarray(t, jnp.float64)))
        single = float(process.sigma(jnp.asarray(t, jnp.float32)))
        assert abs(single / exact - 1) < 2e-6, (t, single, exact)


def test_student_noise_has_its_radial_law():
    """r^2 / (1 + r^2) of one extra dimension follows Beta(d/2, 1/2), whose mean is d / (d + 1)."""
    process, d, n = build("process", "poisson_flow"), 5, 40_000
    z = process.sample_noise(jax.random.key(0), (n, d))
    share = np.asarray((z**2).sum(1) / (1 + (z**2).sum(1)))
    mean = d / (d + 1)
    variance = (d / 2) * 0.5 / ((d + 1) / 2) ** 2 / ((d + 1) / 2 + 1)
    assert abs(share.mean() - mean) < 4 * np.sqrt(variance / n)  # four standard errors


def test_student_density_integrates_to_one():
    z = jnp.linspace(-4000, 4000, 800_001)[:, None]
    density = jnp.exp(build("process", "poisson_flow").noise_log_prob(z))
    np.testing.assert_allclose(jnp.trapezoid(density, z[:, 0]), 1 - 2 / (np.pi * 4000), rtol=1e-5)


def test_a_process_may_be_learned():
    """A process built from traced values: the gradient of a loss with respect to its fields."""

    def log_alpha_T(beta_max):
        return jnp.log(build("process", dict(name="vp", beta_max=beta_max)).alpha(1.0))

    np.testing.assert_allclose(jax.grad(log_alpha_T)(20.0), -0.25, rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        (dict(name="vp", beta_min=-1.0), "beta_min"),
        (dict(name="vp", t_min=2.0), "t_min"),
        (dict(name="ve", sigma_max=1e-3), "sigma_max"),
        (dict(name="poisson_flow", extra_dims=0), "extra_dims"),
        (dict(name="ddpm", beta_last=1.5), "beta"),
    ],
)
def test_impossible_values_are_refused(spec, word):
    with pytest.raises(ValueError, match=word):
        build("process", spec)


def test_a_definition_of_ones_own():
    class Accelerating(LinearSDE):
        def drift(self, t):
            return -t

        def diffusion(self, t):
            return jnp.sqrt(2 * t + 0.1)

    process = Accelerating()
    np.testing.assert_allclose(process.alpha(1.0), np.exp(-0.5), rtol=1e-13)
    assert isinstance(process, GaussianProcess)
    assert check_process(process).holds
