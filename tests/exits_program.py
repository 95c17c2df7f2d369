"""Every exit code, reached by a real program in a forked process: python -m tests.exits_program FOLDER.

Prints JSON: by case the code that is documented, the one that came, and what was said.
"""

import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.cli.commands import COMMANDS
from diffusion.data.points import Points2D
from diffusion.processes import GaussianProcess, VariancePreserving
from diffusion.runtime import exits

from .faults.processes import Ended, Program, run, warm_up
from .faults.recipe import train

HERE = "tests.exits_program"
POISONED = "--config.data.name=tests.training.poisoned:PoisonedPoints"


@dataclass(frozen=True, kw_only=True)
class Raises(VariancePreserving):
    """A definition with a mistake that no message foresees."""

    def __post_init__(self) -> None:
        raise RuntimeError("first of many lines\n" + "another\n" * 40)


@dataclass(frozen=True, kw_only=True)
class Lawless(GaussianProcess):
    """The noise level falls where it should rise."""

    t_min: float = 0.1
    t_max: float = 0.9

    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


@dataclass(frozen=True, kw_only=True)
class Waits(Points2D):
    """Points that never come."""

    def batch(self, step: int, batch_size: int, seed: int = 0, **options: Any) -> dict[str, Any]:
        if step > 2:
            time.sleep(1000)
        return super().batch(step, batch_size, seed=seed, **options)


def stopped(folder: Path, *signals: int) -> Ended:
    """Train without end, and send signals as soon as steps are done."""
    log = folder / f"{'-'.join(map(str, signals))}.log"
    program = Program(train(folder / "stopped", "--config.train.num_steps=100000"), log)
    until = time.monotonic() + 200
    while time.monotonic() < until:
        if log.exists() and re.search(
            r"^step [0-9]", log.read_text(errors="replace"), re.MULTILINE
        ):
            break
        time.sleep(0.05)
    for number in signals:
        program.send(number)
    return program.wait()


def by_hand(folder: Path) -> None:
    """Make the files that the cases below look at."""
    (folder / "foreign.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("[" * 100_000)
    np.save(folder / "2024_01.npy", np.zeros((4, 2), np.float32))
    (folder / "bad.npz").write_bytes(b"PK\3\4 not a whole archive")


def quick(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Return cases that end before anything is compiled: the code, and the command line."""
    toy, none = "--config=configs/toy2d.py", folder / "none"
    data = [f"--out={none}.png", "--image", "data:0", "--mask", "box:0,0,1,1"]
    programs = [*(f"{name}.py" for name in COMMANDS), "demo_picture.py", "tables.py"]
    return {
        **{f"help {name}": (exits.OK, [f"scripts/{name}", "--help"]) for name in programs},
        "help of a command": (exits.OK, ["scripts/data.py", "inspect", "--help"]),
        "a mistake in a class of one's own": (exits.ERROR, ["scripts/check.py", f"--process={HERE}:Raises"]),
        "no flags": (exits.USAGE, ["scripts/sample.py"]),
        "no flags, argparse": (exits.USAGE, ["scripts/reference.py"]),
        "a section that is none": (exits.USAGE, ["scripts/train.py", toy, f"--workdir={none}", "--config.train=nan"]),
        "a condition that is none": (
            exits.USAGE, ["scripts/train.py", toy, f"--workdir={none}", "--config.data.condition=17"]
        ),
        "a folder without a run": (exits.USAGE, ["scripts/sample.py", f"--workdir={none}"]),
        "a config that is too deep": (exits.USAGE, ["scripts/sample.py", f"--workdir={folder}/deep"]),
        "a damaged array": (
            exits.USAGE, ["scripts/data.py", "inspect", "array", "--set", f"path={folder}/bad.npz"]
        ),
        "weights without a card": (
            exits.CHECKPOINT,
            ["scripts/export.py", f"--from={folder}/foreign.safetensors", f"--workdir={none}"],
        ),
        "a data set that is not prepared": (exits.DATA, ["scripts/data.py", "inspect", "cifar10"]),
        "a missing config": (exits.FILES, ["scripts/train.py", f"--config={none}.py", f"--workdir={none}"]),
        "missing weights to import": (
            exits.FILES, ["scripts/export.py", f"--from={none}.safetensors", f"--workdir={none}"]
        ),
        "missing examples": (exits.FILES, ["scripts/evaluate.py", f"--images={none}", "--data=points2d"]),
        "missing results": (exits.FILES, ["scripts/evaluate.py", "--compare", f"{none}", f"{none}"]),
        "missing statistics": (exits.FILES, ["scripts/reference.py", f"--check={none}"]),
        "missing weights to convert": (
            exits.FILES, ["scripts/convert_features.py", f"{none}.pth", f"{none}.safetensors"]
        ),
        "a loop of links": (exits.FILES, ["scripts/sample.py", f"--workdir={folder}/loop"]),
        "a loop of links to train in": (exits.FILES, ["scripts/train.py", toy, f"--workdir={folder}/loop"]),
        "a run to edit with that is a loop": (
            exits.FILES, ["scripts/edit.py", "inpaint", f"--workdir={folder}/loop", *data]
        ),
        "laws that fail": (exits.LAWS, ["scripts/check.py", f"--process={HERE}:Lawless"]),
    }  # fmt: skip


def slow(folder: Path) -> dict[str, tuple[int, Any]]:
    """Return cases that train."""
    poison = (
        "--config.data.first=3",
        "--config.train.max_bad_steps=3",
        "--config.train.max_rollbacks=0",
    )
    hang = (f"--config.data.name={HERE}:Waits", "--config.train.watchdog_seconds=3")
    locked = train(folder / "locked")
    return {
        "numbers that are not finite": (exits.DIVERGED, train(folder / "poisoned", POISONED, *poison)),
        "another process": (exits.LOCKED, lambda: beside_an_owner(folder / "locked", locked, folder / "log")),
        "data that never come": (exits.HUNG, train(folder / "hung", *hang)),
        "SIGHUP": (exits.HANGUP, lambda: stopped(folder, signal.SIGHUP)),
        "SIGINT": (exits.INTERRUPTED, lambda: stopped(folder, signal.SIGINT)),
        "SIGUSR1": (exits.ASKED, lambda: stopped(folder, signal.SIGUSR1)),
        "SIGTERM": (exits.TERMINATED, lambda: stopped(folder, signal.SIGTERM)),
        "two signals": (exits.ABANDONED, lambda: stopped(folder, signal.SIGTERM, signal.SIGINT)),
        "no room for a file": (
            exits.FILES, lambda: run(train(folder / "full"), folder / "log", largest_file=600)
        ),
    }  # fmt: skip


def beside_an_owner(workdir: Path, argv: list[str], log: Path) -> Ended:
    """Run a program while this process owns the work directory."""
    from diffusion.runtime.lock import Lock

    with Lock(workdir):
        return run(argv, log)


def main(folder: Path) -> None:
    """Try every case, print what came of it."""
    os.environ["DEMOLISH_DATA"] = str(folder / "data")
    warm_up()
    by_hand(folder)
    found = {}
    for name, (code, case) in {**quick(folder), **slow(folder)}.items():
        ended = case() if callable(case) else run(case, folder / "log")
        found[name] = {"documented": code, "code": ended.code, "text": ended.text}

    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
