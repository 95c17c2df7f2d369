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
        lines = names or lines  # for different classes, the names instead of the fields
        raise ConfigError(
            f"the classifier in {self.where} was trained for another process ({'; '.join(lines)}, its own -> "
            "the model's): it has never seen such x_t. Train one with the model's sections `process` and `time`."
        )

    def _check_spec(self, spec: DataSpec) -> None:
        own = self.experiment.spec
        for name, what in (
            ("shape", "examples of shape"),
            ("num_classes", "num_classes ="),
            ("multi_hot_dim", "multi_hot_dim ="),
        ):
            mine, theirs = getattr(own, name), getattr(spec, name)
            if mine != theirs:
                raise ConfigError(
                    f"the classifier in {self.where} was trained on {what} {mine}; the model to be guided has "
                    f"{theirs}. Train a classifier on the model's data."
                )
        if not same_classes(own, spec):
            raise ConfigError(
                f"the classifier in {self.where} was trained on the classes {own.class_names}; the model to be guided "
                f"has {spec.class_names}. Train a classifier on the model's data."
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
            f"the guide in {where} is a {guide.task.replace('_', ' ')}; try --classifier."
        )
    mine, theirs = experiment.spec.shape, guide.spec.shape
    if mine != theirs:
        raise ConfigError(
            f"the guide in {where} was trained on examples of shape {theirs}; the model makes {mine}. Train one on "
            "the model's data."
        )
    if experiment.process != guide.process:
        raise ConfigError(
            f"the guide in {where} was trained for the process {guide.process}; the model's is "
            f"{experiment.process}. Train one with the model's section `process`."
        )
    entries = [jax.tree.map(jnp.shape, e.example_cond(1)) for e in (experiment, guide)]
    classes = experiment.spec.num_classes, guide.spec.num_classes
    if guide.conditional and (entries[0] != entries[1] or classes[0] != classes[1]):
        raise ConfigError(
            f"the guide in {where} was trained under other conditions ({classes[1]} classes) than the model "
            f"({classes[0]} classes). Train one on the model's data, or one without conditions."
        )
    if guide.conditional and not same_classes(experiment.spec, guide.spec):
        raise ConfigError(
            f"the guide in {where} was trained on other classes ({guide.spec.class_names}) than the model "
            f"({experiment.spec.class_names}). Train one on the model's data, or one without conditions."
        )
