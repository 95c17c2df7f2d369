"""Upsample guidance: images larger than those of the training, without training (Hwang et al., 2024).

The coarse part of a large image is guided by the model at its training size. With D the average over s x s
pixels and U the repetition of each pixel,

    x_0 = X(x_t, t) + scale U[X(alpha_tau / alpha_t D x_t, tau) - D X(x_t, t)],   SNR(tau) = s^2 SNR(t)

since averaging divides the variance of the noise by s^2. In terms of the predicted noise it is the formula
of Su, kexue.fm 10055, with scale = 1 + w.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.extrapolation import Extrapolation
from diffusion.guidance.model import CallablePytree, ConditionalModel
from diffusion.guidance.scales import Scale, as_scale, scale_at
from diffusion.numerics import per_example, require, whole
from diffusion.processes import GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Denoiser, Scalar, Time


def pool(x: Array, factor: int) -> Array:
    """Average x of shape (batch, ..., channels) over blocks of factor x factor (x ...) pixels."""
    sizes = x.shape[1:-1]
    split = [n for size in sizes for n in (size // factor, factor)]
    blocks = x.reshape(x.shape[0], *split, x.shape[-1])
    return blocks.mean(axis=tuple(range(2, 2 + 2 * len(sizes), 2)))


def repeat(x: Array, factor: int) -> Array:
    """Repeat every pixel of x of shape (batch, ..., channels) `factor` times along each spatial axis."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Upsampled(CallablePytree):
    """x_0 with its coarse part shifted toward that of the model at the smaller size."""

    denoise: Denoiser
    scale: Any  # a number, (batch,), or a callable of t
    process: GaussianProcess = dataclasses.field(metadata={"static": True})
    factor: int = dataclasses.field(default=2, metadata={"static": True})

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the guided posterior mean of the larger image."""
        check_size(x_t.shape[1:], self.factor)
        x_0 = self.denoise(x_t, t)
        t = jnp.asarray(t, x_t.dtype)
        tau = self.process.time_of_log_snr(self.process.log_snr(t) + 2 * math.log(self.factor))
        tau = jnp.asarray(tau, x_t.dtype)
        small = pool(x_t, self.factor)
        grow = per_example(self.process.alpha(tau) / self.process.alpha(t), small)
        coarse = self.denoise(grow * small, tau) - pool(x_0, self.factor)
        return x_0 + scale_at(self.scale, t, x_t) * repeat(coarse, self.factor)


def check_size(shape: tuple[int, ...], factor: int) -> None:
    """Raise ValueError unless this is the shape of an image or signal whose sizes are multiples of `factor`."""
    require(
        len(shape) >= 2 and all(n % factor == 0 and n >= factor for n in shape[:-1]),
        f"upsample guidance by {factor} needs images whose sizes are multiples of it; got shape {shape}.",
    )


@takes_names
def upsample(
    process: GaussianProcess, denoise: Denoiser, factor: int = 2, scale: Scale = 1.2
) -> Denoiser:
    """Guide a model of small images to generate images `factor` times as large.

    Args:
        process: the process of the small images, with Gaussian noise.
        denoise: E[x_0 | x_t] for images of both sizes: a convolutional network. It is called twice, the
            second time on 1 / factor^2 of the pixels.
        factor: the ratio of the sizes; 1 returns the denoiser unchanged.
        scale: 0 the plain model, 1 the coarse part of the small model; 1.2 works well.
    """
    require_process(process, GaussianProcess, "upsample guidance")
    whole(1, factor=factor)
    if factor == 1:
        return denoise
    return Upsampled(denoise, as_scale(scale), process, factor)


@register("guidance", "upsample")
@final
@dataclass(frozen=True, kw_only=True)
class Upsample(Extrapolation):
    """x_0 + scale U[X(alpha_tau / alpha_t D x_t, tau) - D x_0], SNR(tau) = factor^2 SNR(t).

    Hwang et al., 2024; Su, kexue.fm 10055, with scale = 1 + w. Generated images are `factor` times as large as
    the training images.
    """

    requires: ClassVar[type[Process]] = GaussianProcess
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 0.0}

    factor: int = 2
    scale: Any = dataclasses.field(default=1.2, metadata={"kind": "scale"})
    omega: InitVar[Scalar | None] = None

    def guide(self, model: ConditionalModel) -> Denoiser:
        if self.whole() == 0:
            return model.conditional
        process: Any = model.process
        return upsample(process, model.conditional, self.factor, self.at(model))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        require(len(shape) >= 2, f"'upsample' is for images or signals; got shape {shape}.")

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*(self.factor * n for n in shape[:-1]), shape[-1])
