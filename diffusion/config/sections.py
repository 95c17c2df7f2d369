"""The sections of a config: their names, their defaults, and which of them identify a run.

A section has a `name` and those fields that differ from the defaults of the class it names; `train` and `evaluate`
have no name: their fields are those of the classes below.
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

# Fields of a section that are not fields of the class it names.
KEPT = {"data": ("batch_size", "data_dir", "condition"), "grid": ("num_steps",)}

# Fields that a run adds: digests of the data read, by the section that names it.
RECORDED = {"data": ("content",)}

# Fields on which a resumed run must agree ...
IDENTITY = (
    "seed", "task", "classifier_loss", "process", "prediction", "time", "weight", "network", "data", "coupling",
    "optimizer", "ema", "train.label_dropout", "train.reduction", "train.loss_target", "train.batch_target",
    "train.learn_variance", "train.variance_weight", "train.variance_step", "train.spike_factor",
)  # fmt: skip

# ... and fields that may change: budgets, periods, devices, batch splitting, use of the trained model.
FREE = (
    "sampler", "grid", "guidance", "parallel", "evaluate", "train.num_steps", "train.num_images", "train.log_every",
    "train.sample_every", "train.checkpoint_every", "train.keep", "train.accumulate", "train.max_bad_steps",
    "train.max_rollbacks", "train.watchdog_seconds", "train.samples_per_class", "train.steps_per_dispatch",
)  # fmt: skip

# Fields for the location of data and the use of memory.
NEUTRAL = ("data.data_dir", "network.remat", "network.unroll")

# Fields that the parameters of a checkpoint depend on.
PARAMETERS = ("task", "network", "data", "weight", "train.learn_variance")

# Tasks of training; for the two classifiers, `network` is of the kind `classifier`.
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

# The default sampler is the first of these that supports the process.
SAMPLERS = ("ddim", "heun")
SHAPES: dict[str, Any] = DEFAULTS | {key: {"name": ""} for key in ("process", "network", "data")}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The section `train`: budgets and periods, in steps of the optimizer.

    Args:
        num_steps: number of training steps; 0 if `num_images` is set instead.
        num_images: number of training images, rounded up to whole steps; 0 if `num_steps` is set instead.
        log_every: steps between lines of metrics.
        sample_every: steps between sample grids; 0 for none.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        keep: number of checkpoints to keep.
        label_dropout: fraction of examples that are trained without their condition.
        accumulate: micro-batches per step.
        steps_per_dispatch: largest number of steps in one call of the compiled program; more than 1 helps if a step
            is so short that the device waits for the host.
        reduction: of the squared error over the features of an example, "mean" or "sum".
        loss_target: name of the prediction whose error is the loss; "" is the prediction of the network.
        batch_target: regress the posterior mean over the batch instead of x_0, which lowers the variance.
        learn_variance: also learn the variance of reverse steps; the network gets twice the outputs.
        variance_weight: weight, in the loss, of the variational bound that trains this variance.
        variance_step: step of the chain of this bound, in units of t; None is that of the process: 1 / T of a chain,
            else 0.001.
        max_bad_steps: non-finite steps in a row before the run goes back to its newest checkpoint.
        max_rollbacks: number of times the run goes back, with another order of the data, before it stops.
        spike_factor: skip a step whose gradient norm exceeds this multiple of the median of the last 128; 0 for none.
        samples_per_class: columns of the sample grids.
        watchdog_seconds: seconds without a step after which a hung run is ended; 0 for never. Start-up and compilation
            may take four times as long; a block of a sample grid, a batch of a trend, and saving, twenty times; a
            dispatch of several steps, that number of times. Time in which the process is stopped does not count.
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
        """Check the values."""
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
        require(
            one, f"give one budget above 0, `train.num_steps` or `train.num_images`; got {budgets}."
        )
        positive(**named("variance_weight"))
        positive(**named("variance_step"), none="that of the process")
        in_interval("[0, 1]", **named("label_dropout"))

    def steps(self, batch_size: int) -> int:
        """Return the number of training steps for a global batch size."""
        return self.num_steps or -(-self.num_images // batch_size)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The section `evaluate`.

    Args:
        metrics: metrics such as "bits_per_dim", "frechet[classifier]" or dict(name="frechet", features="pixels").
        num_samples: number of generated examples that a metric compares with the held-out data.
        batch_size: examples per call.
        ema: name of the average to evaluate, or "raw"; "" is the first of the config.
        trend_every: training steps between measurements of `trend_metrics`; 0 for none.
        trend_samples: number of generated examples per measurement; since it is small, the names of results state it.
        trend_metrics: metrics to measure during training, such as "frechet".
    """

    metrics: tuple[Any, ...] = ("loss_by_level", "frechet")
    num_samples: int = 1000
    batch_size: int = 100
    ema: str = ""
    trend_every: int = 0
    trend_samples: int = 256
    trend_metrics: tuple[Any, ...] = ("frechet",)

    def __post_init__(self) -> None:
        """Check the values."""
        at_least(1, **_in_config(self, "evaluate", "num_samples", "batch_size"))
        at_least(0, **_in_config(self, "evaluate", "trend_every"))
        at_least(2, **_in_config(self, "evaluate", "trend_samples"))


def _in_config(options: Any, section: str, *names: str) -> dict[str, Any]:
    """Return the values of some fields, with their full names in a config, such as "train.keep", as keys."""
    return {f"{section}.{name}": getattr(options, name) for name in names}


# Sections of options, which do not name a class.
UNNAMED = {"train": TrainOptions, "evaluate": EvaluateOptions}


def kind_of(config: Mapping, section: str) -> str:
    """Return the registry kind of the object that a section names."""
    if section == "network" and str(config.get("task", "generator")) != "generator":
        return "classifier"
    return {"data": "dataset"}.get(section, section)


def with_defaults(config: Any) -> dict[str, Any]:
    """Return a plain config with all sections; a section with fields but no name gets the default name."""
    new = DEFAULTS | plain(config)
    for section, default in DEFAULTS.items():
        given = new[section]
        if isinstance(default, dict) and isinstance(given, dict) and "name" not in given:
            new[section] = {**default, **given}
    return {section: _current(new, section) for section in new}


def _current(config: Mapping, section: str) -> Any:
    """Return a section with current names for entries that were renamed since it was written."""
    spec, kind = config[section], kind_of(config, section)
    if section == "guidance" and isinstance(spec, list | tuple):
        return [current(kind, entry) for entry in spec]
    spec = current(kind, spec) if kind in KINDS else spec
    if section == "data" and isinstance(spec, Mapping) and "condition" in spec:
        return {**spec, "condition": current("condition", spec["condition"])}
    return spec


def section_of(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section as a mapping with a name; a string is short for dict(name=string)."""
    given = config[section]
    return {"name": given} if isinstance(given, str) else dict(given)


def own_fields(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section without the fields that belong to the experiment and not to the named class."""
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
    """Return a ConfigDict as plain dictionaries, lists and values, as in JSON."""
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
    """Raise ConfigError for a value that is not a section, such as a number."""
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
