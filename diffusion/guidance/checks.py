"""Checks that a list of guidance entries fits a model, before anything is computed."""

from collections.abc import Iterable
from typing import Any

from diffusion.guidance.base import Guidance, entry_name
from diffusion.numerics import require
from diffusion.processes import Process


def check_entries(
    entries: Iterable[Any],
    process: Process,
    shape: tuple[int, ...],
    *,
    conditional: bool,
    dropout: float,
) -> None:
    """Raise TypeError or ValueError for an entry that does not work for this model.

    Args:
        entries: entries of the kind `guidance`; those that are not a `Guidance` are not checked.
        process: the process of the model.
        shape: the shape of one training example.
        conditional: whether the network was trained with conditions.
        dropout: the fraction of training examples whose condition was dropped.
    """
    for entry in entries:
        if not isinstance(entry, Guidance):
            continue
        entry.check_process(process)
        entry.check_shape(shape)
        if does_nothing(entry):
            continue
        name = entry_name(entry)
        require(
            conditional or not entry.needs_cond,
            f"guidance {name!r} needs a model trained under conditions; without them use autoguidance or classifier.",
        )
        require(
            dropout > 0 or not entry.needs_null,
            f"guidance {name!r} compares with the model under no condition, which train.label_dropout=0 never trained. "
            "Train with 0.1, or use autoguidance or classifier.",
        )


def does_nothing(entry: Any) -> bool:
    """Return whether an entry changes nothing, because its scale 1 is the conditional model itself."""
    entry = getattr(entry, "inner", entry)
    neutral = (getattr(entry, "neutral", None) or {}).get("scale")
    scale = getattr(entry, "scale", None)
    return isinstance(scale, int | float) and neutral is not None and scale == neutral


def without_condition(entries: Iterable[Any]) -> tuple[Any, ...]:
    """Return the entries that apply to an unconditional model."""
    return tuple(e for e in entries if not getattr(e, "needs_cond", False))


def output_shape(entries: Iterable[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the generated examples, which `upsample` makes larger."""
    for entry in entries:
        shape = entry.output_shape(shape) if isinstance(entry, Guidance) else shape
    return shape
