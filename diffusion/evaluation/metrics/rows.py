"""Features that a metric holds in memory: all if they are few, otherwise a fixed choice."""

import numpy as np

from diffusion.data import Dataset
from diffusion.evaluation import reference
from diffusion.evaluation.features import Extractor
from diffusion.evaluation.metrics.base import EvalInputs
from diffusion.numerics import at_least, require


def generated_rows(inputs: EvalInputs, extractor: Extractor, limit: int) -> np.ndarray:
    """Return features (k, dim) of at most `limit` generated examples, computed batch by batch.

    If there are more, the choice is fixed and random, since examples may be sorted by class.
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
    """Return features of held-out examples, and the sets to compare with them, by the suffix of their result names.

    These are the generated examples, with the suffix "", and, if available, the training examples, whose distance is
    a lower bound that no model is expected to fall below by much. Each set has at most `limit` examples.
    """
    real = reference_rows(inputs, extractor, limit)
    sets = {"": generated_rows(inputs, extractor, limit)}
    if inputs.has_training_data:
        sets["_of_training_data"] = _rows(inputs.train, inputs, extractor, limit)
    return real, sets
