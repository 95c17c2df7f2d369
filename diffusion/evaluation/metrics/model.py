"""Measures of the model itself on held-out data: denoising error by level, and bits per dimension."""

from dataclasses import dataclass
from typing import ClassVar, final

from diffusion.evaluation.held_out import bits_per_dim, loss_by_level
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.processes import AffineProcess
from diffusion.processes.base import require_process
from diffusion.registry import register


@register("metric", "loss_by_level")
@final
@dataclass(frozen=True, kw_only=True)
class LossByLevel(Metric):
    """E|x_0 - E[x_0 | x_t]|^2 per dimension on held-out data, at levels evenly spaced in log-SNR."""

    needs_run: ClassVar[bool] = True
    num_levels: int = 9
    num_examples: int = 500

    def __call__(self, inputs: EvalInputs) -> Results:
        process, model_of = (
            inputs.needs_process("loss_by_level"),
            inputs.needs_model("loss_by_level"),
        )
        require_process(process, AffineProcess, "the metric loss_by_level")
        assert isinstance(process, AffineProcess)
        levels = loss_by_level(
            process, model_of, inputs.held_out, num_examples=self.num_examples,
            batch_size=inputs.batch_size, num_levels=self.num_levels, seed=inputs.seed,
        )  # fmt: skip
        return {f"denoising_error@{levels[0].count}": [level._asdict() for level in levels]}


@register("metric", "bits_per_dim")
@final
@dataclass(frozen=True, kw_only=True)
class BitsPerDim(Metric):
    """Bits per dimension of held-out examples through the probability-flow ODE, with standard error."""

    needs_run: ClassVar[bool] = True
    num_examples: int = 100
    num_steps: int = 64
    num_probes: int = 4

    def __call__(self, inputs: EvalInputs) -> Results:
        bits = bits_per_dim(
            inputs.needs_process("bits_per_dim"), inputs.needs_model("bits_per_dim"), inputs.held_out,
            num_examples=self.num_examples, batch_size=min(inputs.batch_size, 50),
            num_steps=self.num_steps, num_probes=self.num_probes, seed=inputs.seed,
        )  # fmt: skip
        return {f"bits_per_dim@{bits.count}": bits._asdict()}
