"""Inputs of the training loop: the batches of an experiment, and its training step."""

from typing import Any

import jax
import numpy as np

from diffusion.config.experiment import COUPLING, Experiment
from diffusion.data import prefetch
from diffusion.run.rollbacks import Rollbacks
from diffusion.training import SpikeRule, make_train_step
from diffusion.training.step import Step

NO_ROLLBACKS = Rollbacks()


def batches_of(
    experiment: Experiment, start: int, stop: int, rollbacks: Rollbacks = NO_ROLLBACKS
) -> Any:
    """Return an iterator over this process's rows of the batches, prefetched in one thread."""
    rows = experiment.parallel.local_rows(experiment.batch_size)
    numbers = np.arange(experiment.batch_size, dtype=np.int32)[rows]
    root = experiment.key(COUPLING)

    def make(step: int) -> dict[str, Any]:
        batch = examples_of(experiment, step, rollbacks, rows)
        key = jax.random.fold_in(root, step)
        batch = experiment.coupling(experiment.process, key, batch | {"row": numbers})
        return {k: v for k, v in batch.items() if k in ("data", "cond", "noise", "row")}

    depth = max(2, experiment.train.steps_per_dispatch)  # enough for the next dispatch
    return prefetch(make, start_step=start, stop_step=stop, depth=depth)


def examples_of(
    experiment: Experiment, step: int, rollbacks: Rollbacks, rows: slice | None = None
) -> dict[str, Any]:
    """Return the batch after `step` completed steps, or some rows of it."""
    seed = rollbacks.seed(experiment.seed, step)
    return experiment.dataset.batch(step, experiment.batch_size, seed=seed, rows=rows, train=True)


def label_dropout(experiment: Experiment) -> float:
    """Return the fraction of examples trained without their condition; 0 for a classifier."""
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
    """Return the compiled program of the loop: one training step, or several with `train.steps_per_dispatch`."""
    if experiment.train.steps_per_dispatch == 1:
        return compiled_step(experiment)
    return experiment.parallel.compile_many(training_step(experiment))
