"""Training what a tier needs, drawing guided examples, and measuring them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import build
from diffusion.config.experiment import Experiment
from diffusion.evaluation import frechet_distance
from diffusion.evaluation.agreement import fitted_judge
from diffusion.evaluation.metrics import moments_of
from diffusion.run import runner
from diffusion.run.workdir import Trained, Workdir, open_classifier, open_run
from experiments._common import config_of
from experiments._measures import diversity
from experiments.guidance_tradeoff.tiers import Tier, entries

Say = Callable[[str], None]


def trained(folder: Path, file: str, changes: Any = None) -> Workdir:
    """Return the work directory of a config file with changes; train there unless that has been done."""
    config = config_of(file)
    for section, fields in (changes or {}).items():
        config[section] = {**config[section], **fields}
    config["train"]["sample_every"] = 0
    workdir, experiment = Workdir.of(folder), Experiment.from_config(config)
    runner.run(experiment, workdir)
    return workdir


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A tier, trained, and what its examples are measured against."""

    tier: Tier
    run: Trained
    given: dict[str, Any]
    judge: Any
    real: np.ndarray
    real_labels: np.ndarray

    @classmethod
    def of(cls, tier: Tier, name: str, folder: Path) -> "Bench":
        """Train or open everything that the tier needs."""
        workdir = trained(folder / name, tier.config, tier.changes)
        run = open_run(workdir, workdir.read_config())
        weaker_dir = trained(
            folder / f"{name}_weaker", tier.config, {**tier.changes, **tier.weaker}
        )
        weaker = open_run(weaker_dir, weaker_dir.read_config())
        classifier = open_classifier(trained(folder / f"{name}_classifier", tier.classifier).path)
        e = run.experiment
        held_out = e.held_out()
        batch = held_out.examples(0, held_out.spec.size or 1000)
        return cls(
            tier=tier,
            run=run,
            given=dict(
                classifier=classifier.log_probs(e.process, e.spec),
                guide=lambda cond: weaker.experiment.base_model(weaker.params, cond),
            ),
            judge=fitted_judge(e.dataset, tier.judged),
            real=batch["data"],
            real_labels=batch["cond"]["label"],
        )

    def samples(self, method: str, scale: float, seed: int = 0) -> np.ndarray:
        """Draw examples of all classes in turn, from the same noise for every method and scale."""
        guidance = tuple(build("guidance", g) for g in entries(method, scale))
        e = self.run.experiment.replaced(guidance=guidance, given=self.given)
        parts = e.generate(
            partial(e.model, self.run.params), self.tier.num_samples,
            seed=seed, batch_size=self.tier.batch_size,
        )  # fmt: skip
        return np.concatenate(list(parts))

    def measured(self, x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return agreement with the labels, Frechet distance to held-out data, and diversity."""
        finite = np.asarray(np.isfinite(x).reshape(len(x), -1).all(axis=1))
        shown = np.clip(np.where(finite[:, None, None, None], x, 0), -1, 1)
        rows = shown.reshape(len(x), -1)
        dim = rows.shape[1]
        right = (self.judge.predict(rows) == labels).mean()
        reference = moments_of(iter([self.real]), dim)
        spread = diversity(self.real, self.real_labels)
        return dict(
            agreement=float(right),
            agreement_error=float(np.sqrt(right * (1 - right) / len(x))),
            frechet=float(frechet_distance(moments_of(iter([shown]), dim), reference)),
            diversity=diversity(shown, labels) / spread,
            lost=float(1 - finite.mean()),
        )

    def classes_in_turn(self) -> np.ndarray:
        """Return the labels that were asked for."""
        return np.arange(self.tier.num_samples) % self.run.experiment.spec.num_classes

    def of_real_data(self) -> dict[str, float]:
        """Return the same numbers for training data: what a perfect model would show."""
        data, count = self.run.experiment.dataset, self.tier.num_samples
        batch = data.batch(0, count, index=np.arange(count), train=False)
        return self.measured(batch["data"], batch["cond"]["label"])
