"""From a config to objects: the only module that knows how the sections fit together.

Nothing below this layer sees a config. An `Experiment` holds what the sections name, already built and
checked, and offers the few combinations that programs need: the loss, the optimizer, the state, and a
guided denoiser.
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
    """What a config names, built.

    `variance` is a table of posterior variances, estimated after training, for samplers that ask for one;
    `given` is what a program hands to guidance besides the config, such as a classifier, by name.
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
        """Build every section, or say which one cannot be built and why.

        Args:
            config: sections by name, a mapping or a ConfigDict.
            spec: what the data is, where that is known: the data set itself is then not touched.

        Raises:
            ConfigError: a section, a name or a field is unknown, or a value is impossible.
        """
        experiment = cls(**assemble(config, spec))
        check_parts(experiment)
        return experiment

    def replaced(self, **sections: Any) -> "Experiment":
        """Return the experiment with other objects in some sections, for sampling with other settings."""
        return dataclasses.replace(self, **sections)

    # ---- sizes ----------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The root of all randomness."""
        return int(self.config["seed"])

    def key(self, purpose: int) -> Key:
        """Return the root of all random numbers of a purpose: `INITIAL`, `STEPS` or `COUPLING`."""
        return jax.random.fold_in(jax.random.key(self.seed), purpose)

    @property
    def batch_size(self) -> int:
        """The size of the global batch."""
        return positive_field(self.config, "data", "batch_size", 64)

    @property
    def num_steps(self) -> int:
        """The number of sampling steps."""
        return positive_field(self.config, "grid", "num_steps", 50)

    @property
    def conditional(self) -> bool:
        """Whether the data has labels or other conditions."""
        return bool(conditioning.shapes(self.spec, 1))  # shapes alone: nothing is computed

    @property
    def task(self) -> str:
        """What is trained: one of `diffusion.config.sections.TASKS`."""
        return self.config["task"]

    @property
    def columns(self) -> Columns:
        """What the scores of a classifier stand for."""
        spec = self.spec
        return classifying.columns_of(self.classifier_loss, spec.num_classes, spec.multi_hot_dim)

    @property
    def variances(self) -> set[str]:
        """What the sampler, and those inside it, take for the variance of their noise, such as "analytic"."""
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
        """Return the loss that the process's class asks for."""
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
        """How the variance of reverse steps is learned, if it is."""
        if not self.train.learn_variance:
            return None
        return LearnedVariance(step=self.train.variance_step, weight=self.train.variance_weight)

    def example_cond(self, batch_size: int) -> Cond:
        """Return null conditions shaped like those of the data set."""
        return conditioning.null_conditions(self.spec, batch_size)

    def init_params(self) -> Params:
        """Draw the network's parameters, a function of the seed."""
        x = jnp.zeros((1, *self.spec.shape), jnp.float32)
        return self.network.init(self.key(INITIAL), x, jnp.zeros(1), self.example_cond(1))

    def init_state(self) -> TrainState:
        """Return the state before the first step."""
        known = self.time.statistics(), SpikeRule(factor=self.train.spike_factor).init()
        return init_state(self.init_params(), self.optimizer, self.ema, self.key(STEPS), *known)

    def abstract_state(self) -> TrainState:
        """Return shapes and dtypes of the state, at no cost."""
        return jax.eval_shape(self.init_state)

    # ---- sampling -------------------------------------------------------------------------------

    def times(self) -> np.ndarray:
        """Return the sampling times."""
        return self.grid(self.process, self.num_steps)

    def base_model(self, params: Params, cond: Cond = None) -> Any:
        """Return the network as a denoiser, or as a velocity for a plain `Process`; no guidance."""
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
        """Return the network under all guidance of the config, the first entry innermost.

        Guidance changes the mean alone: a variance that was learned or estimated stays.
        """
        told = cond if self.conditional else None  # it may be for a classifier alone
        base = model = self.base_model(params, told)
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
        """Generate examples by this sampler, a batch at a time; see `diffusion.evaluation.generate`.

        Args:
            model_of: from a condition to the model, such as `partial(experiment.model, params)`.
            num_samples: how many examples, from number `start` on.
            seed: of the examples.
            start: the number of the first.
            cond_of: from their numbers to their conditions; `conditions_in_turn` unless given.
            times: those of the section `grid` unless given.
            shape: of one example; that of the data unless given.
            batch_size: `evaluate.batch_size` unless given.
            block: what a device computes at once, on which the bits depend.
        """
        return generate(
            self.sampler, self.process, model_of, seed, num_samples, shape or self.spec.shape,
            self.times() if times is None else times, cond_of or self.conditions_in_turn,
            batch_size=self.evaluate.batch_size if batch_size is None else batch_size,
            start=start, block=block,
        )  # fmt: skip

    def conditions(self, given: Any, count: int) -> Cond:
        """Return the condition of `count` examples: labels or a dictionary of entries, or none.

        See `diffusion.data.conditions.make_conditions`.
        """
        return conditioning.make_conditions(self.spec, given, count)

    def conditions_in_turn(self, indices: np.ndarray, classes: int = 0, asked: Any = None) -> Cond:
        """Return conditions for a survey: the classes in turn, all else from held-out examples.

        See `diffusion.data.conditions.eval_conditions`.
        """
        return conditioning.eval_conditions(self.spec, self.held_out, indices, classes, asked)

    # ---- evaluation -----------------------------------------------------------------------------

    def held_out(self) -> Dataset:
        """Return the data that is not trained on: the split "test", or fresh draws of what never ends.

        Raises:
            ConfigError: the data is not that which the run was trained on.
        """
        check_contents(self)
        return self.dataset.held_out()

    def eval_inputs(self, params: Params, seed: int = 0) -> EvalInputs:
        """Return the trained model with its data, ready to be measured."""
        generates = self.task == "generator"

        def generated(count: int, start: int = 0) -> Iterator[np.ndarray]:
            self.base_model(params)  # a classifier says here that it generates nothing
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

    # ---- words ----------------------------------------------------------------------------------

    def resolved(self) -> dict[str, Any]:
        """Return the config with every default of every class written out."""
        return resolved(self)
