"""Results of metrics in a file that grows metric by metric, and that knows what they were made of.

Every metric stands there with a digest of its numbers and of everything they depend on (`made_of`). What does
not match is measured anew: another model, another setting, a damaged file.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.evaluation.records import digest_of_json, write_atomically

Results = dict[str, Any]


def _plain(content: Any) -> Any:
    return json.loads(json.dumps(content, default=str))


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

    def read(self) -> dict[str, Results]:
        """Return the results by metric that are whole and were made of the same."""
        try:
            content = json.loads(self.path.read_bytes())
            entries = content["metrics"]
            found = {name: (entry["results"], entry["sha256"]) for name, entry in entries.items()}
            made_of = content["made_of"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.say(f"{self.path} is damaged, or of an older version: all is measured anew")
            return {}
        if made_of != _plain(self.made_of):
            self.say(f"{self.path} was made of something else: all is measured anew")
            return {}
        whole = {}
        for name, (results, digest) in found.items():
            if digest_of_json([name, results, made_of]) == digest:
                whole[name] = results
            else:
                self.say(f"{name} in {self.path} is damaged: measured anew")
        return whole

    def write(self, metrics: Mapping[str, Results]) -> None:
        """Write the results by metric, whole or not at all."""
        made_of, metrics = _plain(self.made_of), _plain(metrics)
        content = {
            "results": {k: v for results in metrics.values() for k, v in results.items()},
            "metrics": {
                name: {"results": results, "sha256": digest_of_json([name, results, made_of])}
                for name, results in metrics.items()
            },
            "made_of": made_of,
            **_plain(self.card),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps(content, indent=2) + "\n").encode())
