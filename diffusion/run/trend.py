"""A cheap trend while a model is trained: a few generated examples, measured every so many steps.

The numbers go to the log under the names that the metrics give them, counts included. Nothing of the training
changes: examples have keys of their own, and the state is only read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError
from diffusion.evaluation.cards import estimate_of
from diffusion.evaluation.metrics import numbers_of, parse
from diffusion.registry import build
from diffusion.runtime import exits
from diffusion.runtime.progress import nobody
from diffusion.runtime.stop import StopFlag
from diffusion.training import TrainState
from diffusion.training.metrics import Console, Writer
from diffusion.types import Say


def trend_metrics(experiment: Experiment) -> list[Any]:
    """Build the metrics of the trend.

    Raises:
        ConfigError: one cannot be built.
    """
    try:
        return [build("metric", parse(one)) for one in experiment.evaluate.trend_metrics]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config.evaluate.trend_metrics: {error.args[0]}") from None


def trend(
    experiment: Experiment,
    writers: Sequence[Writer],
    say: Say,
    stop: StopFlag,
    alive: Say = nobody,
) -> Callable[..., None]:
    """Return a hook that measures the weights which are evaluated by default.

    A metric that turns out not to fit is said once, and left out: it must not end the training.

    Args:
        experiment: of the run.
        writers: where the numbers go.
        say: shows a line to people.
        stop: the flag that signals raise; no more metrics are begun then.
        alive: gets a sign of life, "hook", for every batch of examples and every metric.

    Raises:
        ConfigError: a metric cannot be built, or the average is unknown.
    """
    metrics, options = trend_metrics(experiment), experiment.evaluate
    if experiment.task != "generator":
        raise ConfigError(
            "config.evaluate.trend_every: a trend is of a generator's examples; this run trains a "
            f"{experiment.task.replace('_', ' ')}. Set it to 0."
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
        whole = experiment.subject(params, experiment.seed)

        def generated(*count: int, **start: int) -> Iterator[np.ndarray]:
            for x in whole.generate(*count, **start):
                alive(f"hook, trend of step {step}")
                yield x

        subject = replace(whole, num_samples=options.trend_samples, generate=generated)
        found: dict[str, float] = {}
        for metric in tuple(metrics):
            if stop.received:
                return
            alive(f"hook, trend of step {step}")
            try:
                results = numbers_of(metric, subject)
            except Exception as error:
                say(
                    f"step {step}  the trend of {metric.metric_name} cannot be measured, and is left out: "
                    f"{exits.sentence(error)}"
                )
                metrics.remove(metric)
                continue
            for key, value in results.items():
                single = estimate_of(value)
                if single is not None and "_of_training_data" not in key:  # that one never changes
                    found[key] = single[0]
        if not found:
            return
        for writer in writers:
            if not isinstance(writer, Console):
                writer.scalars(step, found)
        say(f"step {step}  " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()))

    return measure


def _open_features(experiment: Experiment, metrics: Sequence[Any]) -> None:
    """Open the features now, so that what cannot be had is known before training begins."""
    subject = experiment.subject(None)
    for metric in metrics:
        if features := getattr(metric, "features", None):
            subject.extractor(features)
