"""The sections of a config: which there are, what they default to, and which of them say what a run is.

A section is a `name` and the fields that differ from the defaults of the class it names; `train` and `evaluate` have
no name, and are the classes below.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion.numerics import at_least, in_interval, one_of, positive, require
from diffusion.registry import KINDS, current, nearest

SECTIONS = (
    "seed", "task", "process", "prediction", "time", "weight", "network", "data", "coupling", "optimizer", "ema",
    "train", "classifier_loss", "sampler", "grid", "guidance", "parallel", "evaluate",
)  # fmt: skip

# Fields that are not those of the class which a section names.
KEPT = {"data": ("batch_size", "data_dir", "condition"), "grid": ("num_steps",)}

# What a run adds: digests of what was read, by the section that named it.
RECORDED = {"data": ("content",)}

# A resumed run must agree on these ...
IDENTITY = (
    "seed", "task", "classifier_loss", "process", "prediction", "time", "weight", "network", "data", "coupling",
    "optimizer", "ema", "train.label_dropout", "train.reduction", "train.loss_target", "train.batch_target",
    "train.learn_variance", "train.variance_weight", "train.variance_step", "train.spike_factor",
)  # fmt: skip

# ... and not on these: budgets, periods, devices, what is computed at once, what is done with a trained model.
FREE = (
    "sampler", "grid", "guidance", "parallel", "evaluate", "train.num_steps", "train.num_images", "train.log_every",
    "train.sample_every", "train.checkpoint_every", "train.keep", "train.accumulate", "train.max_bad_steps",
    "train.max_rollbacks", "train.watchdog_seconds", "train.samples_per_class", "train.steps_per_dispatch",
)  # fmt: skip

# Where data lies, how memory is used.
NEUTRAL = ("data.data_dir", "network.remat", "network.unroll")

# What the parameters of a checkpoint depend on.
PARAMETERS = ("task", "network", "data", "weight", "train.learn_variance")

# What is trained; the two classifiers take `network` from the kind `classifier`.
TASKS = ("generator", "classifier", "clean_classifier")


class ConfigError(ValueError):
    """A config or an override that cannot be built; the message names the key."""


@contextlib.contextmanager
def config_errors(where: str = "") -> Iterator[None]:
    """Turn errors of building into a ConfigError that begins with the entry of the config, such as "config.ema"."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ConfigError(f"{where}: {reason}" if where else str(reason)) from None


DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "task": "generator",
    "classifier_loss": {"name": "cross_entropy"},
    "prediction": {"name": "v"},
    "time": {"name": "uniform"},
    "weight": {"name": "simple"},
    "coupling": {"name": "independent"},
    "optimizer": {"name": "adam"},
    "ema": ["0.999"],
    "train": {},
    "sampler": {"name": "ddim"},
    "grid": {"name": "uniform_log_snr", "num_steps": 50},
    "guidance": [],
    "parallel": {"name": "mesh"},
    "evaluate": {},
}

# The default sampler is the first of these that the process carries.
SAMPLERS = ("ddim", "heun")
SHAPES: dict[str, Any] = DEFAULTS | {key: {"name": ""} for key in ("process", "network", "data")}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The section `train`: budgets and periods, in steps of the optimizer.

    Args:
        num_steps: how long to train. 0 if `num_images` says it instead.
        num_images: the budget in images; rounded up to whole steps.
        log_every: steps between lines of metrics.
        sample_every: steps between sample grids; 0 for none.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        keep: how many checkpoints stay.
        label_dropout: fraction of examples that are trained without their condition.
        accumulate: micro-batches per step.
        steps_per_dispatch: steps that one call of the compiled program takes at most; more than 1 helps where a
            step is so short that it waits for the host.
        reduction: of the squared error over the features of an example, "mean" or "sum".
        loss_target: the prediction by name that the error is taken of; "" is what the network outputs.
        batch_target: regress the posterior mean over the batch in place of x_0, which lowers the variance.
        learn_variance: learn the variance of reverse steps as well; the network gets twice the outputs.
        variance_weight: of the chain's bound, which trains that variance, in the loss.
        variance_step: of that chain, in units of t; None is that of the process: 1 / T of a chain, else 0.001.
        max_bad_steps: non-finite steps in a row before the run goes back to its newest checkpoint.
        max_rollbacks: how often it goes back, with another order of the data, before it stops.
        spike_factor: a step whose gradient norm is so many times the median of the last 128 is skipped; 0 for none.
        samples_per_class: columns of the sample grids.
        watchdog_seconds: without a step, after which a run that hangs is ended; 0 for never. Start-up and compiling
            may take four times as long, a block of a sample grid, a batch of a trend and saving twenty times, a
            dispatch of several steps so many times. Time in which the process is stopped does not count.
    """

    num_steps: int = 10_000
    num_images: int = 0
    log_every: int = 100
    sample_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 3
    label_dropout: float = 0.1
    accumulate: int = 1
    steps_per_dispatch: int = 1
    reduction: str = "mean"
    loss_target: str = ""
    batch_target: bool = False
    learn_variance: bool = False
    variance_weight: float = 1e-3
    variance_step: float | None = field(
        default=None, metadata={"formerly": 1e-3, "of_process": "chain_step"}
    )
    max_bad_steps: int = 20
    max_rollbacks: int = 2
    spike_factor: float = 0.0
    samples_per_class: int = 8
    watchdog_seconds: int = 1800

    def __post_init__(self) -> None:
        """Check the numbers."""
        named = functools.partial(_in_config, self, "train")
        at_least(1, **named("log_every", "checkpoint_every", "keep", "accumulate"))
        at_least(1, **named("steps_per_dispatch", "max_bad_steps", "samples_per_class"))
        at_least(0, **named("sample_every", "max_rollbacks", "watchdog_seconds"))
        require(
            self.spike_factor == 0 or self.spike_factor > 1,
            f"`train.spike_factor` is 0 for no rule, or above 1; got {self.spike_factor}.",
        )
        budgets = f"num_steps={self.num_steps}, num_images={self.num_images}"
        one = (self.num_steps > 0) != (self.num_images > 0)
        require(one, f"give one of `train.num_steps` and `train.num_images`; got {budgets}.")
        positive(**named("variance_weight"))
        positive(**named("variance_step"), none="that of the process")
        in_interval("[0, 1]", **named("label_dropout"))

    def steps(self, batch_size: int) -> int:
        """Return the budget in steps."""
        return self.num_steps or -(-self.num_images // batch_size)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The section `evaluate`.

    Args:
        metrics: by name, such as "bits_per_dim", "frechet[classifier]" or dict(name="frechet", features="pixels").
        num_samples: generated examples that a metric compares with the held-out data.
        batch_size: examples per call.
        ema: which average to evaluate, or "raw"; "" is the first of the config.
        trend_every: steps of training between measurements of `trend_metrics`; 0 for none.
        trend_samples: generated examples for each of them; few, so their names say how many.
        trend_metrics: what is measured while a model is trained, such as "frechet".
    """

    metrics: tuple[Any, ...] = ("loss_by_level", "frechet")
    num_samples: int = 1000
    batch_size: int = 100
    ema: str = ""
    trend_every: int = 0
    trend_samples: int = 256
    trend_metrics: tuple[Any, ...] = ("frechet",)

    def __post_init__(self) -> None:
        """Check the numbers."""
        at_least(1, **_in_config(self, "evaluate", "num_samples", "batch_size"))
        at_least(0, **_in_config(self, "evaluate", "trend_every"))
        at_least(2, **_in_config(self, "evaluate", "trend_samples"))


def _in_config(options: Any, section: str, *names: str) -> dict[str, Any]:
    """Return some fields by their names in a config, such as "train.keep"."""
    return {f"{section}.{name}": getattr(options, name) for name in names}


# Sections that are options instead of a class by name.
UNNAMED = {"train": TrainOptions, "evaluate": EvaluateOptions}


def kind_of(config: Mapping, section: str) -> str:
    """Return the kind of object that a section of a config names."""
    if section == "network" and str(config.get("task", "generator")) != "generator":
        return "classifier"
    return {"data": "dataset"}.get(section, section)


def with_defaults(config: Any) -> dict[str, Any]:
    """Return a plain config in which every section stands; one that gives fields without a name keeps the default's."""
    new = DEFAULTS | plain(config)
    for section, default in DEFAULTS.items():
        given = new[section]
        if isinstance(default, dict) and isinstance(given, dict) and "name" not in given:
            new[section] = {**default, **given}
    return {section: _current(new, section) for section in new}


def _current(config: Mapping, section: str) -> Any:
    """Return a section with today's names of what has been renamed since it was written."""
    spec, kind = config[section], kind_of(config, section)
    if section == "guidance" and isinstance(spec, list | tuple):
        return [current(kind, entry) for entry in spec]
    spec = current(kind, spec) if kind in KINDS else spec
    if section == "data" and isinstance(spec, Mapping) and "condition" in spec:
        return {**spec, "condition": current("condition", spec["condition"])}
    return spec


def section_of(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section as a mapping with a name; a string is short for that."""
    given = config[section]
    return {"name": given} if isinstance(given, str) else dict(given)


def own_fields(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section without the entries that belong to the experiment rather than to the class."""
    spec = section_of(config, section)
    not_its = (*KEPT.get(section, ()), *RECORDED.get(section, ()))
    return {k: v for k, v in spec.items() if k not in not_its or k == "data_dir"}


def positive_field(config: Mapping, section: str, field: str, default: int) -> int:
    """Return a positive integer of a section, or raise ConfigError."""
    value = section_of(config, section).get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.{section}.{field} must be a positive integer; got {value!r}.")
    return value


def plain(value: Any) -> Any:
    """Return a ConfigDict as plain dictionaries, lists and values, as JSON would hold them."""
    if hasattr(value, "items"):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def check_section(name: str, where: str = "") -> None:
    """Raise ConfigError for a section that does not exist; `where` says by which option it was named."""
    if name not in SECTIONS:
        raise ConfigError(
            f"config has no section {name!r}{where}.{nearest(name, SECTIONS)} Sections: {', '.join(SECTIONS)}."
        )


def check_sections(config: Mapping) -> None:
    """Raise ConfigError for a section that does not exist or is missing."""
    for key in config:
        check_section(key)
    for key in ("process", "network", "data"):
        if key not in config:
            raise ConfigError(f"config needs a section {key!r}; see configs/ for examples.")
    for key, default in SHAPES.items():
        check_shape(key, config[key], default)
    with config_errors("config"):
        one_of(TASKS, task=config["task"])


def check_shape(section: str, value: Any, default: Any) -> None:
    """Raise ConfigError for a section that is no section, such as a number."""
    if isinstance(default, dict):
        named = "name" in default
        fits = isinstance(value, Mapping) or (named and isinstance(value, str))
        fits = fits and not (
            named and isinstance(value, Mapping) and not isinstance(value.get("name"), str)
        )
        wanted = "a section with a `name`, or a name" if named else "a section"
    else:
        fits = isinstance(value, list | tuple) or not isinstance(default, list) or section == "ema"
        wanted = "a list"
    if not fits:
        raise ConfigError(f"config.{section} must be {wanted}; got {value!r}.")
