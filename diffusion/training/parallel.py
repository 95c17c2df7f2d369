"""Device layouts of the training step.

A layout places state and batches on devices, and compiles the step. Two are registered under "parallel":

    mesh   jax.jit over a mesh with the axes (data, fsdp); batches are divided over both, large arrays
           of the state over fsdp. The step sees the global batch, so nothing is reduced by hand.
    pmap   jax.pmap; every device holds the whole state and a slice of the batch.

Both give the same parameters, up to the order of summation. With several processes each loads its
own rows of the global batch (`local_rows`); its batches hold only these.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion.numerics import multiple_of
from diffusion.registry import register
from diffusion.runtime.distributed import spread
from diffusion.training.layout import CompiledStep, Layout, stacked
from diffusion.training.state import TrainState, data_to_keys, keys_to_data
from diffusion.training.step import Batch, Reduce, Step, over_axis

AXIS = "batch"  # the mapped axis of pmap
BATCH_AXES = ("data", "fsdp")


@register("parallel", "mesh")
@dataclass(frozen=True, kw_only=True)
class MeshLayout(Layout):
    """jax.jit over a mesh with the axes (data, fsdp).

    Attributes:
        fsdp: number of devices over which large arrays of the state are sharded; 1 for a replicated state.
        min_shard_size: arrays with fewer elements are replicated.
    """

    fsdp: int = 1
    min_shard_size: int = 2**16

    @property
    def mesh(self) -> Mesh:
        """The devices as (data, fsdp)."""
        count = len(self.devices)
        multiple_of(self.fsdp, devices=count, hint="`parallel.fsdp` divides their number.")
        shape = (count // self.fsdp, self.fsdp)
        # set explicitly: jax.make_mesh defaults to Explicit axes, jax.sharding.Mesh to Auto
        types = (AxisType.Auto,) * 2
        return jax.make_mesh(shape, BATCH_AXES, axis_types=types, devices=self.devices)

    @property
    def reduce(self) -> Reduce:
        """Nothing: the step sees the global batch."""
        return Reduce()

    def spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Divide the largest divisible dimension of a large array over fsdp."""
        fits = [n if n % self.fsdp == 0 else 0 for n in shape]
        if self.fsdp == 1 or math.prod(shape) < self.min_shard_size or not any(fits):
            return PartitionSpec()
        axis = fits.index(max(fits))
        return PartitionSpec(*(None,) * axis, "fsdp")

    def shardings(self, tree: Any) -> Any:
        """Return the sharding of every array of a state."""
        mesh = self.mesh
        return jax.tree.map(lambda x: NamedSharding(mesh, self.spec(x.shape)), tree)

    def place_state(self, state: TrainState) -> TrainState:
        """Copy a state to the mesh; donating the copy does not affect the original."""
        if jax.process_count() == 1:
            return jax.device_put(state, self.shardings(state), may_alias=False)
        plain = keys_to_data(state)
        return data_to_keys(jax.tree.map(spread, plain, self.shardings(state)), state)

    def place_batch(self, batch: Batch) -> Any:
        """Divide a batch over all devices."""
        return self._divide(batch, _batch_sharding(self))

    def place_batches(self, batches: Sequence[Batch]) -> Any:
        """Divide each batch over all devices."""
        return self._divide(stacked(batches), _batch_sharding(self, stacked=True))

    def _divide(self, batch: Batch, sharding: NamedSharding) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(dict(batch), sharding)
        place = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x))
        return jax.tree.map(place, dict(batch))

    def placed(self, step: Step) -> Step:
        """Return a step whose new state keeps the placement of the old one."""
        whole = NamedSharding(self.mesh, PartitionSpec())

        def placed(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            state, metrics = step(state, batch)
            state = jax.lax.with_sharding_constraint(state, self.shardings(state))
            return state, jax.lax.with_sharding_constraint(metrics, whole)

        return placed

    def compile(self, step: Step) -> CompiledStep:
        """Compile with jit; the new state keeps the placement of the old one."""
        return jax.jit(self.placed(step), donate_argnums=0)

    def fetch(self, state: Any) -> Any:
        """Gather a placed pytree on the host."""
        plain = keys_to_data(state)
        if jax.process_count() > 1:
            plain = multihost_utils.process_allgather(plain, tiled=True)
        return data_to_keys(jax.device_get(plain), state)

    def saveable(self, state: TrainState) -> TrainState:
        """Return the state itself: Orbax writes global arrays, each process its part."""
        return state

    def template(self, state: TrainState) -> TrainState:
        """Return shapes with the shardings of the mesh."""

        def shape(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(shape, state, self.shardings(state))


@register("parallel", "pmap")
@dataclass(frozen=True, kw_only=True)
class PmapLayout(Layout):
    """jax.pmap with a replicated state: placed arrays have a leading axis of local devices."""

    @property
    def local_devices(self) -> list[Any]:
        """Those devices in use that belong to this process."""
        return [d for d in self.devices if d.process_index == jax.process_index()]

    @property
    def reduce(self) -> Reduce:
        """Collectives over the mapped axis."""
        return over_axis(AXIS)

    def place_state(self, state: TrainState) -> TrainState:
        """Replicate a state."""
        count, sharding = len(self.local_devices), _stacked(self)

        def replicate(x: Any) -> jax.Array:
            return jax.device_put(np.broadcast_to(x, (count, *np.shape(x))), sharding)

        return data_to_keys(jax.tree.map(replicate, jax.device_get(keys_to_data(state))), state)

    def place_batch(self, batch: Batch) -> Any:
        """Give each device its slice: (batch, ...) becomes (devices, batch / devices, ...)."""
        count, sharding = len(self.local_devices), _stacked(self)

        def slices(x: Any) -> np.ndarray:
            x = np.asarray(x)
            return x.reshape(count, x.shape[0] // count, *x.shape[1:])

        return jax.device_put(jax.tree.map(slices, dict(batch)), sharding)

    def place_batches(self, batches: Sequence[Batch]) -> Any:
        """Give each device its slices: (steps, batch, ...) becomes (devices, steps, batch / devices, ...)."""
        count, sharding = len(self.local_devices), _stacked(self)

        def slices(x: Any) -> np.ndarray:
            x = np.asarray(x)
            steps, rows, *rest = x.shape
            return x.reshape(steps, count, rows // count, *rest).swapaxes(0, 1)

        return jax.device_put(jax.tree.map(slices, stacked(batches)), sharding)

    def compile(self, step: Step) -> CompiledStep:
        """Compile with pmap; metrics, which are equal on all devices, are returned once."""
        return jax.pmap(
            step,
            axis_name=AXIS,
            donate_argnums=0,
            out_axes=(0, None),
            devices=None if self.num_devices is None else self.devices,
        )

    def fetch(self, state: Any) -> Any:
        """Copy the first device's part to the host."""
        plain = keys_to_data(state)
        first = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], plain)
        return data_to_keys(first, state)

    def saveable(self, state: TrainState) -> TrainState:
        """Return one copy on the host."""
        return self.fetch(state)

    def template(self, state: TrainState) -> TrainState:
        """Return shapes of whole arrays, replicated over all devices."""
        mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state)


@functools.cache  # needed at every step
def _batch_sharding(layout: MeshLayout, stacked: bool = False) -> NamedSharding:
    return NamedSharding(layout.mesh, PartitionSpec(*(None,) * stacked, BATCH_AXES))


@functools.cache
def _stacked(layout: PmapLayout) -> NamedSharding:
    mesh = Mesh(np.asarray(layout.local_devices), (AXIS,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(AXIS))
