"""Malformed configs and command lines: one line that names what is wrong, and exit code 2."""

import random
import re
import runpy
import signal
import string
from pathlib import Path
from typing import Any

from diffusion.cli.commands import COMMANDS

from .processes import call, run
from .recipe import ROOT, TRAIN, train
from .tally import Tally

VALUES = (
    "abc", "", "-1", "0", "nan", "inf", "-inf", "1e400", "999999999999999999999", "None", "True", "[]", "[1, 2]",
    "{}", "{'a': 1}", "()", "1,2,3", "'", "__import__('os')", "os:system", "no_such:Thing", "\u00e9\u4e2d", "a" * 300,
    "[" * 200, "0x10", "1_000", ";", "${HOME}", "!!python/object:os.system", "../../etc/passwd", "\x00",
)  # fmt: skip
SECONDS = 10  # no config may take longer to be refused or accepted


def config_of() -> dict[str, Any]:
    """Return the config that is changed."""
    made = runpy.run_path(str(ROOT / "configs" / "toy2d.py"))["get_config"]()
    return made.to_dict()


def paths(config: Any, prefix: str = "") -> list[str]:
    """Return the full path of every field."""
    found = []
    for key, value in config.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += paths(value, prefix + key + ".")
    return found


def typo(draw: random.Random, path: str) -> str:
    """Return a path with one slip of the keyboard in its last word."""
    *head, word = path.split(".")
    place = draw.randrange(len(word))
    kind = draw.randrange(4)
    if kind == 0 and len(word) > 2:
        new = word[:place] + word[place + 1 :]
    elif kind == 1:
        new = word[:place] + draw.choice(string.ascii_lowercase) + word[place:]
    elif kind == 2 and place + 1 < len(word):
        new = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    else:
        new = word[:place] + draw.choice(string.ascii_lowercase) + word[place + 1 :]
    return ".".join([*head, new])


def mutation(draw: random.Random, known: list[str]) -> tuple[str, str, str]:
    """Return (kind, path, value) of one override that is wrong, or may be."""
    path = draw.choice(known)
    kind = draw.choice(("typo", "value", "value", "unknown", "deep"))
    if kind == "typo":
        slip = typo(draw, path)
        return ("typo", slip, path) if slip not in known else ("value", path, draw.choice(VALUES))
    if kind == "unknown":
        word = "".join(draw.choices(string.ascii_lowercase, k=draw.randint(1, 12)))
        return kind, f"{path.split('.')[0]}.{word}", "1"
    if kind == "deep":
        return kind, ".".join([path, *["a"] * draw.randint(1, 50)]), "1"
    return kind, path, draw.choice(VALUES)


class _TooLongError(Exception):
    """A config took too long."""


def _late(number: int, frame: object) -> None:
    raise _TooLongError


def attempt(config: Any, path: str, value: str) -> tuple[str, str]:
    """Return what became of a config: ("accepted" | "refused" | "crashed", message)."""
    from diffusion.config.experiment import Experiment
    from diffusion.config.overrides import apply_overrides

    signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        experiment = Experiment.from_config(apply_overrides(config, [(path, value)]))
        experiment.parallel.check_batch(experiment.batch_size, experiment.train.accumulate)
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:  # what becomes one line
        message = str(error.args[0]) if error.args else ""
        return ("refused" if message.strip() else "crashed"), message or repr(error)
    except _TooLongError:
        return "crashed", f"took more than {SECONDS} s"
    except BaseException as error:
        return "crashed", repr(error)
    finally:
        signal.alarm(0)
    return "accepted", ""


def configs(count: int, seed: int) -> tuple[Tally, dict[str, Any]]:
    """Change a config at random; what is wrong is refused by name."""

    def campaign() -> list[tuple[str, str, str, str, str]]:
        draw, config = random.Random(seed), config_of()
        known = paths(config)
        found = []
        for _ in range(count):
            kind, path, value = mutation(draw, known)
            became, message = attempt(config, path, "1" if kind == "typo" else value)
            found.append((kind, path, value, became, message))
        return found

    tally, typos, named, accepted = Tally("malformed configs"), 0, 0, 0
    for kind, path, value, became, message in call(campaign):
        words = path.split(".")
        says = any(w in message for w in words)
        if kind == "typo":
            typos += 1
            named += (
                re.search(rf"\b{re.escape(value.rsplit('.', maxsplit=1)[-1])}\b", message)
                is not None
            )
        accepted += became == "accepted"
        fine = became == "accepted" or (became == "refused" and says)
        tally.note(refused=fine, wrong=f"{path}={value[:80]!r} {became}: {message}")
    return tally, {"typos": typos, "true_key_named": named, "harmless": accepted}


def command_lines(folder: Path, count: int, seed: int) -> Tally:
    """Change real command lines at random: exit code 2 or 0, never a traceback."""
    tally, draw = Tally("malformed command lines"), random.Random(seed)
    programs = [*COMMANDS, "demo_picture", "tables"]
    flags = ("--workdir", "--num_samples=0", "--num_samples=x", "--nothing", "--wokdir=a", "extra", "--config",
             "--config=nowhere.py", "--config.a", "--config.a=1", "--seed=-1", "--seed=1.5", "--out=a.exe", "-x",
             "--", "--=", "--ema=", "--workdir=",
             "--workdir=/nonexistent/run", "--process=nothing", "\u00e9")  # fmt: skip
    for number in range(count):
        program = programs[number % len(programs)]
        helps = number < len(programs)
        words = ["--help"] if helps else draw.sample(flags, draw.randint(1, 3))
        if program == "train" and not helps:
            words = [*draw.sample(TRAIN, draw.randint(1, len(TRAIN))), *words]
        ended = run([f"scripts/{program}.py", *words], folder / "log")
        fine = ended.code == 0 if helps else ended.code in (2, 4, 5, 6)
        fine = fine and "Traceback" not in ended.text and len(ended.text) > 0
        tally.note(refused=fine, wrong=f"{program} {words}: code {ended.code}: {ended.text}")
    return tally


def unreadable(folder: Path) -> Tally:
    """Give config files that are no configs."""
    tally, file = Tally("config files that are no configs"), folder / "odd.py"
    contents = (b"", b"\xff\xfe\x00", b"def get_config(:", b"x = 1", b"#" * 10_000_000, b"raise SystemExit(0)",
                b"def get_config():\n    return 3\n", b"import no_such_module\n")  # fmt: skip
    for content in contents:
        file.write_bytes(content)
        words = [w for w in train(folder / "none") if not w.startswith("--config=")]
        ended = run([*words, f"--config={file}"], folder / "log")
        fine = ended.code == 2 and "Traceback" not in ended.text
        tally.note(refused=fine, wrong=f"{content[:30]!r}: code {ended.code}: {ended.text}")
    tally.note(refused=not (folder / "none").exists(), wrong="a work directory was made")
    return tally
