"""Grids of generated examples while a model is trained: fixed keys, so that they show the model alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.evaluation import generate
from diffusion.run.workdir import Workdir
from diffusion.runtime.progress import nobody
from diffusion.runtime.stop import StopFlag
from diffusion.training import TrainState
from diffusion.types import Params, Say


def _grid_of(experiment: Experiment, params: Params, alive: Callable[[], None]) -> np.ndarray:
    """Generate the examples of a sample grid: fixed seed and keys, classes in turn."""
    classes = experiment.spec.num_classes
    rows = min(classes, 10) if isinstance(classes, int) and classes else 8
    count = rows * experiment.train.samples_per_class
    if not experiment.spec.pictured:
        count = 1000

    parts = generate(
        experiment.sampler, experiment.process, lambda cond: experiment.model(params, cond),
        experiment.seed, count, experiment.spec.shape, experiment.times(),
        lambda i: experiment.conditions_in_turn(i, rows), batch_size=1,  # whole blocks come, one at a time
    )  # fmt: skip
    made = []
    for part in parts:
        made.append(part)
        alive()
    x = np.concatenate(made)
    if experiment.spec.pictured:  # one row per class
        x = x.reshape(experiment.train.samples_per_class, rows, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(-1, *x.shape[2:])
    return x


def sample_grids(
    experiment: Experiment, workdir: Workdir, say: Say, stop: StopFlag, alive: Say = nobody
) -> Callable[..., None]:
    """Return a hook that draws grids from the raw and the averaged weights, with fixed keys.

    Args:
        experiment: of the run.
        workdir: where the pictures go.
        say: shows a line to people.
        stop: the flag that signals raise; no more grids are begun then.
        alive: gets a sign of life, "hook", for every block of examples.
    """
    from diffusion.evaluation import pictures

    def draw(step: int, state: TrainState, metrics: Any) -> None:
        del metrics
        host = experiment.parallel.fetch({"raw": state.params, **state.ema})
        if jax.process_index() != 0:
            return
        for name, params in host.items():
            if stop.received:
                return
            x = _grid_of(experiment, params, lambda: alive(f"hook, grids of step {step}"))
            path = workdir.samples / f"{step:08d}_{name.replace('/', '_')}.png"
            columns = experiment.train.samples_per_class
            pictures.save_examples(path, x, experiment.spec, columns, title=f"step {step}, {name}")
        say(f"samples of step {step}: {workdir.samples}")

    return draw
