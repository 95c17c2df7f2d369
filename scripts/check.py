"""Hold a process or a sampler to the laws that every definition must obey, and say what was measured.

Examples:
  python scripts/check.py --process vp
  python scripts/check.py --process mymodule:MyProcess
  python scripts/check.py --process vp --process.beta_max=15 --data_mean 0.1 --data_std 0.5
  python scripts/check.py --sampler ancestral --sampler.eta=0.5
  python scripts/check.py --sampler mymodule:MySampler --process edm
  python scripts/check.py --all
"""

import sys

import _command
from _errors import exits
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("process", None, "A registered name, or module:attribute of your own class.")
flags.DEFINE_string("sampler", None, "A sampler to check instead, on the Gaussian --process (vp).")
flags.DEFINE_bool("all", False, "Check every registered process.")
flags.DEFINE_bool("list", False, "List the registered names of every kind.")
flags.DEFINE_float("data_mean", 0.0, "Of the data per dimension, for the mismatch of the prior.")
flags.DEFINE_float("data_std", 1.0, "Standard deviation of the data per dimension, likewise.")


def take_fields(argv: list[str], kind: str) -> dict[str, str]:
    """Take --kind.field=value, or --kind.field value, out of the command line."""
    fields, head = {}, f"--{kind}."
    while word := next((w for w in argv if w.startswith(head)), None):
        at = argv.index(word)
        name, equals, value = argv.pop(at).removeprefix(head).partition("=")
        if not equals:
            if at == len(argv) or argv[at].startswith("--"):
                _command.fail(f"{word} needs a value: {word}=VALUE.")
            value = argv.pop(at)
        fields[name] = value
    return fields


FIELDS = {kind: take_fields(sys.argv, kind) for kind in ("process", "sampler")}


def spec_of(kind: str, name: str) -> object:
    """Return what builds an object of this kind, with the fields of the command line."""
    from diffusion.config.overrides import apply_overrides

    changes = [(f"{kind}.{k}", v) for k, v in FIELDS[kind].items()]
    return apply_overrides({kind: {"name": name}}, changes, imports=True)[kind]


def main(overrides: list[tuple[str, str]]) -> int:
    """Print a report; return the exit code."""
    if not (FLAGS.process or FLAGS.sampler or FLAGS.all or FLAGS.list):
        _command.fail("--process, --sampler, --all or --list is required. See --help.")
    if FLAGS.data_std < 0:
        _command.fail(f"--data_std must not be negative; got {FLAGS.data_std}.")
    if FIELDS["sampler"] and not FLAGS.sampler:
        _command.fail(f"--sampler.{next(iter(FIELDS['sampler']))} needs --sampler NAME.")
    if FLAGS.all and (FLAGS.process or FLAGS.sampler or FIELDS["process"]):
        _command.fail("--all checks every process as registered; leave out the other names.")
    from diffusion import build, check_process, registered
    from diffusion.registry import KINDS

    if FLAGS.list:
        for kind in KINDS:
            _command.say(f"{kind:<12} {', '.join(registered(kind))}")
        return 0
    if FLAGS.sampler:
        from diffusion.testing import check_sampler

        process = build("process", spec_of("process", FLAGS.process or "vp"))
        report = check_sampler(build("sampler", spec_of("sampler", FLAGS.sampler)), process)
        _command.say(str(report))
        return exits.OK if report.holds else exits.LAWS
    held = True
    for name in registered("process") if FLAGS.all else (FLAGS.process,):
        report = check_process(
            build("process", spec_of("process", name)),
            data_mean=FLAGS.data_mean, data_std=FLAGS.data_std,
        )  # fmt: skip
        _command.say(str(report))
        held = held and report.holds
    return exits.OK if held else exits.LAWS


if __name__ == "__main__":
    _command.run(main, __doc__)
