"""Cost of an example in network evaluations (NFE), including those of guidance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.evaluation.generate import generate_batch
from diffusion.processes import Process
from diffusion.samplers import Sampler, StepSampler
from diffusion.types import Cond, Network, Params


@dataclass(frozen=True, eq=False)
class CountingNetwork:
    """A network that returns zeros and counts the evaluated examples."""

    inner: Network
    counts: list[int] = field(default_factory=list)
    shapes: dict[Any, Any] = field(default_factory=dict)

    def init(self, key: Any, x: Any, log_snr: Any, cond: Cond = None) -> Params:
        """Return the parameters of the network."""
        return self.inner.init(key, x, log_snr, cond)

    def apply(
        self, params: Params, x: Any, log_snr: Any, cond: Cond = None, key: Any = None
    ) -> Any:
        """Return zeros, shaped like the outputs of the network."""
        # counts at run time, not at trace time, so that branches that are not taken do not count
        count = len(x)
        jax.debug.callback(lambda: self.counts.append(count))
        if x.shape not in self.shapes:
            self.shapes[x.shape] = jax.eval_shape(self.inner.apply, params, x, log_snr, cond, key)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.shapes[x.shape])


def evaluations_per_example(
    sampler: Sampler,
    process: Process,
    network: Network,
    model_of: Callable[[Network, Cond], Any],
    shape: tuple[int, ...],
    times: np.ndarray,
    cond: Cond = None,
) -> int | None:
    """Count the evaluations of the network for one example, by generating one with a `CountingNetwork`.

    A doubled batch counts twice; guidance in an interval counts only inside it; a gradient through the network counts
    as the evaluation that it differentiates. Other networks of guidance, such as classifiers, are not counted.

    Args:
        sampler: an object of kind `sampler`.
        process: the process of the model.
        network: the network of the model.
        model_of: function from a network and a condition to the guided model.
        shape: shape of one example.
        times: decreasing sampling times.
        cond: the condition of one example, leading axis 1, or None.

    Returns:
        The number of evaluations; None for an adaptive sampler, whose steps depend on the model.
    """
    if not isinstance(sampler, StepSampler):
        return None
    counting = CountingNetwork(network)
    model = lambda c: model_of(counting, c)
    generate_batch(sampler, process, model, 0, np.arange(1), shape, times, cond, spread=False)
    jax.effects_barrier()
    return sum(counting.counts)
