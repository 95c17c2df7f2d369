"""Points in the plane, some of them poisoned, for tests of what a run does about them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.data.points import Points2D


@dataclass(frozen=True, kw_only=True)
class PoisonedPoints(Points2D):
    """Points2D in which the batches after `first` ... `last` steps hold `value` in one row.

    Args:
        value: in both coordinates of row 3.
        first: steps done before the first poisoned batch.
        last: steps done before the last one.
        only_seed: poison only under this seed of the data; None: under any.
        factor: multiply all points of those batches, in place of the value.
    """

    value: float = float("nan")
    first: int = 0
    last: int = 10**9
    only_seed: int | None = None
    factor: float = 0.0

    def batch(self, step: int, batch_size: int, seed: int = 0, **options: Any) -> dict[str, Any]:
        """Return a batch, poisoned if its turn has come."""
        batch = super().batch(step, batch_size, seed=seed, **options)
        if self.first <= step <= self.last and self.only_seed in (None, seed):
            data = np.array(batch["data"])
            if self.factor:
                data *= self.factor
            else:
                data[3] = self.value
            batch = {**batch, "data": data}
        return batch
