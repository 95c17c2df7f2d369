"""Laws of paths and densities: what a pair (velocity, density) must satisfy, on every rung.

For a path x_t = interpolate(x_0, z, t) with density p(x_t | x_0), in two dimensions unless said otherwise:

    D1  the label inverts the path
    D2  the field is the same whichever way it is taken: definition, autodiff, differences, the label
    D3  p and f conserve mass: d log p / dt + f . grad log p + div f = 0
    D4  the same for the marginal of three points, so for any data set
    D5  the density has mass 1 (on a line, by quadrature)
    D6  all mass is at x_0 as t -> t_min
    D7  the prior forgets x_0 (claimed by `exact_prior`), and its density is that of the paths' ends
    D8  along the marginal flow on a line the cumulative probability stays the same
    D9  coordinates move by themselves (claimed by `coordinatewise`)

A process without labels (random paths) has none of these; one without a density has D1, D2, D6, D7, D9;
one that needs a plane has no D5 and D8.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.exact_field import ExactField, exact_field
from diffusion.numerics import is_static, per_example, runge_kutta
from diffusion.processes import Process
from diffusion.processes.inversion import along_time, jacobian, solve_linear
from diffusion.testing.report import Finding, findings_of, largest

_POINTS = ((-0.8, 0.5), (0.7, 0.1), (0.2, -0.6))
_WEIGHTS = (0.5, 0.3, 0.2)


def _possible(process: Process, method: str) -> bool:
    x, t = jnp.zeros((1, 2)), jnp.full(1, process.t_max)
    try:
        jax.eval_shape(getattr(process, method), x, x, t)
    except TypeError:
        return False
    return True


def has_label(process: Process) -> bool:
    """Say whether the paths of this process can be inverted."""
    return _possible(process, "label")


def has_density(process: Process) -> bool:
    """Say whether this process states p(x_t | x_0)."""
    return _possible(process, "log_density")


def on_a_line(process: Process) -> bool:
    """Say whether this process states its density on a line; some definitions need a plane."""
    x, t = jnp.zeros((1, 1)), jnp.full(1, process.t_max)
    try:
        paths = (process.label, process.conditional_velocity, process.interpolate)
        shapes = [jax.eval_shape(path, x, x, t).shape for path in paths]
        jax.eval_shape(process.noise_log_prob, x)
    except (TypeError, ValueError, IndexError):
        return False
    return shapes == [(1, 1)] * 3 and has_density(process)


def _compiled(fn: Callable) -> Callable:
    """Compile a function of a process and arrays, once per process that allows it."""
    run = jax.jit(fn, static_argnums=0)
    return functools.wraps(fn)(
        lambda process, *args: (run if is_static(process) else fn)(process, *args)
    )


def _times(process: Process, steps: tuple[int, ...] = (2, 4, 6)) -> np.ndarray:
    """Return some of the process's natural times, counted in eighths from noise to data."""
    return np.asarray(process.natural_times(8))[list(steps)]


def _draws(process: Process, dim: int = 2, each: int = 8) -> tuple[Any, Any, Any]:
    """Return x_0, z and t, with `each` rows for each of three times."""
    t = jnp.repeat(jnp.asarray(_times(process)), each)
    points = jnp.asarray(_POINTS)[:, :dim]
    x_0 = points[jnp.arange(len(t)) % len(points)]
    return x_0, process.sample_noise(jax.random.key(1), (len(t), dim)).astype(float), t


def _divergence(fn: Callable, x: Any) -> Any:
    return jnp.trace(jacobian(fn, x), axis1=1, axis2=2)


def _conservation(log_p: Callable, velocity: Callable, x: Any, t: Any) -> Any:
    """Return d log p / dt + f . grad log p + div f, relative to the size of its terms."""
    f, div = velocity(x, t), _divergence(lambda y: velocity(y, t), x)
    along = jax.jvp(log_p, (x, t), (f, jnp.ones_like(t)))[1]
    change = jax.jvp(lambda u: log_p(x, u), (t,), (jnp.ones_like(t),))[1]
    return (along + div) / (1 + jnp.abs(div) + jnp.abs(change))


@_compiled
def _path_errors(process: Process, x_0: Any, z: Any, t: Any) -> dict[str, Any]:
    x_t = process.interpolate(x_0, z, t)
    stated = process.conditional_velocity(x_t, x_0, t)
    scale = 1 + jnp.abs(stated)
    h = 1e-5 * t
    later, earlier = process.interpolate(x_0, z, t + h), process.interpolate(x_0, z, t - h)
    rate = along_time(lambda u: process.label(x_t, x_0, u), t, x_t)[1]
    ways = (
        process.velocity(x_0, z, t),
        along_time(lambda u: process.interpolate(x_0, z, u), t, x_t)[1],
        (later - earlier) / per_example(2 * h, x_t),
        -solve_linear(lambda y: process.label(y, x_0, t), x_t, rate),  # z does not change
    )
    off = jacobian(lambda z: process.interpolate(x_0, z, t), z) * (1 - jnp.eye(z.shape[1]))
    return {
        "label": (process.label(x_t, x_0, t) - z) / (1 + jnp.abs(z)),
        "ways": jnp.stack([(way - stated) / scale for way in ways]),
        "off": off if process.coordinatewise else jnp.zeros_like(off),
    }


def paths(process: Process) -> list[Finding]:
    """D1: the label inverts the path, and the field is the same by every way."""
    if not has_label(process):
        return []
    errors = _path_errors(process, *_draws(process))
    who = type(process).__name__
    return [
        Finding(
            "D1", "the label inverts the path, label(interpolate(x_0, z, t)) = z (relative)",
            largest(errors["label"]), 1e-6,
            f"whether two paths of {who} from one x_0 cross; an overridden `label` or `conserved`",
        ),
        Finding(
            "D2", "the field agrees taken by definition, autodiff, differences and label (relative)",
            largest(errors["ways"]), 1e-5,
            f"an overridden `velocity` or `conditional_velocity` of {who}",
        ),
        Finding(
            "D9", "coordinates move by themselves where the process says so",
            largest(errors["off"]), 1e-12, f"`coordinatewise` of {who}",
        ),
    ]  # fmt: skip


@_compiled
def _ends(process: Process, x_0: Any, z: Any) -> tuple[Any, Any]:
    near = process.interpolate(x_0, z, process.t_min) - x_0
    here, zero = (process.interpolate(x, z, process.t_max) for x in (x_0, jnp.zeros_like(x_0)))
    return jnp.sqrt((near**2).sum(axis=1)), here - zero


def ends(process: Process) -> list[Finding]:
    """D6: mass starts at x_0 and the prior forgets it."""
    if not has_label(process):
        return []
    x_0 = jnp.broadcast_to(jnp.asarray(_POINTS[0]), (512, 2))
    z = process.sample_noise(jax.random.key(2), (512, 2)).astype(float)
    near, left = _ends(process, x_0, z)
    findings = [
        Finding(
            "D6", "at t_min most mass is at x_0, median |x_t - x_0|", float(jnp.median(near)), 0.05,
            "the direction of time, and whether t_min is small enough",
        )
    ]  # fmt: skip
    if process.exact_prior:
        findings.append(
            Finding(
                "D7", "at t_max nothing of x_0 is left, as `exact_prior` claims", largest(left), 1e-9,
                "whether every path ends in its label at t_max",
            )
        )  # fmt: skip
    return findings


@_compiled
def _density_errors(process: Process, x_0: Any, z: Any, t: Any) -> dict[str, Any]:
    x_t = process.interpolate(x_0, z, t)
    end = process.interpolate(x_0, z, process.t_max)
    log_p = process.log_density(end, x_0, process.t_max)
    field = _field(process, jnp.asarray(_POINTS))
    return {
        "conditional": _conservation(
            lambda y, u: process.log_density(y, x_0, u),
            lambda y, u: process.conditional_velocity(y, x_0, u), x_t, t,
        ),
        "marginal": _conservation(field.log_density, field.velocity, x_t, t),
        "prior": (process.prior_log_prob(end) - log_p) / (1 + jnp.abs(log_p)),
    }  # fmt: skip


def _field(process: Process, points: Any) -> ExactField:
    return exact_field(process, points, np.asarray(_WEIGHTS))


def densities(process: Process) -> list[Finding]:
    """D3: densities and fields conserve mass."""
    if not has_density(process):
        return []
    errors = _density_errors(process, *_draws(process))
    advice = "`log_density` and `conditional_velocity`: one of them is not that of the path"
    findings = [
        Finding(
            "D3", "p(x_t | x_0) and its field conserve mass (relative)",
            largest(errors["conditional"]), 1e-6, advice,
        ),
        Finding(
            "D4", "the marginal of three points and its field conserve mass (relative)",
            largest(errors["marginal"]), 1e-6, advice,
        ),
    ]  # fmt: skip
    if process.exact_prior:
        findings.append(
            Finding(
                "D7", "the prior density is that of the paths' ends (relative)",
                largest(errors["prior"]), 1e-9, "`prior_log_prob`, `noise_log_prob`, `sample_prior`",
            )
        )  # fmt: skip
    return findings


@_compiled
def _mass(process: Process, z: Any, t: Any) -> Any:
    """Return the mass of p(x_t | 0.4) on a line at each time, on grids fine near the median and wide."""

    def at(t: Any) -> Any:
        origin = lambda x: jnp.full_like(x, 0.4)
        drawn = process.interpolate(origin(z), z, t)[:, 0]
        middle = jnp.median(drawn)
        u = jnp.linspace(-20.0, 20.0, 20_001)
        x = middle + jnp.median(jnp.abs(drawn - middle)) * jnp.sinh(u)
        density = jnp.exp(process.log_density(x[:, None], origin(x[:, None]), t))
        return jnp.trapezoid(density, x)

    return jax.lax.map(at, t)


def masses(process: Process) -> list[Finding]:
    """D5: the density on a line has mass 1."""
    if not on_a_line(process):
        return []
    z = process.sample_noise(jax.random.key(3), (1001, 1)).astype(float)
    mass = _mass(process, z, jnp.asarray(_times(process)))
    return [
        Finding(
            "D5", "the density on a line has mass 1", largest(mass - 1), 5e-3,
            "the normalisation in `noise_log_prob` or `log_density`",
        )
    ]  # fmt: skip


@_compiled
def _transport(process: Process, x: Any, ends: Any) -> tuple[Any, Any]:
    """Return the cumulative probability of x and of where the marginal flow carries it."""
    field = _field(process, jnp.asarray(_POINTS)[:, :1])

    def below(x: Any, t: Any) -> Any:
        u = jnp.linspace(-25.0, 16.0, 8001)
        grid = x + jnp.exp(u) * (t / process.t_max + 0.1)
        density = jnp.exp(field.log_density(grid[:, None], t))
        return 1 - jnp.trapezoid(density, grid)

    times = jnp.geomspace(ends[0], ends[1], 33)

    step = lambda x, pair: (runge_kutta(field.velocity, x, *pair), None)
    y = jax.lax.scan(step, x, (times[:-1], times[1:]))[0]
    cumulative = lambda x, t: jax.lax.map(lambda x: below(x, t), x[:, 0])
    return cumulative(x, ends[0]), cumulative(y, ends[1])


def transports(process: Process) -> list[Finding]:
    """D8: the marginal flow keeps the cumulative probability."""
    if not on_a_line(process):
        return []
    span = jnp.asarray(_times(process, (1, 2)))
    z = process.sample_noise(jax.random.key(4), (5, 1)).astype(float)
    x = process.interpolate(jnp.full((5, 1), 0.3), z, span[0])
    before, after = _transport(process, x, span)
    return [
        Finding(
            "D8", "the marginal flow keeps the cumulative probability on a line",
            largest(after - before), 5e-3, "`conditional_velocity` against `log_density`",
        )
    ]  # fmt: skip


LAWS = tuple((Process, law) for law in (paths, ends, densities, masses, transports))


def check_paths(process: Process) -> list[Finding]:
    """Hold a process to the laws of paths and densities alone, in float64."""
    with jax.enable_x64(True):
        return [finding for _, law in LAWS for finding in findings_of(law, process)]
