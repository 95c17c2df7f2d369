"""The worked numbers of the articles, each beside what the package gives. All in float64.

A row states what is checked, the printed or derived value, what was measured, and whether the two agree.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion
from diffusion import build, exact_field
from diffusion.likelihood.divergence import exact_divergence
from diffusion.testing import gaussian, gaussian_flow
from experiments.ode_from_scratch import store

KEY = jax.random.key(0)
LINE = np.array([[0.5], [0.5], [1.2], [1.7]])
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A number of an article and its measurement."""

    source: str
    what: str
    printed: str
    measured: str
    agrees: bool


def near(source: str, what: str, printed: float, measured: float, tolerance: float) -> Row:
    """Compare two numbers."""
    return Row(
        source=source, what=what, printed=f"{printed:g}", measured=f"{measured:.6g}",
        agrees=bool(abs(measured - printed) <= tolerance),
    )  # fmt: skip


def small(source: str, what: str, measured: float, tolerance: float) -> Row:
    """Say that a difference vanishes, up to a tolerance."""
    return Row(
        source=source, what=what, printed="0", measured=f"{measured:.1e}",
        agrees=bool(measured <= tolerance),
    )  # fmt: skip


def heat() -> Iterator[Row]:
    """Part 12: the heat equation on a Gaussian."""
    process, target = build("process", "heat"), gaussian()
    x = process.interpolate(
        target.sample(KEY, 64).astype(float), process.sample_noise(KEY, (64, 1)), process.t_max
    )
    end = diffusion.integrate_flow(process, target.denoiser(process), x, process.default_times(256))
    exact = gaussian_flow(process, x, process.t_max, process.t_min)
    yield small(
        "12", "heat, N(0.3, 0.5^2): carried to t_min against m + (x - m) sqrt(V_0 / V_T)",
        float(jnp.abs(end - exact).max()), 1e-6,
    )  # fmt: skip
    process = build("process", "proportional_beta_limit")
    yield near(
        "9", "VP, abar = exp(-5 t^2): g^2 at t = 0.37", 7.4, float(process.g(0.37) ** 2), 1e-9
    )


def gravity() -> Iterator[Row]:
    """Parts 13 and 14 A: gravity."""
    from scipy.stats import beta, cauchy, kstest

    process, d = build("process", "poisson_flow"), 3
    z = np.asarray(process.sample_noise(KEY, (200_000, d)))
    square = (z**2).sum(axis=1)
    share = kstest(square / (1 + square), beta(d / 2, 0.5).cdf).statistic
    limit = 1.63 / np.sqrt(len(z))  # exceeded by chance once in a hundred
    what = "gravity, d = 3: Kolmogorov distance of r^2/(1+r^2) from Beta(3/2, 1/2)"
    yield small("14", what, share, limit)
    worst = max(kstest(z[:, k], cauchy.cdf).statistic for k in range(d))
    yield small("14", "gravity: that of a coordinate from Cauchy's law, the worst", worst, limit)
    for d in (1, 2, 3, 5):
        yield near(
            "14", f"gravity: mass of p(x_t | x_0), d = {d}", 1.0, _mass(process, d, 0.7), 1e-5
        )
    far = build("process", dict(name="poisson_flow", t_max=40.0))
    x = np.asarray(far.sample_prior(KEY, (4000, 3072)))
    median = float(np.median(np.linalg.norm(x, axis=1)))
    yield near("14", "gravity: median length of the prior, d = 3072, T = 40", 3300.0, median, 150.0)
    low, high = (_cumulative(x, t) for x, t in _carried_by_gravity())
    yield near("14", "gravity on a line: cumulative probability at t = 40", 0.551231, low, 1e-6)
    yield near("14", "the same point carried to t = 0.001", 0.551231, high, 1e-6)


def _cumulative(x: float, t: float) -> float:
    return float(np.mean(0.5 + np.arctan((x - LINE[:, 0]) / t) / np.pi))


def _carried_by_gravity() -> list[tuple[float, float]]:
    from scipy.optimize import brentq

    start: Any = brentq(lambda x: _cumulative(x, 40.0) - 0.551231, -100, 100, xtol=1e-12)
    process = build("process", dict(name="poisson_flow", t_min=1e-3))
    times = np.geomspace(40.0, 1e-3, 2001)
    end = diffusion.integrate_flow(process, exact_field(process, LINE), jnp.array([[start]]), times)
    return [(start, 40.0), (float(end[0, 0]), 1e-3)]


def _mass(process: Any, d: int, t: float) -> float:
    """Return the integral of p(x_t | 0) over all x_t, along a ray, in y = log r."""
    y, step = np.linspace(-30, 30, 60_001, retstep=True)
    x = np.zeros((len(y), d))
    x[:, 0] = np.exp(y)
    log_p = process.log_density(jnp.asarray(x), jnp.zeros_like(x), jnp.full(len(y), t))
    from math import lgamma

    log_sphere = np.log(2) + d / 2 * np.log(np.pi) - lgamma(d / 2)
    return float(np.exp(np.asarray(log_p) + d * y + log_sphere).sum() * step)


def radial() -> Iterator[Row]:
    """Part 14 B: radial laws."""
    laws = {
        "tanh(r/t)": lambda r, t: jnp.tanh(r / t),
        "1 - exp(-r/t)": lambda r, t: -jnp.expm1(-r / t),
        "tanh((r/t)^3)": lambda r, t: jnp.tanh((r / t) ** 3),
        "1 - exp(-r^2/2t^2)": lambda r, t: -jnp.expm1(-0.5 * (r / t) ** 2),
    }
    x_0, y = jax.random.normal(KEY, (2, 200, 3), float)
    y = 0.6 * y  # where psi is not yet 1 to round-off
    for name, psi in laws.items():
        process = build("process", dict(name="radial_flow", psi_fn=psi))
        off = jnp.abs(process.conditional_velocity(x_0 + y, x_0, 1.3) - y / 1.3).max()
        yield small("14", f"psi = {name}: conditional field against (x - x_0)/t", float(off), 1e-9)
    for law in ("tanh", "exponential", "tanh_power"):
        process = build("process", dict(name="radial", law=law))
        for d in (1, 2, 3):
            mass = _mass(process, d, 0.7)
            yield near("14", f"radial {law}: mass of p(x_t | x_0), d = {d}", 1.0, mass, 1e-5)
    process = build("process", dict(name="radial", law="tanh_sinh"))
    r, t = jnp.array([[0.1], [10.0], [100.0]]), 100.0
    speed = process.conditional_velocity(r, jnp.zeros_like(r), t)
    off = float(jnp.abs(speed - 50 * jnp.tanh(r / 50) / t).max())
    yield small("14", "psi = tanh(s sinh(r/s)/t): dr/dt against s tanh(r/s)/t", off, 1e-9)


def straight_line() -> Iterator[Row]:
    """Part 15, example 1: a uniform prior on [0, 2], data 0.5, 0.5, 1.2, 1.7."""
    process = build("process", dict(name="straight_line", prior=dict(name="uniform", low=0.0, high=2.0)))  # fmt: skip
    start = (np.arange(4000) + 0.5) / 2000
    sampler, times = build("sampler", "rk4"), np.geomspace(1.0, 1e-3, 8193)
    end = diffusion.sample(
        sampler, process, exact_field(process, LINE), None, jnp.asarray(start)[:, None], times
    )
    nearest = np.array([0.5, 1.2, 1.7])[
        np.abs(np.asarray(end) - np.array([0.5, 1.2, 1.7])).argmin(axis=1)
    ]
    for value, printed in ((0.5, 1.0), (1.2, 1.5)):
        threshold = float(start[nearest == value].max() + 2.5e-4)
        what = f"uniform prior: largest start that ends at {value}"
        yield near("15", what, printed, threshold, 6e-4)
    for value, printed in ((0.5, 0.5), (1.2, 0.25), (1.7, 0.25)):
        share = float(np.mean(np.abs(np.asarray(end)[:, 0] - value) < 0.01))
        yield near("15", f"uniform prior: share that ends at {value}", printed, share, 5e-4)


def asinh() -> Iterator[Row]:
    """Part 15: a curved example, its density by the divergence integral and by the determinant."""
    process = build("process", "asinh_path")
    x_0, x_1 = jax.random.normal(KEY, (2, 100, 2), float)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    t = 0.3
    times, weights = np.exp(np.log(t) * (1 - nodes) / 2), weights * -np.log(t) / 2  # in log t
    total = jnp.zeros(100)
    for u, w in zip(times, weights, strict=True):
        field = lambda x, s: process.conditional_velocity(x, x_0, s)
        x_u = process.interpolate(x_0, x_1, u)
        total = total + w * u * exact_divergence(field, x_u, jnp.asarray(u))[1]
    by_integral = process.noise_log_prob(x_1) + total
    by_determinant = process.log_density(process.interpolate(x_0, x_1, t), x_0, jnp.asarray(t))
    off = float(jnp.abs(by_integral - by_determinant).max())
    yield small("15", "asinh path: log p, divergence integral against determinant", off, 1e-6)


def reflow() -> Iterator[Row]:
    """Part 17: Gaussian to Gaussian, before and after one round of reflow."""
    process = build("process", dict(name="rectified_flow", t_max=1.0, t_min=1e-4))
    target = gaussian()
    model, sampler = target.denoiser(process), build("sampler", "rk4")
    pairs = diffusion.objectives.coupling.reflow_pairs(
        process, model, KEY, 2000, sampler, shape=(1,), num_steps=128, batch_size=2000
    )
    z, x_0 = pairs["noise"], pairs["data"]
    v_t = lambda t: (1 - t) ** 2 * 0.25 + t**2
    exact = (1 - 1e-4) * 0.3 + np.sqrt(v_t(1e-4) / v_t(1.0)) * z
    off = float(np.abs(x_0 - exact).max())
    yield small("17", "Gaussian pair: flow against m_t + x_1 sqrt(V_t / V_1)", off, 1e-6)
    once = lambda velocity: float(np.sqrt(np.mean((z - velocity - x_0) ** 2)))
    before = once(np.asarray(process.flow(model).velocity(jnp.asarray(z), 1.0)))
    yield near(
        "17", "one Euler step, independent pairs: error (all of the spread)", 0.5, before, 0.03
    )
    design = np.concatenate([np.ones_like(z), z], axis=1)
    fitted = design @ np.linalg.lstsq(design, z - x_0, rcond=None)[0]
    yield small("17", "the same after one round of reflow, fitted line", once(fitted), 1e-6)


def wasserstein_bound() -> Iterator[Row]:
    """Part 16: W2 <= an integral of score errors, an equality for linear fields and a constant error."""
    process = build("process", dict(name="proportional_beta_limit", t_min=1e-4))
    std = 0.5**0.5
    target = gaussian(mean=0.0, std=std)
    wrong = lambda x, t: target.score(process)(x, t) + 0.1
    model = diffusion.score_to_denoiser(process, wrong)
    times = np.linspace(1.0, 1e-4, 2001)
    moved = diffusion.integrate_flow(process, model, jnp.zeros((1, 1)), times)
    t = np.linspace(0, 1, 20_001)
    f, half = -10 * t, 10 * t  # f and g^2 / 2
    variance = np.exp(-10 * t**2) * std**2 - np.expm1(-10 * t**2)
    rate = -(f + half / variance)
    step = np.diff(t)
    growth = np.exp(np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * step)]))
    speed = half * growth * 0.1
    bound = float(((speed[1:] + speed[:-1]) / 2 * step).sum())
    yield near("16", "bound on W2 by the score's error, linear field", 0.36475, bound, 1e-5)
    yield near("16", "W2 itself", 0.36475, float(jnp.abs(moved[0, 0])), 1e-4)


PARTS = (heat, gravity, radial, straight_line, asinh, wasserstein_bound, reflow)


def run(say: Say) -> None:
    """Measure all of them; it takes little, so nothing is kept from earlier calls."""
    rows: list[Row] = []
    with jax.enable_x64(True):
        for part in PARTS:
            rows += part()
            say(f"{part.__name__}: {len(rows)} numbers")
    store.keep("examples", record=[asdict(row) for row in rows])
    for row in rows:
        if not row.agrees:
            say(f"differs: {row}")
