"""Damaged checkpoints: every change of a byte is seen, and the checkpoint before is used."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .processes import call, run
from .recipe import EVERY, STEPS, outcome, state_hash, train
from .tally import Tally

BEFORE = STEPS - EVERY  # the checkpoint that stands in for the damaged newest one


def files_of(workdir: Path) -> list[Path]:
    """Return the files of the newest checkpoint."""
    return sorted(p for p in (workdir / "checkpoints" / str(STEPS)).rglob("*") if p.is_file())


def truncations(workdir: Path, count: int, seed: int) -> Iterator[tuple[str, Path, bytes | None]]:
    """Yield every file cut to nothing, one byte, half, and all but a byte; and missing."""
    del count, seed
    for file in files_of(workdir):
        content = file.read_bytes()
        for size in sorted({0, 1, len(content) // 2, len(content) - 1}):
            if 0 <= size < len(content):
                yield f"{file.name} cut to {size} of {len(content)}", file, content[:size]
        yield f"{file.name} missing", file, None


def flips(workdir: Path, count: int, seed: int) -> Iterator[tuple[str, Path, bytes | None]]:
    """Yield a file with one flipped bit, each byte of the checkpoint as likely as any other."""
    draw, files = random.Random(seed), [f for f in files_of(workdir) if f.stat().st_size]
    sizes = [f.stat().st_size for f in files]
    for number in range(count):
        chosen = files[number % len(files)] if number < 2 * len(files) else None
        file = chosen or draw.choices(files, weights=sizes)[0]
        content = bytearray(file.read_bytes())
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        content[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} of {file.name}", file, bytes(content)


def _opened(workdir: Path) -> int | None:
    """Return the step that a reader of this run would use."""
    from diffusion.checkpoints.reader import CheckpointReader

    with CheckpointReader(workdir / "checkpoints") as reader:
        return reader.recover()


def seen(name: str, workdir: Path, cases: Callable[..., Any], count: int, seed: int) -> Tally:
    """Damage the newest checkpoint in many ways, one at a time, and see which one is used."""

    def campaign() -> list[str]:
        wrong = []
        for label, file, content in cases(workdir, count, seed):
            whole = file.read_bytes()
            file.unlink() if content is None else file.write_bytes(content)
            try:
                used = _opened(workdir)
                wrong.append("" if used == BEFORE else f"{label}: step {used} was used")
            except Exception as error:
                wrong.append(f"{label}: {error!r}")
            file.write_bytes(whole)
        if _opened(workdir) != STEPS:
            wrong.append("mended, it is not used")
        return wrong

    tally = Tally(name)
    for problem in call(campaign):
        tally.note(refused=not problem, wrong=problem)
    return tally


def continued(whole: Path, folder: Path, expected: list[str], count: int, seed: int) -> Tally:
    """Resume real runs whose newest checkpoint is damaged: they end as the undisturbed one."""
    tally = Tally("resumed with a damaged newest checkpoint, by the real command")
    draw = random.Random(seed)
    for number in range(count):
        workdir = folder / f"damaged{number}"
        shutil.copytree(whole, workdir)
        cases = truncations if number % 2 else flips
        _, file, content = draw.choice(list(cases(workdir, 20, draw.randrange(10**6))))
        file.unlink() if content is None else file.write_bytes(content)
        ended = run(train(workdir), folder / "log")
        aside = [p.name for p in (workdir / "checkpoints").glob(f"{STEPS}.damaged-*")]
        said = "damaged" in ended.text
        same = ended.code == 0 and call(lambda where=workdir: outcome(where)) == expected
        tally.note(whole=same and said and len(aside) == 1, wrong=f"{aside} {ended.text}")
        tally.lost.append(EVERY)
        shutil.rmtree(workdir)
    return tally


def nothing_left(whole: Path, folder: Path) -> Tally:
    """Damage every checkpoint: the run is refused, and nothing is deleted."""
    tally = Tally("every checkpoint damaged")
    workdir = folder / "ruined"
    shutil.copytree(whole, workdir)
    for file in (workdir / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1])
    before = sum(p.is_file() for p in (workdir / "checkpoints").rglob("*"))
    for _ in range(2):
        ended = run(train(workdir), folder / "log")
        after = sum(p.is_file() for p in (workdir / "checkpoints").rglob("*"))
        good = ended.code == 4 and "--restart" in ended.last_line and before == after
        tally.note(refused=good, wrong=f"code {ended.code}, {before} -> {after}: {ended.text}")
    ended = run(train(workdir, "--restart"), folder / "log")
    tally.note(whole=ended.code == 0, wrong=f"--restart: code {ended.code}: {ended.text}")
    return tally


def _names(workdir: Path) -> list[Path]:
    """Return what there is, compiled programs left out."""
    return sorted(p for p in workdir.rglob("*") if workdir / "cache" not in (p, *p.parents))


def lost(whole: Path, folder: Path, expected: list[str]) -> Tally:
    """Lose every checkpoint: refused, nothing touched; then a --restart that is killed is finished unasked."""
    tally = Tally("every checkpoint gone; then --restart, killed on its way")
    for number, way in enumerate(("missing", "empty", "links")):
        workdir = folder / f"lost{number}"
        shutil.copytree(whole, workdir)
        (workdir / "checkpoints").rename(folder / f"elsewhere{number}")
        if way != "missing":
            (workdir / "checkpoints").mkdir()
        for kept in (folder / f"elsewhere{number}").iterdir() if way == "links" else ():
            (workdir / "checkpoints" / kept.name).symlink_to(kept)
        before, log = _names(workdir), (workdir / "metrics.jsonl").read_bytes()
        ended = run(train(workdir), folder / "log")
        good = ended.code == 4 and "--restart" in ended.last_line and _names(workdir) == before
        tally.note(refused=good, wrong=f"{way}: code {ended.code}: {ended.text}")
        place = {"DEMOLISH_KILL_AT": f"mid_restart:{2 * number + 1}"}
        killed = run(train(workdir, "--restart"), folder / "log", place)
        ended = run(train(workdir), folder / "log")
        whole_now = ended.code == 0 and call(lambda where=workdir: outcome(where)) == expected
        kept = (workdir / "earlier-1" / "metrics.jsonl").read_bytes() == log if whole_now else False
        wrong = f"{way}: {killed.code}, then code {ended.code}: {ended.text}"
        tally.note(whole=killed.code == -9 and whole_now and kept, wrong=wrong)
    return tally


def log_lines_kept(whole: Path, folder: Path, expected: list[str], count: int, seed: int) -> Tally:
    """Flip a bit of a name in the log, or of a newline, and resume five steps before the end."""
    tally = Tally("one flipped bit in the log, resumed by the real command")
    draw = random.Random(seed)
    for number in range(count):
        workdir = folder / f"log{number}"
        shutil.copytree(whole, workdir)
        shutil.rmtree(workdir / "checkpoints" / str(STEPS))
        path = workdir / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        harmed = draw.randrange(BEFORE)
        changed = bytearray(lines[harmed])
        changed[2 if number % 2 == 0 else -1] ^= 1 << draw.randrange(6)  # of "step", or the newline
        path.write_bytes(b"".join([*lines[:harmed], changed, *lines[harmed + 1 :]]))
        ended = run(train(workdir), folder / "log")
        after = path.read_bytes().splitlines(keepends=True)
        kept = lines[:BEFORE] if number % 2 else lines[:harmed] + lines[harmed + 1 : BEFORE]
        aside = (workdir / "metrics.jsonl.damaged").is_file() and "damaged line" in ended.text
        same = ended.code == 0 and call(lambda where=workdir: state_hash(where)) == expected[0]
        whole_log = after[: len(kept)] == kept and len(after) == len(kept) + EVERY
        tally.note(whole=same and whole_log and aside, wrong=f"code {ended.code}: {ended.text}")
        shutil.rmtree(workdir)
    return tally
