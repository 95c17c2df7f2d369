"""Where the sections of a config do not fit together: said before anything is computed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.config.options import EvaluateOptions
from diffusion.config.sections import SAMPLERS, ConfigError
from diffusion.data.classes import same_classes
from diffusion.guidance import check_entries
from diffusion.models.prediction import Prediction
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.base import require_rung
from diffusion.registry import build, lookup
from diffusion.samplers import StepSampler


def loss_target(name: str) -> Prediction | None:
    """Build the prediction that the loss is taken of; "" is the network's own, None.

    Raises:
        ConfigError: there is no such prediction.
    """
    try:
        return build("prediction", name) if name else None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"config.train.loss_target: {error.args[0]}") from None


def default_sampler(process: Process) -> str:
    """Return the sampler of a config that names none: the first of `SAMPLERS` for processes of this rung."""
    carried = lambda name: isinstance(process, getattr(lookup("sampler", name), "rung", Process))
    return next((name for name in SAMPLERS if carried(name)), SAMPLERS[-1])


def default_metrics(task: str, process: Process) -> list[Any]:
    """Return what is measured where a config does not say: what the task and the process have."""
    if task != "generator":
        return ["accuracy_by_level"]
    of_denoisers = () if isinstance(process, AffineProcess) else ("loss_by_level",)
    return [name for name in EvaluateOptions().metrics if name not in of_denoisers]


def sampler_variances(sampler: Any) -> list[str]:
    """Return what a sampler, and those inside it, say of the variance of their noise."""
    found = []
    while sampler is not None:
        found.append(getattr(sampler, "variance", ""))
        sampler = getattr(sampler, "inner", None)
    return found


@contextlib.contextmanager
def _as_config_error(section: str) -> Iterator[None]:
    """Say which section an error is about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.{section}: {error}") from None


def check_parts(experiment: Any) -> None:
    """Raise ConfigError where the parts of an Experiment do not fit together."""
    train, process = experiment.train, experiment.process
    with _as_config_error("sampler"):
        who = f"the sampler {type(experiment.sampler).__name__}"
        require_rung(process, getattr(experiment.sampler, "rung", Process), who)
    with _as_config_error("guidance"):
        check_entries(
            experiment.guidance, process, experiment.spec.shape,
            conditional=experiment.conditional, dropout=train.label_dropout,
        )  # fmt: skip
    learned = experiment.weight.wrap(experiment.network) is not experiment.network
    extras = experiment.loss_target or train.batch_target or train.learn_variance or learned
    if not experiment.affine and extras:
        raise ConfigError(
            f"{type(process).__name__} trains a velocity: train.loss_target, train.batch_target, "
            "train.learn_variance and the weight learned_uncertainty belong to processes with alpha(t) and "
            "sigma(t)."
        )
    if "learned" in sampler_variances(experiment.sampler) and not train.learn_variance:
        raise ConfigError(
            "config.sampler.variance: 'learned' needs a network that learned it: train with "
            "--config.train.learn_variance=True, or choose posterior, beta or analytic."
        )
    if train.learn_variance:
        _check_learned_variance(experiment)


def _check_learned_variance(experiment: Any) -> None:
    if not isinstance(experiment.process, GaussianProcess):
        raise ConfigError(
            f"config.train.learn_variance needs a process with normal noise; "
            f"{type(experiment.process).__name__} has another."
        )
    x = jax.ShapeDtypeStruct((1, *experiment.spec.shape), jnp.float32)
    params, cond = jax.eval_shape(experiment.init_params), experiment.example_cond(1)
    y = jax.eval_shape(experiment.network.apply, params, x, jnp.zeros(1), cond)
    if y.shape != (*x.shape[:-1], 2 * x.shape[-1]):
        raise ConfigError(
            "config.train.learn_variance needs a network of twice the outputs, with a field `outputs`; from "
            f"inputs {x.shape} this one makes {y.shape}."
        )


def check_training(experiment: Any) -> None:
    """Raise ConfigError for what only a trained model can do."""
    with _as_config_error("grid"):
        times = experiment.times()
    if experiment.train.sample_every and isinstance(experiment.sampler, StepSampler):
        with _as_config_error("sampler"):  # such as noise beyond what the steps of the grid allow
            experiment.sampler.prepare(experiment.process, times)
    with _as_config_error("time"):
        experiment.time.quantile(experiment.process, jnp.linspace(0.1, 0.9, 3))
    with _as_config_error("coupling"):
        getattr(experiment.coupling, "check", lambda size: None)(experiment.spec.size)
    if experiment.train.sample_every and experiment.task == "generator":
        with _as_config_error("data"):  # grids of samples take some conditions from held-out data
            experiment.conditions_in_turn(np.arange(1))
    if experiment.train.sample_every and experiment.needs_table and experiment.variance is None:
        raise ConfigError(
            "config.sampler.variance: 'analytic' needs a table that is estimated from the trained model. "
            "Train with another sampler or with train.sample_every=0; then run "
            "`demolish estimate_variance --workdir`, and sample with --config.sampler.variance=analytic."
        )


def check_guide(experiment: Any, guide: Any, where: str) -> None:
    """Raise ConfigError unless another run can guide this one as its weaker version.

    Args:
        experiment: the Experiment to be guided.
        guide: the Experiment of the guide.
        where: its work directory, for messages.
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
