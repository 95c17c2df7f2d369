"""Generating many examples: example i is a function of (model, sampler, seed, i) alone.

Each example has its own key, folded from the seed and its index, which draws its prior and all noise on
its way. Batches have one fixed size, the last one padded, so everything is compiled once; neither the
batch size nor the number of devices changes what is drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from diffusion.numerics import fold_in, row_keys
from diffusion.processes import Process
from diffusion.samplers import Sampler, Solution, solve
from diffusion.types import Cond, Key


def example_keys(seed: int, indices: np.ndarray) -> Key:
    """Return one key per example, a function of the seed and the example's global index."""
    return row_keys(jax.random.key(seed), jnp.asarray(indices, jnp.int32))


def _placed(tree: Any, spec: PartitionSpec) -> Any:
    mesh = Mesh(np.array(jax.local_devices()), ("batch",), axis_types=(AxisType.Auto,))
    return jax.device_put(tree, NamedSharding(mesh, spec))


def _spread(tree: Any, count: int) -> Any:
    """Lay the leading axis over all local devices, where they divide it."""
    devices = len(jax.local_devices())
    return tree if devices == 1 or count % devices else _placed(tree, PartitionSpec("batch"))


def replicated(tree: Any) -> Any:
    """Put a copy of every array on each local device, once, before many batches are generated."""
    return tree if len(jax.local_devices()) == 1 else _placed(tree, PartitionSpec())


def generate_batch(
    sampler: Sampler,
    process: Process,
    model_of: Callable[[Cond], Any],
    seed: int,
    indices: np.ndarray,
    shape: Sequence[int],
    times: Any,
    cond: Cond = None,
    *,
    save: bool = False,
    denoise_last: bool = True,
) -> Solution:
    """Generate the examples of these global indices.

    Args:
        sampler: an object of kind `sampler`.
        process: the process whose prior is drawn.
        model_of: from a condition to the model, guided or not.
        seed: of the examples.
        indices: global indices, (batch,).
        shape: of one example.
        times: decreasing sampling times.
        cond: the condition of each example, leading axis batch, or None.
        save: keep the states at all times.
        denoise_last: end with the posterior mean.
    """
    keys = _spread(example_keys(seed, indices), len(indices))
    cond = _spread(cond, len(indices))
    x = process.sample_prior(fold_in(keys, 0), (len(indices), *shape))
    return solve(
        sampler, process, model_of(cond), fold_in(keys, 1), x, times,
        denoise_last=denoise_last, save=save,
    )  # fmt: skip


def generate(
    sampler: Sampler,
    process: Process,
    model_of: Callable[[Cond], Any],
    seed: int,
    num_samples: int,
    shape: Sequence[int],
    times: Any,
    cond_of: Callable[[np.ndarray], Cond] = lambda indices: None,
    *,
    batch_size: int = 100,
    start: int = 0,
) -> Iterator[np.ndarray]:
    """Generate examples start ... start + num_samples - 1, a batch at a time, as float32 arrays.

    Arguments beyond those of `generate_batch`: `num_samples` and `start` say which examples, `cond_of` gives
    the conditions of global indices, and `batch_size` is the number of examples per compiled call; the
    last batch is padded to it and cut.
    """
    batch_size = min(batch_size, num_samples)
    for first in range(start, start + num_samples, batch_size):
        indices = np.arange(first, first + batch_size)
        x = generate_batch(
            sampler, process, model_of, seed, indices, shape, times, cond_of(indices)
        ).x
        yield np.asarray(x, np.float32)[: start + num_samples - first]


def slerp(a: Array, b: Array, share: float | Array) -> Array:
    """Interpolate noise on the sphere: cos(pi share / 2) a + sin(pi share / 2) b keeps its variance.

    Su, kexue.fm 9181.
    """
    angle = 0.5 * jnp.pi * jnp.asarray(share)
    return jnp.cos(angle) * a + jnp.sin(angle) * b
