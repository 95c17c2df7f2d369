"""Earlier runs in a work directory: detection of lost checkpoints, and moving a run aside.

newest.json       {"step": 120}, the newest checkpoint that was completed; null before the first
.setting-aside/   an earlier run that is being moved to earlier-1/; the next start that trains completes the move

newest.json is outside of checkpoints/, so that the loss of that folder can be detected. It is written when a run
begins, before the log, and after every completed checkpoint.
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

# Files and folders of a run, in the order in which they are moved aside.
LEFT = (
    "checkpoints", RECORD, "rollbacks.json", "metrics.jsonl", "metrics.jsonl.damaged", "bad_steps", "samples",
    "tensorboard", "variance.npz",
    "evaluation.json", "evaluation.json.parts", "evaluation_samples.png", "evaluation_nearest.png", "report.html",
    "run.json", "resolved.json", "data.json", "config.json",
)  # fmt: skip


def record(workdir: Workdir, newest: int | None) -> None:
    """Record the step of the newest complete checkpoint; None if there is none yet."""
    workdir.write(RECORD, {"step": newest})


def recorded(workdir: Workdir) -> int | None:
    """Return the recorded step of the newest completed checkpoint; None if there was none, or there is no record."""
    newest = _entry(workdir.path / RECORD, "step")
    return newest if type(newest) is int else None


def _entry(file: Path, key: str) -> Any:
    """Return an entry of a JSON file; "" if the entry or the file is missing, or the file is damaged."""
    try:
        content = read_json(file)
    except (FileNotFoundError, ValueError):
        return ""
    return content.get(key, "") if isinstance(content, dict) else ""


def refuse_anew(workdir: Workdir) -> bool:
    """Refuse to start at step 0 if an earlier run had a checkpoint and none is left; changes no file.

    Returns:
        Whether a run was started here that never completed a checkpoint.

    Raises:
        CheckpointError: checkpoints were lost; the message gives the evidence.
    """
    if StepFolders(workdir.checkpoints).has_any():
        return False  # whether one of them is intact is checked elsewhere
    newest = _entry(workdir.path / RECORD, "step")
    logged = [line["step"] for line in read_jsonl(workdir.metrics)]
    # null in newest.json means that there was none; a missing file means nothing
    known = newest is None
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
    """Return a message if a checkpoint newer than the used one was completed and is gone; otherwise ""."""
    newest = recorded(workdir)
    known = StepFolders(workdir.checkpoints).set_aside_before()
    if newest is None or newest <= used or any(n.startswith(f"{newest}.") for n in known):
        return ""
    return f"checkpoint of step {newest} was completed and is gone; step {used} is used, {newest - used} before it"


def set_aside(workdir: Workdir) -> Path | None:
    """Move the files of an earlier run into a folder that appears by one rename; complete an interrupted move.

    Returns:
        The folder, or None if there was no run.
    """
    halfway = workdir.path / HALFWAY
    begun = halfway.is_dir()
    found = [name for name in LEFT if os.path.lexists(workdir.path / name)]
    if not found and not begun:
        return None
    halfway.mkdir(exist_ok=True)
    sync(workdir.path)
    for name in found:
        # otherwise it was created since the interrupted move
        if not os.path.lexists(halfway / name):
            (workdir.path / name).rename(halfway / name)
            failpoint("mid_restart")
    number = 1
    while (folder := workdir.path / f"earlier-{number}").exists():
        number += 1
    halfway.rename(folder)
    sync(workdir.path)
    return set_aside(workdir) or folder if begun else folder


def is_halfway(workdir: Workdir) -> bool:
    """Return whether moving a run aside was interrupted."""
    return (workdir.path / HALFWAY).is_dir()
