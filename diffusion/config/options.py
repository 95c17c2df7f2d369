"""The sections of a config that have no name: `train` and `evaluate`."""

from dataclasses import dataclass, field
from typing import Any

from diffusion.numerics import at_least, in_interval, positive, require


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The section `train`: budgets and periods, in steps of the optimizer.

    Args:
        num_steps: how long to train. 0 if `num_images` says it instead.
        num_images: the budget in images; rounded up to whole steps.
        log_every: steps between lines of metrics.
        sample_every: steps between sample grids; 0 for none.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        keep: how many checkpoints stay.
        label_dropout: share of examples that are trained without their condition.
        accumulate: micro-batches per step.
        steps_per_dispatch: steps that one call of the compiled program takes at most; more than 1 helps where a
            step is so short that it waits for the host.
        reduction: of the squared error over the features of an example, "mean" or "sum".
        loss_target: the prediction by name that the error is taken of; "" is what the network outputs.
        batch_target: regress the posterior mean over the batch in place of x_0, which lowers the variance.
        learn_variance: learn the variance of reverse steps as well; the network gets twice the outputs.
        variance_weight: of the chain's bound, which trains that variance, in the loss.
        variance_step: of that chain, in units of t; None is that of the process: 1 / T of a chain, else 0.001.
        max_bad_steps: non-finite steps in a row before the run goes back to its newest checkpoint.
        max_rollbacks: how often it goes back, with another order of the data, before it stops.
        spike_factor: a step whose gradient norm is so many times the median of the last 128 is skipped; 0 for none.
        samples_per_class: columns of the sample grids.
        watchdog_seconds: without a step, after which a run that hangs is ended; 0 for never. Start-up and compiling
            may take four times as long, a block of a sample grid, a batch of a trend and saving twenty times, a
            dispatch of several steps so many times. Time in which the process is stopped does not count.
    """

    num_steps: int = 10_000
    num_images: int = 0
    log_every: int = 100
    sample_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 3
    label_dropout: float = 0.1
    accumulate: int = 1
    steps_per_dispatch: int = 1
    reduction: str = "mean"
    loss_target: str = ""
    batch_target: bool = False
    learn_variance: bool = False
    variance_weight: float = 1e-3
    variance_step: float | None = field(
        default=None, metadata={"formerly": 1e-3, "of_process": "chain_step"}
    )
    max_bad_steps: int = 20
    max_rollbacks: int = 2
    spike_factor: float = 0.0
    samples_per_class: int = 8
    watchdog_seconds: int = 1800

    def __post_init__(self) -> None:
        """Check the numbers."""
        at_least(1, **_fields(self, "train", "log_every", "checkpoint_every", "keep", "accumulate"))
        at_least(
            1, **_fields(self, "train", "steps_per_dispatch", "max_bad_steps", "samples_per_class")
        )
        at_least(0, **_fields(self, "train", "sample_every", "max_rollbacks", "watchdog_seconds"))
        require(
            self.spike_factor == 0 or self.spike_factor > 1,
            f"`train.spike_factor` is 0 for no rule, or above 1; got {self.spike_factor}.",
        )
        require(
            (self.num_steps > 0) != (self.num_images > 0),
            "give a budget by one of `train.num_steps` and `train.num_images`, the other 0; got "
            f"num_steps={self.num_steps}, num_images={self.num_images}.",
        )
        positive(**_fields(self, "train", "variance_weight"))
        positive(**_fields(self, "train", "variance_step"), none="that of the process")
        in_interval("[0, 1]", **_fields(self, "train", "label_dropout"))

    def steps(self, batch_size: int) -> int:
        """Return the budget in steps."""
        return self.num_steps or -(-self.num_images // batch_size)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The section `evaluate`.

    Args:
        metrics: by name, such as "bits_per_dim", "frechet[classifier]" or dict(name="frechet", features="pixels").
        num_samples: generated examples that a metric compares with the held-out data.
        batch_size: examples per call.
        ema: which average to evaluate, or "raw"; "" is the first of the config.
        trend_every: steps of training between measurements of `trend_metrics`; 0 for none.
        trend_samples: generated examples for each of them; few, so their names say how many.
        trend_metrics: what is measured while a model is trained, such as "frechet".
    """

    metrics: tuple[Any, ...] = ("loss_by_level", "frechet")
    num_samples: int = 1000
    batch_size: int = 100
    ema: str = ""
    trend_every: int = 0
    trend_samples: int = 256
    trend_metrics: tuple[Any, ...] = ("frechet",)

    def __post_init__(self) -> None:
        """Check the numbers."""
        at_least(1, **_fields(self, "evaluate", "num_samples", "batch_size"))
        at_least(0, **_fields(self, "evaluate", "trend_every"))
        at_least(2, **_fields(self, "evaluate", "trend_samples"))


def _fields(options: Any, section: str, *names: str) -> dict[str, Any]:
    """Return some fields by their names in a config, such as "train.keep"."""
    return {f"{section}.{name}": getattr(options, name) for name in names}
