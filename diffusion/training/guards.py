"""Guards: which training steps are applied and which are skipped.

    finite = loss and gradient norm are finite
    spike  = gradient norm > factor * median of the last finite gradient norms

A step that is not finite, or is a spike, changes only counters. The window of gradient norms is part of the
train state, so that a resumed run makes the same decisions. Only finite norms enter the window, including those
of spikes: a single spike is skipped, and a lasting rise is accepted once it fills half of the window.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffusion.numerics import at_least, require

WARM_UP = 4  # the rule applies once 1 / WARM_UP of its window is filled


@dataclass(frozen=True, kw_only=True)
class SpikeRule:
    """Skip steps whose gradient norm is far above the recent ones.

    Attributes:
        factor: multiple of the median above which a step is skipped; 0 skips none and keeps no window.
        window: number of gradient norms in the window.
    """

    factor: float = 0.0
    window: int = 128

    def __post_init__(self):
        require(
            self.factor == 0 or self.factor > 1,
            f"`factor` is 0 for no rule, or above 1; got {self.factor}.",
        )
        at_least(WARM_UP, window=self.window)

    def init(self) -> Any:
        """Return the initial state of the rule; () if it skips no steps."""
        if not self.factor:
            return ()
        zero = jnp.zeros((), jnp.int32)
        return {"norms": jnp.zeros(self.window, jnp.float32), "seen": zero, "spikes": zero.copy()}

    def is_spike(self, known: Any, norm: Float[Array, ""]) -> Bool[Array, ""]:
        """Return whether a step with this gradient norm is a spike; False for norms that are not finite."""
        if not known:
            return jnp.zeros((), bool)
        filled = jnp.arange(self.window) < known["seen"]
        median = jnp.nanmedian(jnp.where(filled, known["norms"], jnp.nan))
        begun = known["seen"] >= self.window // WARM_UP
        return begun & jnp.isfinite(norm) & (norm > self.factor * median)

    def update(
        self, known: Any, norm: Float[Array, ""], finite: Bool[Array, ""], spike: Bool[Array, ""]
    ) -> Any:
        """Return the state of the rule after a step; `spike` is the result of `is_spike` for it."""
        if not known:
            return known
        place = known["seen"] % self.window
        norms = known["norms"].at[place].set(norm.astype(jnp.float32))
        return {
            "norms": jnp.where(finite, norms, known["norms"]),
            "seen": known["seen"] + finite,
            "spikes": known["spikes"] + spike,
        }
