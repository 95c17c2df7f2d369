"""The kinds of objects that a config names, the class of each kind, and the packages that register built-in ones.

Classes and packages are stored as text and imported on demand, because the registry is the lowest layer.
"""

import functools
import importlib
from typing import Any

# Kind -> the class or protocol of its objects; objects named by "module:attribute" in a config are checked against it.
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
    "schedule": "collections.abc:Callable",  # update number -> factor
    "dataset": "diffusion.data:Dataset",
    "condition": "diffusion.data.conditioned:Condition",
    "metric": "diffusion.evaluation.metrics:Metric",
    "features": "diffusion.evaluation.features:Features",
    "parallel": "diffusion.training.layout:Layout",
}

KINDS = tuple(CLASSES)

# Packages that register their objects when they are imported.
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
    """Return the class or protocol that the objects of a kind must satisfy."""
    module, _, name = CLASSES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


_filled = False


def fill() -> None:
    """Import the packages that register built-in names, once; lookups during these imports see a partial registry."""
    global _filled
    if not _filled:
        _filled = True
        for package in _BUILT_IN:
            importlib.import_module(f"diffusion.{package}")
