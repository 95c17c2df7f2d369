"""The config that a command works with: a recipe by name, a file, or that of a run; with overrides."""

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


def add_config(parser: Parser, told: str) -> None:
    """Add the flag that names a config."""
    parser.add_argument(
        "--config",
        help=f"{told}: a recipe by name, such as digits, or a file; NAME:VARIANT gives its variant.",
    )


def recipes() -> dict[str, Path]:
    """Return the recipes by name: those in the installed package, or in the checkout that the package lies in."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {p.stem: p for p in sorted(folder.glob("[!_]*.py"))}


def file_of(name: str) -> Path:
    """Return the file of a recipe, or of a path: what exists, has a slash or ends in .py is one."""
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
    """Return what `get_config` of a config file returns, plain.

    Args:
        text: NAME or FILE, or either with ":VARIANT", which is the argument of `get_config`.
    """
    name, colon, variant = text.partition(":")
    file = file_of(name)
    try:
        found = _module(file).get_config(*([variant] if colon else []))
    except SystemExit:
        fail("--config cannot be loaded: the file leaves by itself (sys.exit).")
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
    # the file is a program, and was run: what it names may be imported
    return apply_overrides(read_config(flags.config), overrides, imports=True)


def stored_config(
    flags: argparse.Namespace, workdir: Any, overrides: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return the config of a work directory with overrides; what it names of code must be the user's own."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.run.trust import refuse_code

    stored = workdir.read_config()
    config = apply_overrides(stored, overrides)
    refuse_code(stored, str(workdir.path), used=config, allow_code=flags.allow_code)
    return config
