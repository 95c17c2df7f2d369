"""Jobs of several processes: initialization, division of batches, global arrays, synchronization."""

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
    """Process 0 failed in work that it does for all processes; its own message gives the reason.

    Attributes:
        exit_code: exit code of process 0.
    """

    def __init__(self, exit_code: int):
        super().__init__("process 0 of this job failed; its message says why")
        self.exit_code = exit_code


def initialize_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process: int | None = None
) -> None:
    """Join the processes of one job; call before any device is used.

    An argument that is None comes from the environment variable DEMOLISH_COORDINATOR, DEMOLISH_NUM_PROCESSES or
    DEMOLISH_PROCESS, which scripts/launch_local.sh sets. If the variables are not set either, JAX finds all three on
    Slurm, Open MPI, Kubernetes and Cloud TPU.

    Args:
        coordinator: "address:port" of process 0.
        num_processes: number of processes of the job.
        process: index of this process.

    Raises:
        ValueError: a variable is not a number, or the variables contradict each other.
    """
    coordinator = coordinator or os.environ.get(VARIABLES[0]) or None
    count = _number(VARIABLES[1]) if num_processes is None else num_processes
    rank = _number(VARIABLES[2]) if process is None else process
    if count is not None and rank is not None and not 0 <= rank < count:
        raise ValueError(f"{VARIABLES[2]} must lie in 0 ... {count - 1}; got {rank}.")
    jax.distributed.initialize(coordinator, count, rank)


def _number(name: str) -> int | None:
    """Return a whole number from an environment variable, or None if it is not set."""
    word = os.environ.get(name, "")
    if word and not (word.isascii() and word.isdecimal()):
        raise ValueError(f"{name} must be a whole number; got {word!r}.")
    return int(word) if word else None


def select_rows(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Return these rows of a global batch, for data sets that always make whole batches."""
    return jax.tree.map(lambda x: x[rows], dict(batch))


def spread(x: Any, sharding: NamedSharding) -> jax.Array:
    """Return a global array with this sharding from an array that every process holds, or from a global array."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(x)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def first_process(work: Callable[[], int]) -> int:
    """Run `work` on process 0 only, and return its result on all processes; a collective call.

    Args:
        work: returns a number from 0 to 2^31 - 1.

    Raises:
        Exception: on process 0 the exception of `work`; on the others an error with the same exit code.
    """
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    found = 0
    if jax.process_index() == 0:
        try:
            found = work()
        except Exception as error:  # of any kind: the other processes are waiting for the result
            failure, found = error, -1 - exits.code_of(error)
    found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if failure is not None:
        raise failure
    if found < 0:
        raise FirstProcessError(-1 - found)
    return found


def together(name: str) -> None:
    """Wait until every process has called this with the same name; a collective call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(failed: bool) -> bool:
    """Return whether `failed` is true on any process; a collective call."""
    if jax.process_count() == 1:
        return failed
    return bool(multihost_utils.process_allgather(np.int32(failed)).any())
