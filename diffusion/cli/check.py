"""Check a process or a sampler against the laws that every definition must obey, and print the measurements.

Examples:
  demolish check --process vp
  demolish check --process mymodule:MyProcess
  demolish check --process vp --process.beta_max=15 --data_mean 0.1 --data_std 0.5
  demolish check --sampler ancestral --sampler.eta=0.5
  demolish check --sampler mymodule:MySampler --process edm
  demolish check --all
"""

import argparse
from typing import Any

from diffusion.cli.messages import fail, say
from diffusion.cli.parser import Parser, real_number
from diffusion.runtime import exits


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("process", "sampler"))
    parser.add_argument(
        "--process", help="A registered name, or module:attribute of your own class."
    )
    parser.add_argument(
        "--sampler", help="A sampler to check instead, on the Gaussian --process (vp)."
    )
    parser.switch("all", "Check every registered process.")
    parser.switch("list", "List the registered names of every kind.")
    parser.add_argument(
        "--data_mean",
        type=real_number,
        default=0.0,
        help="Mean of the data per dimension, to compute the mismatch between prior and noised data.",
    )
    parser.add_argument(
        "--data_std",
        type=real_number,
        default=1.0,
        help="Standard deviation of the data per dimension, for the same purpose.",
    )
    return parser


def fields_of(flags: argparse.Namespace, kind: str) -> list[tuple[str, str]]:
    """Return the command-line overrides of one kind of object, as pairs (kind.field, value)."""
    return [(path, value) for path, value in flags.overrides if path.startswith(f"{kind}.")]


def spec_of(flags: argparse.Namespace, kind: str, name: str) -> Any:
    """Return the specification of an object of this kind, with the overrides of the command line."""
    from diffusion.config.overrides import apply_overrides

    return apply_overrides({kind: {"name": name}}, fields_of(flags, kind), imports=True)[kind]


def main(flags: argparse.Namespace) -> int:
    """Print a report; return the exit code."""
    if not (flags.process or flags.sampler or flags.all or flags.list):
        fail("--process, --sampler, --all or --list is required. See --help.")
    if flags.data_std < 0:
        fail(f"--data_std must not be negative; got {flags.data_std}.")
    if (fields := fields_of(flags, "sampler")) and not flags.sampler:
        fail(f"--{fields[0][0]} needs --sampler NAME.")
    if flags.all and (flags.process or flags.sampler or fields_of(flags, "process")):
        fail("--all checks every process as registered; leave out the other names.")
    from diffusion.registry import KINDS, build, registered
    from diffusion.testing import check_process, check_sampler

    if flags.list:
        for kind in KINDS:
            say(f"{kind:<12} {', '.join(registered(kind))}")
        return 0
    if flags.sampler:
        process = build("process", spec_of(flags, "process", flags.process or "vp"))
        report = check_sampler(build("sampler", spec_of(flags, "sampler", flags.sampler)), process)
        say(str(report))
        return exits.OK if report.holds else exits.LAWS
    held = True
    for name in registered("process") if flags.all else (flags.process,):
        report = check_process(
            build("process", spec_of(flags, "process", name)),
            data_mean=flags.data_mean, data_std=flags.data_std,
        )  # fmt: skip
        say(str(report))
        held = held and report.holds
    return exits.OK if held else exits.LAWS
