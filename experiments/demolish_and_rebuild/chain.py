"""The chain of the articles on real images: a trained model, the exact one, and examples drawn from both.

Three studies draw from it, so examples are kept under --keep by names that say how they were made: a study draws
only what no other has drawn. `n` counts evaluations of the model: n - 1 steps of the chain's subsequence
from t = T to 1, and the posterior mean at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import build, exact_field
from diffusion.models.variance import estimate_variance, with_variance
from diffusion.numerics import as_pytree
from diffusion.processes import GaussianProcess, Process
from diffusion.samplers import StepSampler
from experiments import _common as common
from experiments.demolish_and_rebuild.measures import OWN


@final
@dataclass(frozen=True, kw_only=True)
class Greedy(StepSampler):
    """The mean of the ancestral step and no noise: "greedy decoding" (Su, kexue.fm 9119); it is not DDIM."""

    order: ClassVar[int] = 1
    requires: ClassVar[type[Process]] = GaussianProcess

    def prepare(self, process: Process, times: Any) -> Any:
        """Return the table of ancestral sampling without its noise."""
        row = build("sampler", "ancestral").prepare(process, times)
        return row._replace(spread=np.zeros_like(row.spread))

    def step(self, process: Process, model: Any, key: Any, state: Any, row: Any) -> Any:
        """Take the mean of the step."""
        return state._replace(x=row.keep * state.x + row.pull * model(state.x, row.t))


METHODS: dict[str, Any] = {
    "posterior": dict(name="ancestral", variance="posterior"),
    "beta": dict(name="ancestral", variance="beta"),
    "greedy": None,
    "eta=0": dict(name="ddim"),
    "eta=0.5": dict(name="ancestral", eta=0.5),
    "analytic": dict(name="ancestral", variance="analytic"),
    "analytic, eta=0": dict(name="ancestral", variance="analytic", eta=0.0),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ExactOfClass:
    """E[x_0 | x_t, label] of a finite data set: what a perfect network would learn from it."""

    points: Array
    labels: Array
    field: Any
    cond: Any

    def __call__(self, x_t: Array, t: Any) -> Array:
        """Return the mean of the points of each example's class by posterior weight."""
        log_p = self.field.log_posterior(x_t, t)
        same = self.cond["label"][:, None] == self.labels
        weight = jax.nn.softmax(jnp.where(same, log_p, -jnp.inf), axis=-1)
        return jnp.tensordot(weight, self.points.astype(x_t.dtype), axes=1, precision="highest")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A data set with a config and what is drawn.

    Args:
        config: a file in the folder configs.
        changes: of the config.
        num_samples: examples per setting.
        num_pairs: of latents, for what lies between them.
        evaluations: of the model, per example.
        seeds: of the noise; the first for all numbers of evaluations, the others up to `repeated`.
        repeated: the most evaluations that are repeated with other seeds.
        every: the most evaluations that every method takes.
        whole: the methods that take more, such as the whole chain of 1,000 steps.
        loss_steps: of training, where forms of the loss are compared; 0 leaves the config's.
        metrics: registered, with the name by which tables know their number.
    """

    config: str
    changes: tuple[tuple[str, Any], ...] = ()
    num_samples: int = 500
    evaluations: tuple[int, ...] = (5, 10, 20, 50, 100, 1000)
    seeds: tuple[int, ...] = (0, 1, 2)
    repeated: int = 50
    every: int = 100
    whole: tuple[str, ...] = ("posterior", "beta", "eta=0")
    num_pairs: int = 250
    batch_size: int = 250
    loss_steps: int = 500
    metrics: Mapping[str, Any] = field(
        default_factory=lambda: {
            "frechet": "frechet",
            "classifier": dict(name="frechet", features="classifier"),
            "agreement": "label_agreement",
        }
    )


CHAIN = (("process.name", "ddpm"), ("prediction.name", "noise"))
TIERS = {
    "small": Tier(config="digits", changes=CHAIN),
    "full": Tier(
        config="fashion_mnist", changes=(*CHAIN, ("train.num_steps", 50_000)), num_samples=10_000,
        num_pairs=2000, batch_size=1000, whole=tuple(METHODS), loss_steps=0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A tier's model with everything that is drawn from it.

    Args:
        tier: what is trained and drawn.
        models: the folder of --keep.
        name: of the model in that folder.
        more: changes of the config beyond the tier's.
        loss: in the place of the config's.
    """

    tier: Tier
    models: Path
    name: str = ""
    more: tuple[tuple[str, Any], ...] = ()
    loss: Any = None

    @property
    def folder(self) -> str:
        """The name of the model: the config's file, the process, and how it differs."""
        return "_".join(filter(None, (self.tier.config, "ddpm", self.name)))

    @cached_property
    def run(self) -> Any:
        """The trained model; trained on first use."""
        changes = (*self.tier.changes, *self.more)
        return common.trained(self.models / self.folder, self.tier.config, changes, self.loss)

    @property
    def experiment(self) -> Any:
        """What its config names."""
        return self.run.experiment

    @property
    def process(self) -> Any:
        """The chain."""
        return self.experiment.process

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """All training examples."""
        return self.experiment.dataset.examples(0, self.experiment.spec.size)

    @cached_property
    def exact(self) -> Any:
        """From a condition to the exact denoiser of the training set."""
        points, labels = (jnp.asarray(a) for a in (self.data["data"], self.data["cond"]["label"]))
        found = exact_field(self.process, points, chunk=len(points))
        return lambda cond: ExactOfClass(points=points, labels=labels, field=found, cond=cond)

    def model(self, cond: Any) -> Any:
        """Return the network under a condition."""
        return self.experiment.model(self.run.params, cond)

    def times(self, n: int) -> np.ndarray:
        """Return the subsequence of the chain that takes n evaluations, the last one the posterior mean."""
        return build("grid", "chain")(self.process, n - 1)

    @cached_property
    def variance(self) -> Any:
        """From a denoiser to the same with sbar^2, estimated from the training set."""
        times = self.process.default_times(30)
        rows = np.random.default_rng(0).permutation(len(self.data["data"]))[:500]
        label = {"label": self.data["cond"]["label"][rows]}
        batches = [{"data": self.data["data"][rows], "cond": label}]
        null = self.model(self.experiment.conditions(None, 1))
        values = estimate_variance(self.process, null, batches, times, jax.random.key(0))
        return lambda denoise: with_variance(as_pytree(denoise), self.process, times, values)

    def draw(
        self, method: str, n: int, seed: int = 0, *, exact: bool = False, process: Any = None
    ) -> np.ndarray:
        """Return examples, drawn unless a study has drawn them before."""
        words = [self.folder, "exact" if exact else "network", method, str(n), f"seed{seed}"]
        words += [type(process).__name__] if process is not None else []
        words += [str(self.tier.num_samples)]
        file = (
            self.models / "samples" / ("-".join(words).replace(" ", "").replace("=", "") + ".npy")
        )
        if file.is_file():
            return np.load(file)
        model_of = self.exact if exact else self.model
        if method.startswith("analytic"):
            model_of = lambda cond: self.variance(self.model(cond))
        section = METHODS[method]
        x = common.samples(
            self.experiment, model_of, self.tier.num_samples, times=self.times(n), seed=seed,
            sampler=Greedy() if section is None else build("sampler", section),
            process=process, batch_size=self.tier.batch_size,
        )  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, x)
        return x

    def seeds(self, n: int) -> Sequence[int]:
        """Return the seeds with which n evaluations are measured."""
        return self.tier.seeds if n <= self.tier.repeated else self.tier.seeds[:1]

    @cached_property
    def held_out(self) -> Mapping[str, Any]:
        """All held-out examples."""
        data = self.experiment.held_out()
        return data.examples(0, data.spec.size)

    # ---- measuring ------------------------------------------------------------------------------

    def number(self, measure: str, x: np.ndarray) -> float:
        """Return one measure of examples whose classes come in turn."""
        if measure in OWN:
            labels = np.arange(len(x)) % self.experiment.spec.num_classes
            real = OWN[measure](self.held_out["data"], self.held_out["cond"]["label"])
            return OWN[measure](np.clip(x, -1, 1), labels) / real
        numbers = common.measured(x, self.experiment, [self.tier.metrics[measure]])
        return float(next(iter(numbers.values())))

    def measure(
        self, call: common.Call, path: Sequence[str], draw: Callable[[], np.ndarray]
    ) -> None:
        """Measure examples, all that is missing at this path; they are drawn only if something is."""
        known = call.results.get(call.tier, *path) or {}
        missing = [m for m in (*self.tier.metrics, *OWN) if m not in known]
        if missing:
            x = draw()
            for measure in missing:
                call.item(*path, measure, make=lambda m=measure: self.number(m, x))

    def measure_all(
        self,
        call: common.Call,
        section: str,
        methods: Sequence[str],
        *,
        whole: bool,
        exact: bool = False,
    ) -> None:
        """Draw and measure methods with all their seeds.

        Args:
            call: of the study.
            section: of the results.
            methods: names in `METHODS`.
            whole: the numbers of evaluations above `every` in place of those up to it.
            exact: by the exact denoiser.
        """
        for n in self.tier.evaluations:
            for method in methods:
                if (n > self.tier.every) != whole or (whole and method not in self.tier.whole):
                    continue
                for seed in self.seeds(n):
                    draw = lambda m=method, n=n, s=seed: self.draw(m, n, s, exact=exact)
                    self.measure(call, (section, method, str(n), str(seed)), draw)

    def measure_data(self, call: common.Call) -> None:
        """Measure as many training examples as are drawn, the classes in turn: what a perfect model would show."""

        def real() -> np.ndarray:
            draw, labels = np.random.default_rng(0), self.data["cond"]["label"]
            of_class = [draw.permutation(np.flatnonzero(labels == k)) for k in range(classes)]
            chosen = [of_class[i % classes][i // classes] for i in range(self.tier.num_samples)]
            return self.data["data"][chosen]

        classes = self.experiment.spec.num_classes
        self.measure(call, ("training data",), real)
