"""Sets of one's own, divided into what is trained on and what is held out."""

import abc
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffusion.data.base import Dataset, FiniteDataset
from diffusion.data.order import hold_out

HELD_OUT = 0.1  # fraction that is held out when nobody says how much
SMALLEST = 20  # examples; smaller sets are not divided unless asked


@dataclass(frozen=True, kw_only=True)
class Divided(FiniteDataset):
    """A finite set of which a fixed choice of examples is held out. A subclass gives `_size`.

    Args:
        split: "train", "test" or "all".
        test_fraction: fraction of the examples that a fixed permutation keeps for "test"; None: a tenth, and nothing
            of fewer than 20 examples.
    """

    split: str = "train"
    test_fraction: float | int | None = field(default=None, metadata={"formerly": 0.0})

    @property
    @abc.abstractmethod
    def _size(self) -> int:
        """Number of examples of all splits."""

    @property
    def _dividable(self) -> bool:
        """Whether examples may be held out that nobody asked to."""
        return self._size >= SMALLEST

    @property
    def fraction(self) -> float:
        """The fraction that is held out."""
        if self.test_fraction is not None:
            return self.test_fraction
        return HELD_OUT if self._dividable else 0.0

    @property
    def _kept(self) -> np.ndarray:
        """The indices of the examples of the split, increasing."""
        return hold_out(self._size, self.fraction, self.split)

    def decided(self) -> dict[str, Any]:
        """Return the fraction that is held out; see `Dataset.decided`."""
        return {"test_fraction": self.fraction}

    def held_out(self) -> Dataset:
        """Return the split "test"; where nothing is held out, the set itself."""
        if self.split == "all" or round(self.fraction * self._size) == 0:
            return self
        return dataclasses.replace(self, split="test")

    def division(self) -> str:
        """Say how many examples are held out; see `Dataset.division`."""
        number = round(self.fraction * self._size)
        if number and self.split == "train":
            return f"{number} of {self._size} examples for evaluation (data.test_fraction={self.fraction:g})"
        if number:
            return ""
        few = self.test_fraction is None and self._size < SMALLEST
        why = f"fewer than {SMALLEST} examples" if few else f"data.test_fraction={self.fraction:g}"
        return f"nothing ({why}): evaluation will compare with the training data, and say so"
