"""Training a recipe through the ordinary config, in memory, and sampling it."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.run.step import batches_of, compiled_step
from diffusion.samplers import Sampler
from experiments._common import config_of
from experiments.ode_from_scratch.recipes import Recipe


def experiment_of(config_file: str, recipe: Recipe, changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a config file with the sections of a recipe put in.

    Args:
        config_file: such as "toy2d", in the folder configs.
        recipe: what is trained.
        changes: fields of sections, added to those of the file.
    """
    config = config_of(config_file)
    for section in ("process", "prediction", "time", "weight"):
        config[section] = dict(getattr(recipe, section))
    added = {"network": recipe.network, "train": recipe.train}
    for section, fields in (*added.items(), *changes.items()):
        config[section] = {**config[section], **fields}
    return Experiment.from_config(config)


def trained(experiment: Experiment) -> tuple[Any, dict[str, Any]]:
    """Train to the end of the budget; return the averaged parameters and what it took."""
    steps = experiment.train.steps(experiment.batch_size)
    step, layout = compiled_step(experiment), experiment.parallel
    state, losses, began = layout.place_state(experiment.init_state()), [], time.monotonic()
    with batches_of(experiment, 0, steps) as batches:
        for _ in range(steps):
            state, metrics = step(state, layout.place_batch(next(batches)))
            losses.append(metrics["loss"])
    host = layout.fetch(state)
    late = np.asarray(losses[-steps // 10 :])
    record = dict(
        seconds=round(time.monotonic() - began, 1),
        loss=float(late.mean()),
        bad_steps=int(host.bad_steps),
    )
    return next(iter(host.ema.values())), record


def samples(
    experiment: Experiment,
    model_of: Any,
    count: int,
    *,
    sampler: Sampler | None = None,
    times: np.ndarray | None = None,
    batch_size: int = 1024,
) -> np.ndarray:
    """Draw examples from a model, by the experiment's sampler and times unless others are given."""
    if sampler is not None:
        experiment = experiment.replaced(sampler=sampler)
    classes = experiment.spec.num_classes
    parts = experiment.generate(
        model_of, count, times=times, batch_size=batch_size,
        cond_of=lambda i: experiment.conditions(i % classes if classes else None, len(i)),
    )  # fmt: skip
    return np.concatenate(list(parts))
