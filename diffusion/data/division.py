"""Division of the user's own data into training and held-out examples."""

import abc
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffusion.data.base import Dataset, FiniteDataset
from diffusion.data.order import hold_out

HELD_OUT = 0.1  # default held-out fraction
SMALLEST = 20  # examples; by default, smaller data sets are not divided


@dataclass(frozen=True, kw_only=True)
class Divided(FiniteDataset):
    """A finite data set with a fixed choice of held-out examples. A subclass defines `_size`.

    Args:
        split: "train", "test" or "all".
        test_fraction: fraction of the examples that a fixed permutation holds out for "test"; None for 0.1, or 0 if
            there are fewer than 20 examples.
    """

    split: str = "train"
    test_fraction: float | int | None = field(default=None, metadata={"formerly": 0.0})

    @property
    @abc.abstractmethod
    def _size(self) -> int:
        """Number of examples of all splits."""

    @property
    def _dividable(self) -> bool:
        """Whether examples may be held out by default."""
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
        """Return the split "test", or the data set itself if nothing is held out."""
        if self.split == "all" or round(self.fraction * self._size) == 0:
            return self
        return dataclasses.replace(self, split="test")

    def division(self) -> str:
        """Return a sentence on how many examples are held out; see `Dataset.division`."""
        number = round(self.fraction * self._size)
        if number and self.split == "train":
            return f"{number} of {self._size} examples for evaluation (data.test_fraction={self.fraction:g})"
        if number:
            return ""
        few = self.test_fraction is None and self._size < SMALLEST
        why = f"fewer than {SMALLEST} examples" if few else f"data.test_fraction={self.fraction:g}"
        return f"nothing ({why}): evaluation will compare with the training data, and say so"
