"""Laws of paths and densities, for every registered process and for definitions of one's own."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build, registered
from diffusion.processes import AffineProcess, Characteristics, Interpolant, LinearPath, Radial
from diffusion.processes.cosine_basis import dct_matrix, from_frequencies, to_frequencies
from diffusion.processes.radial_law import LAWS as RADIAL_LAWS
from diffusion.testing import affine_laws, gaussian_laws, laws
from diffusion.testing.mass_laws import masses
from diffusion.testing.path_laws import check_paths, densities, paths
from diffusion.testing.report import findings_of

KEY = jax.random.key(0)
COVERED = "path_laws" in laws.MODULES  # then test_processes holds every process to them already
PRIORS = {
    "normal": dict(name="normal", mean=0.3, std=0.7),
    "uniform": dict(name="uniform", low=0.0, high=2.0),
    "laplace": "laplace",
    "logistic": "logistic",
    "mixture": dict(name="mixture", means=[-1.0, 2.0], weights=[0.2, 0.8]),
    "data": dict(name="data", points=[-1.0, 0.5, 2.0], bandwidth=0.3),
}


def assert_laws_hold(process, laws=None):
    findings = findings_by(process, laws) if laws else check_paths(process)
    assert all(f.holds for f in findings), "\n".join(map(str, findings))
    return {f.law for f in findings}


def findings_by(process, laws):
    return [finding for law in laws for finding in findings_of(law, process)]


@pytest.mark.skipif(COVERED, reason="check_process includes these laws")
@pytest.mark.parametrize("name", registered("process"))
def test_every_registered_process(name):
    assert_laws_hold(build("process", name))


# ---- priors -------------------------------------------------------------------------------------


def test_every_prior_is_listed():
    assert set(PRIORS) == set(registered("prior"))


@pytest.mark.parametrize("name", PRIORS)
def test_prior_density_has_mass_one_and_the_drawn_quantiles(name):
    """Mass by quadrature; the fraction of draws below each decile within four standard errors."""
    prior = build("prior", PRIORS[name])
    x = jnp.linspace(-40, 40, 400_001)
    density = np.exp(prior.log_prob(x[:, None]))
    cumulative = np.cumsum(density) * float(x[1] - x[0])
    assert abs(cumulative[-1] - 1) < 1e-3  # one spacing at each jump of the uniform density
    drawn = np.asarray(prior.sample(KEY, (20_000, 1)))[:, 0]
    for share in np.linspace(0.1, 0.9, 9):
        below = np.mean(drawn <= x[np.searchsorted(cumulative, share)])
        assert abs(below - share) < 4 * np.sqrt(share * (1 - share) / 20_000) + 1e-3


@pytest.mark.parametrize("name", PRIORS)
def test_a_row_of_a_prior_depends_on_its_key_alone(name):
    prior, keys = build("prior", PRIORS[name]), jax.random.split(KEY, 5)
    many, few = prior.sample(keys, (5, 4, 4, 3)), prior.sample(keys[:2], (2, 4, 4, 3))
    np.testing.assert_array_equal(many[:2], few)


def test_a_data_set_as_prior():
    prior = build("prior", dict(name="data", dataset=dict(name="points2d", kind="moons"), size=100))
    x = prior.sample(KEY, (50, 2))
    held = prior.dataset.examples(0, 100)["data"]
    assert {tuple(row) for row in np.float32(x)} <= {tuple(row) for row in held}
    assert isinstance(hash(prior), int)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["uniform", "mixture"])
def test_straight_line_under_any_prior(prior):
    assert_laws_hold(build("process", dict(name="straight_line", prior=PRIORS[prior])))


def test_a_prior_without_density_is_named():
    bridge = build("process", "bridge")
    with pytest.raises(TypeError, match="DataPrior states no density"):
        diffusion.log_prob(bridge, lambda x, t: x, jnp.ones((2, 2)))
    with pytest.raises(TypeError, match="prior"):
        build("process", dict(name="straight_line", prior=3))
    with pytest.raises(KeyError, match="uniform"):
        build("process", dict(name="straight_line", prior=dict(name="unifrom")))


# ---- characteristics ----------------------------------------------------------------------------


class ByConserved(Characteristics):
    """The asinh path from the conserved quantity alone, as the article gives it."""

    def conserved(self, x_t, x_0, t):
        return x_0 + jnp.sinh(jnp.arcsinh(x_t - x_0) / t)


class ByPath(Characteristics):
    """The same from the path alone."""

    def path(self, x_0, x_T, t):
        return x_0 + jnp.sinh(t * jnp.arcsinh(x_T - x_0))


class Swirl(Characteristics):
    """Points turn about x_0 by an angle that grows with their distance: no coordinate by itself."""

    def path(self, x_0, x_T, t):
        y = t * (x_T - x_0)
        square = (y**2).sum(axis=-1, keepdims=True)
        angle = 2 * (1 - t) * square / (1 + square)
        turned = jnp.stack([-y[..., 1], y[..., 0]], axis=-1)
        return x_0 + jnp.cos(angle) * y + jnp.sin(angle) * turned


@pytest.mark.slow
def test_either_way_round_gives_the_closed_form():
    """Newton on the missing half, against x_t - x_0 = sinh(t asinh(x_1 - x_0)) and its density."""
    exact = build("process", "asinh_path")
    x, x_0 = jnp.array([[0.3, 1.2], [-0.5, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 0.4]])
    for t in (0.3, 0.8):
        y = np.asarray(x - x_0)
        w = np.arcsinh(y) / t
        field = np.sqrt(1 + y**2) * np.arcsinh(y) / t
        density = exact.prior.log_prob(x_0 + np.sinh(w)) + np.sum(
            np.log(np.cosh(w) / (t * np.sqrt(1 + y**2))), axis=1
        )
        for process in (exact, ByConserved(), ByPath()):
            np.testing.assert_allclose(process.conditional_velocity(x, x_0, t), field, rtol=1e-9)
            np.testing.assert_allclose(process.log_density(x, x_0, t), density, rtol=1e-9)
            np.testing.assert_allclose(
                process.interpolate(x_0, x, t), x_0 + np.sinh(t * np.arcsinh(x - x_0)), rtol=1e-9
            )


@pytest.mark.slow
def test_swirl_obeys_all_laws():
    """Two dimensions that mix; the determinant is 1 times t^2, so the density is that of a line."""
    process = Swirl()
    x, x_0 = jnp.array([[0.3, 0.2], [-0.5, 0.1]]), jnp.zeros((2, 2))
    z = process.noise_of(x, x_0, 0.5)
    np.testing.assert_allclose(
        process.log_density(x, x_0, 0.5), process.prior.log_prob(z) - 2 * np.log(0.5), rtol=1e-9
    )
    held = assert_laws_hold(process)
    assert "D5" in held  # in the plane
    assert "D8" not in held  # which is about a line


@pytest.mark.slow
def test_mass_in_the_plane():
    """A normal density has mass 1 there; one that was forgotten to be divided by 2 has mass 2."""

    class Doubled(Swirl):
        def log_density(self, x_t, x_0, t):
            return super().log_density(x_t, x_0, t) + np.log(2)

    assert [f.measured < 1e-6 for f in masses(Swirl())] == [True]
    found = masses(Doubled())[0]
    np.testing.assert_allclose(found.measured, 1.0, rtol=1e-6)
    assert not found.holds


def test_parabola_bends_to_one_side():
    process, t = build("process", "parabola"), jnp.linspace(0.01, 1, 9)
    for end in (-2.0, 2.0):
        x_0, x_T = jnp.zeros((9, 1)), jnp.full((9, 1), end)
        off = process.interpolate(x_0, x_T, t)[:, 0] - t * end
        np.testing.assert_allclose(off, 0.5 * t * (1 - t) * (np.sqrt(5) - 1), rtol=1e-12)


@pytest.mark.slow
def test_crossing_paths_are_refused():
    class Crossing(Characteristics):
        def path(self, x_0, x_T, t):
            y = x_T - x_0
            return x_0 + t * y + 4 * t * (1 - t) * y**2  # turns back: no y reaches far below x_0

    with pytest.raises(ValueError, match=r"Crossing breaks the law .* invertible"):
        Crossing().noise_of(jnp.full((1, 1), -3.0), jnp.zeros((1, 1)), 0.5)
    assert "D1" in {f.law for f in findings_by(Crossing(), [paths]) if not f.holds}


@pytest.mark.slow
def test_a_wrong_velocity_is_found():
    @dataclass(frozen=True, kw_only=True)
    class Wrong(ByPath):
        def conditional_velocity(self, x_t, x_0, t):
            return 1.1 * super().conditional_velocity(x_t, x_0, t)

    found = findings_by(Wrong(), [paths, densities])
    assert {"D2", "D3", "D4"} <= {f.law for f in found if not f.holds}


def test_nothing_written_is_an_error():
    class Empty(Characteristics):
        pass

    with pytest.raises(TypeError, match="conserved"):
        Empty()


@pytest.mark.slow
def test_by_function_in_a_config():
    spec = dict(name="characteristics", path_fn=f"{__name__}:asinh", elementwise=True)
    assert_laws_hold(build("process", spec), [paths, densities])


def asinh(x_0, x_T, t):
    return x_0 + jnp.sinh(t * jnp.arcsinh(x_T - x_0))


# ---- linear paths, interpolants -----------------------------------------------------------------


def test_linear_path_contains_the_gaussian_processes():
    """mu = cos x_0, sigma = sin, normal prior: the field of `trigonometric` after the posterior mean."""
    from diffusion.models.exact_field import exact_field

    line = build("process", dict(name="linear_path", mu_fn=_cosine, sigma_fn=_sine))
    turn = build("process", "trigonometric")
    points, x = jnp.array([[0.5, 1.0], [-1.0, 0.2]]), jax.random.normal(KEY, (5, 2))
    for t in (0.2, 0.7):
        np.testing.assert_allclose(
            exact_field(line, points).velocity(x, t),
            exact_field(turn, points).velocity(x, t),
            rtol=1e-9,
        )


def _cosine(x_0, t):
    return jnp.cos(0.5 * jnp.pi * t) * x_0


def _sine(t):
    return jnp.sin(0.5 * jnp.pi * t)


@pytest.mark.parametrize("shape", [(3, 5), (3, 8, 2), (3, 8, 8, 3)])
@pytest.mark.parametrize("name", ["linear_path", "blur"])
def test_blurred_paths_on_vectors_signals_and_images(name, shape):
    process = build("process", name)
    x_0, z = jax.random.normal(KEY, shape), jax.random.normal(jax.random.key(1), shape)
    t = jnp.array([0.1, 0.5, 0.9])
    x_t = process.interpolate(x_0, z, t)
    np.testing.assert_allclose(process.noise_of(x_t, x_0, t), z, atol=1e-9)
    np.testing.assert_allclose(process.interpolate(x_0, z, 1.0), z, atol=1e-12)
    np.testing.assert_allclose(process.interpolate(x_0, z, 1e-9), x_0, atol=1e-7)
    np.testing.assert_allclose(
        process.conditional_velocity(x_t, x_0, t), process.velocity(x_0, z, t), rtol=1e-8, atol=1e-8
    )


def test_cosine_basis_is_orthonormal_and_flat_images_do_not_blur():
    np.testing.assert_allclose(dct_matrix(7) @ dct_matrix(7).T, np.eye(7), atol=1e-14)
    x = jax.random.normal(KEY, (2, 6, 5, 3))
    np.testing.assert_allclose(from_frequencies(to_frequencies(x)), x, atol=1e-13)
    flat, blur = jnp.ones((1, 8, 8, 1)), build("process", "blur")
    half = blur.interpolate(flat, jnp.zeros_like(flat), 0.5)
    np.testing.assert_allclose(
        half, np.cos(np.pi / 4), rtol=1e-12
    )  # frequency 0 keeps its amplitude


@pytest.mark.slow
def test_bridges():
    """A path by name knows its inverse; the same by function finds it by Newton steps."""
    spec = dict(name="bridge", prior=dict(name="data", points=[-1.0, 2.0], bandwidth=0.5))
    known = build("process", spec | dict(path_fn="eased"))
    assert "D3" in assert_laws_hold(known)
    found = build("process", spec | dict(path_fn=f"{__name__}:eased"))
    x, x_0, t = jnp.array([[0.3, 1.2]]), jnp.array([[1.0, 0.0]]), 0.4
    for name in ("noise_of", "log_density", "conditional_velocity"):
        values = (getattr(process, name)(x, x_0, t) for process in (known, found))
        np.testing.assert_allclose(*values, rtol=1e-9)


def eased(x_0, x_T, t):
    u = t * t * (3 - 2 * t)
    return (1 - u) * x_0 + u * x_T


def test_a_bridge_names_its_paths():
    with pytest.raises(ValueError, match="quarter_turn"):
        build("process", dict(name="bridge", path_fn="quarter"))


@pytest.mark.parametrize(
    "name", ["parabola", "asinh_path", "linear_path", "straight_line", "bridge"]
)
def test_target_equality(name):
    """The derivative along the path is the field from its inverse, for the same (x_0, x_T, t)."""
    process = build("process", name)
    x_0, z = jax.random.normal(KEY, (6, 3)), jax.random.normal(jax.random.key(1), (6, 3))
    t = jnp.linspace(0.1, 0.9, 6)
    x_t = process.interpolate(x_0, z, t)
    np.testing.assert_allclose(
        process.velocity(x_0, z, t), process.conditional_velocity(x_t, x_0, t), rtol=1e-8
    )


# ---- heat ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "power", "exponential", _sine])
def test_heat_schedules_start_at_zero_and_carry_gaussians_by_their_width(schedule):
    """sigma(0) = 0, sigma(1) = sigma_max; x_t = x_0 sqrt((s^2 + sigma^2) / s^2) along the ODE of N(0, s^2)."""
    process = build("process", dict(name="heat", schedule=schedule, sigma_max=5.0, t_min=1e-3))
    np.testing.assert_allclose([process.sigma(0.0), process.sigma(1.0)], [0, 5.0], atol=1e-12)
    model = lambda x, t: x * 0.25 / (0.25 + process.sigma(t) ** 2)
    x, times = jnp.array([[0.3], [-0.7]]), np.linspace(1e-3, 1.0, 401)
    ratio = np.sqrt((0.25 + process.sigma(1.0) ** 2) / (0.25 + process.sigma(1e-3) ** 2))
    end = diffusion.integrate_flow(process, model, x, times)
    np.testing.assert_allclose(end, x * ratio, rtol=1e-6)  # 400 steps of order 4
    of_sigma = (affine_laws.decreases, affine_laws.positive, affine_laws.accurate_in_float32)
    assert_laws_hold(process, [*of_sigma, gaussian_laws.consistent_sde, gaussian_laws.prior_std])


@pytest.mark.slow
def test_heat_equation():
    """dp/dt = sigma sigma' Laplacian p for the marginal of three points."""
    from diffusion.models.exact_field import exact_field

    process = build("process", dict(name="heat", schedule="exponential", sigma_max=3.0, rate=2.0))
    field = exact_field(process, jnp.array([[0.5, 1.0], [-1.0, 0.2], [0.0, 0.0]]))
    p = lambda x, t: jnp.exp(field.log_density(x[None], t)[0])
    for x in jax.random.normal(KEY, (4, 2)):
        t = jnp.asarray(0.3)
        rate = jax.grad(p, argnums=1)(x, t)
        laplacian = jnp.trace(jax.hessian(p)(x, t))
        sigma, d_sigma = jax.jvp(process.sigma, (t,), (jnp.ones_like(t),))
        np.testing.assert_allclose(rate, sigma * d_sigma * laplacian, rtol=1e-9)


@pytest.mark.slow
def test_anisotropic_heat_has_its_covariance():
    """Draws against M, within five standard errors of a covariance; the laws with a full matrix."""
    matrix, n = ((2.0, 0.6), (0.6, 0.5)), 40_000
    process = build("process", dict(name="anisotropic_heat", matrix=matrix))
    z = np.asarray(process.sample_noise(KEY, (n, 2)))
    found, expected = z.T @ z / n, np.array(matrix)
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    assert np.all(np.abs(found - expected) < 5 * error)
    reference = jax.scipy.stats.multivariate_normal.logpdf(z[:9], jnp.zeros(2), expected)
    np.testing.assert_allclose(process.noise_log_prob(jnp.asarray(z[:9])), reference, rtol=1e-10)
    held = assert_laws_hold(process)
    assert "D5" in held  # in the plane
    assert "D8" not in held  # which is about a line
    with pytest.raises(ValueError, match="positive definite"):
        build("process", dict(name="anisotropic_heat", matrix=((1.0, 2.0), (2.0, 1.0))))


# ---- radial laws --------------------------------------------------------------------------------


def radial_processes():
    specs = [dict(name="radial", law=law, rms=rms) for law in RADIAL_LAWS for rms in (False, True)]
    return [
        *specs,
        "poisson_flow",
        dict(name="poisson_flow", extra_dims=3.0),
        dict(name="radial", law="tanh_sinh"),
    ]


@pytest.mark.parametrize("spec", radial_processes(), ids=str)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_radial_density_has_mass_one_in_any_dimension(spec, d):
    """S_d times the integral of r^(d-1) p(r) over log r; the tail of one extra dimension is 1e-4."""
    process = build("process", spec)
    s = jnp.linspace(-14.0, 18.0, 20_001)
    x = jnp.zeros((len(s), d)).at[:, 0].set(jnp.exp(s))
    log_p = process.log_density(x, jnp.zeros_like(x), 1.0)
    sphere = 2 * np.pi ** (d / 2) / np.exp(jax.scipy.special.gammaln(d / 2))
    mass = jnp.trapezoid(sphere * jnp.exp(log_p + d * s), s)
    np.testing.assert_allclose(mass, 1.0, atol=3e-5)


@pytest.mark.parametrize("spec", radial_processes(), ids=str)
def test_radial_draws_have_the_stated_law(spec):
    """Kolmogorov's distance of the drawn radii to the integrated density: below 2.2 / sqrt(n)."""
    process, d, n = build("process", spec), 3, 20_000
    x = process.interpolate(jnp.zeros((n, d)), process.sample_noise(KEY, (n, d)), 1.0)
    r = np.sort(np.log(np.linalg.norm(x, axis=1)))
    s = np.linspace(-14.0, 18.0, 20_001)
    grid = jnp.zeros((len(s), d)).at[:, 0].set(jnp.exp(s))
    log_p = np.asarray(process.log_density(grid, jnp.zeros_like(grid), 1.0))
    cumulative = np.cumsum(4 * np.pi * np.exp(log_p + d * s)) * (s[1] - s[0])
    distance = np.max(np.abs(np.interp(r, s, cumulative) - (np.arange(n) + 0.5) / n))
    assert distance < 2.2 / np.sqrt(n)  # exceeded once in 10,000 times
    direction = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
    assert np.all(np.abs(direction.mean(axis=0)) < 4 / np.sqrt(3 * n))


def test_laws_of_r_over_t_share_their_field():
    x, x_0, t = jax.random.normal(KEY, (5, 3)), jnp.ones((5, 3)) * 0.2, 0.7
    for spec in ("radial", dict(name="radial", law="exponential"), "poisson_flow", "edm"):
        process = build("process", spec)
        np.testing.assert_allclose(
            process.conditional_velocity(x, x_0, t), (x - x_0) / t, rtol=1e-12
        )
    slow = build("process", dict(name="radial", law="tanh_sinh"))
    far = slow.conditional_velocity(60 * x, x_0, 50.0)
    assert jnp.all(jnp.linalg.norm(far, axis=1) < 1)  # bounded speed, 50 tanh(r / 50) / t


def test_psi_written_by_hand():
    """psi = tanh(r / t) for a plain `Process` is the affine `radial` of that law; so is its inverse."""

    class Hand(Radial):
        def psi(self, r, t):
            return jnp.tanh(r / t)

    process, affine = Hand(), build("process", "radial")
    x, x_0 = jax.random.normal(KEY, (5, 3)), jnp.zeros((5, 3))
    np.testing.assert_allclose(
        process.log_density(x, x_0, 0.9), affine.log_density(x, x_0, 0.9), rtol=1e-9
    )
    v = jnp.array([0.1, 0.5, 0.999])
    np.testing.assert_allclose(process.radius(v, jnp.asarray(2.0)), 2 * np.arctanh(v), rtol=1e-9)
    slope = jax.vmap(jax.grad(lambda v: process.radius(v, jnp.asarray(2.0))))(v)
    np.testing.assert_allclose(slope, 2 / (1 - v**2), rtol=1e-6)


@pytest.mark.parametrize(
    ("psi", "word"),
    [
        (lambda r, t: jnp.exp(-r / t), "increase in r"),
        (lambda r, t: 0.5 * jnp.tanh(r / t), "from 0 to 1"),
        (lambda r, t: jnp.tanh(r * t), "time reversed"),
    ],
)
def test_an_impossible_psi_is_refused(psi, word):
    with pytest.raises(ValueError, match=word):
        build("process", dict(name="radial", law=psi))


def test_radial_names():
    assert isinstance(build("process", "radial"), AffineProcess)
    with pytest.raises(ValueError, match="exponential"):
        build("process", dict(name="radial", law="exponentail"))
    with pytest.raises(ValueError, match="rms"):
        build("process", dict(name="radial", law="tanh_sinh", rms=True))


# ---- gravity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 4])
def test_gravity_coordinates_are_cauchy_and_radii_beta(d):
    """Each coordinate of z is Cauchy; r^2 / (1 + r^2) is Beta(d/2, 1/2). Kolmogorov below 2.2 / sqrt(n)."""
    from scipy import stats

    n = 20_000
    z = np.asarray(build("process", "poisson_flow").sample_noise(KEY, (n, d)))
    square = (z**2).sum(axis=1)
    laws = [(z[:, i], stats.cauchy.cdf) for i in range(d)]
    laws += [(square / (1 + square), stats.beta(d / 2, 0.5).cdf)]
    for draws, cdf in laws:
        rank = (np.arange(n) + 0.5) / n
        assert np.max(np.abs(cdf(np.sort(draws)) - rank)) < 2.2 / np.sqrt(n)


def test_many_extra_dimensions_are_edm():
    """(1 + r^2/D)^-((D+d)/2) differs from exp(-r^2/2) by O(1/D) in the logarithm."""
    z = jax.random.normal(KEY, (50, 6))
    heavy = build("process", dict(name="poisson_flow", extra_dims=1e7))
    np.testing.assert_allclose(
        heavy.noise_log_prob(z), build("process", "edm").noise_log_prob(z), atol=2e-5
    )
    draws = np.asarray(heavy.sample_noise(KEY, (40_000, 1)))
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / 40_000)


# ---- times and inputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["poisson_flow", "radial", "radial_flow", "edm", "heat", "anisotropic_heat", "straight_line",
     "parabola", "asinh_path", "linear_path", "bridge", "blur", "characteristics"],
)  # fmt: skip
def test_natural_times_are_geometric_near_the_data(name):
    """Fields of the form (x - E[x_0]) / t are smooth in log t."""
    process = build("process", name)
    times = process.default_times(64)
    late = times[times < 0.05 * process.t_max]
    ratio = late[1:] / late[:-1]
    assert len(late) > 16
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.06)


def test_inputs_of_wide_paths_are_scaled_to_order_one():
    """|x_t| of radial_flow grows to hundreds; the network sees a median of at most 1."""
    process = build("process", "radial_flow")
    for t in (0.01, 1.0, 2000.0):
        x = process.interpolate(jnp.zeros((999, 1)), process.sample_noise(KEY, (999, 1)), t)
        seen = jnp.median(jnp.abs(x)) * process.input_scale(t)
        assert seen < 1.1
    assert build("process", "parabola").input_scale(0.5) == 1.0


def test_learned_fields_of_a_definition():
    """A process of traced values: gradients with respect to a field, as a learned path needs."""

    def end(bend):
        process = dataclasses.replace(build("process", "parabola"), bend=bend)
        return process.interpolate(jnp.zeros((1, 1)), jnp.full((1, 1), 2.0), 0.5)[0, 0]

    np.testing.assert_allclose(jax.grad(end)(0.5), 0.25 * (np.sqrt(5) - 1), rtol=1e-12)


# ---- six recipes of one's own, a few lines each -------------------------------------------------


class OwnHeat(diffusion.GaussianProcess):
    t_max = 3.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return t**1.5


class OwnRadial(Radial):
    def psi(self, r, t):
        return 1 - jnp.exp(-r / t)


class OwnLine(LinearPath):
    def mu(self, x_0, t):
        return (1 - t) * jnp.tanh(x_0) + (1 - t) ** 2 * (x_0 - jnp.tanh(x_0))

    def sigma(self, t):
        return t**1.5


class OwnCurve(Characteristics):
    coordinatewise: ClassVar[bool] = True

    def path(self, x_0, x_T, t):
        y = x_T - x_0
        return x_0 + t * y + t * (1 - t) * jnp.sin(y) / 2


class OwnInterpolant(Interpolant):
    def path(self, x_0, x_T, t):
        return (1 - t) * x_0 + t * x_T + jnp.sin(jnp.pi * t) * jnp.sin(x_0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OwnHeat, OwnRadial, OwnLine, OwnCurve, OwnInterpolant, Swirl])
def test_a_recipe_of_ones_own_trains_by_the_same_loss(kind):
    """The exact field is the optimum of the loss: its error is orthogonal to any function of x_t.

    Five standard errors of the mean over 20,000 draws.
    """
    from diffusion.models.exact_field import exact_field

    process, n = kind(), 20_000
    points = jnp.array([[0.5, 1.0], [-1.0, 0.2], [0.0, -0.7]])
    x_0 = points[jax.random.randint(KEY, (n,), 0, 3)]
    z = process.sample_noise(jax.random.key(1), (n, 2))
    t = jnp.full(n, process.default_times(8)[1])
    x_t = process.interpolate(x_0, z, t)
    error = process.velocity(x_0, z, t) - exact_field(process, points).velocity(x_t, t)
    spread = jnp.median(jnp.abs(x_t))
    for test in (jnp.ones_like(x_t), jnp.tanh(x_t / spread), jnp.cos(3 * x_t / spread)):
        product = np.asarray((error * test).sum(axis=1))
        assert abs(product.mean()) < 5 * product.std() / np.sqrt(n)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [OwnLine, OwnCurve, OwnInterpolant])
def test_recipes_of_ones_own_obey_the_laws(kind):
    assert_laws_hold(kind())
