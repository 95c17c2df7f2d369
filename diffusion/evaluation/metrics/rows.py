"""Features that a metric holds in memory: all of them where these are few, else a fixed choice."""

import numpy as np

from diffusion.data import Dataset
from diffusion.evaluation import reference
from diffusion.evaluation.features import Extractor
from diffusion.evaluation.metrics.base import EvalInputs
from diffusion.numerics import at_least, require


def generated_rows(inputs: EvalInputs, extractor: Extractor, limit: int) -> np.ndarray:
    """Return features (k, dim) of generated examples, at most `limit`, batch by batch.

    Where there are more, the choice is fixed and without regard to order, since examples may be sorted by class.
    """
    count = inputs.num_samples
    index = reference.chosen(count, limit)
    rows, start = np.empty((len(index), extractor.dim)), 0
    for x in inputs.generated(count):
        here = (index >= start) & (index < start + len(x))
        if here.any():
            rows[here] = extractor(x[index[here] - start])
        start += len(x)
    require(start == count, f"{count} examples were due, {start} came: give num_samples={start}.")
    return rows


def _rows(dataset: Dataset, inputs: EvalInputs, extractor: Extractor, limit: int) -> np.ndarray:
    found = reference.statistics(dataset, extractor, count=inputs.num_samples)
    at_least(2, limit=limit, hint="So many examples of each set are held.")
    return found.rows[reference.chosen(len(found.rows), limit)]


def reference_rows(inputs: EvalInputs, extractor: Extractor, limit: int) -> np.ndarray:
    """Return features of held-out examples, at most `limit`."""
    return _rows(inputs.held_out, inputs, extractor, limit)


def compared_sets(
    inputs: EvalInputs, extractor: Extractor, limit: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return features of held-out examples, and by the end of their numbers' name what is compared with them.

    These are the generated examples, named "", and beside them, where there is such data, those that were trained
    on: the floor that no model is expected to undercut by much. Of each at most `limit`.
    """
    real = reference_rows(inputs, extractor, limit)
    sets = {"": generated_rows(inputs, extractor, limit)}
    if inputs.has_training_data:
        sets["_of_training_data"] = _rows(inputs.train, inputs, extractor, limit)
    return real, sets
