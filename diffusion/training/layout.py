"""Base class of the device layouts of a training step.

A compiled program takes one step (`compile`), or one step per batch of its input (`compile_many`): small
steps then wait less for the host. On CPUs several steps are unrolled, because gradients of convolutions inside a
loop are tens of times slower there; on other platforms they are a loop, compiled once.
"""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.numerics import at_least, at_most, require
from diffusion.training.state import TrainState
from diffusion.training.step import Batch, Reduce, Step, many_steps

CompiledStep = Callable[[TrainState, Any], tuple[TrainState, dict]]


def stacked(batches: Sequence[Batch]) -> Batch:
    """Stack batches of equal shape along a leading axis of steps; arrays on the host stay there."""

    def stack(*parts: Any) -> Any:
        return (jnp if isinstance(parts[0], jax.Array) else np).stack(parts)

    return jax.tree.map(stack, *map(dict, batches))


@dataclass(frozen=True, kw_only=True)
class Layout(abc.ABC):
    """Device layout of a training step.

    Attributes:
        num_devices: number of devices to use, over all processes; None for all.
    """

    num_devices: int | None = None

    def __post_init__(self):
        at_least(1, num_devices=self.num_devices, none="all")

    @property
    def devices(self) -> list[Any]:
        """The devices in use."""
        count = self.num_devices or jax.device_count()
        at_most(jax.device_count(), num_devices=count, of="`parallel`", hint="There are no more.")
        require(
            count == jax.device_count() or jax.process_count() == 1,
            "`parallel.num_devices` must be None with several processes: all devices are used.",
        )
        return jax.devices()[:count]

    @property
    @abc.abstractmethod
    def reduce(self) -> Reduce:
        """The collectives for `make_train_step` under this layout."""

    @abc.abstractmethod
    def place_state(self, state: TrainState) -> TrainState:
        """Place a state, from the host or any device, on the devices of the compiled step."""

    @abc.abstractmethod
    def place_batch(self, batch: Batch) -> Any:
        """Place this process's rows of a batch on its devices."""

    @abc.abstractmethod
    def place_batches(self, batches: Sequence[Batch]) -> Any:
        """Place this process's rows of the batches of several steps on its devices, for `compile_many`."""

    @abc.abstractmethod
    def compile(self, step: Step) -> CompiledStep:
        """Compile a step, which donates the buffers of its input state."""

    def compile_many(self, step: Step) -> CompiledStep:
        """Compile a program that takes one step for each batch in the result of `place_batches`.

        It donates the buffers of its input state; its metrics have a leading axis of steps. Every new number of
        steps is compiled at its first call.
        """
        unroll = self.devices[0].platform == "cpu"
        return self.compile(many_steps(self.placed(step), unroll=unroll))

    def placed(self, step: Step) -> Step:
        """Return a step whose results keep the placement of the layout."""
        return step

    @abc.abstractmethod
    def fetch(self, state: Any) -> Any:
        """Return one copy of a placed pytree as NumPy arrays (typed keys stay keys)."""

    @abc.abstractmethod
    def saveable(self, state: TrainState) -> TrainState:
        """Return the state as arrays whose shapes do not depend on the layout, for a checkpoint."""

    @abc.abstractmethod
    def template(self, state: TrainState) -> TrainState:
        """Return shapes, dtypes and shardings of a saveable state, for restoring a checkpoint.

        Args:
            state: a state from `init_state`, or its shapes.
        """

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Raise ValueError for a global batch size that cannot be divided evenly.

        Args:
            batch_size: examples per step, over all devices.
            accumulate: micro-batches per step.

        Raises:
            ValueError: the message names the nearest sizes that can be divided.
        """
        parts = len(self.devices) * accumulate
        below = batch_size // parts * parts
        near = " or ".join(str(n) for n in (below, below + parts) if n)
        require(
            batch_size > 0 and batch_size % parts == 0,
            f"`data.batch_size` = {batch_size} does not divide by {len(self.devices)} devices x {accumulate} "
            f"micro-batches; the nearest that do: {near}.",
        )

    def local_rows(self, batch_size: int) -> slice:
        """Return the rows of the global batch that this process loads."""
        self.check_batch(batch_size)
        size = batch_size // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)
