"""Training from a checkpoint to the end, or until something happens: the parts that a run is made of."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.data import prefetch
from diffusion.run.rollbacks import Rollbacks, reason, report_bad_step
from diffusion.run.sample_grids import sample_grids
from diffusion.run.trend import trend
from diffusion.run.workdir import Workdir
from diffusion.runtime.exits import DivergedError
from diffusion.runtime.lock import Lock
from diffusion.runtime.progress import Terminal
from diffusion.runtime.stop import StopFlag
from diffusion.runtime.watchdog import Watchdog
from diffusion.training import SpikeRule, TrainState, make_train_step
from diffusion.training.loop import Hook, LoopOptions, train
from diffusion.training.metrics import Console, JsonLines, TensorBoard
from diffusion.training.step import Step
from diffusion.types import Say

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

    depth = max(2, experiment.train.steps_per_dispatch)  # what the next dispatch takes
    return prefetch(make, start_step=start, stop_step=stop, depth=depth)


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


def training_step(experiment: Experiment) -> Step:
    """Return the training step, not yet compiled."""
    return make_train_step(
        experiment.loss(),
        experiment.optimizer,
        experiment.ema,
        accumulate=experiment.train.accumulate,
        label_dropout=label_dropout(experiment),
        reduce=experiment.parallel.reduce,
        time=experiment.time,
        spikes=SpikeRule(factor=experiment.train.spike_factor),
    )


def compiled_step(experiment: Experiment) -> Any:
    """Return the training step under the config's layout: one step, one batch."""
    return experiment.parallel.compile(training_step(experiment))


def compiled_dispatch(experiment: Experiment) -> Any:
    """Return what the loop calls: the training step, or several at once where the config says so."""
    if experiment.train.steps_per_dispatch == 1:
        return compiled_step(experiment)
    return experiment.parallel.compile_many(training_step(experiment))


@contextlib.contextmanager
def _writers(workdir: Workdir, start: int, say: Say, tensorboard: bool) -> Iterator[list[Any]]:
    writers: list[Any] = []
    if jax.process_index() == 0:
        workdir.path.mkdir(parents=True, exist_ok=True)
        names = ("loss", "grad_norm", "images_per_second")
        writers = [JsonLines(workdir.metrics, start, say), Console(say, names)]
        if tensorboard:
            writers.append(TensorBoard(workdir.path / "tensorboard", start))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


@dataclass(frozen=True)
class Lap:
    """Training from the newest checkpoint to the end, or until something happens; `step` is a `compiled_dispatch`."""

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
        experiment, say, stop, alive = self.experiment, self.say, self.stop, self.watchdog.beat
        layout, options = experiment.parallel, experiment.train
        num_steps = options.steps(experiment.batch_size)
        with contextlib.ExitStack() as stack:
            alive("start")  # reading a checkpoint again, after a rollback
            start, state = self._begin()
            writers = stack.enter_context(_writers(self.workdir, start, say, tensorboard))
            upto = max(num_steps, start + 1)
            batches = stack.enter_context(batches_of(experiment, start, upto, rollbacks))
            hooks = []
            if options.sample_every and experiment.task == "generator":
                draw = sample_grids(experiment, self.workdir, say, stop, alive)
                hooks.append(Hook(call=draw, every=options.sample_every))
            if every := experiment.evaluate.trend_every:
                hooks.append(Hook(call=trend(experiment, writers, say, stop, alive), every=every))
            many = options.steps_per_dispatch > 1
            return train(
                self.step, layout.place_state(state), batches,
                num_steps=num_steps, batch_size=experiment.batch_size,
                place=layout.place_batches if many else layout.place_batch,
                hooks=hooks, writers=writers, say=say, rewrite=self.terminal.rewrite,
                save=self._save, report=self._reporter(rollbacks), stop=stop, alive=alive,
                options=LoopOptions(
                    log_every=options.log_every, checkpoint_every=options.checkpoint_every,
                    max_bad_run=options.max_bad_steps, steps_per_dispatch=options.steps_per_dispatch,
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
