"""Generation of many examples: example i is a function of (model, sampler, seed, i) only.

Each example has its own key, folded from the seed and its index, for its prior sample and all noise of its trajectory.
Compilers choose algorithms, and with them the order of summation, by the shapes; equal keys alone therefore
give equal examples only up to roundoff. For equal bits, a device always computes a
block of fixed size m: block j holds the examples j m ... j m + m - 1, even if fewer are requested, and example i is
row i mod m of block i // m. The batch size and the number of devices determine how many blocks are in flight, and
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
    """Return the default number of examples that a device computes at once: 256 points, or 32 images."""
    return 256 if math.prod(shape) < 64 else 32


def example_keys(seed: int, indices: np.ndarray) -> Key:
    """Return one key per example, a function of the seed and the example's global index."""
    return row_keys(jax.random.key(seed), jnp.asarray(indices, jnp.int32))


def _placed(tree: Any, spec: PartitionSpec) -> Any:
    mesh = Mesh(np.array(jax.local_devices()), ("batch",), axis_types=(AxisType.Auto,))
    return jax.device_put(tree, NamedSharding(mesh, spec))


def _spread(tree: Any, count: int) -> Any:
    """Shard the leading axis over all local devices, if their number divides it."""
    devices = len(jax.local_devices())
    return tree if devices == 1 or count % devices else _placed(tree, PartitionSpec("batch"))


def replicated(tree: Any) -> Any:
    """Copy every array to each local device, once, before many batches are generated."""
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
        model_of: function from a condition to the model, guided or not.
        seed: seed of the examples.
        indices: global indices, (batch,).
        shape: shape of one example.
        times: decreasing sampling times.
        cond: the condition of each example, leading axis batch, or None.
        save: keep the states at all times.
        denoise_last: end with the posterior mean.
        spread: divide the batch over all local devices, if their number divides it; otherwise compute it
            on the first device only.
    """
    keys = example_keys(seed, indices)
    model = model_of(_spread(cond, len(indices)) if spread else cond)
    if spread:
        keys = _spread(keys, len(indices))
    elif len(jax.local_devices()) > 1:  # a program for several devices may give other bits
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
    """Generate examples start ... start + num_samples - 1 in batches, as float32 arrays.

    Arguments beyond those of `generate_batch`: `num_samples` and `start` select the examples, and `cond_of`
    maps global indices to conditions. Batches of `batch_size` examples are yielded, and up to twice as
    many are in flight; no bit depends on it. `block` is the number of examples that a device computes at once, by
    default `block_size(shape)`; the bits depend on it.
    """
    size = block or block_size(shape)
    at_least(1, block=size, batch_size=batch_size)
    at_least(0, num_samples=num_samples, start=start)
    # if the steps of an example depend on the rest of its batch, they depend only on its block
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

    before = None  # batch in flight while the next one is dispatched, so that devices never wait for the host
    for firsts in batched(range(start - start % size, stop, call), -(-batch_size // call)):
        began = firsts, [begin(first) for first in firsts]
        if before is not None:
            yield finish(*before)
        before = began
    if before is not None:
        yield finish(*before)


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Divide a sequence into pieces of equal size, of which the last may be shorter."""
    for k in range(0, len(items), size):
        yield items[k : k + size]
