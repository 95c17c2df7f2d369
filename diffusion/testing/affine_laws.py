"""Laws of processes of the form alpha(t) x_0 + sigma(t) z."""

import jax.numpy as jnp
import numpy as np

from diffusion.prediction import Prediction
from diffusion.processes import AffineProcess
from diffusion.registry import build, registered
from diffusion.testing.process_laws import inner_times, rows
from diffusion.testing.report import Finding, largest


def decreases(process: AffineProcess) -> Finding:
    """P3: log(alpha^2 / sigma^2) strictly decreases."""
    log_snr = np.asarray(process.log_snr(jnp.asarray(inner_times(process, 129))))
    rise = float(np.max(np.diff(log_snr))) if np.all(np.isfinite(log_snr)) else float("nan")
    return Finding(
        "P3", "log(alpha^2 / sigma^2) strictly decreases (largest rise)", rise, -1e-12,
        "whether alpha falls and sigma rises with t",
    )  # fmt: skip


def positive(process: AffineProcess) -> Finding:
    """P3: alpha and sigma are positive inside the range."""
    t = jnp.asarray(inner_times(process, 129))
    values = np.asarray([jnp.broadcast_to(f(t), t.shape) for f in (process.alpha, process.sigma)])
    lowest = float(values.min()) if np.all(np.isfinite(values)) else float("nan")
    return Finding(
        "P3", "alpha and sigma are finite and positive (smallest, with its sign turned)", -lowest, 0.0,
        "the formulas of `alpha` and `sigma`, and t_max where alpha vanishes",
    )  # fmt: skip


def accurate_in_float32(process: AffineProcess) -> Finding:
    """P3: alpha and sigma agree in float32 and float64."""
    single = np.asarray(inner_times(process), np.float32)  # the same numbers in both precisions
    worst = 0.0
    for scale in (process.alpha, process.sigma):
        exact = np.asarray(scale(jnp.asarray(single, jnp.float64)))
        rounded = np.asarray(scale(jnp.asarray(single, jnp.float32)))
        worst = max(worst, largest((rounded - exact) / exact))
    return Finding(
        "P3", "alpha and sigma agree in float32 and float64 (relative)", worst, 2e-4,
        "cancellation: write 1 - exp(x) as -expm1(x), log(1 + x) as log1p(x)",
    )  # fmt: skip


def recovers(process: AffineProcess) -> Finding:
    """R1: every prediction recovers the data."""
    t, x_0, z = rows(inner_times(process, 9))
    c, x_t, worst = process.coefficients(t, x_0), process.interpolate(x_0, z, t), 0.0
    for name in registered("prediction"):
        prediction: Prediction = build("prediction", name)
        a, b = prediction.target(c)
        skip, out = prediction.recover(c)
        worst = max(worst, largest(skip * x_t + out * (a * x_0 + b * z) - x_0))
    return Finding(
        "R1", "every prediction recovers the data, recover(target) = x_0", worst, 1e-6,
        "whether alpha vanishes inside (t_min, t_max), or alpha and sigma are proportional",
    )  # fmt: skip


LAWS = (
    (AffineProcess, decreases),
    (AffineProcess, positive),
    (AffineProcess, accurate_in_float32),
    (AffineProcess, recovers),
)
