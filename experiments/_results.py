"""The file results.json of a study: results by paths of names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.runtime.files import write_atomically


def rounded(value: Any, digits: int = 5) -> Any:
    """Return numbers as Python numbers, rounded to a few digits."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(v, digits) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Results:
    """A file of results by paths of names."""

    file: Path

    def load(self) -> dict[str, Any]:
        """Return all results so far."""
        return json.loads(self.file.read_text()) if self.file.is_file() else {}

    def get(self, *path: str) -> Any:
        """Return the record at a path of names, or None."""
        place: Any = self.load()
        for name in path:
            place = place.get(name) if isinstance(place, dict) else None
        return place

    def keep(self, *path: str, record: Any) -> Any:
        """Set the record at a path of names and write the file atomically; return the record as written."""
        found = place = self.load()
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = rounded(record)
        self.write(found)
        return place[path[-1]]

    def write(self, found: Mapping[str, Any]) -> None:
        """Write the file atomically."""
        write_atomically(self.file, (json.dumps(found, indent=1) + "\n").encode())
