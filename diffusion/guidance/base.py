"""What a guidance entry is, what it gets to work with, and what all of them share.

An entry of the kind `guidance` is a frozen record of numbers that is called with a `Guidable` and returns
a denoiser (a velocity on the lowest rung). Beside each stands a plain function from denoisers to a denoiser.
What they return are callable pytrees: parameters, conditions, scales and targets are leaves, so a compiled
sampler is reused when they change.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
from jaxtyping import Array

from diffusion.processes import Process
from diffusion.processes.base import require_rung
from diffusion.registry import lookup, registered
from diffusion.types import Cond, Denoiser, Time

Both = Callable[[Array, Any], tuple[Array, Array]]  # (x_t, t) -> two posterior means


@runtime_checkable
class Guidable(Protocol):
    """The denoisers of one model: what a guidance entry of a config gets to work with."""

    @property
    def conditional(self) -> Denoiser:
        """E[x_0 | x_t, cond], under earlier guidance."""
        ...

    @property
    def unconditional(self) -> Denoiser:
        """E[x_0 | x_t]."""
        ...

    @property
    def plain(self) -> Denoiser:
        """The network under its condition, without earlier guidance."""
        ...

    @property
    def process(self) -> Process:
        """The process of the model."""
        ...

    @property
    def cond(self) -> Cond:
        """What was asked for: a pytree with leading axis batch, or None."""
        ...

    @property
    def given(self) -> Mapping[str, Any]:
        """What a program hands in besides the config, such as a classifier or a target, by name."""
        ...

    def both(self) -> Both:
        """Return the two at once, at the cost of one call on a doubled batch where that is possible."""
        ...

    def with_cond(self, cond: Cond) -> Denoiser:
        """Return the network under another condition, without earlier guidance."""
        ...

    def against(self, cond: Cond) -> Both:
        """Return the conditional denoiser and that of another condition, in one call where possible."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """Two denoisers called one after the other."""

    conditional: Denoiser
    unconditional: Denoiser

    def __call__(self, x_t: Array, t: Time) -> tuple[Array, Array]:
        """Return both posterior means."""
        return self.conditional(x_t, t), self.unconditional(x_t, t)


# What entries may be given, what it is, and where it comes from.
GIVEN = {
    "classifier": (
        "a callable (x_t, t) -> log-probabilities of shape (batch, classes)",
        "demolish sample --classifier WORKDIR",
    ),
    "guide": (
        "a callable cond -> denoiser, of another checkpoint",
        "demolish sample --guide WORKDIR",
    ),
    "target": ("an array shaped like the data, with or without a batch axis", ""),
    "negative": ("a condition like that of the model", ""),
    "measurement": ("an array, the measurement y", ""),
    "times": (
        "the sampling times or a callable that returns them; an Experiment gives its own",
        "",
    ),
}


def entry_name(entry: Any) -> str:
    """Return the registered name of a guidance entry, or that of its class."""
    names = [n for n in registered("guidance") if lookup("guidance", n) is type(entry)]
    return names[0] if names else type(entry).__name__


def given(model: Guidable, name: str, entry: Any) -> Any:
    """Return what a program has handed in under a name, for one entry.

    Raises:
        ValueError: nothing was; the message says what is needed and how it is provided.
    """
    if model.given.get(name) is not None:
        return model.given[name]
    what, flag = GIVEN.get(name, ("an object", ""))
    ways = [flag] if flag else []
    ways.append(f"from Python experiment.replaced(given={{{name!r}: ...}})")
    raise ValueError(
        f"guidance {entry_name(entry)!r} needs given[{name!r}], {what}; give it by {' or '.join(ways)}."
    )


@dataclass(frozen=True, kw_only=True)
class Guidance(abc.ABC):
    """An entry of the kind `guidance`: from the denoisers of a model to one denoiser.

    `rung` is the lowest rung that it works on, `neutral` the fields with which it changes nothing.
    `needs_cond` says that it compares conditions, so that it has no meaning without one; `needs_null` that it
    compares with the network under none, which must have been trained so.
    """

    rung: ClassVar[type[Process]] = Process
    neutral: ClassVar[Mapping[str, Any] | None] = None
    needs_cond: ClassVar[bool] = False
    needs_null: ClassVar[bool] = False

    @abc.abstractmethod
    def guide(self, model: Guidable) -> Denoiser:
        """Return the guided denoiser of a model whose process stands on the rung."""

    def __call__(self, model: Guidable) -> Denoiser:
        """Return the guided denoiser.

        Raises:
            TypeError: the process of the model stands too low for this entry.
            ValueError: something that a program must hand in is missing.
        """
        self.check_process(model.process)
        return self.guide(model)

    def check_process(self, process: Process) -> None:
        """Raise TypeError unless the process stands on the rung that this entry needs."""
        require_guidable(process, self.rung, f"guidance {entry_name(self)!r}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if examples of this shape cannot be guided."""
        del shape

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the examples that come out of a model trained on this shape."""
        return shape


def require_guidable(process: Process, rung: type[Process], who: str) -> None:
    """Raise TypeError unless the process stands on a rung; the message names the entries that fit."""
    try:
        require_rung(process, rung, who)
    except TypeError as error:
        needs = str(error).partition(". ")[0]
        raise TypeError(
            f"{needs}. On every process work classifier_free, negative, autoguidance, channels, and "
            "interval with by='t'."
        ) from None
