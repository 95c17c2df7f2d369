"""Configs: sections of names and overrides, checked before anything is built.

A section is a `name` and the fields that differ from the defaults of the class it names. On the command
line `--config.process.name=edm` swaps the class *and forgets the other fields that the file gave to the old
one*; `--config.process.t_max=50` sets a field, also one that the file does not mention.
"""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusion.numerics import require
from diffusion.registry import check_type, nearest

SECTIONS = (
    "seed", "process", "prediction", "time", "weight", "network", "data", "optimizer", "ema", "train",
    "sampler", "grid", "guidance", "parallel", "evaluate",
)  # fmt: skip

KEPT = {"data": ("batch_size", "data_dir"), "grid": ("num_steps",)}  # not the named class's own

# A resumed run must agree on these; the others (budgets, logging, sampling) may change.
IDENTITY = (
    "seed", "process", "prediction", "time", "weight", "network", "data", "optimizer", "ema",
    "train.loss_target", "train.batch_target", "train.learn_variance", "train.variance_weight", "train.variance_step",
)  # fmt: skip

# What the parameters of a checkpoint depend on.
PARAMETERS = ("network", "data", "weight", "train.learn_variance")


class ConfigError(ValueError):
    """A config or an override that cannot be built; the message names the key."""


DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "prediction": {"name": "v"},
    "time": {"name": "uniform"},
    "weight": {"name": "simple"},
    "optimizer": {"name": "adam"},
    "ema": ["0.999"],
    "train": {},
    "sampler": {"name": "ddim"},
    "grid": {"name": "uniform_log_snr", "num_steps": 50},
    "guidance": [],
    "parallel": {"name": "mesh"},
    "evaluate": {},
}


def section_of(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section as a mapping with a name; a string is short for that."""
    given = config[section]
    return {"name": given} if isinstance(given, str) else dict(given)


def own_fields(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section without the entries that belong to the experiment rather than to the class."""
    spec = section_of(config, section)
    return {k: v for k, v in spec.items() if k not in KEPT.get(section, ()) or k == "data_dir"}


def positive(config: Mapping, section: str, field: str, default: int) -> int:
    """Return a positive integer of a section, or raise ConfigError."""
    value = section_of(config, section).get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.{section}.{field} must be a positive integer; got {value!r}.")
    return value


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
        label_dropout: share of examples that are trained without their condition.
        accumulate: micro-batches per step.
        reduction: of the squared error over the features of an example, "mean" or "sum".
        loss_target: the prediction by name that the error is taken of; "" is what the network outputs.
        batch_target: regress the posterior mean over the batch in place of x_0, which lowers the variance.
        learn_variance: learn the variance of reverse steps as well; the network gets twice the outputs.
        variance_weight: of the chain's bound, which trains that variance, in the loss.
        variance_step: of that chain, in units of t.
        max_bad_steps: non-finite steps in a row before the run stops.
        samples_per_class: columns of the sample grids.
    """

    num_steps: int = 10_000
    num_images: int = 0
    log_every: int = 100
    sample_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 3
    label_dropout: float = 0.1
    accumulate: int = 1
    reduction: str = "mean"
    loss_target: str = ""
    batch_target: bool = False
    learn_variance: bool = False
    variance_weight: float = 1e-3
    variance_step: float = 1e-3
    max_bad_steps: int = 20
    samples_per_class: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive = ("log_every", "checkpoint_every", "keep", "accumulate", "max_bad_steps")
        for name in (*positive, "samples_per_class"):
            require(
                getattr(self, name) >= 1,
                f"`train.{name}` must be at least 1; got {getattr(self, name)}.",
            )
        require(
            self.sample_every >= 0,
            f"`train.sample_every` must not be negative; got {self.sample_every}.",
        )
        require(
            (self.num_steps > 0) != (self.num_images > 0),
            "give a budget by one of `train.num_steps` and `train.num_images`, the other 0; got "
            f"num_steps={self.num_steps}, num_images={self.num_images}.",
        )
        for name in ("variance_weight", "variance_step"):
            require(
                getattr(self, name) > 0,
                f"`train.{name}` must be positive; got {getattr(self, name)}.",
            )
        require(
            0 <= self.label_dropout <= 1,
            f"`train.label_dropout` is a share, between 0 and 1; got {self.label_dropout}.",
        )

    def steps(self, batch_size: int) -> int:
        """Return the budget in steps."""
        return self.num_steps or -(-self.num_images // batch_size)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The section `evaluate`.

    Args:
        metrics: names of kind `metric`.
        num_samples: generated examples that a metric compares with the held-out data.
        batch_size: examples per call.
        ema: which average to evaluate, or "raw"; "" is the first of the config.
    """

    metrics: tuple[str, ...] = ("loss_by_level", "frechet")
    num_samples: int = 1000
    batch_size: int = 100
    ema: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_samples", "batch_size"):
            require(
                getattr(self, name) >= 1,
                f"`evaluate.{name}` must be at least 1; got {getattr(self, name)}.",
            )


def options(cls: type, section: str, given: Mapping) -> Any:
    """Build a section without a name, strictly."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise ConfigError(
                f"config.{section} has no field {key!r}.{nearest(key, fields)} "
                f"It accepts: {', '.join(fields)}."
            )
        check_type(f"config.{section}", key, value, fields[key].default)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def plain(value: Any) -> Any:
    """Return a ConfigDict as plain dictionaries, lists and values, as JSON would hold them."""
    if hasattr(value, "items"):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def check_sections(config: Mapping) -> None:
    """Raise ConfigError for a section that does not exist or is missing."""
    for key in config:
        if key not in SECTIONS:
            raise ConfigError(
                f"config has no section {key!r}.{nearest(key, SECTIONS)} Sections: {', '.join(SECTIONS)}."
            )
    for key in ("process", "network", "data"):
        if key not in config:
            raise ConfigError(
                f"config needs a section {key!r}; see the files in configs/ for examples."
            )


def _parse(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)  # numbers, tuples, dictionaries; never code
    except (ValueError, SyntaxError):
        return text


def _convert(path: str, value: Any, old: Any) -> Any:
    """Hold a new value to the type of the one it replaces."""
    if isinstance(old, str) and not isinstance(value, str):
        return str(value)
    if isinstance(old, list) and isinstance(value, str | int | float):
        value = [value]
    check_type("", f"config.{path}", value, old)
    return plain(value)


def apply_overrides(config: Any, overrides: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return a plain config with dotted overrides applied, in order.

    Args:
        config: sections by name, a mapping or a ConfigDict.
        overrides: pairs such as ("process.t_max", "50.0").

    Raises:
        ConfigError: a section does not exist, or a value has another type than the one it replaces.
    """
    new: dict[str, Any] = plain(config)
    overrides = list(overrides)
    for path, text in overrides:  # names first: they clear what belonged to the old class
        section, _, field = path.partition(".")
        old = new.get(section)
        if field in ("", "name") and isinstance(old, dict) and old.get("name") != text:
            new[section] = {"name": text} | {k: old[k] for k in KEPT.get(section, ()) if k in old}
    for path, text in overrides:
        section, *rest = path.split(".")
        if section not in SECTIONS:
            raise ConfigError(
                f"config has no section {section!r} (--config.{path}).{nearest(section, SECTIONS)} "
                f"Sections: {', '.join(SECTIONS)}."
            )
        try:
            _set(new, [section, *rest], _parse(text), path)
        except TypeError as error:
            raise ConfigError(str(error).removeprefix(": ")) from None
    return new


def _set(config: dict, keys: list[str], value: Any, path: str) -> None:
    *parents, last = keys
    for key in parents:
        if isinstance(config.get(key), str):
            config[key] = {"name": config[key]}  # process="vp" may be written for dict(name="vp")
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            raise ConfigError(f"config.{path}: {key!r} is a value, not a section.")
    if isinstance(config.get(last), dict) and isinstance(value, str):
        config[last]["name"] = value  # --config.sampler=ddim
        return
    config[last] = _convert(path, value, config.get(last))


def _at(config: Mapping, path: str) -> Any:
    """Return what stands at a dotted path, or None."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if hasattr(found, "get") else None
    return found


def differences(old: Mapping, new: Mapping, keys: Iterable[str] = IDENTITY) -> list[str]:
    """Return lines "path: old -> new" for what differs in these sections, wherever the data lies."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {path: value}
        return {
            k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}").items()
        }

    lines = []
    for key in keys:
        a, b = flat(plain(_at(old, key)), key), flat(plain(_at(new, key)), key)
        changed = sorted(k for k in a | b if a.get(k) != b.get(k) and k != "data.data_dir")
        lines += [f"{k}: {a.get(k, 'default')} -> {b.get(k, 'default')}" for k in changed]
    return lines
