"""The 1,797 handwritten digits of scikit-learn: 8x8, gray, 17 levels; no download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusion.data.order import HOLD_OUT, permutation
from diffusion.data.prepared import PreparedImages
from diffusion.data.records import write_records
from diffusion.data.storage import LOG, MissingDataError, Progress
from diffusion.registry import register

TEST_FRACTION = 0.2


def levels_to_bytes(levels: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Map the levels v = 0 ... 16 to u = floor(255 v / 16 + 1/2), so that round(16 u / 255) = v."""
    return ((np.asarray(levels, np.int64) * 255 + 8) // 16).astype(np.uint8)


def stratified_test(labels: np.ndarray, fraction: float = TEST_FRACTION) -> np.ndarray:
    """Choose round(fraction * count) examples of every class by a fixed permutation.

    Returns:
        bool of shape (n,), true for the test split.
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = permutation(0, int(label), len(members), HOLD_OUT)
        test[members[order[: round(fraction * len(members))]]] = True
    return test


@register("dataset", "digits")
@dataclass(frozen=True, kw_only=True)
class Digits(PreparedImages):
    """scikit-learn's digits: splits "train" (1,438) and "test" (359), every class divided 80 to 20.

    Prepared on first use, in a few seconds.
    """

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return "digits"

    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingDataError(
                "The digits come with scikit-learn, which is not installed: pip install 'demolish[train]'."
            ) from error
        LOG.info("Preparing the digits in %s (once, a few seconds).", root)
        found: Any = load_digits()
        images = levels_to_bytes(found.images)[..., None]
        labels = found.target.astype(np.int64)
        test = stratified_test(labels)
        return write_records(
            scratch,
            name="digits",
            version="1.0.0",
            splits={"train": (images[~test], labels[~test]), "test": (images[test], labels[test])},
            class_names=[str(d) for d in range(10)],
            note="scikit-learn load_digits; levels v = 0..16 stored as floor(255 v / 16 + 1/2).",
            progress=progress,
        )
