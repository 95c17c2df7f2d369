"""Measures of a model on held-out data: loss by noise level, and bits per dimension."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data import Dataset
from diffusion.likelihood import Dequantization, log_prob
from diffusion.numerics import require, row_keys
from diffusion.numerics.programs import Programs
from diffusion.processes import AffineProcess, Process
from diffusion.types import Cond


class LevelLoss(NamedTuple):
    """Error of the posterior mean at one noise level: E|x_0 - x_0_hat|^2 per dimension."""

    log_snr: float
    error: float
    standard_error: float
    count: int


def _errors(process: AffineProcess, model: Any, key: Any, x_0: Any, row: Any, t: Any) -> Any:
    z = process.sample_noise(row_keys(key, row), x_0.shape)
    t = jnp.full((len(x_0),), t, x_0.dtype)
    x_t = process.interpolate(x_0, z, t)
    return ((model(x_t, t) - x_0) ** 2).reshape(len(x_0), -1).mean(axis=-1)


_compiled_errors = Programs(_errors, 1)


def loss_by_level(
    process: AffineProcess,
    model_of: Callable[[Cond], Any],
    dataset: Dataset,
    *,
    num_examples: int = 1000,
    batch_size: int = 100,
    num_levels: int = 9,
    seed: int = 0,
) -> list[LevelLoss]:
    """Measure E|x_0 - E[x_0 | x_t]|^2 per dimension at noise levels evenly spaced in log-SNR.

    In this unit, models with different predictions, weights and processes are comparable.
    """
    times = process.default_times(num_levels + 1)[1:-1]
    size = dataset.spec.size or num_examples
    num_examples = min(num_examples, size)
    batch_size = min(batch_size, num_examples)
    found = []
    for k, t in enumerate(times):
        errors, key = [], jax.random.fold_in(jax.random.key(seed), k)
        for start in range(0, num_examples, batch_size):
            batch = dataset.examples(start, min(batch_size, num_examples - start))
            row = jnp.arange(start, start + len(batch["data"]))
            model = model_of(batch.get("cond"))
            errors.append(np.asarray(_compiled_errors(process, model, key, batch["data"], row, t)))
        e = np.concatenate(errors).astype(np.float64)
        level = float(process.log_snr(t))
        found.append(
            LevelLoss(level, float(e.mean()), float(e.std(ddof=1) / len(e) ** 0.5), len(e))
        )
    return found


class Bits(NamedTuple):
    """Bits per dimension with its standard error over examples."""

    bits_per_dim: float
    standard_error: float
    count: int
    num_steps: int
    trace: str


def bits_per_dim(
    process: Process,
    model_of: Callable[[Cond], Any],
    dataset: Dataset,
    *,
    num_examples: int = 100,
    batch_size: int = 50,
    num_steps: int = 64,
    exact_below: int = 64,
    num_probes: int = 4,
    seed: int = 0,
) -> Bits:
    """Estimate bits per dimension of uniformly dequantized held-out examples through the ODE.

    The trace is exact up to `exact_below` dimensions, and Hutchinson's estimate with `num_probes` probes above. The
    model is used without guidance, since a guided field is not that of a normalized density.

    Raises:
        ValueError: the data is not discrete.
    """
    spec = dataset.spec
    require(
        spec.bits is not None,
        "bits per dimension need integers, such as 8-bit images; of continuous data report `diffusion.log_prob`.",
    )
    assert spec.bits is not None
    dims, quantize = int(np.prod(spec.shape)), Dequantization(levels=2**spec.bits)
    exact = dims <= exact_below
    num_examples = min(num_examples, spec.size or num_examples)
    batch_size = min(batch_size, num_examples)
    found = []
    for start in range(0, num_examples, batch_size):
        batch = dataset.examples(start, min(batch_size, num_examples - start))
        key_noise, key_probe = jax.random.split(jax.random.fold_in(jax.random.key(seed), start))
        x = quantize(key_noise, jnp.asarray(batch["data"]))
        log_p = log_prob(
            process, model_of(batch.get("cond")), x, num_steps=num_steps,
            key=None if exact else key_probe, num_probes=num_probes,
        )  # fmt: skip
        found.append(np.asarray(quantize.bits_per_dim(log_p, dims)))
    bits = np.concatenate(found).astype(np.float64)
    error = float(bits.std(ddof=1) / len(bits) ** 0.5)
    trace = "exact" if exact else f"hutchinson, {num_probes} probes"
    return Bits(float(bits.mean()), error, len(bits), num_steps, trace)
