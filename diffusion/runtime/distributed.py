"""Several processes working on one job: joining them, dividing rows, spreading arrays."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from diffusion.runtime import exits

VARIABLES = ("DEMOLISH_COORDINATOR", "DEMOLISH_NUM_PROCESSES", "DEMOLISH_PROCESS")


class FirstProcessError(RuntimeError):
    """Process 0 could not do its part; its own message says why.

    Attributes:
        exit_code: the one that process 0 leaves with.
    """

    def __init__(self, exit_code: int):
        super().__init__("process 0 of this job failed; its message says why")
        self.exit_code = exit_code


def initialize_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of one job; call it before anything touches a device.

    What is not given comes from the environment variables DEMOLISH_COORDINATOR, DEMOLISH_NUM_PROCESSES and
    DEMOLISH_PROCESS, which scripts/launch_local.sh sets; and where these are not set, from JAX, which finds all
    three on Slurm, Open MPI, Kubernetes and Cloud TPU.

    Args:
        coordinator: "address:port" of process 0.
        num_processes: how many there are.
        process: which one this is.

    Raises:
        ValueError: a variable is no number, or they contradict each other.
    """
    coordinator = coordinator or os.environ.get(VARIABLES[0]) or None
    count = _number(VARIABLES[1]) if num_processes is None else num_processes
    rank = _number(VARIABLES[2]) if process is None else process
    if count is not None and rank is not None and not 0 <= rank < count:
        raise ValueError(f"{VARIABLES[2]} must lie in 0 ... {count - 1}; got {rank}.")
    jax.distributed.initialize(coordinator, count, rank)


def _number(name: str) -> int | None:
    """Return a whole number from the environment, or None if there is none."""
    word = os.environ.get(name, "")
    if word and not (word.isascii() and word.isdecimal()):
        raise ValueError(f"{name} must be a whole number; got {word!r}.")
    return int(word) if word else None


def select_rows(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Cut these rows out of a global batch, for data sets that make whole batches."""
    return jax.tree.map(lambda x: x[rows], dict(batch))


def spread(x: Any, sharding: NamedSharding) -> jax.Array:
    """Put an array that every process holds, or a global one, where several processes see it."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def first_process(work: Callable[[], int]) -> int:
    """Let process 0 do something for all, and return its number everywhere; all must call this.

    Args:
        work: returns a number from 0 to 2^31 - 1.

    Raises:
        Exception: on process 0 what `work` raised; on the others an error with the same exit code.
    """
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    found = 0
    if jax.process_index() == 0:
        try:
            found = work()
        except Exception as error:  # the others wait: they must hear of it, whatever it is
            failure, found = error, -1 - exits.code_of(error)
    found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if failure is not None:
        raise failure
    if found < 0:
        raise FirstProcessError(-1 - found)
    return found


def together(name: str) -> None:
    """Wait until every process is here, under the same name; all must call this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(failed: bool) -> bool:
    """Say whether this holds on any process; all must call this."""
    if jax.process_count() == 1:
        return failed
    return bool(multihost_utils.process_allgather(np.int32(failed)).any())
