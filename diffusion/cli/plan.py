"""Plan of `demolish sample`: the examples to generate, and their model, conditions and seed."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from diffusion.cli.machine import versions
from diffusion.cli.messages import fail
from diffusion.runtime import exits


def has_conditions(flags: argparse.Namespace, labels: Any, label_source: Any) -> bool:
    """Return whether examples get conditions: labels, or conditions of the held-out data."""
    return labels is not None or (flags.labels is None and label_source.conditional)


class Plan:
    """Arguments that all sampler calls of `demolish sample` share."""

    def __init__(self, flags: argparse.Namespace, run: Any, helpers: Any, labels: Any):
        import numpy as np

        from diffusion.guidance import output_shape, without_condition

        experiment = run.experiment.replaced(given=helpers.given)
        self.flags = flags
        if not has_conditions(flags, labels, helpers.label_source):
            guidance = without_condition(experiment.guidance)
            experiment = experiment.replaced(guidance=guidance)
        self.experiment, self.labels, self.label_source = experiment, labels, helpers.label_source
        self.run, self.helpers = run, helpers
        self.indices = np.arange(flags.start, flags.start + flags.num_samples)
        shape = output_shape(experiment.guidance, experiment.spec.shape)
        self.spec = dataclasses.replace(experiment.spec, shape=shape)
        self.model_of = functools.partial(experiment.model, run.params)
        # checks the labels before anything is compiled
        self.model_of(self.cond_of(self.indices[:1]))

    def cond_of(self, indices: Any) -> Any:
        """Return the conditions of the examples with these global indices."""
        if not has_conditions(self.flags, self.labels, self.label_source):
            return self.label_source.conditions(None, len(indices))
        labels = None if self.labels is None else self.labels[indices % len(self.labels)]
        return self.label_source.conditions_in_turn(indices, requested=labels)

    def manifest(self) -> dict[str, Any]:
        """Return everything that determines the examples; batch size and devices do not."""
        from diffusion.runtime.digests import digest_of

        sections = ("process", "prediction", "network", "data", "sampler", "grid", "guidance")
        config = {k: v for k, v in self.experiment.resolved().items() if k in sections}
        config["data"] = {k: v for k, v in config["data"].items() if k in ("name", "kind", "split")}
        return {
            "format": 1, "step": self.run.step, "weights": self.run.ema,
            "weights_sha256": digest_of(self.run.params),
            "helpers_sha256": {k: digest_of(v) for k, v in self.helpers.params.items()},
            "variance_sha256": digest_of(self.experiment.variance), "config": config,
            "labels": None if self.labels is None else self.labels.tolist(),
            "conditions": has_conditions(self.flags, self.labels, self.label_source), "shape": list(self.spec.shape),
            "seed": self.flags.seed, "start": self.flags.start, "block": self.block, "made_by": versions(),
        }  # fmt: skip

    @property
    def block(self) -> int:
        """Number of examples that a device computes at once."""
        from diffusion.evaluation.generate import block_size

        return self.flags.block or block_size(self.spec.shape)

    def batches(self, first: int, count: int) -> Iterator[Any]:
        """Generate a range of examples, batch by batch; exit with a message if some are not finite."""
        import numpy as np

        for x in self.experiment.generate(
            self.model_of, count, seed=self.flags.seed, start=first, cond_of=self.cond_of,
            shape=self.spec.shape, batch_size=self.flags.batch_size, block=self.block,
        ):  # fmt: skip
            bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
            if len(bad):
                fail(
                    f"{len(bad)} of {len(x)} examples are not finite, the first is number {first + bad[0]}; "
                    "try more steps.",
                    exits.DIVERGED,
                )
            yield x
            first += len(x)
