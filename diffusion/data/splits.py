"""Splits by name, slice and sum: "train", "train[:10%]", "train[500:]+test"."""

import re
from collections.abc import Mapping

_PART = re.compile(r"(?P<name>\w+)(\[(?P<start>-?[0-9]+%?)?:(?P<stop>-?[0-9]+%?)?\])?")


def _bound(text: str | None, size: int, default: int) -> int:
    """Resolve one end of a slice: a count or a percentage, from the end when negative."""
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return min(max(value + size if value < 0 else value, 0), size)


def parse_split(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return the (name, start, stop) pieces of a split.

    Args:
        split: names from `sizes`, each optionally with [start:stop] in examples or percent, joined by +.
        sizes: number of examples of each available split.

    Raises:
        ValueError: the text cannot be parsed, a name is unknown, or there are no examples.
    """
    pieces = []
    for part in split.replace(" ", "").split("+"):
        match = _PART.fullmatch(part)
        if match is None or match["name"] not in sizes:
            raise ValueError(
                f"`split` must name {', '.join(sizes) or 'none'}, or parts as in 'train[:90%]+test'; got {split!r}."
            )
        size = sizes[match["name"]]
        start, stop = _bound(match["start"], size, 0), _bound(match["stop"], size, size)
        pieces.append((match["name"], start, max(start, stop)))
    if all(start == stop for _, start, stop in pieces):
        raise ValueError(f"`split` {split!r} holds no examples; the sizes are {dict(sizes)}.")
    return pieces
