"""Image editing with trained models, which need no training for it: pure functions of images and latents.

    encode, decode     along the generative ODE to latents at t_max, and back
    slerp              spherical interpolation of latents
    quarter_turn       interpolation of latents as if they were orthogonal (Su, kexue.fm 9181)
    vary               to a noise level and back: a variation of an image (Meng et al., 2022, "SDEdit")
    interpolate        two images to one noise level with the same noise, mixed there, and back (Su,
                       bojone/Keras-DDPM)

A noise level is sigma / sqrt(alpha^2 + sigma^2), from 0, the image, to 1, pure noise, so that its meaning does
not depend on the process; `time_of_level` returns its time.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.likelihood import integrate_flow
from diffusion.numerics import alike, fold_in, in_interval, on_host, per_example
from diffusion.processes import AffineProcess, Process
from diffusion.registry import takes_names
from diffusion.samplers import Sampler, sample
from diffusion.types import DataLike, KeyLike

__all__ = [
    "decode",
    "encode",
    "interpolate",
    "level_of_time",
    "quarter_turn",
    "slerp",
    "time_of_level",
    "times_below",
    "vary",
]

# a second array that must be shaped like the first, which `alike` checks
Other = Float[Array, "..."] | Float[np.ndarray, "..."]


@takes_names
def encode(process: Process, model: Any, x: DataLike, num_steps: int = 100) -> Array:
    """Integrate the generative ODE from images at t_min to their latents at t_max.

    Args:
        process: any process.
        model: its denoiser, or velocity for a plain `Process`.
        x: images, (batch, ...).
        num_steps: number of fourth-order steps, with four evaluations each.
    """
    return integrate_flow(process, model, x, process.default_times(num_steps)[::-1])


@takes_names
def decode(process: Process, model: Any, x: DataLike, num_steps: int = 100) -> Array:
    """Integrate the generative ODE from latents at t_max to images at t_min, the inverse of `encode`."""
    return integrate_flow(process, model, x, process.default_times(num_steps))


def slerp(a: DataLike, b: Other, fraction: Any) -> Array:
    """Interpolate from a to b by a fraction along the great circle between them, separately for each example.

        (sin((1 - u) angle) a/|a| + sin(u angle) b/|b|) / sin(angle),   with length (1 - u) |a| + u |b|

    The ends are bit-exactly a and b. If a and b have equal norm, so has the result; if they have equal direction, the
    path is straight. Between opposite vectors the great circle is not unique, and an arbitrary one is used.

    Args:
        a: (batch, ...).
        b: shaped like a.
        fraction: a number, or one per example, from 0 to 1.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    alike(a=a.shape, b=b.shape)
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    u = jnp.broadcast_to(jnp.asarray(fraction, a.dtype), (len(a),))[:, None]
    norm_a, norm_b = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (flat_a, flat_b))
    unit_a, unit_b = (x / jnp.where(n > 0, n, 1) for x, n in ((flat_a, norm_a), (flat_b, norm_b)))
    # orthogonal to a, toward b
    across = unit_b - (unit_a * unit_b).sum(axis=-1, keepdims=True) * unit_a
    sine = jnp.linalg.norm(across, axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (unit_a * unit_b).sum(axis=-1, keepdims=True))
    across = across / jnp.where(sine > 0, sine, 1)
    direction = jnp.cos(u * angle) * unit_a + jnp.sin(u * angle) * across
    between = ((1 - u) * norm_a + u * norm_b) * direction
    return jnp.where(u == 0, flat_a, jnp.where(u == 1, flat_b, between)).reshape(a.shape)


def quarter_turn(a: DataLike, b: Other, fraction: Any) -> Array:
    """Return cos(pi u / 2) a + sin(pi u / 2) b, which keeps the variance of independent noise (Su, kexue.fm 9181).

    Unlike `slerp` it assumes that a and b are orthogonal, as independent draws in many dimensions nearly are, so
    the coefficients are the same for every pair.

    Args:
        a: any array.
        b: shaped like a.
        fraction: u, from 0 to 1; a number, or an array that broadcasts against a.
    """
    angle = 0.5 * jnp.pi * jnp.asarray(fraction)
    return jnp.cos(angle) * a + jnp.sin(angle) * b


@takes_names
def time_of_level(process: Process, level: float) -> float:
    """Return the time in [t_min, t_max] at which sigma / sqrt(alpha^2 + sigma^2) equals the noise level.

    A plain `Process` has no alpha and sigma; there the level is (t - t_min) / (t_max - t_min).

    Raises:
        ValueError: the level is outside [0, 1].
    """
    in_interval("[0, 1]", level=level)
    low, high = float(process.t_min), float(process.t_max)
    if not isinstance(process, AffineProcess):
        return low + level * (high - low)
    if level in (0, 1):
        return high if level else low
    log_snr = np.log1p(-(level**2)) - 2 * np.log(level)
    return float(np.clip(on_host(process.time_of_log_snr, log_snr), low, high))


@takes_names
def level_of_time(process: Process, t: float) -> float:
    """Return the noise level at a time, the inverse of `time_of_level`."""
    if not isinstance(process, AffineProcess):
        low, high = float(process.t_min), float(process.t_max)
        return (t - low) / (high - low)
    return float(np.exp(-0.5 * np.logaddexp(0.0, on_host(process.log_snr, t))))


def times_below(times: Any, t: float) -> np.ndarray:
    """Return a decreasing grid that starts at t and continues with those of the given times that are below t.

    The first interval is at least a tenth of the next one, to avoid a step that is too short to be useful.
    """
    times = np.asarray(times, np.float64)
    if t >= times[0]:
        return times
    rest = times[times < t]
    if len(rest) > 1 and t - rest[0] < 0.1 * (rest[0] - rest[1]):
        rest = rest[1:]
    return np.concatenate([[t], rest])


@takes_names
def vary(
    sampler: Sampler, process: Process, model: Any, key: KeyLike, x: DataLike, times: Any
) -> Array:
    """Add noise to images up to times[0] and sample from there: variations that keep the coarse structure.

    Meng et al. (2022), "SDEdit". With a single time, t_min, the images are returned unchanged.

    Args:
        sampler: an object of kind `sampler`.
        process: any process.
        model: its denoiser, or velocity for a plain `Process`.
        key: one key, or one per image.
        x: images at t_min, (batch, ...).
        times: decreasing, from the noise level to t_min, such as `times_below(grid, time_of_level(...))`.
    """
    return interpolate(sampler, process, model, key, x, x, 0.0, times)


@takes_names
def interpolate(
    sampler: Sampler,
    process: Process,
    model: Any,
    key: KeyLike,
    a: DataLike,
    b: Other,
    fraction: Any,
    times: Any,
) -> Array:
    """Add the same noise to two images up to times[0], mix them there, and sample from the mixture.

    Since the noise is shared, the mixture (1 - u) a_t + u b_t has the noise level of a single image at that time,
    and its signal is the mixed image.

    Args:
        sampler: an object of kind `sampler`.
        process: any process.
        model: its denoiser, or velocity for a plain `Process`.
        key: one key, or one per pair.
        a: images at t_min, (batch, ...).
        b: shaped like a.
        fraction: u, from 0 to 1; a number, or one per pair.
        times: decreasing, from the noise level to t_min; with a single time the images themselves are mixed.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    alike(a=a.shape, b=b.shape)
    u = per_example(jnp.asarray(fraction), a)
    mixed = lambda x, y: jnp.where(u == 0, x, (1 - u) * x + u * y)
    if len(times) < 2:
        return mixed(a, b)
    z = process.sample_noise(fold_in(key, 0), a.shape).astype(a.dtype)
    at = lambda x: process.interpolate(x, z, float(times[0]))
    return sample(sampler, process, model, fold_in(key, 1), mixed(at(a), at(b)), times)
