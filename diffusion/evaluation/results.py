"""Results of metrics in a file that grows metric by metric, and that knows what they were made of.

Every metric stands there with its card and a digest of its numbers, the card and everything they depend on
(`made_of`). What does not match is measured anew: another model, another setting, a damaged file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.runtime.digests import as_json, digest_of_json
from diffusion.runtime.files import write_atomically
from diffusion.runtime.reading import read_json


class Entry(NamedTuple):
    """The numbers of a metric by name, and its card."""

    results: dict[str, Any]
    card: dict[str, Any]

    def digest(self, name: str, made_of: Any) -> str:
        """Return the digest that stands beside it."""
        return digest_of_json([name, self.results, self.card, made_of])


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """A JSON file of results.

    Attributes:
        path: of the file.
        made_of: what all the numbers depend on.
        card: what is worth knowing besides; it may change between starts.
        say: shows a line to people.
    """

    path: Path
    made_of: Mapping[str, Any]
    card: Mapping[str, Any]
    say: Callable[[str], None] = lambda text: None

    def read(self) -> dict[str, Entry]:
        """Return the entries by metric that are whole and were made of the same."""
        try:
            content = read_json(self.path)
            entries = {k: (Entry(e["results"], e["card"]), e["sha256"])
                       for k, e in content["metrics"].items()}  # fmt: skip
            made_of = content["made_of"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.say(f"{self.path} is damaged, or of an older version: all is measured anew")
            return {}
        if made_of != as_json(self.made_of):
            self.say(f"{self.path} was made of something else: all is measured anew")
            return {}
        whole = {}
        for name, (entry, digest) in entries.items():
            if entry.digest(name, made_of) == digest:
                whole[name] = entry
            else:
                self.say(f"{name} in {self.path} is damaged: measured anew")
        return whole

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Write the entries by metric, whole or not at all."""
        made_of = as_json(self.made_of)
        entries = {k: Entry(*as_json(v)) for k, v in entries.items()}
        content = {
            "results": {k: v for entry in entries.values() for k, v in entry.results.items()},
            "metrics": {
                name: entry._asdict() | {"sha256": entry.digest(name, made_of)}
                for name, entry in entries.items()
            },
            "made_of": made_of,
            **as_json(self.card),
        }
        write_atomically(self.path, (json.dumps(content, indent=2) + "\n").encode())
