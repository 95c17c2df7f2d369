"""The plan of `demolish sample`: which examples are generated, from which model, conditions and seed."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from diffusion.cli.machine import versions
from diffusion.cli.messages import fail
from diffusion.runtime import exits


def told(flags: argparse.Namespace, labels: Any, speaker: Any) -> bool:
    """Say whether examples get conditions: labels, or others that the held-out data has."""
    return labels is not None or (flags.labels is None and speaker.conditional)


class Plan:
    """What is generated, from what: the arguments that all calls of the sampler share."""

    def __init__(self, flags: argparse.Namespace, run: Any, helpers: Any, labels: Any):
        import numpy as np

        from diffusion.guidance import output_shape, without_condition

        experiment = run.experiment.replaced(given=helpers.given)
        self.flags = flags
        if not told(flags, labels, helpers.speaker):
            guidance = without_condition(experiment.guidance)
            experiment = experiment.replaced(guidance=guidance)
        self.experiment, self.labels, self.speaker = experiment, labels, helpers.speaker
        self.run, self.helpers = run, helpers
        self.indices = np.arange(flags.start, flags.start + flags.num_samples)
        shape = output_shape(experiment.guidance, experiment.spec.shape)
        self.spec = dataclasses.replace(experiment.spec, shape=shape)
        self.model_of = functools.partial(experiment.model, run.params)
        # what does not fit is said before anything is compiled
        self.model_of(self.cond_of(self.indices[:1]))

    def cond_of(self, indices: Any) -> Any:
        """Return the conditions of these examples."""
        if not told(self.flags, self.labels, self.speaker):
            return self.speaker.conditions(None, len(indices))
        labels = None if self.labels is None else self.labels[indices % len(self.labels)]
        return self.speaker.conditions_in_turn(indices, asked=labels)

    def manifest(self) -> dict[str, Any]:
        """Return all that determines the examples; not the batch size or the devices."""
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
            "conditions": told(self.flags, self.labels, self.speaker), "shape": list(self.spec.shape),
            "seed": self.flags.seed, "start": self.flags.start, "block": self.block, "made_by": versions(),
        }  # fmt: skip

    @property
    def block(self) -> int:
        """How many examples a device computes at once."""
        from diffusion.evaluation.generate import block_size

        return self.flags.block or block_size(self.spec.shape)

    def batches(self, first: int, count: int) -> Iterator[Any]:
        """Generate a range of examples, batch by batch, or leave if some are not finite."""
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
