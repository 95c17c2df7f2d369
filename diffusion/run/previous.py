"""What an earlier run has left in a work directory: nothing of it is begun anew, or set aside by halves, in silence.

newest.json       {"step": 120}, the newest checkpoint that was completed; null before the first
.setting-aside/   an earlier run on its way to earlier-1/; the next start that trains finishes the way

The first lies outside of checkpoints/, so that it is known whether there ever was one when that folder is lost. It is
written when a run begins, before the log, and after every checkpoint that is complete.
"""

import os
from pathlib import Path
from typing import Any

from diffusion.checkpoints.folders import StepFolders
from diffusion.checkpoints.manifest import mode_of
from diffusion.run.workdir import Workdir
from diffusion.runtime.exits import CheckpointError
from diffusion.runtime.failpoints import failpoint
from diffusion.runtime.files import sync
from diffusion.runtime.reading import read_json
from diffusion.training.metrics import read_jsonl

RECORD = "newest.json"
HALFWAY = ".setting-aside"

# What a run leaves, in the order in which it is set aside.
LEFT = (
    "checkpoints", RECORD, "rollbacks.json", "metrics.jsonl", "metrics.jsonl.damaged", "bad_steps", "samples",
    "tensorboard", "variance.npz",
    "evaluation.json", "evaluation.json.parts", "evaluation_samples.png", "evaluation_nearest.png", "report.html",
    "run.json", "resolved.json", "data.json", "config.json",
)  # fmt: skip


def record(workdir: Workdir, newest: int | None) -> None:
    """Write down which checkpoint is the newest that is complete; None: there is none yet."""
    workdir.write(RECORD, {"step": newest})


def recorded(workdir: Workdir) -> int | None:
    """Return the step of the newest checkpoint that was completed; None if there was none, or nobody wrote it down."""
    newest = _entry(workdir.path / RECORD, "step")
    return newest if type(newest) is int else None


def _entry(file: Path, key: str) -> Any:
    """Return an entry of a JSON file; "" if there is none, or the file is missing or damaged."""
    try:
        content = read_json(file)
    except (FileNotFoundError, ValueError):
        return ""
    return content.get(key, "") if isinstance(content, dict) else ""


def refuse_anew(workdir: Workdir) -> bool:
    """Refuse to begin at step 0 where a run had a checkpoint, and none is left; only look.

    Returns:
        Whether a run was begun here that never completed a checkpoint.

    Raises:
        CheckpointError: the message says what speaks for a checkpoint that is lost.
    """
    if StepFolders(workdir.checkpoints).has_any():
        return False  # whether one of them is whole is asked elsewhere
    newest = _entry(workdir.path / RECORD, "step")
    logged = [line["step"] for line in read_jsonl(workdir.metrics)]
    known = (
        newest is None
    )  # that there was none: earlier versions, and whoever deleted the file, do not know
    trained = _entry(workdir.path / "run.json", "steps")
    if type(newest) is int:
        proof = f"completed a checkpoint of step {newest}"
    elif not known and logged:
        proof = f"has written its log up to step {max(logged)}"
    elif not known and type(trained) is int:
        proof = f"was trained for {trained} steps"
    else:
        return bool(logged) or known
    there = "holds none" if mode_of(workdir.checkpoints) else "is missing"
    raise CheckpointError(
        f"The run in {workdir.path} {proof}, but {workdir.checkpoints} {there}. Nothing was touched. Bring its "
        "checkpoints back, or give `demolish train --restart`, which moves the old run aside and begins anew."
    )


def lost(workdir: Workdir, used: int) -> str:
    """Return a line if a newer checkpoint than the one that is used was completed and is not there; else ""."""
    newest = recorded(workdir)
    known = StepFolders(workdir.checkpoints).set_aside_before()
    if newest is None or newest <= used or any(n.startswith(f"{newest}.") for n in known):
        return ""
    return f"checkpoint of step {newest} was completed and is gone; step {used} is used, {newest - used} before it"


def set_aside(workdir: Workdir) -> Path | None:
    """Move what a run has left into a folder of its own, which appears by one rename; finish what was begun before.

    Returns:
        The folder, or None if there was nothing.
    """
    halfway = workdir.path / HALFWAY
    begun = halfway.is_dir()
    found = [name for name in LEFT if os.path.lexists(workdir.path / name)]
    if not found and not begun:
        return None
    halfway.mkdir(exist_ok=True)
    sync(workdir.path)
    for name in found:
        if not os.path.lexists(halfway / name):  # else it was made since
            (workdir.path / name).rename(halfway / name)
            failpoint("mid_restart")
    number = 1
    while (folder := workdir.path / f"earlier-{number}").exists():
        number += 1
    halfway.rename(folder)
    sync(workdir.path)
    return set_aside(workdir) or folder if begun else folder


def is_halfway(workdir: Workdir) -> bool:
    """Say whether a run was being set aside when a process died."""
    return (workdir.path / HALFWAY).is_dir()
