"""Kills and signals: a run that is ended again and again must end as one that never was."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .processes import Ended, Program, call, run
from .recipe import STEPS, outcome, train
from .tally import Tally

POINTS = (
    "after_tmp_open", "mid_write", "before_manifest", "before_rename", "after_rename",
    "before_prune", "mid_prune", "mid_log_line",
)  # fmt: skip
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138, signal.SIGHUP: 129}


def steps_of(workdir: Path) -> list[int]:
    """Return the steps that stand under a number, oldest first."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(n) for n in names if n.isdigit())


def unsound(workdir: Path) -> str:
    """Return what is wrong with the checkpoints of a run that was just killed; "" if nothing is."""
    from diffusion.checkpoints.folders import StepFolders

    folders = StepFolders(workdir / "checkpoints")
    for step in folders.steps():
        try:
            folders.verify(step)
        except ValueError as error:
            return f"step {step}: {error}"
    return ""


def finish(workdir: Path, expected: list[str], log: Path, tally: Tally, count: int) -> None:
    """Let a run end, and count whether it is the undisturbed one, once per interruption."""
    ended = run(train(workdir), log)
    same = ended.code == 0 and call(lambda: outcome(workdir)) == expected
    left = [p.name for p in (workdir / "checkpoints").glob(".*")] if same else []
    for _ in range(count):
        tally.note(whole=same and not left, wrong=f"code {ended.code}, left {left}: {ended.text}")


def lost_steps(before: list[int], ended: Ended) -> int | None:
    """Return how many steps lie between the last checkpoint and what the log had reached."""
    lines = [line.split()[1] for line in ended.text.splitlines() if line.startswith("step ")]
    reached = [int(number) for number in lines if number.isdigit()]
    return max(0, max(reached) - max(before, default=0)) if reached else None


def at_points(folder: Path, expected: list[str], rounds: int) -> Tally:
    """Kill at every named place of saving, deleting and logging: once, and at a later time."""
    tally = Tally("kill -9 at a named place of a save, a deletion or a line of the log")
    for number in range(1, rounds + 1):
        workdir, killed = folder / f"points{number}", 0
        for point in POINTS:
            ended = run(train(workdir), folder / "log", {"DEMOLISH_KILL_AT": f"{point}:{number}"})
            if ended.code == 0:  # the run was over before; this place is tried in a fresh one
                shutil.rmtree(workdir)
                ended = run(
                    train(workdir), folder / "log", {"DEMOLISH_KILL_AT": f"{point}:{number}"}
                )
            _after_kill(ended, workdir, tally)
            killed += ended.code == -9
        finish(workdir, expected, folder / "log", tally, killed)
    return tally


def _after_kill(ended: Ended, workdir: Path, tally: Tally) -> None:
    if ended.code not in (-9, 0):
        tally.note(wrong=f"code {ended.code}: {ended.text}")
    if problem := call(lambda: unsound(workdir)):
        tally.note(wrong=f"after a kill {problem}")
    lost = lost_steps(steps_of(workdir), ended)
    if ended.code == -9 and lost is not None:
        tally.lost.append(lost)


def _interrupted(seed: int, folder: Path, span: float) -> Iterator[tuple[float, Path]]:
    """Yield moments at which one run after another is to be interrupted, until it has ended."""
    draw = random.Random(seed)
    for number in range(10**6):
        workdir = folder / f"run{number}"
        while not (workdir / "checkpoints" / str(STEPS)).exists():
            yield draw.uniform(0.05, span), workdir


def at_random(folder: Path, expected: list[str], kills: int, seed: int, span: float) -> Tally:
    """Kill at random moments, several times a run."""
    return _at_random(
        Tally("kill -9 at random moments"), folder / "kills", expected, kills, seed, span, {}
    )


def by_signals(folder: Path, expected: list[str], count: int, seed: int, span: float) -> Tally:
    """Send SIGTERM, SIGINT, SIGUSR1 and SIGHUP at random moments."""
    tally = Tally("SIGTERM, SIGINT, SIGUSR1, SIGHUP at random moments")
    return _at_random(tally, folder / "signals", expected, count, seed, span, CODES)


def stopped(folder: Path, expected: list[str], count: int, seed: int, span: float) -> Tally:
    """Stop a run at a random moment for longer than its watchdog waits, and let it go on."""
    tally = Tally("SIGSTOP for longer than the watchdog waits, then SIGCONT")
    draw, limit = random.Random(seed), 3
    for number in range(count):
        workdir = folder / f"stopped{number}"
        words = train(workdir, f"--config.train.watchdog_seconds={limit}")
        program = Program(words, folder / "log")
        program.ended_within(draw.uniform(0.3, 1.0) * span)
        program.send(signal.SIGSTOP)
        time.sleep(5 * limit)  # starting may take four times as long
        program.send(signal.SIGCONT)
        ended = program.wait()
        same = ended.code == 0 and call(lambda where=workdir: outcome(where)) == expected
        tally.note(whole=same, wrong=f"code {ended.code}: {ended.text}")
    return tally


def _at_random(
    tally: Tally, folder: Path, expected: list[str], count: int, seed: int, span: float, codes: dict
) -> Tally:
    draw, done, sent = random.Random(seed + 1), 0, 0
    folder.mkdir()
    current, moments = None, _interrupted(seed, folder, span)
    while done < count:
        moment, workdir = next(moments)
        if current not in (None, workdir):
            finish(current, expected, folder / "log", tally, sent)
            sent = 0
        current = workdir
        program = Program(train(workdir), folder / "log")
        if program.ended_within(moment):
            early = program.wait()
            if early.code:
                tally.note(wrong=f"before any signal: code {early.code}: {early.text}")
                break
            continue  # it had done its work before
        number = draw.choice(list(codes)) if codes else signal.SIGKILL
        program.send(number)
        ended = program.wait()
        if ended.code == 0:
            continue  # it was done when the signal came
        # killed by the signal itself, in the instants before a program can listen: shells show 128 + number
        if ended.code not in ((codes[number], -number) if codes else (-9,)):
            tally.note(wrong=f"{number!r}: code {ended.code}: {ended.text}")
        if problem := call(lambda where=workdir: unsound(where)):
            tally.note(wrong=f"after {number!r} {problem}")
        done, sent = done + 1, sent + 1
        _measure(tally, ended, workdir, bool(codes))
    if current is not None and sent:
        finish(current, expected, folder / "log", tally, sent)
    return tally


def _measure(tally: Tally, ended: Ended, workdir: Path, told: bool) -> None:
    if told:
        tally.seconds.append(round(ended.seconds, 3))
    lost = lost_steps(steps_of(workdir), ended)
    if lost is not None:
        tally.lost.append(lost)
