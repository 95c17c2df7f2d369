"""File of results that grows metric by metric, with a record of everything that the results depend on.

Every metric has an entry with its card and a digest of its numbers, the card and everything that they depend on
(`made_of`). Entries that do not match, because of another model, another setting or a damaged file, are measured again.
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
        """Return the digest to store with the entry."""
        return digest_of_json([name, self.results, self.card, made_of])


@dataclass(frozen=True, kw_only=True)
class ResultsFile:
    """A JSON file of results.

    Attributes:
        path: the file.
        made_of: everything that all results depend on.
        card: further information, which may change between runs of the command.
        say: prints a line.
    """

    path: Path
    made_of: Mapping[str, Any]
    card: Mapping[str, Any]
    say: Callable[[str], None] = lambda text: None

    def read(self) -> dict[str, Entry]:
        """Return the intact entries that match `made_of`, by metric."""
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
        """Write the entries by metric atomically."""
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
