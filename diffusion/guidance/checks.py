"""Whether a list of guidance entries fits a model: said before anything is computed."""

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
    """Raise TypeError or ValueError for an entry that this model cannot be guided by.

    Args:
        entries: of the kind `guidance`; those that are no `Guidance` are let through.
        process: of the model.
        shape: of one example of the training.
        conditional: whether the network was trained under conditions.
        dropout: the fraction of the training in which the condition was dropped.
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
    """Say whether an entry is the conditional model itself: scale 1 of one that extrapolates to it."""
    entry = getattr(entry, "inner", entry)
    neutral = (getattr(entry, "neutral", None) or {}).get("scale")
    scale = getattr(entry, "scale", None)
    return isinstance(scale, int | float) and neutral is not None and scale == neutral


def without_condition(entries: Iterable[Any]) -> tuple[Any, ...]:
    """Return the entries that make sense for a model under no condition."""
    return tuple(e for e in entries if not getattr(e, "needs_cond", False))


def output_shape(entries: Iterable[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the examples that come out, which `upsample` makes larger."""
    for entry in entries:
        shape = entry.output_shape(shape) if isinstance(entry, Guidance) else shape
    return shape
