"""Checkpoints on disk: one folder per step, written by Orbax, with a manifest above it.

    <directory>/<step>/state            the train state as global arrays, independent of the device layout
    <directory>/<step>/meta.json        format, step, config, versions, devices
    <directory>/<step>/manifest.json    size and SHA-256 of every file

A folder whose name is a step number is complete: everything is written, hashed and flushed to disk under a hidden
name, and then renamed. After that, older checkpoints are deleted, by step number.
"""

import contextlib
import json
import logging
import os
import platform
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import jax

from diffusion.checkpoints.finite import not_finite
from diffusion.checkpoints.folders import Say
from diffusion.checkpoints.manifest import FORMAT
from diffusion.checkpoints.reader import CheckpointReader
from diffusion.checkpoints.stored import entries, storable
from diffusion.numerics import at_least
from diffusion.runtime.distributed import any_process, first_process
from diffusion.runtime.exits import DamageError, DivergedError, SaveError
from diffusion.runtime.failpoints import failpoint
from diffusion.runtime.progress import nobody
from diffusion.runtime.provenance import versions
from diffusion.training.state import TrainState


def _not_said_twice(record: logging.LogRecord) -> bool:
    """Filter out tracebacks that Orbax logs for errors which it also raises."""
    return not (record.levelno >= logging.ERROR and "orbax" in record.pathname)


def _lower_priority() -> None:
    """Lower the priority of this thread below that of the training steps, on Linux."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def environment() -> dict[str, Any]:
    """Return the environment that bitwise reproducibility depends on: versions, devices, cores."""
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }


class Checkpoints(CheckpointReader):
    """The checkpoints of a run, for reading and writing by its owner.

    As a context manager, it waits for pending writes and closes.
    """

    _moves = True

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 3,
        asynchronous: bool = True,
        say: Say = nobody,
        completed: Callable[[int | None], None] = lambda step: None,
        alive: Say = nobody,
    ):
        """Open a folder, create it if necessary, and delete incomplete checkpoints of dead processes.

        Args:
            directory: the folder.
            keep: number of checkpoints to keep, the newest ones.
            asynchronous: whether `save` returns as soon as the state is copied, and writes in the background.
            say: called with a message about every damaged checkpoint.
            completed: called on process 0 with the step of every checkpoint that is complete, before older ones are
                deleted; and with the step that will be the newest, before later ones are deleted.
            alive: called repeatedly with "save" while the process waits for the disk.
        """
        import orbax.checkpoint as ocp

        at_least(1, keep=keep)
        super().__init__(directory, say=say)
        self._keep, self._asynchronous = keep, asynchronous
        self._completed, self._alive = completed, alive
        self._writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._thread = futures.ThreadPoolExecutor(1, "save", initializer=_lower_priority)
        # step, bytes, and the future of the write
        self._saving: tuple[int, int, futures.Future[None]] | None = None
        # adding the same filter again has no effect
        logging.getLogger("absl").addFilter(_not_said_twice)
        first_process(self._prepare)

    def _prepare(self) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._folders.sweep()
        return 0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            self.close()
            return
        # returned, not raised, so that it does not hide an error of the block
        failed = self._joined()
        if failed:
            self._say(str(failed))
        self._thread.shutdown()
        self._writer.close()

    def path(self, step: int) -> Path:
        self.wait()
        return super().path(step)

    def save(
        self, step: int, state: TrainState, config: Mapping[str, Any], *, block: bool = False
    ) -> bool:
        """Write a checkpoint, unless this step has one.

        Args:
            step: number of completed steps.
            state: `layout.saveable(state)`; it may be donated as soon as this returns.
            config: config of the run, as JSON data.
            block: return only when the checkpoint is on disk.

        Returns:
            Whether a checkpoint was written.

        Raises:
            SaveError: this checkpoint, or the previous one, could not be written.
            DivergedError: the parameters, the optimizer state or an average is not finite.
        """
        self.wait()
        if step in self._folders.steps() and self._is_whole(step):
            return False
        content = entries(state)
        self._refuse_not_finite(step, content)
        size = sum(x.nbytes for x in jax.tree.leaves(content) if hasattr(x, "nbytes"))
        meta = {"format": FORMAT, "step": step, "config": dict(config), **environment()}
        try:
            first_process(lambda: self._begin(step, meta))
            arguments = self._args.PyTreeSave(storable(content))
            self._writer.save(self._folders.temporary(step) / "state", args=arguments)
        except Exception as error:  # Orbax raises exceptions of many classes
            raise self._failed(step, size, error) from error
        failpoint("mid_write")
        self._saving = (step, size, self._thread.submit(self._finish, step))
        if block or not self._asynchronous:
            self.wait()
        return True

    def go_back_to(self, step: int) -> int:
        """Delete the checkpoints of later steps, newest first; the run will write them again.

        Returns:
            The newest remaining step; 0 if there is none.
        """
        self.wait()

        def delete() -> int:
            self._completed(max((s for s in self._folders.steps() if s <= step), default=None))
            for later in reversed([s for s in self._folders.steps() if s > step]):
                self._folders.remove(later)
            return 0

        first_process(delete)
        return self.latest_step() or 0

    def _is_whole(self, step: int) -> bool:
        """Return whether a step has an intact checkpoint; move a damaged one aside."""

        def check() -> int:
            try:
                self._folders.verify(step)
            except DamageError as error:
                aside = self._folders.set_aside(step, error.reason)
                self._say(f"checkpoint of step {step} is damaged: {error}; moved to {aside.name}")
                return 0
            return 1

        return bool(first_process(check))

    def _refuse_not_finite(self, step: int, content: Mapping[str, Any]) -> None:
        if wrong := not_finite(content):
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise DivergedError(
                step,
                f"The state of step {step} is not saved: {', '.join(wrong[:3])}{more} "
                f"{'are' if len(wrong) > 1 else 'is'} not finite. Newest checkpoint: "
                f"{'none' if self.latest_step() is None else f'step {self.latest_step()}'}.",
            )

    def _begin(self, step: int, meta: Mapping[str, Any]) -> int:
        folder = self._folders.begin(step)
        (folder / "meta.json").write_text(json.dumps(meta, default=str))
        return 0

    def _finish(self, step: int) -> None:
        """Wait for Orbax, then hash the files and commit the checkpoint; runs in a thread."""
        self._writer.wait_until_finished()
        if jax.process_index() == 0:
            self._folders.commit(step)
            what = "that cannot be written down"
            try:
                self._completed(step)
                what = "an older one cannot be deleted"
                self._folders.prune(self._keep, step)
            except OSError as error:
                raise OSError(f"it is saved, but {what}: {error}") from error

    def _joined(self) -> SaveError | None:
        """Wait for the thread; return its error, if there was one."""
        if self._saving is None:
            return None
        step, size, saving = self._saving
        self._saving = None
        error = saving.exception()
        return None if error is None else self._failed(step, size, error)

    def _failed(self, step: int, size: int, error: BaseException) -> SaveError:
        """Return an error that names the step, the folder, the reason and the free disk space."""
        if jax.process_index() == 0:
            self._folders.discard(step)
        try:
            free = f"{shutil.disk_usage(self.directory).free / 2**20:.0f} MiB are free there"
        except OSError:
            free = "the folder cannot be reached"
        reason = str(error).strip() or type(error).__name__
        return SaveError(
            f"The checkpoint of step {step} could not be saved in {self.directory}: "
            f"{reason.splitlines()[0][:300]}. It needs up to {size / 2**20:.1f} MiB; {free}. Whole: "
            f"{', '.join(map(str, self.steps())) or 'none'}. The same command resumes from the newest."
        )

    def wait(self) -> None:
        """Wait until every saved checkpoint is on disk.

        Raises:
            SaveError: a checkpoint could not be written.
        """
        pending = self._saving is not None
        while self._saving and any_process(
            bool(futures.wait([self._saving[2]], timeout=0.2).not_done)
        ):
            # the processes meet repeatedly: one that died is noticed, one with a slow disk is waited for
            self._alive("save")
        error = self._joined()
        if pending and any_process(error is not None):
            raise error or SaveError("Another process of this job could not write its part.")

    def close(self) -> None:
        """Wait for pending writes and close the folder."""
        self.wait()
        self._thread.shutdown()
        self._writer.close()
        super().close()
