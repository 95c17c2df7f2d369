"""Accuracy of a classifier of noisy data, by noise level and over all times."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.classifiers.classifier import NetworkClassifier
from diffusion.data import Dataset
from diffusion.evaluation.metrics import EvalInputs, Metric, Results
from diffusion.numerics import require, row_keys
from diffusion.processes import Process
from diffusion.registry import register


class LevelAccuracy(NamedTuple):
    """Accuracy and cross-entropy in nats, per label, with standard errors, in one bin of noise levels."""

    level: float
    accuracy: float
    accuracy_error: float
    cross_entropy: float
    cross_entropy_error: float
    count: int


@jax.jit
def _judged(classifier: NetworkClassifier, x_t: Any, t: Any, cond: Any) -> tuple[Any, Any]:
    """Return, for each example, the fraction of correct labels and -log p(cond | x_t) per known label."""
    columns, target = classifier.columns, classifier.columns.target(cond)
    answers, truths = columns.split(classifier(x_t, t)), columns.split(target)
    if columns.multi_label:  # every column is a separate binary label
        right, known = (answers[0] > jnp.log(0.5)) == (target > 0.5), target >= 0
    else:
        pairs = list(zip(answers, truths, strict=True))
        right = jnp.stack([a.argmax(-1) == y.argmax(-1) for a, y in pairs], axis=-1)
        known = jnp.stack([y[:, 0] >= 0 for _, y in pairs], axis=-1)
    labels = known.sum(axis=-1)  # 0 / 0 without known labels: such examples do not count
    return (right & known).sum(axis=-1) / labels, -classifier.log_prob(x_t, t, cond) / labels


def accuracy_by_level(
    classifier: NetworkClassifier,
    process: Process,
    dataset: Dataset,
    *,
    num_examples: int = 1000,
    batch_size: int = 100,
    num_levels: int = 10,
    seed: int = 0,
) -> list[LevelAccuracy]:
    """Measure a classifier on noisy held-out examples, at levels in the middle of equal bins of log-SNR.

    For processes without a log-SNR, the bins are equal in the time conditioning of the process. A classifier of
    clean data is measured on clean data, at a single level.
    """
    times = process.default_times(2 * num_levels)[1::2] if not classifier.clean else [process.t_min]
    num_examples = min(num_examples, dataset.spec.size or num_examples)
    batch_size = min(batch_size, num_examples)
    found = []
    for k, t in enumerate(times):
        key, parts = jax.random.fold_in(jax.random.key(seed), k), []
        for start in range(0, num_examples, batch_size):
            batch = dataset.examples(start, min(batch_size, num_examples - start))
            x_0 = jnp.asarray(batch["data"])
            row = jnp.arange(start, start + len(x_0))
            at = jnp.full(len(x_0), t, x_0.dtype)
            z = process.sample_noise(row_keys(key, row), x_0.shape)
            x_t = x_0 if classifier.clean else process.interpolate(x_0, z, at)
            parts.append(np.stack(_judged(classifier, x_t, at, batch["cond"])))
        right, nats = np.concatenate(parts, axis=1).astype(np.float64)
        said = np.isfinite(right)
        right, nats = right[said], nats[said]
        error = lambda e: float(e.std(ddof=1) / len(e) ** 0.5)
        level = LevelAccuracy(
            level=float(process.noise_conditioning(t)),
            accuracy=float(right.mean()),
            accuracy_error=error(right),
            cross_entropy=float(nats.mean()),
            cross_entropy_error=error(nats),
            count=len(right),
        )
        found.append(level)
    return found


@register("metric", "accuracy_by_level")
@final
@dataclass(frozen=True, kw_only=True)
class AccuracyByLevel(Metric):
    """Accuracy and cross-entropy of a classifier on held-out data by log-SNR, and their means over the levels."""

    needs_run: ClassVar[bool] = True
    num_levels: int = 10
    num_examples: int = 1000

    def __call__(self, inputs: EvalInputs) -> Results:
        require(
            inputs.classifier is not None,
            "the metric accuracy_by_level measures a classifier, and this run trained a generator.",
        )
        assert inputs.classifier is not None
        levels = accuracy_by_level(
            inputs.classifier, inputs.needs_process("accuracy_by_level"), inputs.held_out,
            num_examples=self.num_examples, batch_size=inputs.batch_size, num_levels=self.num_levels,
            seed=inputs.seed,
        )  # fmt: skip
        name = f"@{levels[0].count}x{len(levels)}_levels"
        return {
            f"accuracy{name}": float(np.mean([level.accuracy for level in levels])),
            f"cross_entropy{name}": float(np.mean([level.cross_entropy for level in levels])),
            f"classifier_by_log_snr@{levels[0].count}": [level._asdict() for level in levels],
        }
