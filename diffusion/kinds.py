"""Which class the objects of each kind are of: what "module:attribute" in a config is held to."""

from collections.abc import Callable
from typing import Any

from diffusion.classifier_losses import ClassifierLoss
from diffusion.coupling import Coupling
from diffusion.data import Dataset
from diffusion.data.conditioned import Condition
from diffusion.evaluation.features import Features
from diffusion.evaluation.metrics import Metric
from diffusion.guidance.base import Guidance
from diffusion.guidance.scales import Schedule
from diffusion.operators import Operator
from diffusion.prediction import Prediction
from diffusion.processes import Process
from diffusion.processes.priors import Prior
from diffusion.registry import define_kinds
from diffusion.samplers import Sampler
from diffusion.time_grids import Grid
from diffusion.time_sampling import TimeDistribution
from diffusion.training.layout import Layout
from diffusion.training.optimizers import Optimizer
from diffusion.types import Network
from diffusion.weighting import Weight

CLASSES: dict[str, Any] = {
    "process": Process,
    "prior": Prior,
    "coupling": Coupling,
    "prediction": Prediction,
    "weight": Weight,
    "time": TimeDistribution,
    "grid": Grid,
    "sampler": Sampler,
    "guidance": Guidance,
    "operator": Operator,
    "scale": Schedule,
    "network": Network,
    "classifier": Network,
    "classifier_loss": ClassifierLoss,
    "optimizer": Optimizer,
    "schedule": Callable,  # from the number of an update to a factor
    "dataset": Dataset,
    "condition": Condition,
    "metric": Metric,
    "features": Features,
    "parallel": Layout,
}

define_kinds(CLASSES)
