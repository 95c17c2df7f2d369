"""Laws of every registered process, and the closed forms of the built-in ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import AffineProcess, GaussianProcess, LinearSDE, build, check_process, registered
from diffusion.numerics import on_host

NAMES = registered("process")


SLOW = {
    "proportional_beta",
    "ddpm",
    "learned",
    "linear_sde",
    "table",
}  # their schedules are computed
SOME_SLOW = [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME_SLOW)
def test_every_registered_process_obeys_its_laws(name):
    report = check_process(build("process", name))
    assert report.holds, f"\n{report}"


def table(process, times):
    return on_host(process.alpha, np.array(times)), on_host(process.sigma, np.array(times))


VP = np.array([  # t, alpha, sigma, log(alpha / sigma), beta, sigma and g^2 of sub-VP; in 50 digits
    [1e-5, 0.9999994995, 0.001000497126, 6.907257776, 0.100199, 1.000994499e-6, 2.005971952e-7],
    [1e-3, 0.9999450265, 0.01048541634, 4.557714933, 0.1199, 1.099439557e-4, 2.636311127e-5],
    [0.1, 0.9467217988, 0.3220525355, 1.078290593, 2.09, 0.1037178356, 0.4110576091],
    [0.25, 0.7236571851, 0.6901596036, 0.04739489854, 5.075, 0.4763202785, 3.683229713],
    [0.5, 0.2811828808, 0.9596542021, -1.227567734, 10.05, 0.9209361875, 9.987176581],
    [0.75, 0.05866350301, 0.9982778137, -2.834213829, 15.025, 0.9965585934, 15.02482205],
    [1.0, 0.006571586495, 0.9999784069, -5.024978407, 20.0, 0.9999568143, 20.0],
]).T  # fmt: skip
DIGITS = dict(rtol=6e-10)  # ten digits are given


def test_vp_closed_form():
    """alpha and sigma from exp(-B/2), B = 0.1 t + 9.95 t^2, evaluated independently."""
    process = build("process", "vp")
    t, alpha, sigma, half_log_snr, beta, _, _ = VP
    np.testing.assert_allclose(table(process, t), [alpha, sigma], **DIGITS)
    np.testing.assert_allclose(on_host(process.log_snr, t) / 2, half_log_snr, **DIGITS)
    np.testing.assert_allclose(on_host(process.g, t) ** 2, beta, rtol=1e-13)
    np.testing.assert_allclose(on_host(process.f, t), -beta / 2, rtol=1e-13)
    np.testing.assert_allclose(on_host(process.alpha, 1.0), np.exp(-5.025), rtol=1e-13)
    np.testing.assert_allclose(
        on_host(process.time_of_log_snr, on_host(process.log_snr, t)), t, rtol=1e-10
    )
    ratio = np.divide(*table(process, [1e-5, 1e-3, 1.0])[::-1])  # EDM's sigma
    np.testing.assert_allclose(ratio, [0.0010004976, 0.010485993, 152.16697], rtol=5e-8)


def test_sub_vp_closed_form():
    process = build("process", "sub_vp")
    t, alpha, *_, sigma, g2 = VP
    np.testing.assert_allclose(table(process, t), [alpha, sigma], **DIGITS)
    # the last entry is printed as 20.0: beta (1 - alpha^4) is 20 to 2e-9
    np.testing.assert_allclose(on_host(process.g, t) ** 2, g2, rtol=2e-9)


def test_ve_closed_form():
    """The marginal is the definition: sigma(0) = 0.01, not the 0 of an SDE that starts from clean data."""
    process, t = build("process", "ve"), np.array([0, 0.25, 0.5, 0.75, 1])
    sigma = table(process, t)[1]
    np.testing.assert_allclose(sigma, 0.01 * 5000.0**t, rtol=1e-14)
    np.testing.assert_allclose(
        sigma, [0.01, 0.08408964153, 0.7071067812, 5.946035575, 50], **DIGITS
    )
    np.testing.assert_allclose(on_host(process.g, t), sigma * 4.12727348, rtol=2e-9)
    early = on_host(process.sigma, 1e-5)
    np.testing.assert_allclose(early, 1.000e-2, rtol=1e-4)
    np.testing.assert_allclose(
        np.sqrt(early**2 - 1e-4), 1.305e-4, rtol=5e-4
    )  # four digits are given


def test_straight_and_trigonometric_closed_forms():
    t = np.array([0.1, 0.5, 0.8])
    edm, line, circle = (build("process", n) for n in ("edm", "rectified_flow", "trigonometric"))
    np.testing.assert_allclose(table(edm, t), [np.ones(3), t], rtol=1e-15)
    np.testing.assert_allclose(on_host(edm.g, t) ** 2, 2 * t, rtol=1e-14)
    np.testing.assert_allclose(table(line, t), [1 - t, t], rtol=1e-15)
    log_snr = on_host(line.log_snr, t)
    np.testing.assert_allclose(log_snr, 2 * np.log((1 - t) / t), rtol=1e-13, atol=1e-15)
    x_0, z = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 3.0]])
    np.testing.assert_allclose(line.velocity(x_0, z, 0.3), z - x_0, rtol=1e-14)
    expected = [np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)]
    np.testing.assert_allclose(table(circle, t), expected, rtol=1e-14)


def test_cosine_closed_form():
    """alpha^2, and the betas of its chain of 1,000 steps with the last one cut at 0.999."""
    process = build("process", "cosine")
    alpha = table(process, [0.25, 0.5, 0.75, 0.99])[0]
    expected = [0.8470121613, 0.4938435904, 0.1442721024, 2.428572279e-4]
    np.testing.assert_allclose(alpha**2, expected, rtol=1e-9)
    alpha_bar = table(process, np.arange(1001) / 1000)[0] ** 2
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    expected = [4.1284224822e-5, 4.6141752737e-5, 0.7499993929, 1.0]
    np.testing.assert_allclose(betas[[0, 1, -2, -1]], expected, rtol=1e-9)
    assert np.sum(betas > 0.999) == 1
    chain = np.cumprod(1 - np.minimum(betas, 0.999))
    np.testing.assert_allclose(chain[[499, 999]], [0.4938435904, 2.428766907e-9], rtol=1e-9)


def test_ddpm_is_exact_at_its_grid_points():
    k = np.arange(1, 1001)
    alpha = table(build("process", "ddpm"), k / 1000)[0]
    np.testing.assert_allclose(alpha**2, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-11)


def test_article_chain_and_its_limit():
    """alpha_k = sqrt(1 - 0.02 k/T): the sum of squares identity, log abar_T, and exp(-5 t^2) nearby."""
    k = np.arange(1, 1001)
    alpha = table(build("process", "proportional_beta"), k / 1000)[0]
    np.testing.assert_allclose(np.log(alpha[-1]), -5.0387, atol=5e-5)
    limit = table(build("process", "proportional_beta_limit"), k / 1000)[0]
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
    t = process.default_times(16)
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


@pytest.mark.slow
def test_a_definition_of_ones_own():
    class Accelerating(LinearSDE):
        def drift(self, t):
            return -5 * t

        def diffusion(self, t):
            return jnp.sqrt(10 * t + 0.1)

    process = Accelerating()
    np.testing.assert_allclose(process.alpha(1.0), np.exp(-2.5), rtol=1e-13)
    assert isinstance(process, GaussianProcess)
    assert check_process(process).holds
