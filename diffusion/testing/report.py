"""What a law says about a definition: the number that was measured, its bound, and what to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Law = Callable[[Any], "Finding | list[Finding]"]  # of a process, evaluated in float64
_FAMILIES = "PRFKDS"  # what the definition says first, what follows from it later


@dataclass(frozen=True)
class Finding:
    """One law, what was measured, the bound, and advice for when it is not kept.

    Up to `tolerated`, where that lies above the bound, the law holds with a warning.
    """

    law: str
    statement: str
    measured: float
    bound: float
    advice: str
    tolerated: float | None = None

    @property
    def holds(self) -> bool:
        """Say whether the measured number is finite and within what is tolerated."""
        limit = self.bound if self.tolerated is None else max(self.bound, self.tolerated)
        return bool(np.isfinite(self.measured) and self.measured <= limit)

    @property
    def warns(self) -> bool:
        """Say whether it holds only by what is tolerated beyond the bound."""
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

    `complete` is false where the definition cannot be computed at all, and the laws beyond that were left out.
    """

    case: str
    findings: tuple[Finding, ...]
    facts: dict[str, float] = field(default_factory=dict)
    complete: bool = True

    @property
    def holds(self) -> bool:
        """Say whether every law holds."""
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
    """Return findings from the definition itself to its consequences."""
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
