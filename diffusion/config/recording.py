"""Recording of the data that a run is trained on, and the check that the data is still the same."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.config.build import build_section
from diffusion.config.identity import (
    CONTENT,
    another,
    as_stored,
    at,
    marks,
    put,
    same_class,
    stated,
    unsaid,
)
from diffusion.config.sections import ConfigError, check_sections, with_defaults
from diffusion.data import Conditioned


def continued(config: Mapping, stored: Mapping | None) -> tuple[dict[str, Any], list[str]]:
    """Return a config to resume a run with, and a line for each changed default that matters for it.

    Fields that the config does not set have their meaning in the stored config. Modules that only the stored config
    names are not imported.

    Args:
        config: sections by name; those with defaults may be missing.
        stored: the config of the run to resume, if there is one.
    """
    new, lines = dict(config), []
    if stored is None:
        return new, lines
    whole, former = with_defaults(config), as_stored(with_defaults(stored))
    try:
        check_sections(whole)
        today = stated(whole, build_section(whole, "process"))
    except ConfigError:
        return new, lines  # an invalid config is reported later, when it is built
    for path in unsaid(whole):
        value = at(former, path)
        if value is None or not same_class(whole, former, path):
            continue
        new = put(new, path, value)
        matters = path != "train.variance_step" or whole["train"].get("learn_variance")
        if at(today, path) not in (None, value) and matters:
            lines.append(
                f"config.{path} stays {value}, as when this run was begun; today it is {at(today, path)}"
            )
    return new, lines


def recorded(experiment: Any, stored: Mapping[str, Any] | None = None) -> Any:
    """Return an Experiment whose config identifies its data, to be stored with the run.

    Unset fields whose default has changed get their meaning in the stored config or, without one, the value decided
    now; locations become absolute; and digests of the data are added.

    Args:
        experiment: the Experiment to be trained.
        stored: the config of the run to resume, if there is one.
    """
    config: Any = continued(experiment.config, stored)[0]
    if config != experiment.config:
        experiment = type(experiment).from_config(config)
    for path in unsaid(config):
        if (value := _decided(experiment, path)) is not None:
            config = put(config, path, value)
    for path in marks(config, "where"):
        if isinstance(place := at(config, path), str) and place:
            config = put(config, path, os.path.abspath(os.path.expanduser(place)))
    if found := contents_of(experiment):
        config = put(config, CONTENT, found)
    return experiment.replaced(config=config)


def contents_of(experiment: Any) -> dict[str, str]:
    """Return the digests of the data that sections read from files, by the path of the object that reads them."""
    found = {path: content() for path, content in _contents(experiment)}
    return {path: words for path, words in found.items() if words}


def check_contents(experiment: Any) -> None:
    """Raise ConfigError if the data differs from the recorded data that the run was trained on."""
    before = at(experiment.config, CONTENT) or {}
    for path, content in _contents(experiment):
        if path in before and path != "coupling" and (now := content()) and now != before[path]:
            places = [p for p in marks(experiment.config, "where") if p.startswith(f"{path}.")]
            where = ", ".join(f"{p} is {at(experiment.config, p)}" for p in places)
            raise ConfigError(
                f"this run was trained on other data: {another(path, before[path], now)}"
                f"{f' ({where})' if where else ''}. Give the data that it was trained on"
                + (f": --config.{places[0]}=PATH." if places else ".")
            )


def _contents(experiment: Any) -> Iterator[tuple[str, Any]]:
    """Yield the methods `content` of the objects of a config, by their path in it."""
    todo = [
        ("data", _inner(experiment.dataset)),
        *((section, getattr(experiment, section)) for section in ("coupling", "process")),
    ]
    while todo:
        path, found = todo.pop(0)
        if callable(getattr(found, "content", None)):
            yield path, found.content
        elif dataclasses.is_dataclass(found):
            held = [f.name for f in dataclasses.fields(found) if "kind" in f.metadata]
            todo += [(f"{path}.{name}", getattr(found, name)) for name in held]


def _inner(dataset: Any) -> Any:
    """Return the data set of the section `data`, without the wrapper that computes a condition."""
    while isinstance(dataset, Conditioned):
        dataset = dataset.base
    return dataset


def _decided(experiment: Any, path: str) -> Any:
    """Return the decided value of a field that the config does not set."""
    section, *fields, last = path.split(".")
    found = _inner(experiment.dataset) if section == "data" else getattr(experiment, section)
    for field in fields:
        found = getattr(found, field, None)
    decided = getattr(found, "decided", dict)()
    return decided.get(last, getattr(found, last, None))
