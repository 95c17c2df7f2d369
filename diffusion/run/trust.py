"""Trust in configs that import code.

A config can name code, such as "mymodule:MyProcess", and building it imports that module. A name on the command line
or in a config file of the user is trusted. A *stored* config, in a work directory, in a checkpoint or in the JSON file
of an export, may come from someone else. Its names are trusted with `--allow_code`, or if this user's own training
has recorded them: when a run begins, the names in its config and the locations of their modules are written to a
private folder of the user, under the digest of the config. Files in a work directory cannot forge this record.
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
    """Return the names "module:attribute" in a config, at any depth, that cause an import."""
    # the fields of a metric are literals, which can spell a name in other ways
    if isinstance(value, str):
        hidden = code_in(values_in(value)) if "[" in value else []
        return list(dict.fromkeys(outside_in(value) + hidden))
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if not isinstance(value, list | tuple):
        return []
    return list(dict.fromkeys(name for inner in value for name in code_in(inner)))


def remember_code(config: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Record the names of code in the config of this user's own training; `say` gets a message if this fails."""
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
    """Raise ConfigError if a stored config names code that the user's own training has not recorded.

    Args:
        config: the stored config.
        where: its location, for the message.
        used: the config that is built instead, with sections that the user has replaced; by default `config`.
        allow_code: whether the user trusts the config.

    Raises:
        ConfigError: the config names code that is not trusted.
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
    """Return the locations of the modules that a training of this config has recorded, by name."""
    try:
        found = read_json(_path(config))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
