"""What a run writes down of what it is trained on, and whether that is still what lies there."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.config import ConfigError
from diffusion.data import Conditioned
from diffusion.identity import CONTENT, another, at, continued, marks, put, unsaid


def recorded(experiment: Any, stored: Mapping[str, Any] | None = None) -> Any:
    """Return an Experiment with a config that says what it was trained on, for a run to keep.

    Where the config is silent on a field whose default has changed, it gets what the stored config means, or else
    what was decided now; what says where something lies becomes absolute; and the digests of what lies there are
    added.

    Args:
        experiment: the Experiment to be trained.
        stored: the config of the run that is to go on, if there is one.
    """
    config: Any = continued(experiment.config, stored)
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
