"""Folders by step number: written under a hidden name, committed by a rename, deleted by number.

    120                       complete: committed as a whole
    .saving-120               being written, or left by a process that died
    .removing-120             being deleted, or left by a process that died
    120.damaged-checksum-1    damaged and set aside; the name has the reason

This module is independent of the content of the folders and of file times.
"""

import contextlib
import re
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from diffusion.checkpoints.manifest import failed, mode_of, verify, write_manifest
from diffusion.runtime.exits import CheckpointError, DamageError, ReadError
from diffusion.runtime.failpoints import failpoint
from diffusion.runtime.files import sync
from diffusion.runtime.reading import read_json
from diffusion.types import Say

_NUMBER = re.compile("0|[1-9][0-9]{0,17}")
# the last alternative is a leftover of format 1
_LEFT_OVER = re.compile(r"\.(saving|removing)-[0-9]+|[0-9]+\.orbax-checkpoint-tmp.*")


class StepFolders:
    """The step folders of one directory, which need not exist before the first `begin`."""

    def __init__(self, directory: Path):
        """Set the directory; nothing is created or changed."""
        self.directory = directory

    def _names(self) -> list[str]:
        try:
            return [p.name for p in self.directory.iterdir()]
        except OSError as error:
            problem = failed(error, self.directory, "missing")
            if isinstance(problem, ReadError):
                raise problem from None
            return []

    def steps(self) -> tuple[int, ...]:
        """Return the steps that have a complete folder, oldest first.

        Raises:
            ReadError: the directory cannot be listed.
        """
        return tuple(s for s in self._numbered() if stat.S_ISDIR(mode_of(self.path(s))))

    def _numbered(self) -> list[int]:
        """Return the step numbers of all entries, also of links and files, lowest first."""
        return sorted(int(name) for name in self._names() if _NUMBER.fullmatch(name))

    def has_any(self) -> bool:
        """Return whether there is any complete or damaged checkpoint."""
        return bool(self._numbered() or self.set_aside_before())

    def path(self, step: int) -> Path:
        """Return the path of the folder of a step, which need not exist."""
        return self.directory / str(step)

    def set_aside_before(self) -> list[str]:
        """Return the names of damaged folders that were set aside."""
        return sorted(n for n in self._names() if re.fullmatch(r"[0-9]+\.damaged-.*", n))

    # ---- writing --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete incomplete folders of dead processes; only the owner of the directory may call this."""
        for name in filter(_LEFT_OVER.fullmatch, self._names()):
            shutil.rmtree(self.directory / name)

    def temporary(self, step: int) -> Path:
        """Return the hidden path under which the folder of a step is written."""
        return self.directory / f".saving-{step}"

    def begin(self, step: int) -> Path:
        """Create the hidden folder of a step."""
        self.discard(step)
        self.temporary(step).mkdir()
        failpoint("after_tmp_open")
        return self.temporary(step)

    def discard(self, step: int) -> None:
        """Delete the hidden folder of a step."""
        shutil.rmtree(self.temporary(step), ignore_errors=True)

    def commit(self, step: int) -> None:
        """Write the manifest of a finished folder, flush it to disk, then rename it to its step number."""
        failpoint("before_manifest")
        write_manifest(self.temporary(step), step=step)
        failpoint("before_rename")
        self.temporary(step).rename(self.path(step))
        sync(self.directory)
        failpoint("after_rename")

    def prune(self, keep: int, new: int) -> None:
        """Delete the oldest steps before the step that was just committed.

        Later steps, which this run has not written, are neither deleted nor counted.

        Args:
            keep: number of steps to keep, including the new one.
            new: the step that was just committed.
        """
        older = [step for step in self.steps() if step < new]
        for step in older[: max(0, len(older) - (keep - 1))]:
            failpoint("before_prune")
            self.remove(step)

    def remove(self, step: int) -> None:
        """Delete a complete folder."""
        doomed = self.directory / f".removing-{step}"
        # rename first: a folder under a step number is always complete
        self.path(step).rename(doomed)
        failpoint("mid_prune")
        shutil.rmtree(doomed)

    def set_aside(self, step: int, reason: str) -> Path:
        """Rename a damaged folder to a name with the reason, which frees its step number."""
        number = 1
        while (path := self.directory / f"{step}.damaged-{reason}-{number}").exists():
            number += 1
        self.path(step).rename(path)
        with contextlib.suppress(OSError):  # if a crash undoes the rename, it is repeated
            sync(self.directory)
        return path

    # ---- reading --------------------------------------------------------------------------------

    def verify(self, step: int) -> bool:
        """Check a folder before anything in it is interpreted.

        Returns:
            Whether it has checksums; a folder of format 1 has none.

        Raises:
            DamageError: the content differs from what was written.
            ReadError: the folder cannot be read; it may be intact.
        """
        folder = self.path(step)
        if not stat.S_ISDIR(mode_of(folder)):
            raise DamageError("no-folder", f"{folder} is not a folder")
        if _is_format_1(folder, step):
            return False
        manifest = verify(folder)
        if manifest.get("step") != step:
            other = str(manifest.get("step"))[:20]
            raise DamageError("renamed", f"{folder} was written as step {other}")
        return True

    def newest(self, say: Say, *, move: bool, known: Collection[int] = ()) -> int | None:
        """Return the newest step whose folder is intact, and report damaged newer ones.

        Args:
            say: called with one message about each damaged folder.
            move: set damaged folders aside, which frees their step numbers.
            known: steps that were verified before and are not verified again.

        Returns:
            The step, or None if nothing was ever saved here.

        Raises:
            CheckpointError: there are folders, but none is intact; they are not changed.
            ReadError: a folder that may be the newest cannot be read; nothing is moved.
        """
        wrong: dict[int, DamageError] = {}
        for step in reversed(self._numbered()):
            try:
                hashed = step in known or self.verify(step)
            except (DamageError, ReadError) as error:
                if not mode_of(self.path(step)):  # the owner has deleted it in the meantime
                    return self.newest(say, move=move, known=known)
                if isinstance(error, ReadError):
                    raise
                wrong[step] = error
                continue
            break
        else:
            return self._none(wrong)
        for bad, error in wrong.items():
            said = f"checkpoint of step {bad} is damaged: {error}"
            if move:
                said += f"; it is now {self.set_aside(bad, error.reason).name}"
            say(f"{said}; step {step} is used, {bad - step} before it")
        if not hashed:
            say(f"checkpoint of step {step} has no checksums: it was written in format 1")
        return step

    def _none(self, wrong: dict[int, DamageError]) -> None:
        """Raise CheckpointError if there are damaged checkpoints, so that the directory does not count as empty."""
        before = self.set_aside_before()
        if not wrong and not before:
            return
        lines = [f"step {step}: {error}" for step, error in wrong.items()]
        lines += [f"set aside before: {', '.join(before)}"] if before else []
        raise CheckpointError(
            f"No checkpoint in {self.directory} is whole ({'; '.join(lines)}). Nothing was changed. "
            "`demolish train --restart` begins anew, and moves the old run aside."
        )


def _is_format_1(folder: Path, step: int) -> bool:
    """Return whether a folder seems to have format 1, which has no manifest."""
    meta = folder / "meta" / "metadata"
    if mode_of(folder / "meta.json") or not stat.S_ISREG(mode_of(meta)):
        return False
    try:
        content = read_json(meta)
    except OSError as error:
        raise failed(error, meta, "metadata") from None
    except ValueError as error:
        raise DamageError("metadata", str(error)) from None
    given = (content.get("format"), content.get("step")) if isinstance(content, dict) else ()
    if given != (1, step):
        raise DamageError("metadata", f"{meta} is not that of step {step} in format 1")
    return True
