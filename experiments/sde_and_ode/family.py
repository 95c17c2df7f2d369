"""The family of reverse SDEs, drawn with the noise strength as an argument of one compiled program."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import build, solve
from diffusion.processes import GaussianProcess
from diffusion.samplers.integrators import ReverseSDE

PROCESSES = ("vp", "sub_vp", "cosine", "rectified_flow", "ve", "edm")
LAMBDAS = (0.0, 0.5, 1.0, 1.5, 2.0)


def process_of(name: str) -> Any:
    """Return a process with its usual times."""
    return build("process", name)


def times_of(process: Any, num_steps: int) -> np.ndarray:
    """Return times of equal steps in log-SNR: the same noise levels for every process, but for the ends."""
    grid: Any = build("grid", "uniform_log_snr")
    return grid(process, num_steps)


class Draw:
    """Draws with any lambda; compiled once per number of steps."""

    def __init__(self, process: GaussianProcess, shape: Sequence[int], seed: int = 0):
        self.process, self.shape, self.seed = process, tuple(shape), seed
        self.compiled: dict[int, Any] = {}

    def __call__(self, model: Any, lam: float, num_steps: int, start: Any = 0.0) -> np.ndarray:
        """Return examples; `start` is added to the prior."""
        if num_steps not in self.compiled:
            times = times_of(self.process, num_steps)

            def run(model: Any, lam: Any, start: Any) -> Array:
                key = jax.random.key(self.seed)
                x = self.process.sample_prior(jax.random.fold_in(key, 0), self.shape) + start
                key = jax.random.fold_in(key, 1)
                return solve(ReverseSDE(lam=lam), self.process, model, key, x, times).x

            self.compiled[num_steps] = jax.jit(run)
        return np.asarray(self.compiled[num_steps](model, jnp.asarray(lam), jnp.asarray(start)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class WrongNoise:
    """A denoiser whose noise estimate is off by `shift` between two levels of log-SNR.

    x_0_hat = x_0_hat of `inner` - sigma / alpha * shift where low <= log-SNR < high.
    """

    inner: Any
    shift: Any
    low: Any
    high: Any
    process: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Array, t: Any) -> Array:
        """Return the wrong posterior mean."""
        c = self.process.coefficients(t, x_t)
        level = 2 * jnp.log(c.alpha / c.sigma)
        inside = (level >= self.low) & (level < self.high)
        return self.inner(x_t, t) - jnp.where(inside, c.sigma / c.alpha, 0.0) * self.shift


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Recast:
    """A denoiser of one process under another: the same noise level, brought to the same scale.

    Beyond the levels that it was trained on it is asked at the nearest of them.
    """

    inner: Any
    own: Any = dataclasses.field(metadata={"static": True})
    other: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Array, t: Any) -> Array:
        """Return the posterior mean for x_t of the other process."""
        t = jnp.asarray(t, x_t.dtype)
        noisy, clean = self.own.log_snr_ends()
        s = self.own.time_of_log_snr(jnp.clip(self.other.log_snr(t), noisy, clean))
        size = lambda c: jnp.sqrt(c.alpha**2 + c.sigma**2)
        scale = size(self.own.coefficients(s, x_t)) / size(self.other.coefficients(t, x_t))
        return self.inner(scale * x_t, s)
