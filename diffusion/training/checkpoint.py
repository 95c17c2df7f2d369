"""Checkpoints on disk: one folder per step, written by Orbax.

    <directory>/<step>/state    the train state as plain global arrays, whatever layout wrote it
    <directory>/<step>/meta     JSON: format, step, config, versions, devices

A folder under its final name is complete: Orbax writes under a temporary one and renames it. What
is restored is compared with what was asked for, leaf by leaf, before anything is read, since Orbax
would cast a float32 to a bfloat16 without a word. Nothing here can run code from a file.
"""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.numerics import require
from diffusion.registry import nearest
from diffusion.training.exits import CheckpointError
from diffusion.training.state import TrainState, data_to_keys, is_key, keys_to_data
from diffusion.types import Params

FORMAT = 1  # raised when the meaning of a stored leaf changes
_PACKAGES = ("demolish", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """Return what bitwise reproducibility depends on: versions, devices, cores."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "versions": versions,
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


def _path(keys: tuple) -> tuple[str, ...]:
    """Name a leaf: a field of a named tuple and a key of the dictionary it is stored as agree."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)


def _leaves(tree: Any) -> dict[tuple[str, ...], tuple[tuple[int, ...], np.dtype]]:
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {_path(keys): (tuple(x.shape), np.dtype(x.dtype)) for keys, x in found}


def _differences(stored: Any, wanted: Any) -> list[str]:
    """List every leaf that is missing, left over, or of another shape or type."""
    have, want = _leaves(stored), _leaves(wanted)
    name = lambda path: "/".join(path)
    show = lambda leaf: f"{leaf[1].name}{list(leaf[0])}"
    lines = [f"missing: {name(p)} {show(want[p])}" for p in want if p not in have]
    lines += [f"left over: {name(p)} {show(have[p])}" for p in have if p not in want]
    return lines + [
        f"differs: {name(p)} is {show(have[p])}, wanted {show(want[p])}"
        for p in want
        if p in have and have[p] != want[p]
    ]


def _entries(state: TrainState) -> dict[str, Any]:
    """Return the state by name, without statistics where none are kept: files do not know of them then."""
    kept = bool(jax.tree.leaves(state.statistics))
    return {k: v for k, v in state._asdict().items() if kept or k != "statistics"}


def _storable(state: Any) -> Any:
    """Return keys as integers and, with several processes, what each of them holds as host arrays."""
    plain = keys_to_data(state)
    if jax.process_count() == 1:
        return plain
    local = lambda x: isinstance(x, jax.Array) and x.is_fully_addressable
    return jax.tree.map(lambda x: np.asarray(x) if local(x) else x, plain)


def _storable_template(like: Any) -> Any:
    """Return shapes, types and placement of a state as it is stored: keys as integers."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None)
        if is_key(x):  # eval_shape shows which integers hold the key; they are never divided
            data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding)

    return jax.tree.map(shape, like)


class Checkpoints:
    """The checkpoints of one run. Also a context manager, which waits and closes.

    Attributes:
        directory: where they are; one run, one folder.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3, asynchronous: bool = True):
        """Open a folder, making it if need be.

        Args:
            directory: the folder.
            keep: how many to keep; the newest are kept.
            asynchronous: `save` returns as soon as the state is copied, and writes on.
        """
        import orbax.checkpoint as ocp

        require(keep >= 1, f"`keep` must be at least 1; got {keep}.")
        self.directory = Path(directory).absolute()
        self._args = ocp.args
        self._construct = ocp.checkpoint_utils.construct_restore_args
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=asynchronous
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(
        self, step: int, state: TrainState, config: Mapping[str, Any], *, block: bool = False
    ) -> bool:
        """Write a checkpoint, unless this step has one.

        Args:
            step: the number of steps done.
            state: `layout.saveable(state)`; it may be donated as soon as this returns.
            config: what the run was built from, as JSON data.
            block: return only when it is on disk.

        Returns:
            Whether a checkpoint was written.
        """
        written = False
        if step not in self._manager.all_steps():
            meta = {"format": FORMAT, "step": step, "config": dict(config), **environment()}
            items = self._args.Composite(
                state=self._args.PyTreeSave(_storable(_entries(state))),
                meta=self._args.JsonSave(meta),
            )
            written = self._manager.save(step, args=items, force=True)
        if block:
            self.wait()
        return written

    def steps(self) -> tuple[int, ...]:
        """Return the steps that have a complete checkpoint, oldest first."""
        return tuple(sorted(self._manager.all_steps()))

    def latest_step(self) -> int | None:
        """Return the newest of them, or None."""
        return max(self.steps(), default=None)

    def path(self, step: int) -> Path:
        """Return the folder of a complete checkpoint: the place for anything that belongs to it.

        Raises:
            CheckpointError: there is none for this step.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"No checkpoint of step {step} in {self.directory}; there are: {self.steps()}."
            )
        return self.directory / str(step)

    def meta(self, step: int) -> dict[str, Any]:
        """Return what is stored beside the state: format, step, config, versions, devices."""
        self.path(step)
        items = self._manager.restore(
            step, args=self._args.Composite(meta=self._args.JsonRestore())
        )
        meta = dict(items["meta"])
        if meta.get("format") != FORMAT:
            raise CheckpointError(
                f"Checkpoint {self.path(step)} has format {meta.get('format')}; this version reads "
                f"format {FORMAT}. It was written by {meta.get('versions')}."
            )
        return meta

    def _stored(self, step: int) -> Any:
        """Return shapes and types of the stored state, as nested dictionaries and lists."""
        self.meta(step)  # the format is known before anything is interpreted
        return self._manager.item_metadata(step)["state"].tree

    def _read(self, step: int, target: Any, *, partial: bool) -> Any:
        restore = self._args.PyTreeRestore(
            item=target, restore_args=self._construct(target), partial_restore=partial
        )
        return self._manager.restore(step, args=self._args.Composite(state=restore))["state"]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Read a state into the shapes, types and placement of another.

        Args:
            step: which checkpoint.
            like: arrays, or shapes with shardings as `layout.template` makes them. The device layout
                need not be the one that wrote the checkpoint.

        Returns:
            The state, on the devices of `like`, still to be handed to `layout.place_state`.

        Raises:
            CheckpointError: there is no such checkpoint, or any leaf differs in name, shape or type.
        """
        target = _storable_template(_entries(like))
        if wrong := _differences(self._stored(step), target):
            more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise CheckpointError(
                f"Checkpoint {self.path(step)} does not fit this config:\n  "
                + "\n  ".join(wrong[:10])
                + more
                + "\nRestore it with the network, optimizer and ema it was written with: its config "
                "is stored beside it."
            )
        return data_to_keys(TrainState(**self._read(step, target, partial=False)), like)

    def restore_params(self, step: int, ema: str | None = None) -> Params:
        """Read parameters alone onto one device, whatever layout wrote them.

        Args:
            step: which checkpoint.
            ema: the name of an average; None: the parameters of the last step.

        Returns:
            Nested dictionaries of arrays on the first local device.

        Raises:
            CheckpointError: there is no such checkpoint or no such average.
        """
        stored = self._stored(step)
        if ema is not None and ema not in stored["ema"]:
            raise CheckpointError(
                f"Checkpoint {self.path(step)} has no average {ema!r}."
                f"{nearest(ema, stored['ema'])} It has: {', '.join(stored['ema']) or 'none'}."
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        chosen = stored["params"] if ema is None else stored["ema"][ema]
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            chosen,
            is_leaf=lambda x: hasattr(x, "shape"),
        )
        target = {"params": shapes} if ema is None else {"ema": {ema: shapes}}
        read = self._read(step, target, partial=True)
        return read["params"] if ema is None else read["ema"][ema]

    def wait(self) -> None:
        """Return when everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and let go of the folder."""
        self._manager.close()
