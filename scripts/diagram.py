#!/usr/bin/env python
"""Draw docs/architecture.svg from the imports of the package: the units, their layers and dependencies.

    python scripts/diagram.py            # write the picture
    python scripts/diagram.py --check    # only check whether it is up to date

A unit is a module or package directly in diffusion/; its layer is the number in _units.py. An arrow goes
from a unit to one that it imports. Arrows implied by others are omitted (transitive reduction). Only the standard
library is needed, and equal imports give an identical file.
"""

import argparse
import ast
import itertools
import sys
from xml.sax.saxutils import escape

from _arrangement import GAP, Edges, chains, links, ordered, placed
from _units import FILES, LAYERS, PACKAGE, ROOT, imports, unit_of

PICTURE = ROOT / "docs/architecture.svg"

ROW, NODE, BEND, LEFT = 74, 34, 14, 64  # pixels; BEND is the width of a passing arrow
# the first layer above the group, its name, line, background
COLORS = (
    (8, "core: JAX and NumPy alone", "#1d4ed8", "#dbeafe"),
    (12, "networks, data, training, evaluation", "#166534", "#dcfce7"),
    (99, "runs and programs", "#9a3412", "#ffedd5"),
)


# ---- the imports --------------------------------------------------------------------------------


def import_graph() -> tuple[Edges, dict[str, str]]:
    """Return the import graph, and the first line of each unit's docstring."""
    edges: Edges = {}
    lines: dict[str, str] = {}
    for path in FILES:
        unit, tree = unit_of(path), ast.parse(path.read_text())
        own = (name.split(".") for name in imports(tree))
        edges.setdefault(unit, set()).update(n[1] for n in own if n[0] == "diffusion" and n[1:])
        if path.parent == PACKAGE or (path.name, path.parent.parent) == ("__init__.py", PACKAGE):
            lines[unit] = (ast.get_docstring(tree) or "").partition("\n")[0]
    edges = {unit: (needs & edges.keys()) - {unit} for unit, needs in edges.items()}
    return edges, lines


def reduced(edges: Edges, layer: dict[str, int]) -> Edges:
    """Return the arrows that are not implied by others (transitive reduction)."""
    reach: Edges = {}
    for unit in sorted(edges, key=lambda u: layer[u]):
        reach[unit] = edges[unit].union(*(reach[v] for v in edges[unit]))
    return {
        unit: {v for v in needs if not any(v in reach[w] for w in needs)}
        for unit, needs in edges.items()
    }


# ---- the picture --------------------------------------------------------------------------------


def shown(unit: str) -> str:
    """Return the displayed name of a unit."""
    return {"__init__": "diffusion", "__main__": "python -m diffusion"}.get(unit, unit)


def width(name: str) -> float:
    """Return the width of a place."""
    return BEND if ">" in name else 9.2 * len(shown(name)) + 30


def group(layer: int) -> tuple[int, str, str, str]:
    """Return the group of a layer: limit, name, line, background."""
    return next(g for g in COLORS if layer < g[0])


def arrow(points: list[tuple[float, float]], color: str) -> str:
    """Return a smooth line through the points, with its head at the last."""
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (u, v) in itertools.pairwise(points):
        middle = (y + v) / 2
        text += f" C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}"
    return f'<path d="{text}" stroke="{color}" marker-end="url(#head)"/>'


def box(unit: str, x: float, y: float, layer: int, line: str) -> str:
    """Return the box of a unit, with the first line of its docstring as tooltip."""
    _, _, stroke, fill = group(layer)
    wide = width(unit)
    return (
        f'<g><title>{escape(line)}</title><rect x="{x - wide / 2:.1f}" y="{y - NODE / 2:.1f}" width="{wide:.1f}" '
        f'height="{NODE}" rx="7" fill="{fill}" stroke="{stroke}" stroke-width="1.6"/>'
        f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle">{escape(shown(unit))}</text></g>'
    )


def arranged() -> tuple[
    list[int], list[dict[str, float]], list[list[str]], dict[str, int], dict[str, str]
]:
    """Return the layers from the top, the centers in each, the arrows, each unit's row and its first line."""
    layer = LAYERS
    edges, lines = import_graph()
    if missing := sorted(edges.keys() - layer.keys()):
        raise SystemExit(f"give {missing} a layer in scripts/_units.py")
    if upward := sorted((u, v) for u in edges for v in edges[u] if layer[v] >= layer[u]):
        raise SystemExit(f"these imports do not point down: {upward}")
    numbers = sorted({layer[unit] for unit in edges}, reverse=True)
    row_of = {unit: numbers.index(layer[unit]) for unit in edges}
    rows, paths = chains(reduced(edges, layer), row_of)
    between = links(rows, paths, row_of)
    return numbers, placed(ordered(rows, between), between, width), paths, row_of, lines


def legend(y: float) -> list[str]:
    """Return one line that names the groups by their colors."""
    parts, at = [], 16.0
    for _, name, stroke, fill in COLORS:
        parts.append(
            f'<rect x="{at:.0f}" y="{y - 12:.0f}" width="18" height="14" rx="4" fill="{fill}" stroke="{stroke}"/>'
            f'<text x="{at + 25:.0f}" y="{y:.0f}" font-size="13">{name}</text>'
        )
        at += 56 + 7.6 * len(name)
    return parts


def picture() -> str:
    """Return the SVG."""
    numbers, centers, paths, row_of, lines = arranged()
    left = min(x - width(n) / 2 for row in centers for n, x in row.items()) - LEFT
    wide = max(x + width(n) / 2 for row in centers for n, x in row.items()) + GAP - left
    high = ROW * len(numbers) + 40
    middle = lambda r: ROW * r + ROW / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}" width="{wide:.0f}" '
        f'height="{high}" font-family="DejaVu Sans, Verdana, sans-serif" font-size="15" fill="#111827">',
        "<title>The units of diffusion/ by layer; an arrow points to what a unit imports</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L10 5L0 10z" fill="#4b5563" stroke="none"/></marker></defs>',
        f'<rect width="{wide:.0f}" height="{high}" fill="#ffffff"/>',
    ]
    for r, number in enumerate(numbers):
        if r % 2 == 0:
            parts.append(f'<rect y="{ROW * r}" width="{wide:.0f}" height="{ROW}" fill="#f3f4f6"/>')
        parts.append(f'<text x="16" y="{middle(r) + 5:.0f}" fill="#4b5563">{number}</text>')
    parts.append('<g fill="none" stroke-width="1.5">')
    for path in paths:
        top = row_of[path[0]]
        points = [(centers[top + k][n] - left, middle(top + k)) for k, n in enumerate(path)]
        points[0] = (points[0][0], points[0][1] + NODE / 2)
        points[-1] = (points[-1][0], points[-1][1] - NODE / 2 - 1)
        parts.append(arrow(points, "#4b5563"))
    parts.append("</g>")
    for unit, r in sorted(row_of.items()):
        parts.append(box(unit, centers[r][unit] - left, middle(r), numbers[r], lines.get(unit, "")))
    return "\n".join([*parts, *legend(high - 15), "</svg>"]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write the picture, or compare it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the file differs"
    )
    options = parser.parse_args(arguments)
    text = picture()
    if not options.check:
        PICTURE.write_text(text)
    elif not PICTURE.is_file() or PICTURE.read_text() != text:
        raise SystemExit("docs/architecture.svg is out of date: run python scripts/diagram.py")


if __name__ == "__main__":
    sys.exit(main())
