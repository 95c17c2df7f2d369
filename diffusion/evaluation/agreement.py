"""Agreement of generated examples with the labels they are conditioned on, judged by a classifier of real data."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from diffusion.data import Dataset
from diffusion.evaluation.metrics import EvalInputs, Metric, Results
from diffusion.numerics import require
from diffusion.registry import register


def _gather(dataset: Dataset, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `limit` evenly spaced labeled examples, as rows, and their labels."""
    size = dataset.spec.size
    assert size is not None
    chosen = np.unique(np.linspace(0, size - 1, min(limit, size)).astype(int))
    batch = dataset.batch(0, len(chosen), index=chosen, train=False)
    known = batch["cond"]["label"] >= 0
    return batch["data"].reshape(len(chosen), -1)[known], batch["cond"]["label"][known]


def fitted_judge(dataset: Dataset, num_training: int = 10_000) -> Any:
    """Fit a support vector machine with a Gaussian kernel on the pixels of real data: rows in, labels out."""
    from sklearn.svm import SVC

    return SVC(C=10.0, gamma="scale").fit(*_gather(dataset, num_training))


@register("metric", "label_agreement")
@final
@dataclass(frozen=True, kw_only=True)
class LabelAgreement(Metric):
    """The fraction of generated examples to which a classifier of real data assigns the label of their condition.

    The classifier is a support vector machine with a Gaussian kernel on pixels, fitted to the training data;
    its accuracy on the held-out data is reported with the result.
    """

    needs_run: ClassVar[bool] = True  # for the labels of the conditions
    num_training: int = 10_000

    def __call__(self, inputs: EvalInputs) -> Results:
        classes = inputs.train.spec.num_classes
        size = inputs.train.spec.size
        require(
            isinstance(classes, int) and classes > 1 and size is not None,
            f"label_agreement needs finite data with one label per example; got num_classes={classes}, size={size}.",
        )
        assert isinstance(classes, int)
        judge = fitted_judge(inputs.train, self.num_training)
        accuracy = float(judge.score(*_gather(inputs.held_out, self.num_training)))
        x = np.concatenate(list(inputs.generate(inputs.num_samples)))
        asked = np.arange(len(x)) % classes  # generation cycles through the classes
        found = judge.predict(np.clip(x.reshape(len(x), -1), -1, 1))
        return {
            f"label_agreement_svm@{len(x)}": float((found == asked).mean()),
            "accuracy_of_that_classifier_on_held_out_data": accuracy,
        }
