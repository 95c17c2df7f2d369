"""Laws of an `AffineProcess`, alpha(t) x_0 + sigma(t) z."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.prediction import Prediction
from diffusion.processes import AffineProcess
from diffusion.registry import build, registered
from diffusion.testing.process_laws import inner_times, rows
from diffusion.testing.report import Finding, largest


def _scales(process: AffineProcess, t: Any) -> Any:
    """Return alpha and sigma, stacked."""
    return jnp.stack([jnp.broadcast_to(f(t), t.shape) for f in (process.alpha, process.sigma)])


def decreases(process: AffineProcess) -> Finding:
    """P3: log(alpha^2 / sigma^2) strictly decreases."""
    log_snr = np.asarray(jax.jit(process.log_snr)(jnp.asarray(inner_times(process, 1))))
    rise = float(np.max(np.diff(log_snr))) if np.all(np.isfinite(log_snr)) else float("nan")
    return Finding(
        "P3", "log(alpha^2 / sigma^2) strictly decreases (largest rise)", rise, -1e-12,
        "whether alpha falls and sigma rises with t",
    )  # fmt: skip


def positive(process: AffineProcess) -> Finding:
    """P3: alpha and sigma are positive inside the range."""
    t = jnp.asarray(inner_times(process, 1))
    values = np.asarray(jax.jit(lambda t: _scales(process, t))(t))
    lowest = float(values.min()) if np.all(np.isfinite(values)) else float("nan")
    return Finding(
        "P3", "alpha and sigma are finite and positive (minus the smallest value)", -lowest, 0.0,
        "the formulas of `alpha` and `sigma`, and t_max where alpha vanishes",
    )  # fmt: skip


def accurate_in_float32(process: AffineProcess) -> Finding:
    """P3: alpha and sigma agree in float32 and float64."""
    single = np.asarray(inner_times(process), np.float32)  # times that are exact in both precisions
    scales = lambda dtype: np.asarray(jax.jit(lambda t: _scales(process, t))(single.astype(dtype)))
    exact, rounded = scales(np.float64), scales(np.float32)
    return Finding(
        "P3", "alpha and sigma agree in float32 and float64 (relative)",
        largest((rounded - exact) / exact), 2e-4,
        "cancellation: write 1 - exp(x) as -expm1(x), log(1 + x) as log1p(x)",
    )  # fmt: skip


def recovers(process: AffineProcess) -> Finding:
    """R1: every prediction recovers the data."""
    t, x_0, z = rows(inner_times(process, 16))

    @jax.jit
    def errors() -> Any:
        c, x_t, found = process.coefficients(t, x_0), process.interpolate(x_0, z, t), []
        for name in registered("prediction"):
            prediction: Prediction = build("prediction", name)
            a, b = prediction.target(c)
            skip, out = prediction.recover(c)
            found.append(skip * x_t + out * (a * x_0 + b * z) - x_0)
        return jnp.stack(found)

    return Finding(
        "R1", "every prediction recovers the data, recover(target) = x_0", largest(errors()), 1e-6,
        "whether alpha vanishes inside (t_min, t_max), or alpha and sigma are proportional",
    )  # fmt: skip


LAWS = (
    (AffineProcess, decreases),
    (AffineProcess, positive),
    (AffineProcess, accurate_in_float32),
    (AffineProcess, recovers),
)
