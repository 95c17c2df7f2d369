"""Loading of configs for commands: a recipe by name, a file, or the config of a run; with overrides."""

import argparse
import importlib.machinery
import importlib.util
import os
from pathlib import Path
from typing import Any

from diffusion.cli.messages import fail, missing_extra
from diffusion.cli.parser import Parser, unknown
from diffusion.runtime import exits

_PACKAGE = Path(__file__).parents[1]


def add_config(parser: Parser, purpose: str) -> None:
    """Add the flag --config, whose help begins with `purpose`."""
    parser.add_argument(
        "--config",
        help=f"{purpose}: a recipe by name, such as digits, or a file; NAME:VARIANT gives its variant.",
    )


def recipes() -> dict[str, Path]:
    """Return the recipes by name, from the installed package or from the checkout that contains the package."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {p.stem: p for p in sorted(folder.glob("[!_]*.py"))}


def file_of(name: str) -> Path:
    """Return the file of a recipe or of a path; a name that exists, has a slash or ends in .py is a path."""
    path = Path(name)
    if path.is_file() or path.suffix == ".py" or "/" in name or os.sep in name:
        return path
    known = recipes()
    if name not in known:
        fail(
            f"--config: {unknown(f'recipe {name!r}', name, known, 'Recipes')} A file of your own ends in .py or is "
            "written with its folder."
        )
    return known[name]


def read_config(text: str) -> dict[str, Any]:
    """Return the result of `get_config` of a config file, as plain dictionaries.

    Args:
        text: NAME or FILE, or either followed by ":VARIANT", the argument of `get_config`.
    """
    name, colon, variant = text.partition(":")
    file = file_of(name)
    try:
        found = _module(file).get_config(*([variant] if colon else []))
    except SystemExit:
        fail("--config cannot be loaded: the file calls sys.exit.")
    except Exception as error:  # raised by the config file itself
        code = exits.FILES if isinstance(error, OSError) else exits.USAGE
        fail(missing_extra(error) or f"--config cannot be loaded: {exits.sentence(error)}", code)
    if not hasattr(found, "to_dict"):
        fail(f"--config: get_config() must return a ConfigDict; got {type(found).__name__}.")
    return found.to_dict()


def _module(file: Path) -> Any:
    loader = importlib.machinery.SourceFileLoader("demolish_config", str(file.absolute()))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def load_config(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the config of --config with overrides applied."""
    from diffusion.config.overrides import apply_overrides

    if not flags.config:
        fail("--config is required, such as --config digits. See --help.")
    # the config file is a program that was just executed, so importing modules that it names adds no risk
    return apply_overrides(read_config(flags.config), overrides, imports=True)


def stored_config(
    flags: argparse.Namespace, workdir: Any, overrides: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return the config of a work directory with overrides; refuse it if it imports code that is not trusted."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.run.trust import refuse_code

    stored = workdir.read_config()
    config = apply_overrides(stored, overrides)
    refuse_code(stored, str(workdir.path), used=config, allow_code=flags.allow_code)
    return config
