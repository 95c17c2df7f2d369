"""Covering arrays: few rows in which everything meets everything.

Most mistakes show where two things meet, so a law over several lists need not see their whole product. `pairwise`
chooses rows in which every value of every list stands, and every two values of different lists stand side by side.

Where values interact by their kind alone, `kinds` names that kind: `kinds=dict(process=class_of)` asks that every
*kind* of process meets every other value, and that every process stands in some row. What is registered later is a
value of its list, so it is met without anybody's doing.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations, product
from typing import Any


def pairwise(
    *,
    allowed: Callable[..., bool] = lambda **row: True,
    kinds: Mapping[str, Callable[[Any], Hashable]] | None = None,
    **lists: Sequence[Any],
) -> list[tuple]:
    """Return rows, one value of each list in the order of the lists, that cover all that is allowed.

    The choice is greedy (the row that covers most, the first of equals) and the same in every process.

    Args:
        allowed: takes a row by the names of the lists; rows that it refuses do not occur, and what stands only in
            refused rows is not covered.
        kinds: by the name of a list, what of a value meets the other lists; the value itself by default.
    """
    kinds = kinds or {}
    unknown = kinds.keys() - lists.keys()
    if unknown:
        raise TypeError(f"`kinds` names no list: {sorted(unknown)}; the lists are {list(lists)}")
    rows = [
        row for row in product(*lists.values()) if allowed(**dict(zip(lists, row, strict=True)))
    ]
    covers = [covered(dict(zip(lists, row, strict=True)), kinds) for row in rows]
    left, chosen = set().union(*covers), []
    while left:
        best = max(range(len(rows)), key=lambda i: (len(covers[i] & left), -i))
        chosen.append(rows[best])
        left -= covers[best]
    return chosen


def covered(row: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], Hashable]]) -> set:
    """Return the values of a row and the pairs of their kinds."""
    kind = {name: kinds[name](value) if name in kinds else value for name, value in row.items()}
    return {*row.items(), *combinations(kind.items(), 2)}
