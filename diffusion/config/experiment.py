"""The `Experiment`: the objects that a config describes, and their combinations.

Only this layer sees a config. An `Experiment` holds the objects that the sections name, built and checked, and
combines them into the loss, the train state, and the guided model.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.classifiers import classifier as classifying
from diffusion.classifiers.classifier import AtData, Columns, NetworkClassifier
from diffusion.classifiers.losses import ClassifierLoss
from diffusion.config.build import assemble, resolved
from diffusion.config.checks import check_parts
from diffusion.config.recording import check_contents
from diffusion.config.sections import ConfigError, EvaluateOptions, TrainOptions, positive_field
from diffusion.data import Dataset, DataSpec
from diffusion.data import conditions as conditioning
from diffusion.evaluation import EvalInputs, generate
from diffusion.guidance.model import ConditionalModel
from diffusion.models.denoiser import make_denoiser, make_velocity
from diffusion.models.prediction import Prediction
from diffusion.models.variance import LearnedVariance, MeanWithVarianceOutput, WithVariance
from diffusion.numerics import as_pytree
from diffusion.objectives.coupling import Coupling
from diffusion.objectives.losses import Loss, flow_matching_loss, regression_loss
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.objectives.weighting import Weight
from diffusion.processes import AffineProcess, Process
from diffusion.samplers import Sampler
from diffusion.samplers.time_grids import Grid
from diffusion.training import SpikeRule, TrainState, init_state
from diffusion.types import Cond, Key, Network, Params

INITIAL, STEPS, COUPLING = range(3)  # purposes of random numbers: their streams never overlap


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The objects that a config describes.

    `variance` is a table of posterior variances, estimated after training, for samplers that need one;
    `given` holds further arguments of guidance by name, such as a classifier, that are not part of the config.
    """

    config: Mapping[str, Any]
    process: Process
    prediction: Prediction
    time: TimeDistribution
    weight: Weight
    network: Network
    dataset: Dataset
    spec: DataSpec
    classifier_loss: ClassifierLoss
    optimizer: Any
    ema: Mapping[str, Any]
    sampler: Sampler
    grid: Grid
    guidance: tuple[Any, ...]
    parallel: Any
    coupling: Coupling
    train: TrainOptions
    evaluate: EvaluateOptions
    loss_target: Prediction | None = None
    variance: WithVariance | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Any, spec: DataSpec | None = None) -> "Experiment":
        """Build every section of a config.

        Args:
            config: sections by name, a mapping or a ConfigDict.
            spec: description of the data, if it is known; the data set itself is then not opened.

        Raises:
            ConfigError: a section, a name or a field is unknown, or a value is impossible.
        """
        experiment = cls(**assemble(config, spec))
        check_parts(experiment)
        return experiment

    def replaced(self, **sections: Any) -> "Experiment":
        """Return the experiment with some objects replaced, as for sampling with other settings."""
        return dataclasses.replace(self, **sections)

    # ---- sizes ----------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Seed of all random numbers."""
        return int(self.config["seed"])

    def key(self, purpose: int) -> Key:
        """Return the root key of the random numbers for a purpose: `INITIAL`, `STEPS` or `COUPLING`."""
        return jax.random.fold_in(jax.random.key(self.seed), purpose)

    @property
    def batch_size(self) -> int:
        """Size of the global batch."""
        return positive_field(self.config, "data", "batch_size", 64)

    @property
    def num_steps(self) -> int:
        """Number of sampling steps."""
        return positive_field(self.config, "grid", "num_steps", 50)

    @property
    def conditional(self) -> bool:
        """Whether the data has labels or other conditions."""
        return bool(conditioning.shapes(self.spec, 1))  # only shapes: nothing is computed

    @property
    def task(self) -> str:
        """Task of the training: one of `diffusion.config.sections.TASKS`."""
        return self.config["task"]

    @property
    def columns(self) -> Columns:
        """Meaning of the output columns of a classifier."""
        spec = self.spec
        return classifying.columns_of(self.classifier_loss, spec.num_classes, spec.multi_hot_dim)

    @property
    def variances(self) -> set[str]:
        """Kinds of reverse variance that the sampler, and samplers inside it, use, such as "analytic"."""
        found, sampler = set(), self.sampler
        while sampler is not None:
            found.add(getattr(sampler, "variance", ""))
            sampler = getattr(sampler, "inner", None)
        return found

    @property
    def affine(self) -> bool:
        """Whether the model is a denoiser; for a plain `Process` it is a velocity."""
        return isinstance(self.process, AffineProcess)

    # ---- training -------------------------------------------------------------------------------

    def loss(self, batch_size: int | None = None) -> Loss:
        """Return the loss for the class of the process and the task."""
        size = batch_size or self.batch_size
        if self.task != "generator":
            time = self.time if self.task == "classifier" else AtData()
            return classifying.classification_loss(
                self.network, self.process, time, self.classifier_loss, self.columns,
                batch_size=size,
            )  # fmt: skip
        reduction = self.train.reduction
        if not isinstance(self.process, AffineProcess):
            return flow_matching_loss(
                self.network, self.process, self.time, batch_size=size, reduction=reduction
            )
        return regression_loss(
            self.network, self.process, self.prediction, self.weight, self.time,
            batch_size=size, reduction=reduction, loss_target=self.loss_target,
            batch_target=self.train.batch_target, variance=self.learned_variance,
        )  # fmt: skip

    @property
    def learned_variance(self) -> LearnedVariance | None:
        """Settings for learning the variance of reverse steps; None if it is not learned."""
        if not self.train.learn_variance:
            return None
        return LearnedVariance(step=self.train.variance_step, weight=self.train.variance_weight)

    def example_cond(self, batch_size: int) -> Cond:
        """Return null conditions shaped like those of the data set."""
        return conditioning.null_conditions(self.spec, batch_size)

    def init_params(self) -> Params:
        """Initialize the network's parameters from the seed."""
        x = jnp.zeros((1, *self.spec.shape), jnp.float32)
        return self.network.init(self.key(INITIAL), x, jnp.zeros(1), self.example_cond(1))

    def init_state(self) -> TrainState:
        """Return the state before the first step."""
        known = self.time.statistics(), SpikeRule(factor=self.train.spike_factor).init()
        return init_state(self.init_params(), self.optimizer, self.ema, self.key(STEPS), *known)

    def abstract_state(self) -> TrainState:
        """Return shapes and dtypes of the train state, without computing it."""
        return jax.eval_shape(self.init_state)

    # ---- sampling -------------------------------------------------------------------------------

    def times(self) -> np.ndarray:
        """Return the sampling times."""
        return self.grid(self.process, self.num_steps)

    def base_model(self, params: Params, cond: Cond = None) -> Any:
        """Return the network as a denoiser, or as a velocity for a plain `Process`, without guidance."""
        if self.task != "generator":
            raise ConfigError(
                f"this run trained a {self.task.replace('_', ' ')}, which generates nothing; it can guide a generator."
            )
        if not isinstance(self.process, AffineProcess):
            return make_velocity(self.network, params, self.process, cond)
        return make_denoiser(
            self.network, params, self.process, self.prediction, cond,
            learned_variance=self.train.learn_variance,
        )  # fmt: skip

    def classifier(self, params: Params) -> NetworkClassifier:
        """Return the network as (x_t, t) -> log-probabilities, for the tasks of classifiers."""
        return NetworkClassifier(
            params=params, network=self.network, process=self.process, loss=self.classifier_loss,
            columns=self.columns, clean=self.task == "clean_classifier",
        )  # fmt: skip

    def model(self, params: Params, cond: Cond = None) -> Any:
        """Return the network with all guidance of the config, the first entry innermost.

        Guidance changes only the mean: a variance that was learned or estimated is kept.
        """
        own = cond if self.conditional else None  # `cond` may be meant only for a classifier
        base = model = self.base_model(params, own)
        given = {"times": self.times, **self.given}
        for guide in self.guidance:
            model = guide(ConditionalModel(base, model, given, asked=cond))
        if self.variance is not None:
            return dataclasses.replace(self.variance, denoise=as_pytree(model))
        if "learned" in self.variances and model is not base:
            return MeanWithVarianceOutput(model, base)
        return model

    def generate(
        self,
        model_of: Callable[[Cond], Any],
        num_samples: int,
        *,
        seed: int = 0,
        start: int = 0,
        cond_of: Callable[[np.ndarray], Cond] | None = None,
        times: Any = None,
        shape: Sequence[int] | None = None,
        batch_size: int | None = None,
        block: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Generate examples with the sampler of this experiment, batch by batch; see `diffusion.evaluation.generate`.

        Args:
            model_of: function from a condition to the model, such as `partial(experiment.model, params)`.
            num_samples: number of examples.
            seed: seed of the examples.
            start: index of the first example.
            cond_of: function from indices to conditions; by default `conditions_in_turn`.
            times: sampling times; by default those of the section `grid`.
            shape: shape of one example; by default that of the data.
            batch_size: by default `evaluate.batch_size`.
            block: number of examples that a device computes at once; the bits of the results depend on it.
        """
        return generate(
            self.sampler, self.process, model_of, seed, num_samples, shape or self.spec.shape,
            self.times() if times is None else times, cond_of or self.conditions_in_turn,
            batch_size=self.evaluate.batch_size if batch_size is None else batch_size,
            start=start, block=block,
        )  # fmt: skip

    def conditions(self, given: Any, count: int) -> Cond:
        """Return the condition of `count` examples from labels, from a dictionary of entries, or from None.

        See `diffusion.data.conditions.make_conditions`.
        """
        return conditioning.make_conditions(self.spec, given, count)

    def conditions_in_turn(
        self, indices: np.ndarray, classes: int = 0, requested: Any = None
    ) -> Cond:
        """Return conditions for evaluation: the classes in turn, all other entries from held-out examples.

        See `diffusion.data.conditions.eval_conditions`.
        """
        return conditioning.eval_conditions(self.spec, self.held_out, indices, classes, requested)

    # ---- evaluation -----------------------------------------------------------------------------

    def held_out(self) -> Dataset:
        """Return the held-out data: the split "test", or new draws from an endless data set.

        Raises:
            ConfigError: the data differs from the data that the run was trained on.
        """
        check_contents(self)
        return self.dataset.held_out()

    def eval_inputs(self, params: Params, seed: int = 0) -> EvalInputs:
        """Return the inputs of the metrics: the trained model and its data."""
        generates = self.task == "generator"

        def generated(count: int, start: int = 0) -> Iterator[np.ndarray]:
            self.base_model(params)  # raises for a classifier, which cannot generate
            return self.generate(partial(self.model, params), count, seed=seed, start=start)

        return EvalInputs(
            process=self.process,
            model_of=lambda cond: self.base_model(params, cond),
            classifier=None if generates else self.classifier(params),
            generate=generated,
            train=self.dataset,
            held_out=self.held_out(),
            num_samples=self.evaluate.num_samples,
            batch_size=self.evaluate.batch_size,
            seed=seed,
        )

    # ---- description ----------------------------------------------------------------------------

    def resolved(self) -> dict[str, Any]:
        """Return the config with the defaults of all classes filled in."""
        return resolved(self)
