"""Hooks of the training loop, called at regular steps: sample grids, and a trend of metrics.

Hooks do not affect training: samples have their own keys, which are fixed so that differences come only from the
model, and the state is only read. The results of a trend are logged under the names of the metrics' results, which
include the number of examples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError, config_errors
from diffusion.evaluation.cards import estimate_of
from diffusion.evaluation.metrics import EvalInputs, numbers_of, parse_list
from diffusion.registry import build
from diffusion.run.workdir import Workdir
from diffusion.runtime import exits
from diffusion.training import Hook, Monitor, TrainState
from diffusion.training.loop import HookCall
from diffusion.training.metrics import Console, Writer
from diffusion.types import Params


def hooks_of(
    experiment: Experiment, workdir: Workdir, writers: Sequence[Writer], monitor: Monitor
) -> list[Hook]:
    """Return the hooks of a config.

    Raises:
        ConfigError: a metric of the trend cannot be built, or its average is unknown.
    """
    hooks = []
    if (every := experiment.train.sample_every) and experiment.task == "generator":
        hooks.append(Hook(call=sample_grids(experiment, workdir, monitor), every=every))
    if every := experiment.evaluate.trend_every:
        hooks.append(Hook(call=trend(experiment, writers, monitor), every=every))
    return hooks


# ---- grids --------------------------------------------------------------------------------------


def sample_grids(experiment: Experiment, workdir: Workdir, monitor: Monitor) -> HookCall:
    """Return a hook that draws grids from the raw and the averaged weights, with fixed keys.

    It reports to the watchdog after every block of examples, and starts no further grid after a signal.
    """
    from diffusion.evaluation import pictures

    def draw(step: int, state: TrainState, metrics: Any) -> None:
        del metrics
        host = experiment.parallel.fetch({"raw": state.params, **state.ema})
        if jax.process_index() != 0:
            return
        for name, params in host.items():
            if monitor.stop.received:
                return
            x = _grid_of(experiment, params, partial(monitor.alive, f"hook, grids of step {step}"))
            path = workdir.samples / f"{step:08d}_{name.replace('/', '_')}.png"
            columns = experiment.train.samples_per_class
            pictures.save_examples(path, x, experiment.spec, columns, title=f"step {step}, {name}")
        monitor.say(f"samples of step {step}: {workdir.samples}")

    return draw


def _grid_of(experiment: Experiment, params: Params, alive: Callable[[], None]) -> np.ndarray:
    """Generate the examples of a sample grid: fixed seed and keys, classes in turn."""
    classes = experiment.spec.num_classes
    rows = min(classes, 10) if isinstance(classes, int) and classes else 8
    count = rows * experiment.train.samples_per_class
    if not experiment.spec.pictured:
        count = 1000

    parts = experiment.generate(
        partial(experiment.model, params), count, seed=experiment.seed,
        cond_of=lambda i: experiment.conditions_in_turn(i, rows), batch_size=1,  # one block at a time
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


# ---- a trend ------------------------------------------------------------------------------------


def trend_metrics(experiment: Experiment) -> list[Any]:
    """Build the metrics of the trend.

    Raises:
        ConfigError: a metric cannot be built.
    """
    with config_errors("config.evaluate.trend_metrics"):
        return [build("metric", one) for one in parse_list(experiment.evaluate.trend_metrics)]


def trend(experiment: Experiment, writers: Sequence[Writer], monitor: Monitor) -> HookCall:
    """Return a hook that measures the trend metrics of the weights that are evaluated by default.

    A metric that fails is reported once and then skipped, so that it does not end the training. The hook reports to
    the watchdog after every batch of examples and every metric, and starts no further metric after a signal.

    Raises:
        ConfigError: a metric cannot be built, or the average is unknown.
    """
    metrics, options = trend_metrics(experiment), experiment.evaluate
    if experiment.task != "generator":
        raise ConfigError(
            f"config.evaluate.trend_every needs a generator, not a {experiment.task.replace('_', ' ')}. Set it to 0."
        )
    if jax.process_index() == 0:
        _open_features(experiment, metrics)
    name = options.ema or next(iter(experiment.ema), "raw")
    if name not in (*experiment.ema, "raw"):
        known = ", ".join((*experiment.ema, "raw"))
        raise ConfigError(f"config.evaluate.ema must be one of {known}; got {name!r}.")

    def measure(step: int, state: TrainState, logged: Any) -> None:
        del logged
        weights = state.params if name == "raw" else state.ema[name]
        params = experiment.parallel.fetch({"weights": weights})["weights"]
        if jax.process_index() != 0:
            return
        whole = experiment.eval_inputs(params, experiment.seed)

        def generated(*count: int, **start: int) -> Iterator[np.ndarray]:
            for x in whole.generate(*count, **start):
                monitor.alive(f"hook, trend of step {step}")
                yield x

        inputs = replace(whole, num_samples=options.trend_samples, generate=generated)
        found = _numbers(metrics, inputs, step, monitor)
        if not found:
            return
        for writer in writers:
            if not isinstance(writer, Console):
                writer.scalars(step, found)
        monitor.say(
            f"step {step}  " + "  ".join(f"{key} {value:.4g}" for key, value in found.items())
        )

    return measure


def _numbers(
    metrics: list[Any], inputs: EvalInputs, step: int, monitor: Monitor
) -> dict[str, float]:
    """Return the results of the metrics; remove metrics that fail from the list; {} after a signal."""
    found = {}
    for metric in tuple(metrics):
        if monitor.stop.received:
            return {}
        monitor.alive(f"hook, trend of step {step}")
        try:
            results = numbers_of(metric, inputs)
        except Exception as error:
            monitor.say(
                f"step {step}  the trend of {metric.metric_name} cannot be measured, and is left out: "
                f"{exits.sentence(error)}"
            )
            metrics.remove(metric)
            continue
        for key, value in results.items():
            single = estimate_of(value)
            # results of the training data never change
            if single is not None and "_of_training_data" not in key:
                found[key] = single[0]
    return found


def _open_features(experiment: Experiment, metrics: Sequence[Any]) -> None:
    """Open the feature extractors now, so that a missing one is reported before training begins."""
    inputs = experiment.eval_inputs(None)
    for metric in metrics:
        if features := getattr(metric, "features", None):
            inputs.extractor(features)
