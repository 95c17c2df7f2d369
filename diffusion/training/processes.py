"""Several processes working on one job: joining them, dividing rows, spreading arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding


def initialize_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of one job; call it before anything touches a device.

    Args:
        coordinator: "address:port" of process 0. On Slurm, Open MPI and Cloud TPU all three arguments
            are found by JAX and may be left out.
        num_processes: how many there are.
        process: which one this is.
    """
    jax.distributed.initialize(coordinator, num_processes, process)


def select_rows(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Cut these rows out of a global batch, for data sets that make whole batches."""
    return jax.tree.map(lambda x: x[rows], dict(batch))


def spread(x: Any, sharding: NamedSharding) -> jax.Array:
    """Put an array that every process holds, or a global one, where several processes see it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
