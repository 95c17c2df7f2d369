"""Entry points of `demolish`: the list of commands, and the dispatch on the first word of the command line."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from diffusion.cli import program
from diffusion.cli.messages import fail, say
from diffusion.cli.parser import HELP, unknown
from diffusion.runtime import exits

COMMANDS = (
    "train",
    "sample",
    "evaluate",
    "edit",
    "check",
    "draw",
    "data",
    "export",
    "reference",
    "estimate_variance",
    "convert_features",
)
HEAD = """Generative diffusion from the definition of how data is demolished.

Usage: demolish COMMAND [--flag=value ...]
       demolish COMMAND --help

Commands:"""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command in this process and return its exit code; signal handlers are restored afterward.

    Args:
        words: the command line, such as ["train", "--config=digits"]; None uses `sys.argv`.
    """
    words = sys.argv[1:] if words is None else list(words)
    with program.as_a_guest():
        return _run(words)


def start(words: Sequence[str] | None = None) -> NoReturn:
    """Run a command as the only work of this process, and exit with its code."""
    sys.exit(_run(sys.argv[1:] if words is None else list(words)))


def _run(words: list[str]) -> int:
    # cards record this command line, however the command was started
    sys.argv = ["demolish", *words]
    try:
        name = _chosen(words)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else exits.OK
    command = importlib.import_module(f"diffusion.cli.{name}")
    return program.run(command.command_line(), command.main, words[1:])


def _chosen(words: list[str]) -> str:
    """Return the name of the command; exit if there is none, or after printing the version or the help."""
    if not words:
        fail(f"the first word is a command: {', '.join(COMMANDS)}. See --help.")
    if words[0] in ("--version", "-version"):
        from importlib import metadata

        say(f"demolish {metadata.version('demolish')}")
        sys.exit(exits.OK)
    if words[0] in (*HELP, "help"):
        say(overview())
        sys.exit(exits.OK)
    if words[0] not in COMMANDS:
        what = "flag" if words[0].startswith("-") else "command"
        fail(f"{unknown(f'{what} {words[0]!r}', words[0], COMMANDS, 'Commands')} See --help.")
    return words[0]


def overview() -> str:
    """Return the text of `demolish --help`: every command with the first line of its own help."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {_summary(name)}" for name in COMMANDS]
    return "\n".join([HEAD, *rows, "", "  --version    Show the version.", "", exits.table()])


def _summary(name: str) -> str:
    doc = importlib.import_module(f"diffusion.cli.{name}").__doc__ or ""
    return doc.strip().partition("\n")[0]
