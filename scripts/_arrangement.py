"""Layout of a layered graph: rows, the order within rows, and the centers of boxes and arrows.

Long arrows get a place in each row that they pass; rows are ordered by the mean of their neighbors (Sugiyama et
al., 1981), and places are as close to their neighbors as order and widths allow.
"""

import itertools
from collections.abc import Callable

GAP = 26  # pixels between places

Edges = dict[str, set[str]]  # unit -> the units that it imports
Rows = list[list[str]]  # the layers from the top; a passing arrow is named "from>to"


def chains(edges: Edges, row_of: dict[str, int]) -> tuple[Rows, list[list[str]]]:
    """Return rows with a place for each arrow in every row that it passes, and each arrow's places."""
    rows: Rows = [[] for _ in range(max(row_of.values()) + 1)]
    for unit in sorted(row_of):
        rows[row_of[unit]].append(unit)
    paths = []
    for unit in sorted(edges):
        for target in sorted(edges[unit]):
            passed = range(row_of[unit] + 1, row_of[target])
            for row in passed:
                rows[row].append(f"{unit}>{target}")
            paths.append([unit, *[f"{unit}>{target}"] * len(passed), target])
    return rows, paths


def links(
    rows: Rows, paths: list[list[str]], row_of: dict[str, int]
) -> list[list[tuple[str, str]]]:
    """Return, for each row, its connections (name here, name in the next row)."""
    found: list[list[tuple[str, str]]] = [[] for _ in rows]
    for path in paths:
        for k, pair in enumerate(itertools.pairwise(path)):
            found[row_of[path[0]] + k].append(pair)
    return found


def crossings(rows: Rows, between: list[list[tuple[str, str]]]) -> int:
    """Count the pairs of arrows that cross."""
    total = 0
    for upper, lower, pairs in zip(rows, rows[1:], between, strict=False):
        ends = sorted((upper.index(a), lower.index(b)) for a, b in pairs)
        total += sum(p[0] < q[0] and p[1] > q[1] for i, p in enumerate(ends) for q in ends[i + 1 :])
    return total


def ordered(rows: Rows, between: list[list[tuple[str, str]]]) -> Rows:
    """Order each row by the mean position of its neighbors, down and up in turns; keep the best."""
    best, fewest = [list(row) for row in rows], crossings(rows, between)
    for sweep in range(60):
        down = sweep % 2 == 0
        for r in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            other = rows[r - 1] if down else rows[r + 1]
            pairs = between[r - 1] if down else [(b, a) for a, b in between[r]]
            rows[r] = by_neighbors(rows[r], other, pairs, backward=sweep % 4 >= 2)
        improve(rows, between)
        if (number := crossings(rows, between)) < fewest:
            best, fewest = [list(row) for row in rows], number
    return best


def by_neighbors(
    row: list[str], other: list[str], pairs: list[tuple[str, str]], backward: bool
) -> list[str]:
    """Sort a row by the mean position of its neighbors in the other; pairs are (other's, ours)."""
    keys = {}
    for i, name in enumerate(row):
        places = [other.index(a) for a, b in pairs if b == name]
        mean = sum(places) / len(places) * len(row) / len(other) if places else i
        keys[name] = (mean, -i if backward else i)
    return sorted(row, key=lambda name: keys[name])


def improve(rows: Rows, between: list[list[tuple[str, str]]]) -> None:
    """Swap neighbors in a row as long as this removes crossings."""
    number, again = crossings(rows, between), True
    while again:
        again = False
        for row in rows:
            for i in range(len(row) - 1):
                row[i], row[i + 1] = row[i + 1], row[i]
                if (fewer := crossings(rows, between)) < number:
                    number, again = fewer, True
                else:
                    row[i], row[i + 1] = row[i + 1], row[i]


def spread(row: list[str], wanted: dict[str, float], width: Callable[[str], float]) -> list[float]:
    """Place a row as close to the wanted centers as order and widths allow (least squares)."""
    offsets, at = [], 0.0
    for i, name in enumerate(row):
        at += (width(row[i - 1]) + width(name)) / 2 + GAP if i else 0.0
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # pool adjacent violators: (mean, members)
    for name, offset in zip(row, offsets, strict=True):
        mean, members = wanted[name] - offset, 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, members = (before * n + mean * members) / (n + members), n + members
        pools.append((mean, members))
    means = [mean for mean, members in pools for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def placed(
    rows: Rows, between: list[list[tuple[str, str]]], width: Callable[[str], float]
) -> list[dict[str, float]]:
    """Return the center of each place: near the mean of those above and below."""
    centers = [
        dict(zip(r, spread(r, dict.fromkeys(r, 0.0), width), strict=True)) if r else {}
        for r in rows
    ]
    for row in centers:
        middle = (min(row.values()) + max(row.values())) / 2 if row else 0.0
        row.update({name: x - middle for name, x in row.items()})
    for _ in range(200):
        for r, row in enumerate(rows):
            wanted = {}
            for name in row:
                near = [(a, r - 1) for a, b in between[r - 1] if b == name] if r else []
                near += [(b, r + 1) for a, b in between[r] if a == name]
                # The straight part of a long arrow counts more, so that it stays straight.
                weights = [6.0 if ">" in n and ">" in name else 1.0 for n, _ in near]
                total = sum(w * centers[k][n] for w, (n, k) in zip(weights, near, strict=True))
                wanted[name] = total / sum(weights) if near else centers[r][name]
            centers[r] = dict(zip(row, spread(row, wanted, width), strict=True))
    return centers
