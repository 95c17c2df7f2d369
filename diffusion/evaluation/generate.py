"""Generating many examples: example i is a function of (model, sampler, seed, i) alone.

Each example has its own key, folded from the seed and its index, which draws its prior and all noise on
its way. Compilers choose algorithms, and with them the order of summation, by the shapes that they see; so
equal keys alone give equal examples up to round-off. What is computed at once on a device is therefore a
block of fixed size: block j holds the examples j m ... j m + m - 1, whatever was asked for, and example i is
row i mod m of block i // m. The batch size and the number of devices say how many blocks are under way, and
change no bit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion.numerics import as_pytree, at_least, fold_in, row_keys
from diffusion.processes import Process
from diffusion.registry import takes_names
from diffusion.samplers import Sampler, Solution, solve
from diffusion.types import Cond, Key


def block_size(shape: Sequence[int]) -> int:
    """Return the examples that a device computes at once unless told: 256 points, or 32 images."""
    return 256 if math.prod(shape) < 64 else 32


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


@takes_names
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
    spread: bool = True,
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
        spread: divide the batch over all local devices, where their number divides it; otherwise it is computed
            on the first of them alone.
    """
    keys = example_keys(seed, indices)
    model = model_of(_spread(cond, len(indices)) if spread else cond)
    if spread:
        keys = _spread(keys, len(indices))
    elif len(jax.local_devices()) > 1:  # a program of several devices is another program
        model = jax.device_put(as_pytree(model), jax.local_devices()[0])
    x = process.sample_prior(fold_in(keys, 0), (len(indices), *shape))
    return solve(
        sampler, process, model, fold_in(keys, 1), x, times,
        denoise_last=denoise_last, save=save,
    )  # fmt: skip


@takes_names
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
    block: int | None = None,
) -> Iterator[np.ndarray]:
    """Generate examples start ... start + num_samples - 1, a batch at a time, as float32 arrays.

    Arguments beyond those of `generate_batch`: `num_samples` and `start` say which examples, and `cond_of`
    gives the conditions of global indices. `batch_size` examples are handed out at once, and up to twice as
    many are under way; no bit depends on it. `block` is what a device computes at once, `block_size(shape)` unless
    told; it belongs to what determines the bits.
    """
    size = block or block_size(shape)
    at_least(1, block=size, batch_size=batch_size)
    at_least(0, num_samples=num_samples, start=start)
    # where the steps of an example depend on its neighbors, these are those of its block
    spread = not sampler.coupled
    stop, call = start + num_samples, size * (len(jax.local_devices()) if spread else 1)

    def begin(first: int) -> Any:
        indices = np.arange(first, first + call)
        return generate_batch(
            sampler, process, model_of, seed, indices, shape, times, cond_of(indices), spread=spread
        ).x  # fmt: skip

    def finish(firsts: Sequence[int], under_way: Sequence[Any]) -> np.ndarray:
        x = np.concatenate([np.asarray(part, np.float32) for part in under_way])
        return x[max(start - firsts[0], 0) : stop - firsts[0]]

    before = None  # what is under way while the batch after it is begun: devices never wait for us
    for firsts in batched(range(start - start % size, stop, call), -(-batch_size // call)):
        began = firsts, [begin(first) for first in firsts]
        if before is not None:
            yield finish(*before)
        before = began
    if before is not None:
        yield finish(*before)


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut a sequence into pieces of one size, the last one perhaps shorter."""
    for k in range(0, len(items), size):
        yield items[k : k + size]
