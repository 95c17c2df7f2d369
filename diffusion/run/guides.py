"""Trained runs that guide another model: a classifier, or a weaker model; and checks that they fit."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.classifiers.classifier import Columns, NetworkClassifier
from diffusion.config.experiment import Experiment
from diffusion.config.identity import differences
from diffusion.config.sections import ConfigError
from diffusion.data import DataSpec
from diffusion.data.classes import same_classes
from diffusion.processes import Process
from diffusion.registry import spec_of
from diffusion.types import Params


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A trained run of the task `classifier` or `clean_classifier`.

    Args:
        experiment: the experiment of the run.
        params: its parameters.
        step: step of the checkpoint.
        ema: name of the average of the parameters.
        where: the work directory, for messages.
    """

    experiment: Experiment
    params: Params
    step: int
    ema: str
    where: str

    @property
    def clean(self) -> bool:
        """Whether it was trained on clean data, and is therefore applied to the predicted x_0."""
        return self.experiment.task == "clean_classifier"

    @property
    def columns(self) -> Columns:
        """Meaning of the output columns."""
        return self.experiment.columns

    def log_probs(self, process: Process, spec: DataSpec | None = None) -> NetworkClassifier:
        """Return (x_t, t) -> log-probabilities (batch, columns), a pytree whose leaves are the parameters.

        A classifier of clean data treats its input as x_0 and ignores t.

        Args:
            process: process of the model to be guided.
            spec: data of the model to be guided, to compare shape and classes.

        Raises:
            ConfigError: the classifier was trained for another process, time range, shape or number of classes.
        """
        if not self.clean:
            self._check_process(process)
        if spec is not None:
            self._check_spec(spec)
        return self.experiment.classifier(self.params)

    def _check_process(self, process: Process) -> None:
        own = self.experiment.process
        if own == process:
            return
        lines = differences(*({"process": described(p)} for p in (own, process)), keys=("process",))
        names = [line for line in lines if line.startswith("process.name:")]
        lines = "; ".join(names or lines)  # fields of different classes do not compare
        raise ConfigError(
            f"the classifier in {self.where} was trained for another process ({lines}, its own -> the model's). "
            "Train one with the model's sections `process` and `time`."
        )

    def _check_spec(self, spec: DataSpec) -> None:
        own = self.experiment.spec
        for name in ("shape", "num_classes", "multi_hot_dim", "class_names"):
            mine, theirs = getattr(own, name), getattr(spec, name)
            same = same_classes(own, spec) if name == "class_names" else mine == theirs
            if not same:
                raise ConfigError(
                    f"the classifier in {self.where} was trained on {name} = {mine}; the model has {theirs}. "
                    "Train a classifier on the model's data."
                )


def described(process: Process) -> Any:
    """Return a process as a config section."""
    found = spec_of("process", process)
    return found if isinstance(found, dict) else {"name": repr(found)}


def check_guide(experiment: Experiment, guide: Experiment, where: str) -> None:
    """Raise ConfigError unless another run can guide this one as its weaker version.

    Args:
        experiment: experiment to be guided.
        guide: experiment of the guide.
        where: work directory of the guide, for messages.
    """
    if guide.task != "generator":
        raise ConfigError(
            f"the guide in {where} is a {guide.task}, no generator; try --classifier."
        )
    mine, theirs = experiment.spec, guide.spec
    conditions = lambda e: (jax.tree.map(jnp.shape, e.example_cond(1)), e.spec.num_classes)
    conditions_differ = guide.conditional and conditions(experiment) != conditions(guide)
    classes_differ = guide.conditional and not same_classes(mine, theirs)
    for differs, what, its, own in (
        (mine.shape != theirs.shape, "examples of shape", theirs.shape, mine.shape),
        (experiment.process != guide.process, "the process", guide.process, experiment.process),
        (
            conditions_differ,
            "other conditions, num_classes =",
            theirs.num_classes,
            mine.num_classes,
        ),
        (classes_differ, "other classes,", theirs.class_names, mine.class_names),
    ):
        if differs:
            raise ConfigError(
                f"the guide in {where} was trained for {what} {its}; the model has {own}. Train one with the model's "
                "data and section `process`, or one without conditions."
            )
