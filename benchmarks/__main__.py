"""Command line: `python -m benchmarks train|sample|data|compile|import|scaling|memory|convolutions`.

Slow imports happen only when a measurement begins, and in other processes.
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import CASES, SIZES, Case, case_of
from benchmarks.report import finish
from benchmarks.rounds import Plan

Add = Callable[..., Any]
PEERS = ("peer_pythons", "only")


@dataclass(frozen=True)
class Command:
    """One kind of measurement: a module of this package with `run(...)` and `lines(found, ...)`.

    Attributes:
        module: name of the module.
        about: description for --help.
        takes: arguments of `run`; `lines` also takes the case, if `run` does.
    """

    module: str
    about: str
    takes: tuple[str, ...] = ("case", "plan")


COMMANDS = {
    "train": Command(
        "train", "seconds of a training step, beside others and the limit of a matrix product",
        ("case", "plan", *PEERS),
    ),
    "sample": Command(
        "sampling", "overhead of samplers, images per second, fraction of the time that the device is busy",
        ("case", "plan", *PEERS),
    ),
    "data": Command("data", "batches per second of data sets, beside the need of a training step"),
    "compile": Command(
        "compiling", "seconds to trace, lower and compile, in a first and in a second process"
    ),
    "import": Command("importing", "CPU seconds of imports and of --help", ("plan", "quick")),
    "scaling": Command("scaling", "seconds of a step against batch, resolution, width and devices"),
    "memory": Command(
        "memory", "memory and operations of a step, counted and as the compiler reports them", ("case",)
    ),
    "convolutions": Command("convolutions", "ways to compute a convolution, beside the compiler's own"),
}  # fmt: skip


def _case_options(add: Add) -> None:
    add("--case", choices=tuple(CASES), default="unet", help="the work (default: unet)")
    add("--size", choices=tuple(SIZES), default="small", help="of the case (default: small)")
    add("--dtype", help="of the computation, instead of the case's")
    add("--batch", type=int, help="examples per step, instead of the case's")


def _plan_options(add: Add) -> None:
    add("--rounds", type=int, help="turns of all competitors (default: 5)")
    add("--repeats", type=int, help="measurements per turn (default: 3)")


def _peer_options(add: Add) -> None:
    add("--peer_python", dest="peer_pythons", action="append", default=[], metavar="PATH",
        help="interpreter of another environment to look for peers in; may be repeated")  # fmt: skip
    add("--only", action="append", default=[], metavar="NAME",
        help="only competitors whose name begins so; may be repeated")  # fmt: skip


OPTIONS = {"case": _case_options, "plan": _plan_options, "only": _peer_options}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory, measured."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        add = commands.add_parser(name, help=command.about, description=command.about).add_argument
        add("--out", metavar="FILE", help="write everything as JSON")
        add("--quick", action="store_true", help="tiny sizes and two rounds: a test that it runs")
        for argument, options in OPTIONS.items():
            if argument in command.takes:
                options(add)
        if name == "scaling":
            add("--picture", metavar="FILE", help="draw the curves")
    return top


def plan_of(given: Any) -> Plan:
    """Return the plan of the measurement from the command line."""
    quick = Plan(rounds=2, repeats=1, least_seconds=0.0) if given.quick else Plan()
    return Plan(rounds=given.rounds or quick.rounds, repeats=given.repeats or quick.repeats,
                least_seconds=quick.least_seconds)  # fmt: skip


def case_from(given: Any) -> Case:
    """Return the case from the command line."""
    size = "tiny" if given.quick else given.size
    return case_of(given.case, size, dtype=given.dtype, batch=given.batch)


MADE: Mapping[str, Callable[[Any], Any]] = {"case": case_from, "plan": plan_of}


def perform(given: Any) -> None:
    """Measure, print the table, write the JSON, and draw the picture if --picture is set."""
    command = COMMANDS[given.command]
    module = importlib.import_module(f"benchmarks.{command.module}")
    parts = {n: MADE[n](given) if n in MADE else getattr(given, n) for n in command.takes}
    found = module.run(**parts)
    case = {"case": parts["case"]} if "case" in parts else {}
    more = {name: dataclasses.asdict(value) for name, value in case.items()}
    finish(given.command, {**more, **found}, module.lines(found, **case), given.out)
    if getattr(given, "picture", None):
        module.draw(found, given.picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = parser().parse_args(argv)
    try:
        perform(given)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
