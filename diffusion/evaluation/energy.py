"""The energy distance between two sets of examples in few dimensions.

    D = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

It is 0 for equal distributions and positive for all others (Szekely and Rizzo, 2013). The estimate omits the
pairs of an example with itself, so it is unbiased and may be negative. In many dimensions all distances are
nearly equal: use features and `frechet`.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from diffusion.data import Dataset
from diffusion.evaluation.kernel import Discrepancy, discrepancy, squared_distances
from diffusion.evaluation.metrics import EvalInputs, Metric, Results
from diffusion.registry import register

EnergyDistance = Discrepancy


def energy_distance(
    x: Float[np.ndarray, " n *data"], y: Float[np.ndarray, " m *same"]
) -> EnergyDistance:
    """Estimate the energy distance of two distributions from independent examples of each.

    Args:
        x: (n, ...), at least 2 examples.
        y: (m, ...), at least 2 examples of the same shape.

    Returns:
        The unbiased estimate with its standard error; see `diffusion.evaluation.kernel.discrepancy`.

    Raises:
        ValueError: there are too few examples, their shapes differ, or a number is not finite.
    """
    return discrepancy(x, y, lambda a, b: np.sqrt(squared_distances(a, b)))


@register("metric", "energy_distance")
@final
@dataclass(frozen=True, kw_only=True)
class EnergyDistanceMetric(Metric):
    """The energy distance between generated and held-out examples, for data of few dimensions.

    The energy distance between training and held-out data is reported with it; it is 0 up to sampling noise.

    Args:
        num_held_out: number of held-out examples; None for as many as are generated, or all if there are fewer.
    """

    num_held_out: int | None = None

    def __call__(self, inputs: EvalInputs) -> Results:
        count = self.num_held_out or inputs.num_samples
        held_out = _first(inputs.held_out, count)
        generated = np.concatenate(list(inputs.generated()))
        name = f"energy_distance@{len(generated)}_against_{len(held_out)}"
        results: Results = {name: energy_distance(generated, held_out)._asdict()}
        if inputs.has_training_data:
            real = _first(inputs.train, inputs.num_samples)
            name = f"energy_distance_of_training_data@{len(real)}_against_{len(held_out)}"
            results[name] = energy_distance(real, held_out)._asdict()
        return results


def _first(dataset: Dataset, count: int) -> np.ndarray:
    size = dataset.spec.size
    return dataset.examples(0, count if size is None else min(count, size))["data"]
