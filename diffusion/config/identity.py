"""Identity of configs: whether two of them describe the same run, and in which fields they differ.

Classes mark their fields (`diffusion.registry.marked`). A field that holds a location, such as a path, may differ;
the digests of the content, which a run records in `data.content`, are compared instead. A field whose default has
changed since a config was stored keeps its old meaning in that config. If the new default is None and stands for an
attribute of the process, the mark "of_process" names the attribute.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from diffusion.config.sections import IDENTITY, NEUTRAL, TrainOptions, kind_of, plain, with_defaults
from diffusion.registry import marked
from diffusion.runtime.digests import as_json, digest_of_json, shortened

CONTENT = "data.content"  # digests by the path of their object: "data", "coupling", "process.prior.dataset"


def at(config: Mapping, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if hasattr(found, "get") else None
    return found


def put(config: Mapping, path: str, value: Any) -> dict[str, Any]:
    """Return a config with a new value at a dotted path; a section that is only a name becomes a mapping."""
    key, _, rest = path.partition(".")
    if not rest:
        return {**config, key: value}
    inner = config.get(key) or {}
    inner = {"name": inner} if isinstance(inner, str) else inner
    return {**config, key: put(inner, rest, value)}


def marks(config: Mapping, mark: str) -> dict[str, Any]:
    """Return the values of a mark of the fields of a config, by dotted path."""
    options = dataclasses.fields(TrainOptions)
    found = {f"train.{f.name}": f.metadata[mark] for f in options if mark in f.metadata}
    for section, spec in config.items():
        if isinstance(spec, str) or hasattr(spec, "items"):
            said = marked(kind_of(config, section), spec, mark)
            found |= {f"{section}.{path}": value for path, value in said.items()}
    return found


def without_places(config: Mapping) -> dict[str, Any]:
    """Return a config without the fields that hold a location."""
    new = dict(config)
    for path in (*marks(config, "where"), "data.data_dir"):
        parent, _, last = path.rpartition(".")
        if hasattr(inner := at(new, parent), "items"):
            new = put(new, parent, {k: v for k, v in inner.items() if k != last})
    return new


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a resolved config, independent of the location of its data."""
    return digest_of_json(as_json(without_places(config)))


def as_stored(config: Mapping) -> dict[str, Any]:
    """Return a config read from a run, with old defaults filled in for fields whose default has changed since."""
    new, meant = dict(config), marks(config, "formerly")
    for path in unsaid(config):
        new = put(new, path, meant[path])
    return new


def unsaid(config: Mapping) -> list[str]:
    """Return the fields whose default has changed and which a config does not set."""
    return [path for path in marks(config, "formerly") if at(config, path) is None]


def stated(config: Mapping, process: Any) -> dict[str, Any]:
    """Return a config in which fields with a changed default are set, if the default is an attribute of the process.

    Args:
        config: all sections by name.
        process: the object built from the section `process`.
    """
    new, names, meant = dict(config), marks(config, "of_process"), marks(config, "formerly")
    for path in unsaid(config):
        value: Any = None
        if path.startswith("process."):
            value = process
            for field in path.split(".")[1:]:
                value = getattr(value, field, None)
        elif path in names:
            value = getattr(process, names[path], meant[path])
        if value is not None:
            new = put(new, path, _plain(value))
    return new


def _plain(value: Any) -> Any:
    """Return a number as a Python number, and any other value unchanged."""
    return value if isinstance(value, bool) or not isinstance(value, Real) else float(value)


def same_class(a: Mapping, b: Mapping, path: str) -> bool:
    """Return whether two configs name the same classes along the path to a field."""
    names = []
    for config in (a, b):
        keys = path.split(".")[:-1]
        specs = [at(config, ".".join(keys[:depth])) for depth in range(1, len(keys) + 1)]
        names.append([s.get("name") if hasattr(s, "get") else s for s in specs])
    return names[0] == names[1]


def differences(old: Mapping, new: Mapping, keys: Iterable[str] = IDENTITY) -> list[str]:
    """Return a line "path: old -> new" for every difference in these sections, except for `NEUTRAL` fields.

    Also ignored are fields that hold a location, and fields whose default has changed and which `new` does not set.
    """
    old, new = plain(with_defaults(old)), plain(with_defaults(new))
    old, free = as_stored(old), {*NEUTRAL, *marks(new, "where"), *unsaid(new)}
    lines = []
    for key in keys:
        a, b = flat(at(old, key), key), flat(at(new, key), key)
        both_nan = lambda x, y: x != x and y != y
        changed = sorted(
            k for k in a | b
            if a.get(k) != b.get(k) and not both_nan(a.get(k), b.get(k)) and k not in free
        )  # fmt: skip
        lines += [line for k in changed if (line := _change(k, a, b))]
    return lines


def flat(value: Any, path: str) -> dict[str, Any]:
    """Return the values of nested mappings by dotted path."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}").items()}


def _change(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the line about a field that differs; "" for a digest that only one has: older runs recorded none."""
    what = path.removeprefix(f"{CONTENT}.")
    if what == path:
        return f"{path}: {old.get(path, 'default')} -> {new.get(path, 'default')}"
    return another(what, old[path], new[path]) if path in old and path in new else ""


def another(what: str, old: str, new: str) -> str:
    """Return a message that the content of `what` has changed."""
    return f"the content of {what} is another: {shortened(old)} -> {shortened(new)}"
