"""Check, during tracing only, that the output of a model is shaped like its input.

JAX would silently broadcast (batch, 1) against (batch, 2), and all later numbers would be wrong.
"""

from typing import Any

from jaxtyping import Array

from diffusion.numerics.programs import Static
from diffusion.types import Time


def shaped_like(y: Any, x: Array, who: str = "the model") -> Any:
    """Return y if it is shaped like x.

    Raises:
        ValueError: the shapes differ; the message names `who` as the function that returned y.
    """
    found = getattr(y, "shape", None)
    if found != x.shape:
        got = type(y).__name__ if found is None else f"{list(found)}, which would be broadcast"
        raise ValueError(f"{who} must return an array shaped like x, {list(x.shape)}; got {got}.")
    return y


class Checked:
    """Wrapper that raises if the model's output is not shaped like x; attributes are those of the model."""

    def __init__(self, model: Any):
        self.model = model

    def __call__(self, x: Array, t: Time) -> Array:
        """Call the model."""
        return shaped_like(self.model(x, t), x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def checked(model: Any) -> Checked:
    """Return the model with its output shape checked; for use within one trace, since it is no pytree."""
    return model if isinstance(model, Checked) else Checked(model)


def bare(model: Any) -> Any:
    """Return the model itself, without the wrappers `Checked` and `Static`."""
    model = model.model if isinstance(model, Checked) else model
    return model.fn if isinstance(model, Static) else model
