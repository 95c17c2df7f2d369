"""Command-line parser: argparse with dotted flags, a more tolerant flag syntax, and one-line errors.

`--flag=value`, `--flag value` and `-flag value` are equivalent, even if the value begins with a minus sign; a switch
is `--flag`, `--noflag` or `--flag=false`; if a flag is repeated, the last value counts.
"""

import argparse
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from diffusion.cli.messages import fail, say
from diffusion.registry.names import nearest
from diffusion.runtime import exits

HELP = ("--help", "-help", "-h")


class Parser(argparse.ArgumentParser):
    """Parser of the flags of one command.

    The namespace of a parsed command line has the attribute `overrides`: pairs (path, value) of the dotted flags.

    Args:
        doc: first part of the text of --help.
        sections: names of the sections with dotted flags, such as `config` for --config.process.name=vp. Paths begin
            with the name of the section, except for `config`.
        cleans_up: raise an exception on an interrupt, so that the command can remove incomplete files; otherwise the
            first signal exits at once until the command handles signals itself.
        in_pairs: flags that take two words, such as --compare A B.
        options: further arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        doc: str | None = None,
        *,
        sections: Sequence[str] = (),
        cleans_up: bool = False,
        in_pairs: Sequence[str] = (),
        **options: Any,
    ):
        super().__init__(
            **{"description": doc, "add_help": False, "allow_abbrev": False, **options}
        )
        self.sections, self.cleans_up, self.in_pairs = sections, cleans_up, in_pairs
        self.add_argument("--help", "-h", action="store_true", help="Show this help.")
        self.switch("debug", "Show the traceback of an error.", default=argparse.SUPPRESS)

    def switch(self, name: str, text: str, default: Any = False) -> None:
        """Add a boolean flag."""
        self.add_argument(
            f"--{name}", type=truth, nargs="?", const=True, default=default, help=text
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a whole command line."""
        found, _ = self.parse_known_args(args, namespace)
        found.debug = getattr(found, "debug", False)  # before or after the command of a command
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all words; exit with a message if one is unknown.

        Returns:
            The namespace and an empty list, the return type of `argparse`.
        """
        words = list(args or ())
        commands = self._commands()
        first = next((w for w in words if not w.startswith("-")), None)
        if commands and first is not None and first not in commands:
            fail(unknown(f"command {first!r}", first, commands, "Commands"))
        if any(w in HELP for w in words) and (not commands or first is None):
            say(self.format_help())
            self.exit()
        words, overrides = dotted(words, self.sections)
        found, left = super().parse_known_args(self._spelled(words), namespace)
        if left:
            self._refuse(left[0])
        found.overrides = [*getattr(found, "overrides", ()), *overrides]
        return found, []

    def _commands(self) -> list[str]:
        return [
            name
            for a in self._actions
            if isinstance(a, argparse._SubParsersAction)
            for name in a.choices
        ]

    def _spelled(self, words: list[str]) -> list[str]:
        """Return the command line with every known flag as --flag=value; words after `--` are unchanged."""
        spelled, rest = [], iter(words)
        for word in rest:
            if word == "--" or (self._commands() and not word.startswith("-")):
                return [*spelled, word, *rest]
            name, equals, value = word.lstrip("-").partition("=")
            flag = self._option_string_actions.get(f"--{name}")
            off = self._option_string_actions.get(f"--{name.removeprefix('no')}")
            if not word.startswith("-") or word.startswith("---"):
                spelled.append(word)
            elif flag is not None and equals:
                spelled.append(f"--{name}={value}")
            elif flag is not None and flag.nargs == "?":
                spelled.append(f"--{name}=true")
            elif flag is not None and flag.nargs is None:
                values = list(itertools.islice(rest, 2 if name in self.in_pairs else 1))
                if not values:
                    fail(f"--{name} needs a value: --{name}=VALUE. See --help.")
                spelled += [f"--{name}={value}" for value in values]
            elif off is not None and off.nargs == "?" and not equals:
                spelled.append(f"--{name.removeprefix('no')}=false")
            else:
                spelled.append(word)
        return spelled

    def _refuse(self, word: str) -> NoReturn:
        """Exit with a message about an unknown word."""
        if not word.startswith("-"):
            fail(f"unexpected argument {word!r}: flags are written --name=value. See --help.")
        name = word.lstrip("-").partition("=")[0]
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag != "-h"]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        message = f"Unknown command line flag {name!r}." + (
            f" Did you mean: {near[0]}?" if near else ""
        )
        if "." in name and "config" in self.sections:
            message += f" Fields of the config are written --config.{name}=VALUE."
        fail(f"{message} See --help.")

    def error(self, message: str) -> NoReturn:
        """Exit with a one-line message."""
        message = re.sub(r"^argument (\S+): (?=must )", r"\1 ", message)
        fail(f"{message.removeprefix('argument ').rstrip('.')}. See --help.")

    def format_help(self) -> str:
        """Return the text of --help: description, arguments and flags with defaults, and exit codes."""
        commands = [
            c
            for a in self._actions
            if isinstance(a, argparse._SubParsersAction)
            for c in a._choices_actions
        ]
        words = [
            a
            for a in self._actions
            if not a.option_strings and not isinstance(a, argparse._SubParsersAction)
        ]
        flags = sorted(
            (a for a in self._actions if a.option_strings), key=lambda a: a.option_strings[0]
        )
        parts = [
            (self.description or "").strip(),
            *_section("Commands", [f"{c.dest}: {c.help}" for c in commands]),
            *_section("Arguments", [f"{a.metavar or a.dest}: {a.help}" for a in words if a.help]),
            *_section("Flags", [f"{a.option_strings[0]}: {a.help}{_default(a)}" for a in flags]),
            exits.table(),
        ]
        return "\n\n".join(filter(None, parts))


def _section(title: str, rows: list[str]) -> list[str]:
    return ["\n".join([f"{title}:", *(f"  {row}" for row in rows)])] if rows else []


def _default(action: argparse.Action) -> str:
    silent = action.default in (None, "", False, argparse.SUPPRESS, []) or action.required
    return "" if silent else f" (default: {action.default})"


def unknown(what: str, name: str, known: Iterable[str], title: str) -> str:
    """Return the message for an unknown name, with the nearest known name and the list of all."""
    return f"unknown {what}.{nearest(name, known, count=1)} {title}: {', '.join(known)}."


def dotted(
    words: Sequence[str], sections: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Extract `--section.path=value` and `--section.path value` from a command line.

    Returns:
        The remaining words, and pairs (path, value). Paths of the section `config` omit the name of the section.
    """
    kept, found, rest = [], [], iter(words)
    for word in rest:
        path, equals, value = word.removeprefix("--").partition("=")
        section, dot, inner = path.partition(".")
        if not word.startswith("--") or not dot or section not in sections:
            kept.append(word)
            continue
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                fail(f"--{path} needs a value: --{path}=VALUE.")
        found.append((inner if section == "config" else path, value))
    return kept, found


# ---- values -------------------------------------------------------------------------------------


def truth(text: str) -> bool:
    """Parse the value of a switch."""
    values = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be true or false; got {text!r}")
    return values[text.lower()]


def whole_number(text: str) -> int:
    """Parse an integer, such as 12 or 0xc."""
    try:
        return int(
            text,
            16 if text.lower().startswith("0x") else 8 if text.lower().startswith("0o") else 10,
        )
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None


def real_number(text: str) -> float:
    """Parse a number; `nan` and `inf` are accepted."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number; got {text!r}") from None


def one_of(*values: str) -> Callable[[str], str]:
    """Return a parser that accepts only these words."""

    def read(text: str) -> str:
        if text not in values:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(values)}; got {text!r}")
        return text

    return read


def check_positive(flags: argparse.Namespace, *names: str) -> None:
    """Exit with a message if one of these flags is set and below 1."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            fail(f"--{name} must be at least 1; got {value}.")


# ---- flags that several commands have -----------------------------------------------------------


def add_weights(parser: Parser) -> None:
    """Add the flags that select the weights of a run: --ema and --step."""
    parser.add_argument(
        "--ema",
        default="",
        help="Name of the averaged weights (EMA), or 'raw' for the unaveraged; by default the first of the config.",
    )
    parser.add_argument(
        "--step",
        type=whole_number,
        help="Step of the checkpoint; by default the newest intact one.",
    )
    add_trust(parser)


def add_trust(parser: Parser) -> None:
    """Add the flag --allow_code, for commands that open stored files from possibly untrusted sources."""
    parser.switch(
        "allow_code",
        "Let a stored config import modules by name, which runs their code; what your own training recorded needs "
        "no flag.",
    )
