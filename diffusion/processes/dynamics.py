"""The SDEs and ODEs of a process and a model, as values that any solver accepts.

    forward   dx = f x dt + g dW
    reverse   dx = [f x - (1 + lam^2)/2 g^2 score] dt + lam g dW, run from t_max down to t_min
    ODE       lam = 0, the probability flow

All members of the family have the same marginals (Song et al., 2021; Su, kexue.fm 9228).
"""

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import per_example
from diffusion.numerics.shapes import checked
from diffusion.processes.base import GaussianProcess, Process
from diffusion.registry import takes_names
from diffusion.types import ODE, SDE, Denoiser, Scalar, Score, Time, Velocity


@takes_names
def forward_sde(process: GaussianProcess) -> SDE:
    """Return the forward SDE, which demolishes data: dx = f(t) x dt + g(t) dW."""
    return SDE(lambda x, t: per_example(process.f(t), x) * x, process.g)


@takes_names
def score(process: GaussianProcess, denoise: Denoiser) -> Score:
    """Return grad log p_t by Tweedie's formula, (alpha E[x_0 | x_t] - x_t) / sigma^2.

    The formula holds for Gaussian noise only, hence the type of the process.
    """

    def score_fn(x_t: Array, t: Time) -> Array:
        c = process.coefficients(t, x_t)
        return (c.alpha * checked(denoise)(x_t, t) - x_t) / c.sigma**2

    return score_fn


@takes_names
def reverse_sde(process: GaussianProcess, denoise: Denoiser, lam: Scalar = 1.0) -> SDE:
    """Return the member `lam` of the family of reverse SDEs: 0 is the ODE, 1 Anderson's reverse SDE.

    The sign convention of time is that of the forward SDE: a solver steps from t to s < t with the negative step s - t.
    """
    score_fn = score(process, denoise)

    def drift(x: Array, t: Time) -> Array:
        f, g = per_example(process.f(t), x), per_example(process.g(t), x)
        return f * x - 0.5 * (1 + lam**2) * g**2 * score_fn(x, t)

    return SDE(drift, lambda t: lam * process.g(t))


@takes_names
def forward_family(process: GaussianProcess, denoise: Denoiser, lam: Scalar = 1.0) -> SDE:
    """Return the forward SDE with noise lam g(t) and the same marginals (Su, kexue.fm 9228)."""
    score_fn = score(process, denoise)

    def drift(x: Array, t: Time) -> Array:
        f, g = per_example(process.f(t), x), per_example(process.g(t), x)
        return f * x - 0.5 * (1 - lam**2) * g**2 * score_fn(x, t)

    return SDE(drift, lambda t: lam * process.g(t))


@takes_names
def probability_flow(process: Process, model: Denoiser | Velocity) -> ODE:
    """Return the ODE that carries noise to data and back.

    The model is a denoiser for an `AffineProcess`, and a velocity for a plain `Process`.
    """
    return process.flow(model)


@takes_names
def score_to_denoiser(process: GaussianProcess, score_fn: Score) -> Denoiser:
    """Return the denoiser E[x_0 | x_t] = (x_t + sigma^2 score) / alpha of a score function."""

    def denoise(x_t: Array, t: Time) -> Array:
        c = process.coefficients(jnp.asarray(t, x_t.dtype), x_t)
        return (x_t + c.sigma**2 * checked(score_fn)(x_t, t)) / c.alpha

    return denoise
