"""What all programs share: flags, configs with overrides, errors of one line, exit codes."""

import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import _plain
from _errors import exits, fail, report
from _errors import note as note
from _errors import say as say
from absl import flags

flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def define_weights() -> None:
    """Define the flags of a program that say which weights of a run it takes."""
    flags.DEFINE_string(
        "ema",
        "",
        "Which average of the weights, or 'raw'; by default the config's first.",
        module_name=sys.argv[0],
    )
    flags.DEFINE_integer(
        "step",
        None,
        "Which checkpoint; by default the newest that is whole.",
        module_name=sys.argv[0],
    )

    define_trust()


def define_trust() -> None:
    """Define the flag of a program that opens what is stored, which may come from anyone."""
    flags.DEFINE_bool(
        "allow_code",
        False,
        "Let a stored config import modules by name, which runs their code; what your own training recorded needs "
        "no flag.",
        module_name=sys.argv[0],
    )


def part(name: str) -> Any:
    """Import another file of this folder, which is on no search path while a program runs."""
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
        spec: Any = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def config_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take `--config.path=value` and `--config.path value` out of a command line."""
    kept, overrides, i = [], [], 0
    while i < len(argv):
        word = argv[i].removeprefix("-")
        if not word.startswith("-config.") or not argv[i].startswith("--"):
            kept.append(argv[i])
        else:
            path, equals, value = word.removeprefix("-config.").partition("=")
            if not equals:
                i += 1
                if i == len(argv):
                    fail(f"--config.{path} needs a value: --config.{path}=VALUE.")
                value = argv[i]
            overrides.append((path, value))
        i += 1
    return kept, overrides


def _help(doc: str) -> str:
    described = flags.FLAGS.get_key_flags_for_module(sys.argv[0]) or []
    rows = []
    for flag in sorted(described, key=lambda f: f.name):
        default = "" if flag.default in (None, "", False) else f" (default: {flag.default})"
        rows.append(f"  --{flag.name}: {flag.help}{default}")
    return "\n".join([doc.strip(), "", "Flags:", *rows, "", exits.table()])


def run(main: Callable[[list[tuple[str, str]]], Any], doc: str, positional: bool = False) -> None:
    """Parse the command line and run; turn errors into one line and an exit code.

    Args:
        main: the program; it gets the overrides `--config.path=value` of the command line.
        doc: the module's docstring, the head of --help.
        positional: whether words that are not flags are allowed.
    """
    argv, overrides = config_overrides(sys.argv)
    flags.DEFINE_bool(
        "help", False, "Show this text.", module_name=sys.argv[0], allow_override=True
    )
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        say(_help(doc))
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        fail(_unknown_flag(error))
    except flags.Error as error:
        fail(f"{error} See --help.")
    except SystemExit:
        fail("--config cannot be loaded: the file leaves by itself (sys.exit).")
    except Exception as error:  # raised by the config file itself
        code = exits.FILES if isinstance(error, OSError) else exits.USAGE
        fail(f"--config cannot be loaded: {exits.sentence(error)}", code)
    if len(rest) > 1 and not positional:
        fail(f"unexpected argument {rest[1]!r}: flags are written --name=value. See --help.")
    leave_on_signals()
    _plain.hide_programs()
    try:
        code = main(overrides)
    except SystemExit as error:
        if hasattr(error, "signal"):  # a training run that was stopped says what it saved
            from diffusion.runtime.progress import Terminal

            Terminal(sys.stderr).say(f"{error} The same command goes on.")
        raise
    except Exception as error:  # the boundary of the program: every error becomes one line
        report(error, flags.FLAGS.debug)
    sys.exit(code or exits.OK)


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    told = str(error).replace(" ?", "?")
    told += "" if told.endswith("?") else "."
    if "." in error.flagname and "config" in flags.FLAGS:
        told += f" Fields of the config are written --config.{error.flagname}=VALUE."
    return f"{told} See --help."


def leave_on_signals() -> None:
    """Until a program takes over, the first signal leaves at once: there is nothing to save yet.

    Without an exception, which some library that is being imported might catch.
    """

    def leave(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # a terminal that was closed
            os.write(2, f"Stopped by {name} before there was anything to save.\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        if (
            number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        ):  # as under nohup
            signal.signal(number, leave)


def load_config(overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the config of --config with the overrides of the command line applied."""
    from diffusion.config.overrides import apply_overrides

    try:
        given = flags.FLAGS.config
        if given is not None and not hasattr(given, "to_dict"):
            fail(f"--config: get_config() must return a ConfigDict; got {type(given).__name__}.")
        given = given if given is None else given.to_dict()
    except OSError as error:  # a file that could not be loaded complains on its first use
        fail(f"--config cannot be loaded: {str(error).splitlines()[-1].strip()}", exits.FILES)
    if given is None:
        fail("--config is required, such as --config configs/digits.py. See --help.")
    return apply_overrides(given, overrides, imports=True)  # the file is a program, and was run


def use_all_cores(batch_size: int = 0, blocks: int = 0) -> None:
    """Make one CPU device per core, up to eight, before JAX starts; other platforms do not notice.

    XLA runs many small operations of one CPU device on one core; dividing the batch uses the others too.
    A number that is already in XLA_FLAGS stands.

    Args:
        batch_size: of training, which the number of devices has to divide; or
        blocks: of sampling; there are no more devices than these.
    """
    given, flag = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count"
    if flag in given:
        return
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    fits = lambda n: batch_size % n == 0 if batch_size else n <= max(blocks, 1)
    count = max(n for n in (1, 2, 4, 8) if n <= cores and fits(n))
    os.environ["XLA_FLAGS"] = f"{given} {flag}={count}".strip()


def use_fixed_sums() -> None:
    """Have sums on CPUs not depend on cores and devices, before JAX starts."""
    from diffusion.runtime.compilation import use_fixed_sums

    use_fixed_sums()


def stored_config(workdir: Any, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the config of a work directory with overrides; what it names of code must be the user's own."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.run.trust import refuse_code

    stored = workdir.read_config()
    config = apply_overrides(stored, overrides)
    refuse_code(stored, str(workdir.path), used=config, allow_code=flags.FLAGS.allow_code)
    return config


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's own folder, so that a second start is quick."""
    from diffusion.runtime import compilation

    compilation.use_compilation_cache(say=lambda text: print(text, file=sys.stderr, flush=True))


def versions() -> dict[str, str]:
    """Return what computes: other versions, flags of the compiler or kinds of device may give other bits."""
    import jax

    from diffusion.runtime.compilation import compiler_flags, order_of_sums
    from diffusion.runtime.provenance import versions as installed

    found = installed(("demolish", "jax", "jaxlib", "flax"))
    x64 = str(jax.config.jax_enable_x64)
    return found | {
        "device": jax.devices()[0].device_kind, "x64": x64, "xla_flags": compiler_flags(),
        "sums": order_of_sums(),
    }  # fmt: skip


def check_writable(path: "os.PathLike[str] | str") -> None:
    """Leave with a message unless this path, or the nearest folder above it, can be written to."""
    import tempfile

    nearest = os.path.abspath(path)
    while not os.path.isdir(nearest):
        if os.path.exists(nearest) and nearest != os.path.abspath(path):
            fail(f"{path} cannot be written: {nearest} is a file.", exits.FILES)
        nearest = os.path.dirname(nearest)
    try:
        with tempfile.TemporaryFile(dir=nearest):  # asking for permission is not enough for root
            pass
    except OSError as error:
        fail(f"{path} cannot be written: {nearest}: {error.strerror}.", exits.FILES)


def progress(label: str, total: int, done: int = 0) -> Callable[[int], None]:
    """Return what takes the number of examples done and shows a line on standard error now and then."""
    from diffusion.runtime.progress import Progress, Terminal

    shown = Terminal(sys.stderr)
    return Progress(done, total, 1, shown.say, shown.rewrite, what=label, unit="examples").report
