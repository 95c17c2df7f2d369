"""What a law says about a definition: the number that was measured, its bound, and what to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Law = Callable[[Any], "Finding | list[Finding]"]  # of a process, evaluated in float64


@dataclass(frozen=True)
class Finding:
    """One law, what was measured, the bound, and advice for when it fails."""

    law: str
    statement: str
    measured: float
    bound: float
    advice: str

    @property
    def holds(self) -> bool:
        """Say whether the measured number is finite and within its bound."""
        return bool(np.isfinite(self.measured) and self.measured <= self.bound)

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        line = (
            f"{mark}  {self.law:<3} {self.statement}: {self.measured:.2e} (bound {self.bound:.0e})"
        )
        return line if self.holds else f"{line}\n           look at: {self.advice}"


@dataclass(frozen=True)
class Report:
    """All findings about one definition, and facts about its prior."""

    subject: str
    findings: tuple[Finding, ...]
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Say whether every law holds."""
        return all(f.holds for f in self.findings)

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        facts = [f"       {name}: {value:.4g}" for name, value in self.facts.items()]
        held = sum(f.holds for f in self.findings)
        verdict = f"{held} of {len(self.findings)} laws hold"
        return "\n".join([self.subject, *(f"  {f}" for f in self.findings), *facts, f"  {verdict}"])


def largest(x: Any) -> float:
    """Return the largest absolute value, or NaN if any is not finite."""
    x = np.abs(np.asarray(x, np.float64))
    return float(x.max()) if np.all(np.isfinite(x)) else float("nan")


def findings_of(law: Law, subject: Any) -> list[Finding]:
    """Apply a law; an exception inside the definition becomes a finding that quotes it."""
    try:
        found = law(subject)
    except Exception as error:
        words = (law.__doc__ or law.__name__).strip().splitlines()[0].rstrip(".")
        name, _, statement = words.partition(": ")
        text = " ".join(str(error).split())
        said = f"{type(error).__name__}: {text[:300]}"
        return [Finding(name, statement or words, float("nan"), 0.0, f"it raised {said}")]
    return found if isinstance(found, list) else [found]
