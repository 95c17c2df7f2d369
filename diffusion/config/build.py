"""Construction of the objects that the sections of a config name: the parts of an `Experiment`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion.classifiers.classifier import columns_of
from diffusion.classifiers.losses import ClassifierLoss
from diffusion.config.identity import stated
from diffusion.config.sections import (
    KEPT,
    SAMPLERS,
    SECTIONS,
    UNNAMED,
    ConfigError,
    EvaluateOptions,
    TrainOptions,
    check_sections,
    config_errors,
    kind_of,
    own_fields,
    plain,
    positive_field,
    section_of,
    with_defaults,
)
from diffusion.data import Dataset, DataSpec, conditioned
from diffusion.data.conditions import network_fields, numbered_labels
from diffusion.models.prediction import Prediction
from diffusion.processes import AffineProcess, Process
from diffusion.registry import FieldError, build, check_type, lookup, nearest, resolve
from diffusion.runtime.digests import as_json
from diffusion.training import make_ema

PARTS = (
    "prediction", "time", "weight", "classifier_loss", "sampler", "grid", "parallel", "coupling"
)  # fmt: skip


def assemble(config: Any, spec: DataSpec | None = None) -> dict[str, Any]:
    """Build every section; raise ConfigError with section and reason if one fails; see `Experiment.from_config`."""
    given, config = config, with_defaults(config)
    check_sections(config)
    process = build_section(config, "process")
    config = stated(config, process)
    if "sampler" not in given:
        config["sampler"] = {"name": default_sampler(process)}
    if not isinstance(config["seed"], int) or config["seed"] < 0:
        raise ConfigError(f"config.seed must be an integer from 0 up; got {config['seed']!r}.")
    with config_errors():
        train = options(TrainOptions, "train", config["train"])
        metrics = {"metrics": default_metrics(config["task"], process)}
        evaluate = options(EvaluateOptions, "evaluate", metrics | config["evaluate"])
    batch_size = positive_field(config, "data", "batch_size", 64)
    positive_field(config, "grid", "num_steps", 50)
    dataset: Dataset = dataset_of(config)
    found = _spec_of(dataset) if spec is None else spec
    built = {"process": process} | {name: build_section(config, name) for name in PARTS}
    built["loss_target"] = loss_target(train.loss_target)
    extras = network_extras(config, train, found, built["classifier_loss"])
    network = build_section(config, "network", **extras)
    built["optimizer"] = build_section(
        config, "optimizer", **optimizer_extras(train, batch_size, network)
    )
    built["network"] = built["weight"].wrap(network) if config["task"] == "generator" else network
    with config_errors("config.ema or config.guidance"):
        ema = make_ema(config["ema"])
        guidance = tuple(build("guidance", numbered_labels(g, found)) for g in config["guidance"])
    return dict(
        config=config, dataset=dataset, spec=found, train=train, evaluate=evaluate, ema=ema,
        guidance=guidance, **built,
    )  # fmt: skip


def options(cls: type, section: str, given: Mapping) -> Any:
    """Build an options section, which has no name; refuse unknown fields."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise ConfigError(
                f"config.{section} has no field {key!r}.{nearest(key, fields)} It accepts: {', '.join(fields)}."
            )
        check_type(f"config.{section}", key, value, fields[key].default, fields[key].type)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def build_section(config: Mapping, section: str, **extra: Any) -> Any:
    """Build one section; errors name the section."""
    spec = own_fields(config, section)
    kind = kind_of(config, section)
    if section == "data" and spec.get("data_dir") is None:
        spec.pop("data_dir", None)
    with config_errors(f"config.{section}"):
        try:
            return build(kind, spec, **extra)
        except FieldError as error:
            # the section has fields of the experiment's own besides those of the class
            accepted = (*error.accepted, *KEPT.get(section, ()))
            raise FieldError(error.owner, error.field, accepted) from None


def dataset_of(config: Mapping) -> Dataset:
    """Build the data set of a config, with the condition of `data.condition`, if there is one."""
    dataset = build_section(config, "data")
    with config_errors("config.data.condition"):
        return conditioned(section_of(config, "data").get("condition"), dataset)


def _spec_of(dataset: Dataset) -> DataSpec:
    """Return the spec of the data; raise ConfigError if its condition cannot be computed from the data."""
    try:
        return dataset.spec
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from None


def network_extras(
    config: Mapping, train: TrainOptions, spec: DataSpec, loss: ClassifierLoss
) -> dict[str, Any]:
    """Return the fields of the network that follow from the data and the task.

    Raises:
        ConfigError: a classifier is to be trained on data without the needed labels.
    """
    if config["task"] == "generator":
        return network_fields(spec) | ({"outputs": 2} if train.learn_variance else {})
    with config_errors(f"config.task {config['task']!r}"):
        return {"num_classes": columns_of(loss, spec.num_classes, spec.multi_hot_dim).count}


def optimizer_extras(train: TrainOptions, batch_size: int, network: Any) -> dict[str, Any]:
    """Return the fields of the optimizer that follow from the budget and from the network."""
    return {"total_steps": train.steps(batch_size), "stacked": getattr(network, "stacked", ())}


def loss_target(name: str) -> Prediction | None:
    """Build the prediction in whose space the loss is computed; None for "", the prediction of the network.

    Raises:
        ConfigError: there is no such prediction.
    """
    with config_errors("config.train.loss_target"):
        return build("prediction", name) if name else None


def default_sampler(process: Process) -> str:
    """Return the default sampler of a process: the first of `SAMPLERS` that supports its class."""
    carried = lambda name: isinstance(
        process, getattr(lookup("sampler", name), "requires", Process)
    )
    return next((name for name in SAMPLERS if carried(name)), SAMPLERS[-1])


def default_metrics(task: str, process: Process) -> list[Any]:
    """Return the default metrics of a task and a process."""
    if task != "generator":
        return ["accuracy_by_level"]
    of_denoisers = () if isinstance(process, AffineProcess) else ("loss_by_level",)
    return [name for name in EvaluateOptions().metrics if name not in of_denoisers]


def resolved(experiment: Any) -> dict[str, Any]:
    """Return the config of an Experiment with the defaults of all classes filled in, as JSON data."""
    config, train = experiment.config, experiment.train
    extras = {
        "network": network_extras(config, train, experiment.spec, experiment.classifier_loss),
        "optimizer": optimizer_extras(train, experiment.batch_size, experiment.network),
    }
    new = dict(config)
    for section in SECTIONS:
        if section in ("seed", "task", "ema", "guidance", *UNNAMED):
            continue
        kind, spec = kind_of(config, section), section_of(config, section)
        new[section] = resolve(kind, spec, **extras.get(section, {}))
    new["guidance"] = [resolve("guidance", g) for g in config["guidance"]]
    return as_json(new) | {k: plain(dataclasses.asdict(getattr(experiment, k))) for k in UNNAMED}
