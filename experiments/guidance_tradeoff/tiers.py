"""What is trained and guided: one tier per data set, one list of guidance entries per method and scale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPEATED = {"classifier_free": (1.0, 2.0), "classifier": (3.0,)}  # from other noise as well
SEEDS = (1, 2)

SCALES = {
    "classifier_free": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
    "interval": (1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
    "autoguidance": (1.25, 1.5, 2.0, 3.0, 4.0),
    "both": (0.5, 1.0, 2.0, 4.0),
    "classifier": (0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
}


def entries(method: str, scale: float) -> list[dict[str, Any]]:
    """Return the section `guidance` of a config.

    Scale 1 is the conditional model, except for the classifier: it stands on the unconditional model, and its
    scale 1 is Bayes' rule. "both" is the classifier on the conditional model, where 0 changes nothing.
    """
    if method == "interval":
        return [dict(name="interval", inner=dict(name="classifier_free", scale=scale))]
    if method == "both":
        return [dict(name="classifier", scale=scale)]
    if method == "classifier":
        return [dict(name="classifier_free", scale=0.0), dict(name="classifier", scale=scale)]
    return [dict(name=method, scale=scale)]


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A data set with a generator, a classifier of its noisy data and a weaker generator.

    Args:
        config: of the generator, a file in the folder configs.
        classifier: of the classifier.
        weaker: what the weaker generator has less of, by section.
        changes: to the config, for the generators, by section.
        num_samples: per setting.
        batch_size: examples per compiled call.
        judged: training examples that the independent classifier is fitted to.
    """

    config: str
    classifier: str
    weaker: Mapping[str, Mapping[str, Any]]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_samples: int = 1000
    batch_size: int = 250
    judged: int = 10_000
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: SCALES)


TIERS = {
    "digits": Tier(
        config="digits",
        classifier="digits_classifier",
        weaker=dict(network=dict(channels=8), train=dict(num_steps=500)),
    ),
    "fashion_mnist": Tier(
        config="fashion_mnist",
        classifier="fashion_mnist_classifier",
        weaker=dict(network=dict(channels=16), train=dict(num_steps=1000)),
        # what the recorded numbers were trained with; the config has learned since that mirroring does harm
        changes=dict(data=dict(flip=True), time=dict(mean=-1.2, std=1.2)),
        num_samples=500,
        batch_size=100,
        scales={
            "classifier_free": (0.0, 1.0, 1.5, 2.0, 3.0, 5.0),
            "interval": (1.5, 3.0, 5.0),
            "autoguidance": (1.5, 2.0, 3.0),
            "classifier": (1.0, 2.0, 5.0),
        },
    ),
}
