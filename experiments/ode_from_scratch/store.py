"""What was measured, kept after every recipe, so that an interrupted run continues."""

from pathlib import Path

import numpy as np

from experiments._results import Results

HERE = Path(__file__).parent
RESULTS = Results(HERE / "results.json")
get, keep = RESULTS.get, RESULTS.keep


def picture_file(folder: Path, *path: str) -> Path:
    """Return where examples for pictures are kept, outside of the repository's files."""
    return folder / ("-".join(path).replace(" ", "_") + ".npy")


def keep_examples(folder: Path, *path: str, x: np.ndarray) -> None:
    """Keep examples for a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(picture_file(folder, *path), np.asarray(x, np.float32))


def examples(folder: Path, *path: str) -> np.ndarray | None:
    """Return examples kept for a picture, or None."""
    file = picture_file(folder, *path)
    return np.load(file) if file.is_file() else None


def forget(part: str) -> None:
    """Drop what was measured in one part."""
    found = RESULTS.load()
    if found.pop(part, None) is not None:
        RESULTS.write(found)
