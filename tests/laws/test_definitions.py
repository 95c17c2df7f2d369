"""Definitions as people write them first: a report that names the one thing to change."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import GaussianProcess, LinearSDE, Radial, build, check_process, registered, sample
from diffusion.testing import definition_laws, mass_laws, path_laws, process_laws
from diffusion.testing.report import Report, findings_of


@dataclass(frozen=True, kw_only=True)
class Straight(GaussianProcess):
    """The commonest definition there is, up to t = 1."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


@dataclass(frozen=True, kw_only=True)
class Quarter(GaussianProcess):
    """A cosine that vanishes up to round-off: 6e-17 in float64, below 0 in float32."""

    def alpha(self, t):
        return jnp.cos(jnp.pi * t / 2)

    def sigma(self, t):
        return jnp.sin(jnp.pi * t / 2)


@dataclass(frozen=True, kw_only=True)
class Backwards(GaussianProcess):
    """Data at t = 1."""

    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


@dataclass(frozen=True, kw_only=True)
class NumPy(GaussianProcess):
    """np.cos of what JAX traces."""

    t_max: float = 0.999

    def alpha(self, t):
        return np.cos(np.pi * t / 2)

    def sigma(self, t):
        return np.sin(np.pi * t / 2)


@dataclass(frozen=True, kw_only=True)
class Branches(Straight):
    """Python's `if` on what JAX traces."""

    t_max: float = 0.999

    def sigma(self, t):
        return t if t > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Late(LinearSDE):
    """Right, and with 2e-3 of noise variance at the default t_min."""

    def drift(self, t):
        return -3 * t - 1

    def diffusion(self, t):
        return jnp.sqrt(2 * (3 * t + 1))


@dataclass(frozen=True, kw_only=True)
class Cubes(Radial):
    """psi = u^3 / (1 + u^3), whose slope is a difference of equal terms far out."""

    def psi(self, r, t):
        u = r / t
        return u**3 / (1 + u**3)


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (Straight(), ["alpha = 0", "f = -inf", "at t_max = 1", "t_max = 0.999"]),
        (Straight(t_min=0.0, t_max=0.999), ["sigma = 0", "at t_min = 0", "t_min = 0.001"]),
        (Straight(t_min=0.0), ["t_max = 0.999", "t_min = 0.001"]),
        (Quarter(), ["alpha = 6.12e-17", "at t_max = 1", "t_max = 0.999"]),
        (Backwards(), ["direction of time"]),
    ],
)
def test_the_ends_come_first_and_name_the_time_to_use(process, words):
    report = check_process(process)
    (failed,) = [f for f in report.findings if not f.holds]
    assert failed.law == "P0"
    assert all(word in failed.advice for word in words), failed
    assert len(report.findings) == len(definition_laws.LAWS), "what follows would be NaN"
    assert "the others are measured once" in str(report)


@pytest.mark.slow
def test_with_the_times_that_are_named_the_definition_is_right():
    assert check_process(Straight(t_max=0.999)).holds
    good = [findings_of(definition_laws.finite_at_the_ends, p)[0] for p in (
        Straight(t_min=0.001, t_max=0.999), Quarter(t_max=0.999),
    )]  # fmt: skip
    assert all(f.holds for f in good)


@pytest.mark.parametrize("name", registered("process"))
def test_the_ends_of_what_is_registered_are_finite(name):
    process = build("process", name)
    found = [findings_of(law, process)[0] for _, law in definition_laws.LAWS]
    assert all(f.holds for f in found), found


@pytest.mark.parametrize(("process", "method"), [(NumPy(), "alpha"), (Branches(), "sigma")])
def test_what_jax_cannot_trace_is_said_once(process, method):
    failed = [f for f in check_process(process).findings if not f.holds]
    assert len(failed) == 1
    assert "use jax.numpy" in failed[0].advice
    assert f"see `{method}`, line " in failed[0].advice
    assert "test_definitions.py" in failed[0].advice
    assert "\n" not in failed[0].advice
    x_T, ddim = jnp.ones((2, 2)), build("sampler", "ddim")
    with pytest.raises(TypeError, match=f"{type(process).__name__} must be computed by JAX"):
        sample(ddim, process, lambda x, t: x, None, x_T, process.t_max * np.array([1.0, 0.5]))


def test_a_right_definition_used_a_little_too_late_is_warned_about():
    """The variance at t is 1 - exp(-2 t - 3 t^2), and 512 draws say where the median distance passes 0.05."""
    (late,) = [f for f in path_laws.ends(Late()) if f.law == "D6"]
    assert late.holds
    assert late.warns
    assert 0.05 < late.measured < 0.055
    assert "t_min = 0.0009" in late.advice
    (good,) = [f for f in path_laws.ends(Late(t_min=0.0009)) if f.law == "D6"]
    assert good.holds
    assert not good.warns
    np.testing.assert_allclose(
        (late.measured / good.measured) ** 2, 10 / 9, rtol=0.01
    )  # sigma^2 is 2 t
    report = Report("late", (late,))
    assert report.holds
    assert "1 of 1 laws hold, 1 with a warning" in str(report)
    assert str(late).startswith("warns")


def test_far_too_late_fails_with_the_time_that_would_do():
    (found,) = [f for f in path_laws.ends(Late(t_min=0.1)) if f.law == "D6"]
    assert not found.holds
    assert "t_min = 0.0009" in found.advice
    fast = replace(
        build("process", "proportional_beta_limit"), rate=25.0, t_min=0.04
    )  # alpha = 0.96
    found = process_laws.starts_at_data(fast)
    assert found.warns
    assert "t_min = 0.02" in found.advice
    wrong = Backwards(t_max=0.999)
    assert "direction of time" in process_laws.starts_at_data(wrong).advice


@pytest.mark.slow
def test_a_slope_that_rounds_below_zero_is_a_density_of_nothing():
    """On a line p = 3 u^2 / (2 t (1 + u^3)^2); its mass is 1 and far out it is no NaN."""
    process, t = Cubes(), jnp.array([0.5])
    u = jnp.geomspace(1e-2, 1e8, 2001)[:, None]
    density = jnp.exp(process.log_density(0.5 * u, jnp.zeros_like(u), 0.5))
    exact = 3 * u[:, 0] ** 2 / (2 * t * (1 + u[:, 0] ** 3) ** 2)
    np.testing.assert_allclose(density, exact, atol=1e-15)
    assert jnp.isfinite(process.conditional_velocity(0.5 * u, jnp.zeros_like(u), 0.5)).all()
    (mass,) = mass_laws.masses(process)
    assert mass.holds
