"""A Flax Linen module as a pure pair of functions over a plain dictionary of parameters.

Any Linen module with `__call__(x, log_snr, cond)` becomes a network of this package through
`FlaxNetwork(module)`. Dropout needs no further argument: the random stream "dropout" exists in
training only, which `nn.Dropout(rate, deterministic=not self.has_rng("dropout"))` checks. Features
that a module stores with `self.sow("intermediates", name, value)` are returned by `hidden`.

Precision: a network computes in its field `dtype`; parameters, statistics of normalizations, softmax
and outputs are float32 (float64 where `dtype` is "float64").
"""

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, TypeVar, final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.networks.initializers import draw_all
from diffusion.numerics import is_hashable, one_of, require
from diffusion.numerics.programs import Programs
from diffusion.types import Cond, DataLike, Key, Params

LogSNR: TypeAlias = Float[Array, "*batch"] | Float[np.ndarray, "*batch"] | float | int | np.generic
Number: TypeAlias = float | int

DTYPES = ("float32", "bfloat16", "float16", "float64")

T = TypeVar("T", bound=Callable)


class Precision(TypedDict):
    """The two dtypes that Linen layers take as keyword arguments."""

    dtype: Any
    param_dtype: Any


def check_axes(network: str, x: Any) -> None:
    """Raise ValueError for what is neither a batch of images nor of signals."""
    require(
        x.ndim in (3, 4),
        f"{network} takes images or signals, channels last; got shape {x.shape}. For points use the network 'mlp'.",
    )


def precision(dtype: str) -> Precision:
    """Return the compute dtype and the dtype of parameters as keyword arguments for Linen layers.

    Raises:
        ValueError: the name is unknown, or is "float64" while JAX runs without 64-bit numbers.
    """
    one_of(DTYPES, dtype=dtype)
    require(
        dtype != "float64" or jax.config.read("jax_enable_x64"),
        "`dtype` is 'float64' but JAX runs without 64-bit numbers; set JAX_ENABLE_X64=1.",
    )
    return {
        "dtype": jnp.dtype(dtype),
        "param_dtype": jnp.promote_types(jnp.dtype(dtype), jnp.float32),
    }


def wide(dtype: str) -> str:
    """Return the name of the dtype of parameters and outputs."""
    return "float64" if dtype == "float64" else "float32"


@final
@dataclass(frozen=True)
class FlaxNetwork:
    """A Linen module with the pure functions of `diffusion.types.Network`.

    It holds no parameters, is hashable and compares by the module's fields, so it can be a static argument of
    `jax.jit`. Fields that do not affect the parameters (`skip_scale`, `train_tokens`, `dtype`) may be changed
    for parameters that are already trained.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from diffusion.networks import MLP, FlaxNetwork
        >>> network = FlaxNetwork(MLP(width=32, depth=2))
        >>> x, log_snr = jnp.ones((4, 2)), jnp.zeros(4)
        >>> params = network.init(jax.random.key(0), x, log_snr)
        >>> network.apply(params, x, log_snr).shape
        (4, 2)

    Raises:
        TypeError: a field of the module is not hashable.
    """

    module: nn.Module

    def __post_init__(self):
        if not is_hashable(self.module):
            raise TypeError(
                f"The fields of `module` must be hashable: no lists or dictionaries, but tuples; got {self.module!r}."
            )

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the parts of the parameters whose arrays stack all blocks along their first axis."""
        return getattr(self.module, "stacked", ())

    def init(self, key: Key, x: DataLike, log_snr: LogSNR, cond: Cond = None) -> Params:
        """Draw initial parameters for inputs of these shapes and dtypes; the values are not used."""
        return _compiled_init(self.module, key, x, log_snr, cond)

    def apply(
        self,
        params: Params,
        x: DataLike,
        log_snr: LogSNR,
        cond: Cond = None,
        key: Key | None = None,
    ) -> Float[Array, "batch ..."]:
        """Return the output for x of shape (batch, ...) and log_snr of shape () or (batch,).

        A key means training: it drives dropout. None means evaluation, which is deterministic.
        """
        streams = {} if key is None else {"dropout": key}
        y = self.module.apply({"params": params}, jnp.asarray(x), log_snr, cond, rngs=streams)
        assert isinstance(y, jax.Array)
        return y

    def hidden(
        self, params: Params, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> dict[str, Array]:
        """Return the hidden features of an evaluation by name, each of shape (batch, ...).

        In the networks of this package the names are "trunk/features_0" (blocks of an MLP), "features_0"
        (blocks of a DiT, without registers), "encoder/features_0", "encoder/features_middle" and
        "decoder/features_0" (levels of a U-Net, 0 the finest).
        """
        _, state = self.module.apply(
            {"params": params}, jnp.asarray(x), log_snr, cond, mutable=["intermediates"]
        )
        features = {}
        for path, value in jax.tree_util.tree_leaves_with_path(state.get("intermediates", {})):
            # the last entry of a path is the number of the call of the module within one evaluation
            names = [p.key for p in path if isinstance(p, jax.tree_util.DictKey)]
            features["/".join(names)] = value
        return features


def _init(module: nn.Module, key: Key, x: Array, log_snr: LogSNR, cond: Cond) -> Params:
    """Draw parameters in one compiled function, so that the forward pass is dead code and nothing runs eagerly."""
    key_module, key_boxes = jax.random.split(key)
    params = module.init({"params": key_module}, x, log_snr, cond).get("params", {})
    return draw_all(key_boxes, params)


_compiled_init = Programs(_init, 1)


class TooManyLayersError(ValueError):
    """Error for a network with more layers than `layers_within` allows."""


@contextlib.contextmanager
def layers_within(limit: int) -> Iterator[None]:
    """Return a context that refuses networks of more than `limit` layers, so that tracing always ends.

    Args:
        limit: largest number of calls of Linen modules; networks of this package make about two calls per array of
            parameters at most.

    Raises:
        TooManyLayersError: a traced network makes more calls.
    """
    calls = itertools.count(1)

    def counted(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        del context
        if next(calls) > limit:
            raise TooManyLayersError(f"a network has more than {limit} layers")
        return call(*args, **kwargs)

    with nn.intercept_methods(counted):
        yield


def count_parameters(params: Params) -> int:
    """Count the numbers in a pytree of parameters, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def takes_fields_of(*classes: type) -> Callable[[T], T]:
    """Replace **fields in the signature of a function by the fields of dataclasses.

    A builder `unet(family, **fields)` then binds as strictly as the class that receives the fields, and
    its signature lists the accepted ones.
    """

    def decorate(fn: T) -> T:
        own = inspect.signature(fn).parameters
        parameters = {k: p for k, p in own.items() if p.kind is not p.VAR_KEYWORD}
        for cls in classes:
            for name, parameter in inspect.signature(cls).parameters.items():
                if name not in ("parent", "name"):  # Linen's own
                    parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
                    parameters.setdefault(name, parameter)
        fn.__dict__["__signature__"] = inspect.Signature(list(parameters.values()))
        return fn

    return decorate
