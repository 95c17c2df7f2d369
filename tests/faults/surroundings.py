"""Other owners, full disks, strange places and times, poisoned data, other devices."""

import shutil
import signal
import time
from pathlib import Path

from .processes import Program, call, run
from .recipe import STEPS, outcome, train
from .tally import Tally

POISONED = "--config.data.name=tests.training.poisoned:PoisonedPoints"


def two_owners(folder: Path) -> Tally:
    """Start a second run in a folder: refused; after kill -9 of the first a third takes over."""
    tally = Tally("two processes, one work directory; then kill -9 of its owner")
    workdir, log = folder / "shared", folder / "log"
    owner = Program(train(workdir, "--config.train.num_steps=100000"), folder / "owner.log")
    until = time.monotonic() + 60
    while not list((workdir / "checkpoints").glob("[0-9]*")) and time.monotonic() < until:
        time.sleep(0.02)
    second = run(train(workdir, "--config.train.num_steps=100000"), log)
    named = str(owner.pid) in second.last_line
    tally.note(refused=second.code == 7 and named, wrong=f"code {second.code}: {second.text}")
    owner.send(signal.SIGKILL)
    owner.wait()
    third = Program(train(workdir, "--config.train.num_steps=100000"), log)
    third.ended_within(6)
    third.send(signal.SIGTERM)
    ended = third.wait()
    tally.note(
        whole=ended.code == 143 and "resumed" in ended.text,
        wrong=f"code {ended.code}: {ended.text}",
    )
    return tally


def full_disk(whole: Path, folder: Path, expected: list[str]) -> Tally:
    """Let no file be larger than so many bytes: said with code 6, older checkpoints whole, then goes on."""
    tally = Tally("no room on the disk, from the first byte on and later")
    for number, size in enumerate((1, 600, 2500)):
        workdir = folder / f"full{number}"
        shutil.copytree(whole, workdir)
        for step in (STEPS, STEPS - 5, STEPS - 10):
            shutil.rmtree(workdir / "checkpoints" / str(step))
        ended = run(train(workdir), folder / "log", largest_file=size)
        said = ended.code == 6 and ended.last_line.startswith("error:")
        tally.note(refused=said, wrong=f"{size} bytes: code {ended.code}: {ended.text}")
        ended = run(train(workdir), folder / "log")
        same = ended.code == 0 and call(lambda where=workdir: outcome(where)) == expected
        tally.note(whole=same, wrong=f"after {size} bytes: code {ended.code}: {ended.text}")
    return tally


def no_place(folder: Path) -> Tally:
    """Give a work directory that cannot be one, and delete one while it is used."""
    tally = Tally("a work directory that is a file, or vanishes")
    (folder / "file").write_text("x")
    for path in (folder / "file", folder / "file" / "below"):
        ended = run(train(path), folder / "log")
        tally.note(refused=ended.code in (2, 6), wrong=f"code {ended.code}: {ended.text}")
    workdir = folder / "vanishing"
    program = Program(train(workdir, "--config.train.num_steps=100000"), folder / "log")
    until = time.monotonic() + 60
    while not list((workdir / "checkpoints").glob("[0-9]*")) and time.monotonic() < until:
        time.sleep(0.02)
    shutil.rmtree(workdir, ignore_errors=True)
    ended = program.wait(60)
    good = ended.code == 6 and ended.last_line.startswith("error:")
    tally.note(refused=good, wrong=f"code {ended.code}: {ended.text}")
    return tally


def strange_places(folder: Path, expected: list[str], every: int) -> Tally:
    """Train under odd paths, clocks and languages; numbers and order do not depend on them."""
    tally = Tally("spaces, emoji, dashes and length in paths; other languages, zones and clocks")
    names = ("two words", "\u00fc \U0001f3e0", "-dash", "n" * 150, "quote'\"s", "percent%20")
    places = [(folder / name, {}) for name in names]
    places += [
        (folder / "turkish", {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"}),
        (folder / "german", {"LC_ALL": "de_DE.UTF-8", "TZ": "Pacific/Kiritimati"}),
        (folder / "plain", {"LC_ALL": "C", "TZ": "America/St_Johns", "HOME": "/nonexistent"}),
    ]  # fmt: skip
    for workdir, env in places[::every]:
        ended = run(train(workdir), folder / "log", env)
        same = ended.code == 0 and call(lambda where=workdir: outcome(where)) == expected
        tally.note(whole=same, wrong=f"{workdir.name} {env}: code {ended.code}: {ended.text}")
        shutil.rmtree(workdir, ignore_errors=True)
    return tally


def poison(folder: Path, values: tuple[str, ...]) -> Tally:
    """Put NaN, infinities and huge numbers into batches, for a while and for ever."""
    tally = Tally("NaN, infinity, 1e30 in a batch; for a while, and for ever")
    workdir = folder / "poisoned"
    for value in values:
        flags = (POISONED, f"--config.data.value={value}", "--config.data.first=11")
        ended = run(train(workdir, *flags, "--config.data.last=13"), folder / "log")
        fine = ended.code == 0 and call(lambda: all_finite(workdir))
        tally.note(whole=fine, wrong=f"{value}: code {ended.code}: {ended.text}")
        shutil.rmtree(workdir, ignore_errors=True)
        ended = run(train(workdir, *flags, "--config.train.max_bad_steps=6"), folder / "log")
        bounded = ended.code in ((0, 3) if value == "1e30" else (3,))  # its square may be too large
        bounded = bounded and call(lambda: all_finite(workdir))
        tally.note(
            refused=bounded and ended.code == 3,
            whole=bounded and ended.code == 0,
            wrong=f"{value} for ever: code {ended.code}: {ended.text}",
        )
        shutil.rmtree(workdir, ignore_errors=True)
    return tally


def all_finite(workdir: Path) -> bool:
    """Say whether every checkpoint of a run holds finite numbers alone."""
    import json

    import jax
    import numpy as np

    from diffusion.checkpoints.reader import CheckpointReader
    from diffusion.config.experiment import Experiment
    from diffusion.training.state import keys_to_data

    config = json.loads((workdir / "config.json").read_text())
    template = Experiment.from_config(config).abstract_state()
    with CheckpointReader(workdir / "checkpoints") as reader:
        states = [keys_to_data(reader.restore(step, template)) for step in reader.steps()]
    return bool(states) and all(
        np.isfinite(np.asarray(x)).all()
        for x in jax.tree.leaves(states)
        if np.issubdtype(np.asarray(x).dtype, np.floating)
    )
