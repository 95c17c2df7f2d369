"""Configs: sections of names and overrides, checked before anything is built.

A section is a `name` and the fields that differ from the defaults of the class it names. On the command
line `--config.process.name=edm` swaps the class *and forgets the other fields that the file gave to the old
one*; `--config.process.t_max=50` sets a field, also one that the file does not mention.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffusion.config import identity
from diffusion.config.identity import as_stored, changes
from diffusion.config.options import EvaluateOptions, TrainOptions
from diffusion.registry import FieldError, build, check_type, nearest, resolve
from diffusion.registry.typed import admits_text, field_type, read

SECTIONS = (
    "seed", "task", "process", "prediction", "time", "weight", "network", "data", "coupling", "optimizer", "ema",
    "train", "classifier_loss", "sampler", "grid", "guidance", "parallel", "evaluate",
)  # fmt: skip

KEPT = {
    "data": ("batch_size", "data_dir", "condition"),
    "grid": ("num_steps",),
}  # not the named class's own

RECORDED = {
    "data": ("content",)
}  # what a run adds: digests of what was read, by the section that named it

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

NEUTRAL = (
    "data.data_dir",
    "network.remat",
    "network.unroll",
)  # where data lies, how memory is used

# What the parameters of a checkpoint depend on.
PARAMETERS = ("task", "network", "data", "weight", "train.learn_variance")

# What is trained; the two classifiers take `network` from the kind `classifier`.
TASKS = ("generator", "classifier", "clean_classifier")


class ConfigError(ValueError):
    """A config or an override that cannot be built; the message names the key."""


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

# Sections that are options instead of a class by name.
UNNAMED = {"train": TrainOptions, "evaluate": EvaluateOptions}


def with_defaults(config: Any) -> dict[str, Any]:
    """Return a plain config in which every section stands; one that gives fields without a name keeps the default's."""
    new = DEFAULTS | plain(config)
    for section, default in DEFAULTS.items():
        given = new[section]
        if isinstance(default, dict) and isinstance(given, dict) and "name" not in given:
            new[section] = {**default, **given}
    return new


def section_of(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section as a mapping with a name; a string is short for that."""
    given = config[section]
    return {"name": given} if isinstance(given, str) else dict(given)


def own_fields(config: Mapping, section: str) -> dict[str, Any]:
    """Return a section without the entries that belong to the experiment rather than to the class."""
    spec = section_of(config, section)
    not_its = (*KEPT.get(section, ()), *RECORDED.get(section, ()))
    return {k: v for k, v in spec.items() if k not in not_its or k == "data_dir"}


def positive(config: Mapping, section: str, field: str, default: int) -> int:
    """Return a positive integer of a section, or raise ConfigError."""
    value = section_of(config, section).get(field, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.{section}.{field} must be a positive integer; got {value!r}.")
    return value


def options(cls: type, section: str, given: Mapping) -> Any:
    """Build a section without a name, strictly."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise ConfigError(
                f"config.{section} has no field {key!r}.{nearest(key, fields)} "
                f"It accepts: {', '.join(fields)}."
            )
        check_type(f"config.{section}", key, value, fields[key].default, fields[key].type)
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
    for key, default in SHAPES.items():
        check_shape(key, config[key], default)
    if config["task"] not in TASKS:
        raise ConfigError(
            f"config.task must be one of {', '.join(TASKS)}; got {config['task']!r}."
            f"{nearest(config['task'], TASKS)}"
        )


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


def kind_of(config: Mapping, section: str) -> str:
    """Return the kind of object that a section names."""
    return identity.kind_of(section, config.get("task", "generator"))


def build_section(config: Mapping, section: str, **extra: Any) -> Any:
    """Build one section; an error says which."""
    spec = own_fields(config, section)
    kind = kind_of(config, section)
    if section == "data" and spec.get("data_dir") is None:
        spec.pop("data_dir", None)
    try:
        return build(kind, spec, **extra)
    except (
        FieldError
    ) as error:  # the section has fields of the experiment's own besides those of the class
        accepted = (*error.accepted, *KEPT.get(section, ()))
        message = str(FieldError(error.owner, error.field, accepted))
        raise ConfigError(f"config.{section}: {message}") from None
    except (KeyError, TypeError, ValueError) as error:
        message = error.args[0] if error.args else str(error)
        raise ConfigError(f"config.{section}: {message}") from None


def resolved(config: Mapping, extras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the config with every default of every class written out, as JSON would hold it.

    Args:
        config: all sections by name.
        extras: per section, fields that the experiment fills in.
    """
    new = dict(config)
    for section in SECTIONS:
        if section in ("seed", "task", "ema", "train", "guidance", "evaluate"):
            continue
        kind, spec = kind_of(config, section), section_of(config, section)
        new[section] = resolve(kind, spec, **extras.get(section, {}))
    new["guidance"] = [resolve("guidance", g) for g in config["guidance"]]
    return json.loads(json.dumps(new, default=str))


def _is_named(section: str) -> bool:
    """Say whether a section names a class."""
    return isinstance(SHAPES.get(section), dict) and section not in UNNAMED


def _annotation(config: Mapping, keys: list[str], may_import: Callable[[str], bool]) -> Any:
    """Return the annotation of the field at a path, or None if nothing is known of it."""
    section, *path = keys
    if not path:
        return dict | str if _is_named(section) else {"task": str}.get(section)
    if section in UNNAMED:
        known = {f.name: f.type for f in dataclasses.fields(UNNAMED[section])}
        return known.get(path[0]) if len(path) == 1 else None
    kind, spec = kind_of({"task": "generator"} | dict(config), section), config.get(section)
    if section == "data" and path[0] == "condition" and isinstance(spec, Mapping):
        kind, spec, path = "condition", spec.get("condition"), path[1:]
    return field_type(kind, spec, path, may_import)


def _convert(path: str, value: Any, old: Any, annotation: Any) -> Any:
    """Hold a new value to the type of the one it replaces, or to the annotation, which goes first."""
    if isinstance(old, list) and isinstance(value, str | int | float):
        value = [value]
    if annotation is None or not (admits_text(annotation) or isinstance(old, str)):
        check_type("", f"config.{path}", value, old, annotation)
    return plain(value)


def _swap_names(config: dict[str, Any], overrides: Iterable[tuple[str, str]]) -> None:
    """Give sections the names that overrides ask for, without the fields of the class before."""
    for path, text in overrides:
        section, _, field = path.partition(".")
        if field not in ("", "name") or not _is_named(section):
            continue
        given = config.get(section)
        old = given if isinstance(given, dict) else {"name": given}
        if old.get("name") != text:
            kept = {k: old[k] for k in KEPT.get(section, ()) if k in old}
            config[section] = {"name": text, **kept}


def apply_overrides(
    config: Any, overrides: Iterable[tuple[str, str]], *, imports: bool = False
) -> dict[str, Any]:
    """Return a plain config with dotted overrides applied, in order.

    Where a field is a string, by its annotation or by the value that it has, the text counts as it was typed.

    Args:
        config: sections by name, a mapping or a ConfigDict.
        overrides: pairs such as ("process.t_max", "50.0").
        imports: whether classes outside the package that `config` names may be imported for their annotations; those
            that the overrides themselves name are.

    Raises:
        ConfigError: a section does not exist or is none, or a value has another type than the one it replaces.
    """
    new: dict[str, Any] = plain(config)
    overrides = list(overrides)
    _swap_names(new, overrides)  # first: a swap clears what belonged to the old class
    typed = {text for _, text in overrides}
    for path, text in overrides:
        section, *rest = path.split(".")
        if section not in SECTIONS:
            raise ConfigError(
                f"config has no section {section!r} (--config.{path}).{nearest(section, SECTIONS)} "
                f"Sections: {', '.join(SECTIONS)}."
            )
        keys = [section, *rest]
        annotation = _annotation(new, keys, lambda name: imports or name in typed)
        try:
            _set(new, keys, text, annotation, path)
        except TypeError as error:
            raise ConfigError(str(error).removeprefix(": ")) from None
    for section, default in SHAPES.items():
        given = new.get(section, {})
        if not isinstance(given, Mapping):  # of a mapping the name may still come from the defaults
            check_shape(section, given, default)
    return new


def _set(config: dict, keys: list[str], text: str, annotation: Any, path: str) -> None:
    *parents, last = keys
    for key in parents:
        if isinstance(config.get(key), str):
            config[key] = {"name": config[key]}  # process="vp" may be written for dict(name="vp")
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            raise ConfigError(f"config.{path}: {key!r} is a value, not a section.")
    old = config.get(last)
    value = read(text, str if annotation is None and isinstance(old, str) else annotation)
    if isinstance(old, dict) and isinstance(value, str) and path not in UNNAMED:
        config[last]["name"] = value  # --config.sampler=ddim
        return
    config[last] = _convert(path, value, old, annotation)


def differences(old: Mapping, new: Mapping, keys: Iterable[str] = IDENTITY) -> list[str]:
    """Return lines "path: old -> new" for what differs in these sections, but for what is `NEUTRAL`.

    Free are also fields that say where something lies; see `diffusion.config.identity`.
    """
    old, new = plain(with_defaults(old)), plain(with_defaults(new))
    return changes(as_stored(old), new, keys, NEUTRAL)
