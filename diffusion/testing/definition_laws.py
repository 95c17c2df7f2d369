"""The laws that are checked first: a definition can be computed, and is finite at both ends of its time range.

If one of them fails there is nothing to measure, and every later law would fail for the same reason.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.numerics.tracing import made_of_jax
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.testing.path_problems import POINTS
from diffusion.testing.report import Finding
from diffusion.testing.starts import displacement, has_displacement, rounded_down

# Functions of t alone, by the class of process that defines them.
_OF_TIME: tuple[tuple[type[Process], str], ...] = (
    (AffineProcess, "alpha"),
    (AffineProcess, "sigma"),
    (Process, "noise_conditioning"),
    (Process, "input_scale"),
    (GaussianProcess, "f"),
    (GaussianProcess, "g"),
)
# largest |f| times the time range; 1 / (1 - t) exceeds it when t is too close to 1
_STEEPEST = 1e6
_NEAR = 0.05  # largest displacement of x_0 at a good t_min, the bound of law D6


def _functions(process: Process) -> Iterator[str]:
    return (name for requires, name in _OF_TIME if isinstance(process, requires))


def computable(process: Process) -> Finding:
    """P0: the definition is computed by JAX."""
    x = jnp.asarray(POINTS[:1])
    t = jnp.full(1, process.t_max)

    def everything(x: Any, t: Any) -> None:
        for name in _functions(process):
            getattr(process, name)(t)
        z = process.sample_noise(jax.random.key(0), x.shape)
        process.interpolate(x, z, t)

    statement, said = "the definition is computed by JAX (0 = yes)", ""
    try:
        with made_of_jax(type(process).__name__):
            jax.eval_shape(everything, x, t)
    except TypeError as error:
        said = str(error) if "jax.numpy" in str(error) else ""
    except Exception:  # the law of the method that raises it reports the error
        said = ""
    return Finding("P0", statement, 1.0 if said else 0.0, 0.0, said)


def _value(process: Process, name: str, t: float, dtype: Any) -> float | None:
    """Return the value of a method at t in this precision, or None if it raises, which its own law reports."""
    try:
        return float(np.ravel(getattr(process, name)(jnp.asarray([t], dtype)))[0])
    except Exception:
        return None


def _broken(process: Process, t: float) -> list[str]:
    """Return "name = value" for every function of t that is not finite at t, or sigma if it vanishes there."""
    found = []
    span = float(process.t_max) - float(process.t_min)
    for name in _functions(process):
        for dtype in (jnp.float64, jnp.float32):
            value = _value(process, name, t, dtype)
            if value is None:
                continue
            steep = name == "f" and abs(value) * span > _STEEPEST
            if not np.isfinite(value) or steep or (name == "sigma" and value <= 0):
                found.append(f"{name} = {value:.3g}")
                break
    alpha = _value(process, "alpha", t, jnp.float64) if isinstance(process, AffineProcess) else None
    if found and alpha is not None and abs(alpha) < 1e-6:
        found.insert(0, f"alpha = {alpha:.3g}")
    return list(dict.fromkeys(found))


def _usable_end(process: Process) -> float | None:
    """Return a t_max just below the process's own at which everything is finite."""
    candidates = [float(process.t_max) * (1 - fraction) for fraction in (1e-3, 1e-2, 0.1)]
    usable = [t for t in candidates if t > process.t_min and not _broken(process, t)]
    return usable[0] if usable else None


def _usable_start(process: Process) -> float | None:
    """Return a t_min above the process's own at which everything is finite and the displacement of x_0 is small."""
    candidates = [float(f"{process.t_max * 10.0**-k:.1g}") for k in range(3, 9)]
    usable = [t for t in candidates if t > process.t_min and not _broken(process, t)]
    moved = displacement(process) if has_displacement(process) else lambda t: 0.0
    near = [t for t in usable if moved(t) <= _NEAR]
    return next(iter(near or usable), None)


def _rises(process: Process) -> bool:
    """Return whether the log-SNR rises with t, which means that data and noise are interchanged."""
    if not isinstance(process, AffineProcess):
        return False
    low, high = float(process.t_min), float(process.t_max)
    early, late = (
        _value(process, "log_snr", low + fraction * (high - low), jnp.float64)
        for fraction in (0.1, 0.9)
    )
    return early is not None and late is not None and late > early


def finite_at_the_ends(process: Process) -> Finding:
    """P0: functions of t alone are finite at t_min and t_max."""
    advice, bad = [], 0
    ends = (
        ("t_max", _usable_end, float(process.t_max)),
        ("t_min", _usable_start, float(process.t_min)),
    )
    for name, usable, t in ends:
        if not (broken := _broken(process, t)):
            continue
        bad += len(broken)
        better = usable(process)
        hint = "" if better is None else f": give the process {name} = {rounded_down(better, 4):g}"
        advice.append(f"{', '.join(broken)} at {name} = {t:g}{hint}")
    if bad and _rises(process):
        advice = [
            "the direction of time: data at t_min, noise at t_max, so that alpha / sigma falls"
        ]
    return Finding(
        "P0", "alpha, sigma, drift and noise level are finite at t_min and t_max (number that are not)",
        float(bad), 0.0, "; ".join(advice),
    )  # fmt: skip


LAWS = ((Process, computable), (Process, finite_at_the_ends))
