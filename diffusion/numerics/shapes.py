"""What a model returns is shaped like what it is given: said in one sentence while it is traced, at no cost later.

JAX would broadcast (batch, 1) against (batch, 2) without a word, and all numbers after that would be wrong.
"""

from typing import Any

from jaxtyping import Array

from diffusion.numerics.programs import Static
from diffusion.types import Time


def shaped_like(y: Any, x: Array, who: str = "the model") -> Any:
    """Return y if its shape is that of x.

    Raises:
        ValueError: it is not; `who` returned it.
    """
    found = getattr(y, "shape", None)
    if found != x.shape:
        got = type(y).__name__ if found is None else f"{list(found)}, which would be broadcast"
        raise ValueError(f"{who} must return an array shaped like x, {list(x.shape)}; got {got}.")
    return y


class Checked:
    """A model that refuses to return anything else than an array shaped like x; otherwise it is the model."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, x: Array, t: Time) -> Array:
        """Call the model."""
        return shaped_like(self.model(x, t), x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def checked(model: Any) -> Checked:
    """Return the model with its output checked; for use within one trace, since it is no pytree."""
    return model if isinstance(model, Checked) else Checked(model)


def bare(model: Any) -> Any:
    """Return the model itself, out of what checks its output and what makes a pytree of it."""
    model = model.model if isinstance(model, Checked) else model
    return model.fn if isinstance(model, Static) else model
