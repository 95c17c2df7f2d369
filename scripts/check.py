"""Hold a process to the laws that every definition must obey, and say what was measured.

Examples:
  python scripts/check.py --process vp
  python scripts/check.py --process mymodule:MyProcess
  python scripts/check.py --process vp --process.beta_max=15
  python scripts/check.py --all
"""

import sys

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("process", None, "A registered name, or module:attribute of your own class.")
flags.DEFINE_bool("all", False, "Check every registered process.")
flags.DEFINE_bool("list", False, "List the registered names of every kind.")


def take_fields(argv: list[str]) -> dict[str, str]:
    """Take --process.field=value out of the command line."""
    fields = {}
    for word in [w for w in argv if w.startswith("--process.")]:
        argv.remove(word)
        name, equals, value = word.removeprefix("--process.").partition("=")
        if not equals:
            _command.fail(f"{word} needs a value: {word}=VALUE.")
        fields[name] = value
    return fields


FIELDS = take_fields(sys.argv)


def main(overrides: list[tuple[str, str]]) -> int:
    """Print a report; return 1 if a law fails."""
    if FLAGS.process is None and not (FLAGS.all or FLAGS.list):
        _command.fail("--process, --all or --list is required. See --help.")
    from diffusion import build, check_process, registered
    from diffusion.config import apply_overrides
    from diffusion.registry import KINDS

    if FLAGS.list:
        for kind in KINDS:
            _command.say(f"{kind:<12} {', '.join(registered(kind))}")
        return 0
    names = registered("process") if FLAGS.all else (FLAGS.process,)
    held = True
    for name in names:
        spec = apply_overrides(
            {"process": {"name": name}}, [(f"process.{k}", v) for k, v in FIELDS.items()]
        )
        report = check_process(build("process", spec["process"]))
        _command.say(str(report))
        held = held and report.holds
    return 0 if held else 1


if __name__ == "__main__":
    _command.run(main, __doc__)
