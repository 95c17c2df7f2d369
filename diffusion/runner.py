"""One training run in a work directory: what scripts/train.py does, callable from anywhere."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion.compatibility import check_training
from diffusion.data import prefetch
from diffusion.experiment import Experiment
from diffusion.grids import sample_grids
from diffusion.incidents import Rollbacks, reason, report_bad_step
from diffusion.networks import count_parameters
from diffusion.training import (
    DivergedError,
    SpikeRule,
    StopFlag,
    TrainState,
    make_train_step,
)
from diffusion.training.checkpoint import Checkpoints
from diffusion.training.lock import Lock, owned
from diffusion.training.loop import Hook, LoopOptions, train
from diffusion.training.metrics import Console, JsonLines, TensorBoard
from diffusion.training.processes import first_process
from diffusion.training.progress import Terminal, duration
from diffusion.training.watchdog import Watchdog
from diffusion.workdir import Workdir, provenance

Say = Callable[[str], None]
NO_ROLLBACKS = Rollbacks()


def batches_of(
    experiment: Experiment, start: int, stop: int, rollbacks: Rollbacks = NO_ROLLBACKS
) -> Any:
    """Return this process's rows of the batches, made ahead of time in one thread."""
    rows = experiment.parallel.local_rows(experiment.batch_size)
    numbers = np.arange(experiment.batch_size, dtype=np.int32)[rows]
    pairing = jax.random.fold_in(jax.random.key(experiment.seed), 2)

    def make(step: int) -> dict[str, Any]:
        batch = examples_of(experiment, step, rollbacks, rows)
        key = jax.random.fold_in(pairing, step)
        batch = experiment.coupling(experiment.process, key, batch | {"row": numbers})
        return {k: v for k, v in batch.items() if k in ("data", "cond", "noise", "row")}

    return prefetch(make, start_step=start, stop_step=stop)


def examples_of(
    experiment: Experiment, step: int, rollbacks: Rollbacks, rows: slice | None = None
) -> dict[str, Any]:
    """Return the examples of the batch that follows `step` steps, or these rows of it."""
    seed = rollbacks.seed(experiment.seed, step)
    return experiment.dataset.batch(step, experiment.batch_size, seed=seed, rows=rows, train=True)


def label_dropout(experiment: Experiment) -> float:
    """Return the share of examples trained without their condition; a classifier needs them all."""
    drops = experiment.conditional and experiment.task == "generator"
    return experiment.train.label_dropout if drops else 0.0


def compiled_step(experiment: Experiment) -> Any:
    """Return the training step under the config's layout."""
    step = make_train_step(
        experiment.loss(),
        experiment.optimizer,
        experiment.ema,
        accumulate=experiment.train.accumulate,
        label_dropout=label_dropout(experiment),
        reduce=experiment.parallel.reduce,
        time=experiment.time,
        spikes=SpikeRule(factor=experiment.train.spike_factor),
    )
    return experiment.parallel.compile(step)


def describe(experiment: Experiment) -> list[str]:
    """Return lines for people about what will be trained."""
    spec, state = experiment.spec, experiment.abstract_state()
    size = "endless" if spec.size is None else f"{spec.size} examples"
    number = count_parameters(state.params)
    total = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if hasattr(x.dtype, "itemsize")
    )
    devices = experiment.parallel.devices
    classes = f", {spec.num_classes} classes" if spec.num_classes else ""
    return [
        f"data: {experiment.config['data']['name']}, {size} of shape {spec.shape}{classes}",
        f"process: {experiment.process}",
        f"network: {number:,} parameters; state with optimizer and averages {total / 2**20:.1f} MiB",
        f"devices: {len(devices)} x {devices[0].device_kind}, {type(experiment.parallel).__name__}",
        f"budget: {experiment.train.steps(experiment.batch_size)} steps of {experiment.batch_size} examples",
    ]


def dry_run(experiment: Experiment) -> dict[str, Any]:
    """Compile the training step and return what it would cost, without training."""
    state = experiment.parallel.place_state(experiment.init_state())
    with batches_of(experiment, 0, 1) as batches:
        batch = experiment.parallel.place_batch(next(batches))
    started = time.monotonic()
    compiled = compiled_step(experiment).lower(state, batch).compile()
    seconds = time.monotonic() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    mebi = lambda name: round(getattr(memory, name, 0) / 2**20, 2)
    return {
        "parameters": count_parameters(experiment.abstract_state().params),
        "state_and_batch_mib": mebi("argument_size_in_bytes"),
        "activations_and_temporaries_mib": mebi("temp_size_in_bytes"),
        "gflop_per_step_and_device": round((cost or {}).get("flops", 0.0) / 1e9, 3),
        "compile_seconds": round(seconds, 1),
        "steps": experiment.train.steps(experiment.batch_size),
        "config": experiment.resolved(),
    }


@contextlib.contextmanager
def _writers(workdir: Workdir, start: int, say: Say, tensorboard: bool) -> Iterator[list[Any]]:
    writers: list[Any] = []
    if jax.process_index() == 0:
        workdir.path.mkdir(parents=True, exist_ok=True)
        names = ("loss", "grad_norm", "images_per_second")
        writers = [JsonLines(workdir.metrics, start), Console(say, names)]
        if tensorboard:
            writers.append(TensorBoard(workdir.path / "tensorboard", start))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def run(
    experiment: Experiment, workdir: Workdir, *, tensorboard: bool = False, restart: bool = False
) -> TrainState:
    """Train in a work directory, from its newest checkpoint if there is one.

    Args:
        experiment: what to train.
        workdir: where to; a run of another config in it is refused.
        tensorboard: write event files as well.
        restart: move an earlier run in this folder aside, and begin anew.

    Returns:
        The state after the last step.

    Raises:
        Stopped: a signal came; the state is saved.
        DivergedError: steps were not finite, again after the last rollback.
        CheckpointError: there are checkpoints, and none can be used.
        SaveError: a checkpoint could not be written.
        LockedError: another process is training there.
    """
    terminal = Terminal(sys.stderr)
    say = terminal.say if jax.process_index() == 0 else lambda text: None
    layout, options = experiment.parallel, experiment.train
    layout.check_batch(experiment.batch_size, options.accumulate)
    check_training(experiment)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        watchdog = stack.enter_context(Watchdog(options.watchdog_seconds))
        lock = stack.enter_context(owned(workdir.path, say))
        rollbacks = _prepare(experiment, workdir, say, restart)
        checkpoints = Checkpoints(workdir.checkpoints, keep=options.keep, say=say)
        stack.enter_context(checkpoints)
        first = checkpoints.recover() or 0
        step = compiled_step(experiment)
        lap = Lap(experiment, workdir, checkpoints, lock, stop, terminal, say, step, watchdog)
        while True:
            try:
                state = lap.run(rollbacks, tensorboard)
                break
            except DivergedError as error:
                rollbacks = lap.roll_back(rollbacks, error)
    num_steps = options.steps(experiment.batch_size)
    if jax.process_index() == 0 and num_steps > first:
        seconds = time.monotonic() - began
        say(f"trained {num_steps - first} steps in {duration(seconds)}")
        workdir.write("run.json", provenance() | {"steps": num_steps, "seconds": round(seconds, 1)})
    return state


def _prepare(experiment: Experiment, workdir: Workdir, say: Say, restart: bool) -> Rollbacks:
    """Make a work directory ready for a run, or refuse it; return what rollbacks the run had."""

    def clear() -> int:
        workdir.sweep()
        if restart and (moved := workdir.set_aside()):
            say(f"the earlier run is now in {moved}")
        return 0

    first_process(clear)
    workdir.claim(experiment.config)
    rollbacks = Rollbacks.read(workdir)
    for line in describe(experiment):
        say(line)
    if jax.process_index() == 0:
        workdir.write("config.json", experiment.config)
        workdir.write("resolved.json", experiment.resolved())
        workdir.write("data.json", dataclasses.asdict(experiment.spec))
        workdir.write("run.json", provenance())
    return rollbacks


@dataclass(frozen=True)
class Lap:
    """Training from the newest checkpoint to the end, or until something happens."""

    experiment: Experiment
    workdir: Workdir
    checkpoints: Checkpoints
    lock: Lock
    stop: StopFlag
    terminal: Terminal
    say: Say
    step: Any
    watchdog: Watchdog

    def run(self, rollbacks: Rollbacks, tensorboard: bool) -> TrainState:
        """Train; see `run`."""
        experiment, say, stop = self.experiment, self.say, self.stop
        layout, options = experiment.parallel, experiment.train
        num_steps = options.steps(experiment.batch_size)
        with contextlib.ExitStack() as stack:
            start, state = self._begin()
            writers = stack.enter_context(_writers(self.workdir, start, say, tensorboard))
            upto = max(num_steps, start + 1)
            batches = stack.enter_context(batches_of(experiment, start, upto, rollbacks))
            hooks = [Hook(call=self.watchdog.after_step, every=1)]
            if options.sample_every and experiment.task == "generator":
                draw = sample_grids(experiment, self.workdir, say, stop)
                hooks.append(Hook(call=draw, every=options.sample_every))
            return train(
                self.step, layout.place_state(state), batches,
                num_steps=num_steps, batch_size=experiment.batch_size, place=layout.place_batch,
                hooks=hooks, writers=writers, say=say, rewrite=self.terminal.rewrite,
                save=self._save, report=self._reporter(rollbacks), stop=stop,
                options=LoopOptions(
                    log_every=options.log_every, checkpoint_every=options.checkpoint_every,
                    max_bad_run=options.max_bad_steps,
                ),
            )  # fmt: skip

    def _begin(self) -> tuple[int, TrainState]:
        """Return the newest state, and how many steps it has done."""
        newest = self.checkpoints.recover()
        if newest is None:
            return 0, self.experiment.init_state()
        stored = self.checkpoints.meta(newest)["config"]
        self.workdir.refuse_another(stored, self.experiment.config)  # config.json may be another's
        template = self.experiment.parallel.template(self.experiment.abstract_state())
        state = self.checkpoints.restore(newest, template)
        self.say(f"resumed from step {newest}")
        return newest, state

    def _save(self, step: int, state: TrainState, block: bool = False) -> None:
        self.lock.check()
        saveable = self.experiment.parallel.saveable(state)
        self.checkpoints.save(step, saveable, self.experiment.config, block=block)

    def _reporter(self, rollbacks: Rollbacks) -> Callable[[int, Any], None]:
        """Return what writes reports of bad steps, in one process."""

        def report(step: int, metrics: Any) -> None:
            if jax.process_index() != 0:
                return
            index = examples_of(self.experiment, step - 1, rollbacks)["index"]
            why, folder = reason(metrics), self.workdir.path / "bad_steps"
            if report_bad_step(self.workdir, step, metrics, np.asarray(index)):
                self.say(f"step {step} changed nothing: {why}; its examples are in {folder}")

        return report

    def roll_back(self, rollbacks: Rollbacks, error: DivergedError) -> Rollbacks:
        """Go back to the newest checkpoint before things went wrong, or raise the error again.

        Without such a checkpoint the run goes back to its beginning.
        """
        done = len(rollbacks.entries)
        if done >= self.experiment.train.max_rollbacks:
            if not done:
                raise error
            raise DivergedError(
                error.step, f"{error} It had gone back {done} times already."
            ) from None
        target = self.checkpoints.go_back_to(error.good)
        rollbacks = rollbacks.and_back(error.step, target)
        if jax.process_index() == 0:
            rollbacks.write(self.workdir)
        self.say(f"{error} Going back to step {target}, with another order of the data.")
        return rollbacks
