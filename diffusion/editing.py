"""Editing with a model that was trained without knowing of it: pure functions of images and latents.

    encode, decode     along the generative ODE to latents at t_max, and back
    slerp              between latents on the sphere that they lie on
    quarter_turn       between latents as if they were perpendicular (Su, kexue.fm 9181)
    vary               to a noise level and back: a variation of an image (Meng et al., 2022, "SDEdit")
    interpolate        two images to one noise level with the same noise, mixed there, and back (Su,
                       bojone/Keras-DDPM)

A noise level is sigma / sqrt(alpha^2 + sigma^2), from 0, the image, to 1, noise alone, so that it means the
same on every process; `time_of_level` gives its time.
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

Other = Float[Array, "..."] | Float[np.ndarray, "..."]  # held against the first by `require`


@takes_names
def encode(process: Process, model: Any, x: DataLike, num_steps: int = 100) -> Array:
    """Carry images at t_min along the generative ODE to their latents at t_max.

    Args:
        process: any process.
        model: its denoiser, or velocity for a plain `Process`.
        x: (batch, ...).
        num_steps: fourth-order steps, four evaluations each.
    """
    return integrate_flow(process, model, x, process.default_times(num_steps)[::-1])


@takes_names
def decode(process: Process, model: Any, x: DataLike, num_steps: int = 100) -> Array:
    """Carry latents at t_max along the generative ODE to images at t_min: the inverse of `encode`."""
    return integrate_flow(process, model, x, process.default_times(num_steps))


def slerp(a: DataLike, b: Other, fraction: Any) -> Array:
    """Go the fraction of the way from a to b on the great circle between them, example by example.

        (sin((1 - u) angle) a/|a| + sin(u angle) b/|b|) / sin(angle),   with length (1 - u) |a| + u |b|

    The ends are a and b to the last bit; vectors of one length keep it. Vectors of one direction go straight.
    Opposite ones have no great circle between them, and turn about an arbitrary one.

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
    across = (
        unit_b - (unit_a * unit_b).sum(axis=-1, keepdims=True) * unit_a
    )  # normal to a, toward b
    sine = jnp.linalg.norm(across, axis=-1, keepdims=True)
    angle = jnp.arctan2(sine, (unit_a * unit_b).sum(axis=-1, keepdims=True))
    across = across / jnp.where(sine > 0, sine, 1)
    direction = jnp.cos(u * angle) * unit_a + jnp.sin(u * angle) * across
    between = ((1 - u) * norm_a + u * norm_b) * direction
    return jnp.where(u == 0, flat_a, jnp.where(u == 1, flat_b, between)).reshape(a.shape)


def quarter_turn(a: DataLike, b: Other, fraction: Any) -> Array:
    """Return cos(pi u / 2) a + sin(pi u / 2) b, which keeps the variance of independent noise (Su, kexue.fm 9181).

    Unlike `slerp` it takes a and b for perpendicular, as independent draws in many dimensions nearly are, so the
    way is the same for every pair.

    Args:
        a: any array.
        b: shaped like a.
        fraction: u, from 0 to 1; a number, or what multiplies a.
    """
    angle = 0.5 * jnp.pi * jnp.asarray(fraction)
    return jnp.cos(angle) * a + jnp.sin(angle) * b


@takes_names
def time_of_level(process: Process, level: float) -> float:
    """Return the time at which noise has this fraction, sigma / sqrt(alpha^2 + sigma^2), in [t_min, t_max].

    For a plain `Process`, where nothing separates signal from noise, the fraction of the way from t_min to t_max.

    Raises:
        ValueError: the level lies outside [0, 1].
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
    """Return the fraction of noise at a time: the inverse of `time_of_level`."""
    if not isinstance(process, AffineProcess):
        low, high = float(process.t_min), float(process.t_max)
        return (t - low) / (high - low)
    return float(np.exp(-0.5 * np.logaddexp(0.0, on_host(process.log_snr, t))))


def times_below(times: Any, t: float) -> np.ndarray:
    """Return a decreasing grid that begins at t and goes on with the times of another below it.

    The first interval is at least a tenth of the next one, so that no step is wasted.
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
    """Noise images to times[0] and sample from there: variations that keep what noise has not hidden.

    Meng et al. (2022), "SDEdit". With a single time, t_min, nothing is done.

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
    """Noise two images to times[0] with the same noise, mix them there, and sample from the mixture.

    The noise is shared, so the mixture (1 - u) a_t + u b_t has as much of it as one image at that time, and its
    signal is the mixed image.

    Args:
        sampler: an object of kind `sampler`.
        process: any process.
        model: its denoiser, or velocity for a plain `Process`.
        key: one key, or one per pair.
        a: images at t_min, (batch, ...).
        b: shaped like a.
        fraction: u, a number, or one per pair, from 0 to 1.
        times: decreasing, from the noise level to t_min; a single time mixes the images themselves.

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
