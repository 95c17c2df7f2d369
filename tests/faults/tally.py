"""What a campaign found, case by case."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

COLUMNS = ("case", "tried", "whole", "refused", "silent", "lost", "exit")
HEAD = {
    "whole": "survived, whole",
    "refused": "detected and refused",
    "silent": "silent or wrong",
    "lost": "steps lost: median, most",
    "exit": "signal to exit, s: median, most",
}


@dataclass
class Tally:
    """The count of one case.

    Attributes:
        case: what was done.
        tried: how many times.
        whole: how often the run ended as the undisturbed one does.
        refused: how often it left with its documented code and one line.
        wrong: what happened where neither is true; this list must be empty.
        lost: steps that had to be done again, for each time.
        seconds: from a signal to the exit, for each time.
    """

    case: str
    tried: int = 0
    whole: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def note(self, whole: bool = False, refused: bool = False, wrong: str = "") -> None:
        """Count one trial."""
        self.tried += 1
        self.whole += whole
        self.refused += refused
        if not whole and not refused:
            self.wrong.append(wrong[-2000:] or "no word of it")

    def row(self) -> dict[str, Any]:
        """Return what a table shows."""
        pair = lambda values, form: (
            f"{statistics.median(values):{form}}, {max(values):{form}}" if values else ""
        )
        return {
            "case": self.case,
            "tried": self.tried,
            "whole": self.whole,
            "refused": self.refused,
            "silent": len(self.wrong),
            "lost": pair(self.lost, "g"),
            "exit": pair(self.seconds, ".2f"),
        }

    def record(self) -> dict[str, Any]:
        """Return everything, as JSON data."""
        return asdict(self)


def table(tallies: list[Tally]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(HEAD.get(c, c) for c in COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * (len(COLUMNS) - 1))
    for tally in tallies:
        row = tally.row()
        lines.append("| " + " | ".join(str(row[c]) for c in COLUMNS) + " |")
    return "\n".join(lines)
