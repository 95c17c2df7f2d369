"""Laws that every definition must obey, with the number that was measured.

`check_process` runs them on any process, registered or one's own, in float64, and returns a report that
says which hold, what was measured, and what to look at when one fails. The bounds follow from the
arithmetic: a central difference of step h has the error h^2 + eps / h, and so on.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.numerics import is_hashable
from diffusion.prediction import Prediction
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.registry import build, registered


@dataclass(frozen=True)
class Finding:
    """One law, what was measured, the bound, and advice for when it fails."""

    law: str
    statement: str
    measured: float
    bound: float
    advice: str

    @property
    def holds(self) -> bool:
        """Say whether the measured number is finite and within its bound."""
        return bool(np.isfinite(self.measured) and self.measured <= self.bound)

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        line = (
            f"{mark}  {self.law:<3} {self.statement}: {self.measured:.2e} (bound {self.bound:.0e})"
        )
        return line if self.holds else f"{line}\n           look at: {self.advice}"


@dataclass(frozen=True)
class Report:
    """All findings about one definition, and facts about its prior."""

    subject: str
    findings: tuple[Finding, ...]
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Say whether every law holds."""
        return all(f.holds for f in self.findings)

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        facts = [f"       {name}: {value:.4g}" for name, value in self.facts.items()]
        held = sum(f.holds for f in self.findings)
        verdict = f"{held} of {len(self.findings)} laws hold"
        return "\n".join([self.subject, *(f"  {f}" for f in self.findings), *facts, f"  {verdict}"])


def _times(process: Process, num: int = 33) -> np.ndarray:
    """Return increasing times inside the range, where the definition is used."""
    return np.asarray(process.natural_times(num - 1))[::-1][1:-1]


def _largest(x: Any) -> float:
    x = np.abs(np.asarray(x, np.float64))
    return float(x.max()) if np.all(np.isfinite(x)) else float("nan")


def _starts_at_data(process: Process) -> Finding:
    x_0 = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    near = process.interpolate(x_0, jnp.zeros_like(x_0), process.t_min)
    return Finding(
        "P1", "without noise the path starts at the data, interpolate(x_0, 0, t_min) = x_0",
        _largest(near - x_0), 0.02,
        "the direction of time: data at t_min, noise at t_max; and whether t_min is small enough",
    )  # fmt: skip


def _velocity_is_derivative(process: Process) -> Finding:
    x_0, z = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.linspace(0.7, -0.4, 8).reshape(4, 2)
    worst = 0.0
    for t in _times(process, 9):
        h = 1e-5 * t  # the third-order term is h^2 / 6, round-off eps / h
        forward, back = process.interpolate(x_0, z, t + h), process.interpolate(x_0, z, t - h)
        difference, velocity = (forward - back) / (2 * h), process.velocity(x_0, z, t)
        worst = max(worst, _largest((velocity - difference) / (1 + jnp.abs(velocity))))
    return Finding(
        "P2", "velocity is the time derivative of interpolate (relative)", worst, 1e-5,
        "an overridden `velocity`",
    )  # fmt: skip


def _decreases(process: AffineProcess) -> Finding:
    log_snr = np.asarray(process.log_snr(jnp.asarray(_times(process, 129))))
    rise = float(np.max(np.diff(log_snr))) if np.all(np.isfinite(log_snr)) else float("nan")
    return Finding(
        "P3", "log(alpha^2 / sigma^2) strictly decreases (largest rise)", rise, -1e-12,
        "whether alpha falls and sigma rises with t",
    )  # fmt: skip


def _accurate_in_float32(process: AffineProcess) -> Finding:
    worst = 0.0
    for name in ("alpha", "sigma"):
        for t in _times(process):
            single = np.float32(t)  # the same number in both precisions
            exact = np.asarray(getattr(process, name)(jnp.asarray(single, jnp.float64)))
            rounded = np.asarray(getattr(process, name)(jnp.asarray(single, jnp.float32)))
            worst = max(worst, _largest((rounded - exact) / exact))
    return Finding(
        "P3", "alpha and sigma agree in float32 and float64 (relative)", worst, 2e-4,
        "cancellation: write 1 - exp(x) as -expm1(x), log(1 + x) as log1p(x)",
    )  # fmt: skip


def _consistent_sde(process: GaussianProcess) -> list[Finding]:
    t = jnp.asarray(_times(process))
    ddt = lambda fn: jax.jvp(lambda u: jnp.broadcast_to(fn(u), u.shape), (t,), (jnp.ones_like(t),))
    alpha, d_alpha = ddt(process.alpha)
    variance, d_variance = ddt(lambda u: process.sigma(u) ** 2)
    f, g = process.f(t), process.g(t)
    scale = 1e-12 + jnp.abs(d_variance) + jnp.abs(2 * f * variance) + g**2
    drift = _largest((d_alpha - f * alpha) / (1 + jnp.abs(d_alpha)))
    growth = _largest((d_variance - 2 * f * variance - g**2) / scale)
    advice = "an overridden `f` or `g`: f = alpha'/alpha, g^2 = d sigma^2/dt - 2 f sigma^2"
    return [
        Finding("P4", "d alpha/dt = f alpha (relative)", drift, 1e-8, advice),
        Finding("P4", "d sigma^2/dt = 2 f sigma^2 + g^2 (relative)", growth, 1e-8, advice),
    ]


def _moments(process: GaussianProcess) -> Finding:
    """Run the moment equations of the forward SDE and compare with the marginal."""
    times = jnp.asarray(np.asarray(process.natural_times(2048))[::-1])
    data_variance = 0.25
    start = (
        process.alpha(times[0]),
        process.alpha(times[0]) ** 2 * data_variance + process.sigma(times[0]) ** 2,
    )

    def rate(state: tuple, t: Any) -> tuple:
        return process.f(t) * state[0], 2 * process.f(t) * state[1] + process.g(t) ** 2

    def body(state: tuple, ends: tuple) -> tuple:  # the explicit midpoint rule
        t, s = ends
        half = jax.tree.map(lambda y, k: y + (s - t) / 2 * k, state, rate(state, t))
        new = jax.tree.map(lambda y, k: y + (s - t) * k, state, rate(half, (t + s) / 2))
        return new, new

    _, (mean, variance) = jax.lax.scan(body, start, (times[:-1], times[1:]))
    expected_mean = process.alpha(times[1:])
    expected = expected_mean**2 * data_variance + process.sigma(times[1:]) ** 2
    error = max(_largest(mean / expected_mean - 1), _largest(variance / expected - 1))
    return Finding(
        "P5", "the forward SDE has the stated mean and variance (relative)", error, 5e-3,
        "the signs and factors of `f` and `g`",
    )  # fmt: skip


def _is_a_value(process: Process) -> Finding:
    same = is_hashable(process)
    try:
        copy = pickle.loads(pickle.dumps(process))
        same = (
            same and copy == process and hash(copy) == hash(process) and repr(copy) == repr(process)
        )
    except (pickle.PicklingError, AttributeError, TypeError):
        same = same and "<locals>" in type(process).__qualname__  # a class made inside a function
    return Finding(
        "P6", "equality, hash, repr and pickle agree (0 = yes)", 0.0 if same else 1.0, 0.0,
        "@dataclass(frozen=True, kw_only=True) on the class, tuples instead of lists in its fields",
    )  # fmt: skip


def _recovers(process: AffineProcess) -> Finding:
    x_0, z = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2), jnp.linspace(0.7, -0.4, 8).reshape(4, 2)
    worst = 0.0
    for name in registered("prediction"):
        prediction: Prediction = build("prediction", name)
        for t in _times(process, 9):
            c = process.coefficients(jnp.asarray(t), x_0)
            a, b = prediction.target(c)
            skip, out = prediction.recover(c)
            x_t = process.interpolate(x_0, z, t)
            worst = max(worst, _largest(skip * x_t + out * (a * x_0 + b * z) - x_0))
    return Finding(
        "R1", "every prediction recovers the data, recover(target) = x_0", worst, 1e-6,
        "whether alpha vanishes inside (t_min, t_max), or alpha and sigma are proportional",
    )  # fmt: skip


def _prior_facts(process: GaussianProcess) -> dict[str, float]:
    """Return how far the prior is from the truth for data of mean 0 and variance 1, per dimension."""
    alpha, sigma = float(process.alpha(process.t_max)), float(process.sigma(process.t_max))
    ratio = (alpha / sigma) ** 2
    return {
        "signal left at t_max, alpha std / sigma": alpha / sigma,
        "prior mismatch, KL(p_T || prior) in nats per dimension": 0.5 * (ratio - np.log1p(ratio)),
    }


def check_process(process: Process) -> Report:
    """Hold a process to the laws of its rung and return a readable report.

    Args:
        process: an object of kind `process`, registered or not.

    Returns:
        A report; `bool(report)` says whether all laws hold, `print(report)` shows the numbers.
    """
    laws: list[Callable[[Any], Finding | list[Finding]]] = [
        _starts_at_data, _velocity_is_derivative, _is_a_value,
    ]  # fmt: skip
    if isinstance(process, AffineProcess):
        laws += [_decreases, _accurate_in_float32, _recovers]
    if isinstance(process, GaussianProcess):
        laws += [_consistent_sde, _moments]
    findings: list[Finding] = []
    with jax.enable_x64(True):
        for law in laws:
            found = law(process)
            findings += found if isinstance(found, list) else [found]
        facts = _prior_facts(process) if isinstance(process, GaussianProcess) else {}
    findings.sort(key=lambda f: f.law)
    return Report(repr(process), tuple(findings), facts)
