"""Names for the types that every layer shares.

Time runs from data (`t_min`) to noise (`t_max`) everywhere. A time `t` is a scalar, or has shape
(batch,) beside data of shape (batch, ...).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

Key: TypeAlias = jax.Array  # one typed or raw random key
KeyLike: TypeAlias = jax.Array | int | np.integer  # a key, or the seed of one: a whole number
Scalar: TypeAlias = float | int | Array  # a hyperparameter, maybe traced
Time: TypeAlias = float | int | Float[Array, "*batch"] | np.ndarray | np.floating
Data: TypeAlias = Float[Array, " batch *data"]
DataLike: TypeAlias = Data | Float[np.ndarray, " batch *data"]
AnyArray: TypeAlias = Shaped[Array, "..."] | Shaped[np.ndarray, "..."]  # not checked yet
PerExample: TypeAlias = Float[Array, " batch"]
Params: TypeAlias = Any  # a pytree of arrays
Cond: TypeAlias = Any  # a pytree of arrays with leading axis batch, or None: unconditional

Denoiser: TypeAlias = Callable[[Array, Any], Array]  # (x_t, t) -> E[x_0 | x_t]
Velocity: TypeAlias = Callable[[Array, Any], Array]  # (x_t, t) -> dx_t / dt
Score: TypeAlias = Callable[[Array, Any], Array]  # (x_t, t) -> grad log p_t(x_t)
Say: TypeAlias = Callable[[str], None]  # prints or logs one line for the user


class ODE(NamedTuple):
    """dx/dt = velocity(x, t)."""

    velocity: Velocity


class SDE(NamedTuple):
    """dx = drift(x, t) dt + diffusion(t) dW."""

    drift: Velocity
    diffusion: Callable[[Array], Array]


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives, shaped so that they multiply the data.

    `before(step)` returns (alpha, sigma) at the time t - step, the previous point of a chain; `step=None` means
    the chain step of the process. Before the start of the definition these are (1, 0), the scales of the data;
    with `trained=True` the time is not taken earlier than t_min.
    """

    alpha: Shaped[Array, "..."]
    sigma: Shaped[Array, "..."]
    d_alpha: Shaped[Array, "..."]
    d_sigma: Shaped[Array, "..."]
    before: Any = None


@runtime_checkable
class Network(Protocol):
    """Interface of a network: a pair of pure functions over a pytree of parameters.

    `diffusion.networks.FlaxNetwork` builds one from any Flax module. The object must be hashable and
    compare by value, so that compiled functions are reused.
    """

    def init(self, key: Key, x: Array, log_snr: Array, cond: Cond = None) -> Params:
        """Draw initial parameters for inputs of these shapes."""
        ...

    def apply(
        self, params: Params, x: Array, log_snr: Array, cond: Cond = None, key: Key | None = None
    ) -> Array:
        """Return y shaped like x. A key means training (it drives dropout); None means evaluation."""
        ...
