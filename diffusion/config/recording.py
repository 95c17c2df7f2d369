"""What a run writes down of what it is trained on, and whether that is still what lies there."""

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
    """Return a config for going on with a run, and a line for each default that has changed since that counts.

    What the config leaves unsaid is what the stored config means. Nothing that only that one names is imported.

    Args:
        config: sections by name; those with defaults may be missing.
        stored: the config of the run that is to go on, if there is one.
    """
    new, lines = dict(config), []
    if stored is None:
        return new, lines
    whole, former = with_defaults(config), as_stored(with_defaults(stored))
    try:
        check_sections(whole)
        today = stated(whole, build_section(whole, "process"))
    except ConfigError:
        return new, lines  # whoever builds the rest says what is wrong
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
    """Return an Experiment with a config that says what it was trained on, for a run to keep.

    Where the config is silent on a field whose default has changed, it gets what the stored config means, or else
    what was decided now; what says where something lies becomes absolute; and the digests of what lies there are
    added.

    Args:
        experiment: the Experiment to be trained.
        stored: the config of the run that is to go on, if there is one.
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
    """Return the digests of what the sections read from files, by the path of the object that read it."""
    found = {path: content() for path, content in _contents(experiment)}
    return {path: words for path, words in found.items() if words}


def check_contents(experiment: Any) -> None:
    """Raise ConfigError unless the data is that which the run was trained on, as far as it wrote that down."""
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
    """Return the data set that the section `data` names, without the condition that is computed from it."""
    while isinstance(dataset, Conditioned):
        dataset = dataset.base
    return dataset


def _decided(experiment: Any, path: str) -> Any:
    """Return the value of a field that its config does not give."""
    section, *fields, last = path.split(".")
    found = _inner(experiment.dataset) if section == "data" else getattr(experiment, section)
    for field in fields:
        found = getattr(found, field, None)
    decided = getattr(found, "decided", dict)()
    return decided.get(last, getattr(found, last, None))
