"""Couplings: the joint distribution of examples and noise.

A path needs a pair (x_0, z). Any joint law with the right two marginals gives a valid field (Su, kexue.fm
9497); pairing x_0 with nearby z gives straighter paths. A coupling adds the entry `noise` to a batch, from
which the losses take z. It is part of the data pipeline; losses do not depend on it:

    batch = coupling(process, key, batch)     needs the entries data and row, `stored` also index

References: Liu et al. 2023 (reflow), Tong et al. 2024 and Pooladian et al. 2023 (minibatch transport).
"""

import abc
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import (
    at_least,
    fold_in,
    is_traced,
    multiple_of,
    one_of,
    positive,
    require,
    row_keys,
)
from diffusion.processes import Process
from diffusion.registry import register
from diffusion.runtime import digests
from diffusion.runtime.files import DamagedFileError, MissingFileError, decoding, expanded
from diffusion.runtime.npz import names_in, read_arrays
from diffusion.runtime.reading import check_plain
from diffusion.samplers import Sampler, sample
from diffusion.types import Key

_METHODS = ("exact", "sinkhorn")


@dataclass(frozen=True, kw_only=True)
class Coupling(abc.ABC):
    """A rule that pairs examples with noise."""

    @abc.abstractmethod
    def __call__(self, process: Process, key: Key, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with the entry `noise`, a function of the key and of the rows."""

    def check(self, size: int | None) -> None:
        """Raise ValueError unless this can pair a data set of `size` examples; None means an endless data set."""
        del size


@register("coupling", "independent")
@final
@dataclass(frozen=True, kw_only=True)
class Independent(Coupling):
    """Noise independent of the data, which the losses draw themselves."""

    def __call__(self, process: Process, key: Key, batch: Mapping[str, Any]) -> dict[str, Any]:
        return dict(batch)


@register("coupling", "minibatch_ot")
@final
@dataclass(frozen=True, kw_only=True)
class MinibatchOT(Coupling):
    """Noise permuted within groups of a batch, so that sum |x_0 - x_T|^2 is least.

    Row i draws its noise from its own key; the noises within a group of consecutive rows are then permuted. So
    a shard of the batch with whole groups gives the same pairs as the whole batch.

    Args:
        method: exact, an assignment solved on the host (cubic in `group`); or sinkhorn, for use inside
            compiled code: each row draws its partner from the entropic transport plan.
        group: number of rows whose noise is permuted; the batch size must be a multiple of it, or smaller.
        blur: entropic regularization of the plan, relative to the mean cost.
        num_steps: number of Sinkhorn iterations.
    """

    method: str = "exact"
    group: int = 64
    blur: float = 0.02
    num_steps: int = 200

    def __post_init__(self) -> None:
        one_of(_METHODS, method=self.method)
        at_least(2, group=self.group)
        positive(blur=self.blur)

    def __call__(self, process: Process, key: Key, batch: Mapping[str, Any]) -> dict[str, Any]:
        x_0, row = jnp.asarray(batch["data"]), jnp.asarray(batch["row"])
        size = min(self.group, len(x_0))
        multiple_of(size, batch_size=len(x_0), hint="It holds whole groups: change `group`.")
        z = process.sample_noise(row_keys(key, row), x_0.shape)
        x_T = process.interpolate(jnp.zeros_like(z), z, process.t_max)
        grouped = lambda x: x.reshape(-1, size, int(np.prod(x.shape[1:])))
        cost = _costs(grouped(x_0), grouped(x_T))
        if self.method == "exact":
            partner = jnp.asarray(_assignments(cost))
        else:
            keys = row_keys(fold_in(key, 1), row).reshape(-1, size)
            partner = jax.vmap(functools.partial(_drawn, self.blur, self.num_steps))(cost, keys)
        first = size * jnp.arange(len(partner))[:, None]
        return {**batch, "noise": z[(first + partner).reshape(-1)]}


def _costs(
    x: Float[Array, "groups n d"], y: Float[Array, "groups n d"]
) -> Float[Array, "groups n n"]:
    """Return |x_i - y_j|^2 within each group."""
    product = jnp.einsum("gid,gjd->gij", x, y, precision="highest")
    return (x**2).sum(-1)[:, :, None] - 2 * product + (y**2).sum(-1)[:, None]


def _assignments(cost: Array) -> np.ndarray:
    """Return the permutation with the least total cost for each group."""
    from scipy.optimize import linear_sum_assignment

    if is_traced(cost):
        raise TypeError(
            'method="exact" works on the host: apply it before the compiled step, or use method="sinkhorn".'
        )
    return np.stack([linear_sum_assignment(c)[1] for c in np.asarray(cost, np.float64)])


def sinkhorn(cost: Float[Array, "n n"], blur: float, num_steps: int) -> Float[Array, "n n"]:
    """Return the logarithm of the entropic transport plan, whose rows and columns sum to 1 / n."""
    kernel = -cost / (blur * jnp.maximum(cost.mean(), jnp.finfo(cost.dtype).tiny))
    level = -jnp.log(float(len(cost)))

    def balance(_: Array, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        _, column = scales
        row = level - jax.nn.logsumexp(kernel + column[None], axis=1)
        return row, level - jax.nn.logsumexp(kernel + row[:, None], axis=0)

    zeros = jnp.zeros(len(cost), cost.dtype)
    row, column = jax.lax.fori_loop(0, num_steps, balance, (zeros, zeros))
    return kernel + row[:, None] + column[None]


def _drawn(blur: float, num_steps: int, cost: Array, keys: Key) -> Array:
    """Draw a partner for each row from its row of the plan."""
    return jax.vmap(jax.random.categorical)(keys, sinkhorn(cost, blur, num_steps))


@register("coupling", "stored")
@final
@dataclass(frozen=True, kw_only=True)
class Stored(Coupling):
    """Noise from a file, one array per example, selected by its number `index` in the data set.

    With the pairs of `reflow_pairs` saved by `np.savez(path, **pairs)`, the data set
    dict(name="array", path=path) and this coupling train on them.

    Args:
        path: an .npz file with an array `noise`, (n, ...), in the order of the data set.
    """

    path: str = field(default="pairs.npz", metadata={"where": True})

    def check(self, size: int | None) -> None:
        number = len(_noise_of(self.path))
        require(
            number == size,
            f"{self.path} holds noise for {number} examples, and the data set has {size}. Train on the data that it "
            "was made for, all of it (data.test_fraction=0).",
        )

    def content(self) -> str:
        """Return the digest of the noise, independent of its path."""
        return digests.of_arrays({"noise": _noise_of(self.path)})

    def __call__(self, process: Process, key: Key, batch: Mapping[str, Any]) -> dict[str, Any]:
        if "index" not in batch:
            raise KeyError("stored pairs need the entry `index` of a batch: which examples.")
        noise, index = _noise_of(self.path), np.asarray(batch["index"])
        if len(index) and index.max() >= len(noise):
            raise ValueError(
                f"{self.path} holds noise for {len(noise)} examples, of other data? The batch has number {index.max()}."
            )
        return {**batch, "noise": noise[index]}


@functools.lru_cache(maxsize=4)
def _noise_of(path: str) -> np.ndarray:
    file = expanded(path)
    if not check_plain(file, links=True):
        raise MissingFileError(f"There is no file {file} in {Path.cwd()}; check `path`.")
    with decoding(file, "as .npz"):
        arrays, names = read_arrays(file, ("noise",)), names_in(file)
    if "noise" not in arrays:
        raise DamagedFileError(f"{file} has no array 'noise'; it has {', '.join(names)}.")
    return arrays["noise"]


def reflow_pairs(
    process: Process,
    model: Any,
    key: Key,
    num: int,
    sampler: Sampler,
    *,
    shape: tuple[int, ...],
    times: Any = None,
    num_steps: int = 64,
    batch_size: int = 256,
    denoise_last: bool = False,
) -> dict[str, np.ndarray]:
    """Return pairs (data, noise) connected by the flow of a model; training on them straightens the flow.

    Args:
        process: the process that the model was trained for.
        model: a denoiser, or a velocity for a plain `Process`.
        key: pair i depends on the key and on i alone.
        num: number of pairs.
        sampler: a deterministic sampler, such as heun.
        shape: shape of one example.
        times: decreasing times; by default those of the process with `num_steps` steps.
        num_steps: number of steps if `times` is None.
        batch_size: number of pairs sampled at a time.
        denoise_last: whether to replace the final states by their posterior means.

    Returns:
        The arrays `data` and `noise`, (num, *shape), with the names of the entries of a batch.
    """
    at_least(1, num=num, batch_size=batch_size)
    require(
        not sampler.stochastic, f"reflow follows an ODE; {type(sampler).__name__} is stochastic."
    )
    times = process.default_times(num_steps) if times is None else times
    found: dict[str, list] = {"data": [], "noise": []}
    for start in range(0, num, batch_size):
        # the last batch has full size too, to compile only once; its surplus rows are dropped
        keys = row_keys(key, start + jnp.arange(batch_size))
        z = process.sample_noise(keys, (batch_size, *shape))
        x_T = process.interpolate(jnp.zeros_like(z), z, process.t_max)
        x = sample(sampler, process, model, None, x_T, times, denoise_last=denoise_last)
        found["data"].append(np.asarray(x))
        found["noise"].append(np.asarray(z))
    return {name: np.concatenate(parts)[:num] for name, parts in found.items()}
