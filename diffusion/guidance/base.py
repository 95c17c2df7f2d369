"""Base class of the guidance entries of a config, and the extra inputs that they take.

An entry of the kind `guidance` is a frozen record of numbers that is called with a `ConditionalModel` and returns
a denoiser (a velocity for a plain `Process`). For each entry there is also a plain function from denoisers to a
denoiser. The results are callable pytrees: parameters, conditions, scales and targets are leaves, so a compiled
sampler is reused when they change.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusion.guidance.model import ConditionalModel
from diffusion.processes import Process
from diffusion.processes.base import require_process
from diffusion.registry import adopt_earlier_names, lookup, registered
from diffusion.types import Denoiser

# Extra inputs of entries: name -> (description, command-line flag that provides it).
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


def given(model: ConditionalModel, name: str, entry: Any) -> Any:
    """Return the extra input of this name for an entry.

    Raises:
        ValueError: the input is missing; the message says what is needed and how to provide it.
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

    `requires` is the most general class of process that the entry works for, and `neutral` holds field values with
    which it changes nothing. `needs_cond` states that it compares conditions, so that it needs a conditional model;
    `needs_null` that it uses the unconditional network, which must have been trained by dropping conditions.
    """

    requires: ClassVar[type[Process]] = Process
    neutral: ClassVar[Mapping[str, Any] | None] = None
    needs_cond: ClassVar[bool] = False
    needs_null: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adopt_earlier_names(cls, {"rung": "requires"})

    @abc.abstractmethod
    def guide(self, model: ConditionalModel) -> Denoiser:
        """Return the guided denoiser of a model; the process is already checked to be of the class `requires`."""

    def __call__(self, model: ConditionalModel) -> Denoiser:
        """Return the guided denoiser.

        Raises:
            TypeError: the process of the model is not of the class that this entry requires.
            ValueError: a required extra input is missing.
        """
        self.check_process(model.process)
        return self.guide(model)

    def check_process(self, process: Process) -> None:
        """Raise TypeError unless the process is of the class that this entry requires."""
        require_guidable(process, self.requires, f"guidance {entry_name(self)!r}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if examples of this shape cannot be guided."""
        del shape

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the examples generated with a model that was trained on this shape."""
        return shape


def require_guidable(process: Process, requires: type[Process], who: str) -> None:
    """Raise TypeError unless the process is of a class; the message names entries that work for every process."""
    try:
        require_process(process, requires, who)
    except TypeError as error:
        needs = str(error).partition(". ")[0]
        raise TypeError(
            f"{needs}. Every process has classifier_free, negative, autoguidance, channels, interval with by='t'."
        ) from None
