"""What was measured, kept after every recipe, so that an interrupted run continues."""

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def _rounded(value: Any) -> Any:
    """Keep five digits: no more were measured, and files stay small and alike."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def load() -> dict[str, Any]:
    """Return everything measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def keep(*path: str, record: Any) -> None:
    """Put a record at a path of names, and write the file."""
    found = place = load()
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = _rounded(record)
    scratch = RESULTS.with_suffix(".tmp")
    scratch.write_text(json.dumps(found, indent=1) + "\n")
    scratch.replace(RESULTS)


def get(*path: str) -> Any:
    """Return the record at a path of names, or None."""
    place: Any = load()
    for name in path:
        place = place.get(name) if isinstance(place, dict) else None
    return place


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
    found = load()
    if found.pop(part, None) is not None:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
