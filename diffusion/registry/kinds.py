"""Which kinds of things a config names, of which class their objects are, and where the built-in ones are registered.

Everything here is text until it is needed: the registry lies below all that it names.
"""

import functools
import importlib
from typing import Any

# Kind -> the class, or the protocol, that its objects are of; what "module:attribute" in a config is held to.
CLASSES = {
    "process": "diffusion.processes:Process",
    "prior": "diffusion.processes.priors:Prior",
    "coupling": "diffusion.objectives.coupling:Coupling",
    "prediction": "diffusion.models.prediction:Prediction",
    "weight": "diffusion.objectives.weighting:Weight",
    "time": "diffusion.objectives.time_sampling:TimeDistribution",
    "grid": "diffusion.samplers.time_grids:Grid",
    "sampler": "diffusion.samplers:Sampler",
    "guidance": "diffusion.guidance.base:Guidance",
    "operator": "diffusion.inverse_problems.operators:Operator",
    "scale": "diffusion.guidance.scales:Schedule",
    "network": "diffusion.types:Network",
    "classifier": "diffusion.types:Network",
    "classifier_loss": "diffusion.classifiers.losses:ClassifierLoss",
    "optimizer": "diffusion.training.optimizers:Optimizer",
    "schedule": "collections.abc:Callable",  # from the number of an update to a factor
    "dataset": "diffusion.data:Dataset",
    "condition": "diffusion.data.conditioned:Condition",
    "metric": "diffusion.evaluation.metrics:Metric",
    "features": "diffusion.evaluation.features:Features",
    "parallel": "diffusion.training.layout:Layout",
}

KINDS = tuple(CLASSES)

# Packages whose import registers what they hold.
_BUILT_IN = (
    "processes",
    "models",
    "samplers",
    "guidance",
    "inverse_problems",
    "objectives",
    "classifiers",
    "networks",
    "data",
    "training",
    "evaluation",
)


@functools.cache
def class_of(kind: str) -> Any:
    """Return the class, or the protocol of methods, that the objects of a kind are of."""
    module, _, name = CLASSES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


_filled = False


def fill() -> None:
    """Import the packages of the built-in names, once; what they ask while they are imported sees what is there."""
    global _filled
    if not _filled:
        _filled = True
        for package in _BUILT_IN:
            importlib.import_module(f"diffusion.{package}")
