"""Command line: `python -m benchmarks train|sample|data|compile|import|scaling|memory|convolutions`.

Nothing that takes long to import is imported before a measurement begins, and then in other processes.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.cases import CASES, SIZES, case_of
from benchmarks.report import finish
from benchmarks.rounds import Plan
from benchmarks.worker import cores

ABOUT = {
    "train": "seconds of a training step, beside others and the limit of a matrix product",
    "sample": "overhead of samplers, images per second, share of the time that the device is busy",
    "data": "batches per second of data sets, beside the need of a training step",
    "compile": "seconds to trace, lower and compile, in a first and in a second process",
    "import": "CPU seconds of imports and of --help",
    "scaling": "seconds of a step against batch, resolution, width and devices",
    "memory": "memory and operations of a step, counted and as the compiler reports them",
    "convolutions": "ways to compute a convolution, beside the compiler's own",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory, measured."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in ABOUT.items():
        add = commands.add_parser(name, help=about, description=about).add_argument
        add("--out", metavar="FILE", help="write everything as JSON")
        add("--quick", action="store_true", help="tiny sizes and two rounds: a test that it runs")
        add("--rounds", type=int, help="turns of all competitors (default: 5)")
        add("--repeats", type=int, help="measurements per turn (default: 3)")
        if name in ("train", "sample"):
            add("--peer_python", action="append", default=[], metavar="PATH",
                help="interpreter of another environment to look for peers in; may be repeated")  # fmt: skip
            add("--only", action="append", default=[], metavar="NAME",
                help="only competitors whose name begins so; may be repeated")  # fmt: skip
        if name != "import":
            add("--case", choices=tuple(CASES), default="unet", help="the work (default: unet)")
            add(
                "--size", choices=tuple(SIZES), default="small", help="of the case (default: small)"
            )
            add("--dtype", help="of the computation, instead of the case's")
            add("--batch", type=int, help="examples per step, instead of the case's")
        if name == "scaling":
            add("--picture", metavar="FILE", help="draw the curves")
    return top


def plan_of(given: Any) -> Plan:
    """Return how long is measured."""
    quick = Plan(rounds=2, repeats=1, least_seconds=0.0) if given.quick else Plan()
    return Plan(rounds=given.rounds or quick.rounds, repeats=given.repeats or quick.repeats,
                least_seconds=quick.least_seconds)  # fmt: skip


def case_from(given: Any) -> Any:
    """Return the case that the command line asks for."""
    size = "tiny" if given.quick else given.size
    return case_of(given.case, size, dtype=given.dtype, batch=given.batch)


def train(given: Any) -> None:
    """Measure the training step."""
    from benchmarks import train as command

    case = case_from(given)
    found = command.run(
        case, plan_of(given), peer_pythons=given.peer_python, only=given.only, cores=cores()
    )
    more = {k: found[k] for k in ("limit", "limits")} | {"case": dataclasses.asdict(case)}
    finish("train", found["rows"], command.lines(found, case), given.out, **more)


def sample(given: Any) -> None:
    """Measure sampling."""
    from benchmarks import sampling as command

    case = case_from(given)
    found = command.run(
        case, plan_of(given), peer_pythons=given.peer_python, only=given.only, cores=cores()
    )
    rows = [*found["overhead"], *found["images"], *found["busy"]["rows"]]
    more = {"busy": found["busy"]["share"], "case": dataclasses.asdict(case)}
    finish("sample", rows, command.lines(found, case), given.out, **more)


def importing(given: Any) -> None:
    """Measure imports."""
    from benchmarks import importing as command

    found = command.run(plan_of(given), given.quick)
    finish("import", found["rows"], command.lines(found), given.out)


def data(given: Any) -> None:
    """Measure data sets."""
    from benchmarks import data as command

    case = case_from(given)
    found = command.run(case, plan_of(given), cores())
    more = {"case": dataclasses.asdict(case)}
    finish("data", found["rows"], command.lines(found, case), given.out, **more)


def compiling(given: Any) -> None:
    """Measure the way to the first step."""
    from benchmarks import compiling as command

    case = case_from(given)
    found = command.run([case], plan_of(given), cores())
    more = {"case": dataclasses.asdict(case)}
    finish("compile", found["rows"], command.lines(found), given.out, **more)


def scaling(given: Any) -> None:
    """Measure growth."""
    from benchmarks import scaling as command

    case = case_from(given)
    found = command.run(case, plan_of(given), cores())
    more = {"exponents": found["exponents"], "case": dataclasses.asdict(case)}
    finish("scaling", found["rows"], command.lines(found, case), given.out, **more)
    if given.picture:
        command.draw(found, given.picture)


def memory(given: Any) -> None:
    """Count and compile a case, and the same with a quarter of the batch."""
    from benchmarks import memory as command

    case = case_from(given)
    found = command.run([case, case.replaced(batch=max(case.batch // 4, 1))])
    finish("memory", found["rows"], command.lines(found), given.out)


def convolutions(given: Any) -> None:
    """Measure ways to compute the convolutions of a case."""
    from benchmarks import convolutions as command

    case = case_from(given)
    found = command.run(case, plan_of(given))
    finish(
        "convolutions",
        found["rows"],
        command.lines(found, case),
        given.out,
        case=dataclasses.asdict(case),
    )


COMMANDS = {
    "train": train, "sample": sample, "data": data, "compile": compiling, "import": importing,
    "scaling": scaling, "memory": memory, "convolutions": convolutions,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    given = parser().parse_args(argv)
    try:
        COMMANDS[given.command](given)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
