"""Whose word it is that a config imports code.

A config can name code, "mymodule:MyProcess", and building it imports that module. Where a user types such a name, or
gives a file of configs, that is the user's word. A config that is *stored* may be a stranger's: in a work directory,
in a checkpoint, on the card of an export. Its names count if `--allow_code` says so, or if this user's own training
has recorded them: when a run begins, the names in its config and the places of their modules are written into a
folder that is the user's alone, under the digest of the config. Nothing that lies in a work directory can forge that.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusion.config.sections import ConfigError, plain
from diffusion.evaluation.metrics.base import values_in
from diffusion.registry.names import outside_in, place_of
from diffusion.runtime.digests import as_json, digest_of_json
from diffusion.runtime.files import write_atomically
from diffusion.runtime.reading import read_json
from diffusion.runtime.user_folders import user_folder

FOLDER = "own_code"


def code_in(value: Any) -> list[str]:
    """Return the names in a config that make code be imported, "module:attribute", at any depth."""
    if isinstance(
        value, str
    ):  # the fields of a metric are literals, which can spell a name in other ways
        hidden = code_in(values_in(value)) if "[" in value else []
        return list(dict.fromkeys(outside_in(value) + hidden))
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if not isinstance(value, list | tuple):
        return []
    return list(dict.fromkeys(name for inner in value for name in code_in(inner)))


def remember_code(config: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Record that this user's own training names code; a line says if it cannot be recorded."""
    names = code_in(config)
    if not names:
        return
    record = {name: place_of(name) for name in names}
    try:
        path = _path(config)
        write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        say(
            f"that this run uses {', '.join(names)} is not remembered ({error.filename}: {error.strerror}): "
            "programs that open it need --allow_code"
        )


def refuse_code(
    config: Mapping[str, Any], where: str, *, used: Any = None, allow_code: bool = False
) -> None:
    """Refuse the names of code in a stored config, unless they are the user's own.

    Args:
        config: as it is stored.
        where: it is stored, for the message.
        used: what is built in its place, with sections that the user has replaced; all of it by default.
        allow_code: the user trusts it.

    Raises:
        ConfigError: it names code that nobody has vouched for.
    """
    kept = set(code_in(config if used is None else used))
    names = [name for name in code_in(config) if name in kept]
    if allow_code or not names:
        return
    own, here = _recorded(config), Path.cwd().resolve()
    for name in names:
        place = place_of(name)
        beside = any(here in Path(p).parents for p in place.split(os.pathsep))
        if name in own and (place == own[name] or not beside):
            continue
        moved = (
            f" When you trained it, that was {own[name]}; here it is {place}."
            if name in own
            else ""
        )
        raise ConfigError(
            f"the config of {where} names code, {', '.join(names)[:200]}, which would be imported and run, and no "
            f"training of yours has recorded it.{moved} If you trust it, give --allow_code."
        )


def _path(config: Mapping[str, Any]) -> Path:
    digest = digest_of_json(as_json(plain(config)))
    return user_folder("data", FOLDER) / f"{digest}.json"


def _recorded(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the places of the modules that a training of this config has recorded, by name."""
    try:
        found = read_json(_path(config))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
