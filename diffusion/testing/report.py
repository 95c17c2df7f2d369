"""Results of laws: the measured number, its bound, and advice on where to look."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Law = Callable[[Any], "Finding | list[Finding]"]  # takes a process, and is evaluated in float64
_FAMILIES = "PRFKDS"  # in a report, laws of the definition itself come before its consequences


@dataclass(frozen=True)
class Finding:
    """The result of one law: the measured number, the bound, and advice for a failure.

    Between the bound and `tolerated`, if that is larger, the law holds with a warning.
    """

    law: str
    statement: str
    measured: float
    bound: float
    advice: str
    tolerated: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the measured number is finite, and within the bound or tolerated."""
        limit = self.bound if self.tolerated is None else max(self.bound, self.tolerated)
        return bool(np.isfinite(self.measured) and self.measured <= limit)

    @property
    def warns(self) -> bool:
        """Whether the law holds, but the measured number is above the bound."""
        return self.holds and not self.measured <= self.bound

    def __str__(self) -> str:
        mark = "FAILS" if not self.holds else "warns" if self.warns else "holds"
        line = (
            f"{mark}  {self.law:<3} {self.statement}: {self.measured:.2e} (bound {self.bound:.0e})"
        )
        return f"{line}\n           look at: {self.advice}" if mark != "holds" else line


@dataclass(frozen=True)
class Report:
    """All findings about one definition, and facts about its prior.

    `complete` is false if the definition cannot be computed, so that the remaining laws were skipped.
    """

    case: str
    findings: tuple[Finding, ...]
    facts: dict[str, float] = field(default_factory=dict)
    complete: bool = True

    @property
    def holds(self) -> bool:
        """Whether every law holds."""
        return all(f.holds for f in self.findings)

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        facts = [f"       {name}: {value:.4g}" for name, value in self.facts.items()]
        failed = [f.law for f in self.findings if not f.holds]
        verdict = f"{len(self.findings) - len(failed)} of {len(self.findings)} laws hold"
        if warned := sum(f.warns for f in self.findings):
            verdict += f", {warned} with a warning"
        if not self.complete:
            verdict += "; the others are measured once these do"
        elif len(failed) > 1:
            verdict += f"; begin with {failed[0]}, since later ones may only follow from it"
        return "\n".join([self.case, *(f"  {f}" for f in self.findings), *facts, f"  {verdict}"])


def in_order(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sort findings from the definition itself to its consequences."""
    place = lambda f: _FAMILIES.find(f.law[:1]) % (len(_FAMILIES) + 1)
    return tuple(sorted(findings, key=lambda f: (place(f), f.law)))


def largest(x: Any) -> float:
    """Return the largest absolute value, or NaN if any is not finite."""
    x = np.abs(np.asarray(x, np.float64))
    return float(x.max()) if np.all(np.isfinite(x)) else float("nan")


def findings_of(law: Law, case: Any) -> list[Finding]:
    """Apply a law; an exception inside the definition becomes a finding that quotes it."""
    try:
        found = law(case)
    except Exception as error:
        words = (law.__doc__ or law.__name__).strip().splitlines()[0].rstrip(".")
        name, _, statement = words.partition(": ")
        text = " ".join(str(error).split())
        said = f"{type(error).__name__}: {text[:300]}"
        return [Finding(name, statement or words, float("nan"), 0.0, f"it raised {said}")]
    return found if isinstance(found, list) else [found]
