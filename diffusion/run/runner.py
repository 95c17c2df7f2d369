"""One training run in a work directory: the implementation of `demolish train`."""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.reader import CheckpointReader
from diffusion.config.checks import SAMPLING, TRAINING, check_training, notes
from diffusion.config.experiment import Experiment
from diffusion.config.recording import recorded
from diffusion.data.classes import remarks
from diffusion.networks import count_parameters
from diffusion.run.cost import bytes_of
from diffusion.run.hooks import hooks_of
from diffusion.run.previous import is_halfway, lost, record, refuse_anew, set_aside
from diffusion.run.rollbacks import Rollbacks, reason, report_bad_step
from diffusion.run.step import batches_of, compiled_dispatch, examples_of
from diffusion.run.trust import remember_code
from diffusion.run.workdir import Workdir
from diffusion.runtime.distributed import first_process
from diffusion.runtime.exits import DivergedError
from diffusion.runtime.lock import Lock, owned
from diffusion.runtime.progress import Say, Terminal, duration, nobody
from diffusion.runtime.provenance import provenance
from diffusion.runtime.stop import StopFlag
from diffusion.runtime.watchdog import Watchdog
from diffusion.training import (
    Console,
    JsonLines,
    LoopOptions,
    Monitor,
    TensorBoard,
    TrainState,
    Writer,
    train,
)


def describe(experiment: Experiment) -> list[str]:
    """Return lines that describe the training: data, network, devices, number of steps."""
    spec, state = experiment.spec, experiment.abstract_state()
    size = "endless" if spec.size is None else f"{spec.size} examples"
    number = count_parameters(state.params)
    devices = experiment.parallel.devices
    sampled = experiment.train.sample_every > 0  # whether sample grids are drawn during training
    classes = f", {spec.num_classes} classes" if spec.num_classes else ""
    held_out = experiment.dataset.division()
    return [
        f"data: {experiment.config['data']['name']}, {size} of shape {spec.shape}{classes}",
        *([f"held out: {held_out}"] if held_out else []),
        f"process: {experiment.process}",
        f"network: {number:,} parameters; state with optimizer and averages {bytes_of(state) / 2**20:.1f} MiB",
        f"devices: {len(devices)} x {devices[0].device_kind}, {type(experiment.parallel).__name__}",
        f"budget: {experiment.train.steps(experiment.batch_size)} steps of {experiment.batch_size} examples",
        *(f"note: {note}" for note in notes(experiment, TRAINING + SAMPLING * sampled)),
    ]


def run(
    experiment: Experiment, workdir: Workdir, *, tensorboard: bool = False, restart: bool = False
) -> TrainState:
    """Train in a work directory, from its newest checkpoint if there is one.

    Args:
        experiment: experiment to train.
        workdir: work directory; a run of another config in it is refused.
        tensorboard: also write TensorBoard event files.
        restart: move an earlier run in this folder aside, and start from step 0.

    Returns:
        The state after the last step.

    Raises:
        Stopped: a signal came; the state is saved.
        DivergedError: steps were not finite again after the last allowed rollback.
        CheckpointError: there are checkpoints, but none can be used; or all earlier checkpoints are gone.
        ReadError: a checkpoint cannot be read; nothing was moved.
        SaveError: a checkpoint could not be written.
        LockedError: another process is training there.
    """
    terminal = Terminal(sys.stderr)
    say = terminal.say if jax.process_index() == 0 else nobody
    options = experiment.train
    experiment.parallel.check_batch(experiment.batch_size, options.accumulate)
    check_training(experiment)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        watchdog = stack.enter_context(
            Watchdog(options.watchdog_seconds, steps=options.steps_per_dispatch)
        )
        lock = stack.enter_context(owned(workdir.path, say))
        experiment, rollbacks = _prepare(experiment, workdir, say, restart)
        checkpoints = Checkpoints(
            workdir.checkpoints,
            keep=options.keep,
            say=say,
            completed=functools.partial(record, workdir),
            alive=watchdog.beat,
        )
        stack.enter_context(checkpoints)
        newest = checkpoints.recover()
        _write_down(experiment, workdir, say, newest)
        first = newest or 0
        monitor = Monitor(say=say, rewrite=terminal.rewrite, alive=watchdog.beat, stop=stop)
        step = compiled_dispatch(experiment)
        going = Run(experiment, workdir, checkpoints, lock, step, monitor, tensorboard)
        while True:
            try:
                state = going.train(rollbacks)
                break
            except DivergedError as error:
                rollbacks = going.roll_back(rollbacks, error)
    num_steps = options.steps(experiment.batch_size)
    if jax.process_index() == 0 and num_steps > first:
        seconds = time.monotonic() - began
        say(f"trained {num_steps - first} steps in {duration(seconds)}")
        workdir.write("run.json", provenance() | {"steps": num_steps, "seconds": round(seconds, 1)})
    return state


def _prepare(
    experiment: Experiment, workdir: Workdir, say: Say, restart: bool
) -> tuple[Experiment, Rollbacks]:
    """Prepare a work directory for a run, or refuse it.

    Returns:
        The experiment with the config that the run records, and the rollbacks of the run.
    """

    def clear() -> int:
        if (restart or is_halfway(workdir)) and (moved := set_aside(workdir)):
            say(f"the earlier run is now in {moved}")
        return 0

    def look() -> int:
        if refuse_anew(workdir):
            say(
                "a run was begun here, and ended before its first checkpoint was complete: step 0 again"
            )
        workdir.sweep()
        return 0

    first_process(clear)
    stored = stored_config(workdir)
    experiment = recorded(experiment, stored)
    # check before anything is written: otherwise config.json would describe another run
    if stored is not None:
        workdir.refuse_another(stored, experiment.config)
    rollbacks = Rollbacks.read(workdir)
    first_process(look)
    return experiment, rollbacks


def _write_down(experiment: Experiment, workdir: Workdir, say: Say, newest: int | None) -> None:
    """Print and record the training, once it is known that it continues from the checkpoint of step `newest`."""
    for line in [*describe(experiment), *remarks(experiment.dataset)]:
        say(line)
    if jax.process_index() != 0:
        return
    if newest is not None and (line := lost(workdir, newest)):
        say(line)
    record(workdir, newest)
    workdir.write("config.json", experiment.config)
    remember_code(experiment.config, say)
    workdir.write("resolved.json", experiment.resolved())
    workdir.write("data.json", dataclasses.asdict(experiment.spec))
    workdir.write("run.json", provenance())


@dataclass(frozen=True)
class Run:
    """A run in progress: it trains from the newest checkpoint, and goes back to a checkpoint if it diverges."""

    experiment: Experiment
    workdir: Workdir
    checkpoints: Checkpoints
    lock: Lock
    step: Any  # from `compiled_dispatch`
    monitor: Monitor
    tensorboard: bool = False

    def train(self, rollbacks: Rollbacks) -> TrainState:
        """Train from the newest checkpoint to the end; see `run`."""
        experiment, options = self.experiment, self.experiment.train
        layout, many = experiment.parallel, options.steps_per_dispatch > 1
        num_steps = options.steps(experiment.batch_size)
        with contextlib.ExitStack() as stack:
            self.monitor.alive("start")  # after a rollback, reads a checkpoint again
            start, state = self._begin()
            writers = stack.enter_context(self._writers(start))
            batches = batches_of(experiment, start, max(num_steps, start + 1), rollbacks)
            return train(
                self.step, layout.place_state(state), stack.enter_context(batches),
                num_steps=num_steps, batch_size=experiment.batch_size,
                place=layout.place_batches if many else layout.place_batch,
                hooks=hooks_of(experiment, self.workdir, writers, self.monitor),
                save=self._save, report=functools.partial(self._report, rollbacks),
                writers=writers, monitor=self.monitor,
                options=LoopOptions(
                    log_every=options.log_every, checkpoint_every=options.checkpoint_every,
                    max_bad_steps=options.max_bad_steps, steps_per_dispatch=options.steps_per_dispatch,
                ),
            )  # fmt: skip

    def _begin(self) -> tuple[int, TrainState]:
        """Return the number of completed steps and the newest state."""
        newest = self.checkpoints.recover()
        if newest is None:
            return 0, self.experiment.init_state()
        stored = self.checkpoints.meta(newest)["config"]
        # config.json may belong to another run
        self.workdir.refuse_another(stored, self.experiment.config)
        template = self.experiment.parallel.template(self.experiment.abstract_state())
        state = self.checkpoints.restore(newest, template)
        self.monitor.say(f"resumed from step {newest}")
        return newest, state

    @contextlib.contextmanager
    def _writers(self, start: int) -> Iterator[list[Writer]]:
        writers: list[Writer] = []
        if jax.process_index() == 0:
            self.workdir.path.mkdir(parents=True, exist_ok=True)
            say, names = self.monitor.say, ("loss", "grad_norm", "images_per_second")
            writers = [JsonLines(self.workdir.metrics, start, say), Console(say, names)]
            if self.tensorboard:
                writers.append(TensorBoard(self.workdir.path / "tensorboard", start))
        try:
            yield writers
        finally:
            for writer in writers:
                writer.close()

    def _save(self, step: int, state: TrainState, block: bool = False) -> None:
        self.lock.check()
        saveable = self.experiment.parallel.saveable(state)
        self.checkpoints.save(step, saveable, self.experiment.config, block=block)

    def _report(self, rollbacks: Rollbacks, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a report about a skipped step, on process 0."""
        if jax.process_index() != 0:
            return
        index = np.asarray(examples_of(self.experiment, step - 1, rollbacks)["index"])
        if report_bad_step(self.workdir, step, metrics, index):
            folder = self.workdir.path / "bad_steps"
            self.monitor.say(
                f"step {step} changed nothing: {reason(metrics)}; its examples are in {folder}"
            )

    def roll_back(self, rollbacks: Rollbacks, error: DivergedError) -> Rollbacks:
        """Go back to the newest checkpoint before the divergence, or raise the error again.

        Without such a checkpoint, the run goes back to step 0.
        """
        done = len(rollbacks.entries)
        if done >= self.experiment.train.max_rollbacks:
            if not done:
                raise error
            raise DivergedError(error.step, f"{error} It had gone back {done} times.") from None
        target = self.checkpoints.go_back_to(error.good)
        rollbacks = rollbacks.and_back(error.step, target)
        if jax.process_index() == 0:
            rollbacks.write(self.workdir)
        self.monitor.say(f"{error} Going back to step {target}, with another order of the data.")
        return rollbacks


def stored_config(workdir: Workdir) -> Mapping[str, Any] | None:
    """Return the config of the run to resume, from its newest checkpoint if config.json is lost."""
    if (workdir.path / "config.json").is_file():
        return workdir.read_config()
    with CheckpointReader(workdir.checkpoints) as checkpoints:
        newest = checkpoints.recover()
        return None if newest is None else checkpoints.meta(newest)["config"]
