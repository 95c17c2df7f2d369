"""Line plots as small inline SVG: axes, ticks, lines, error bars.

Colors come from the style sheet of the page: a line has the class `s0` ... `s9`, and axes use `currentColor`, so that
plots are readable in light and dark mode.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 480.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 20.0, 10.0, 38.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one line; points that are not finite, or that a log axis cannot show, are omitted."""

    name: str
    x: Sequence[float | int]
    y: Sequence[float | int]
    errors: Sequence[float | int] = field(default_factory=tuple)

    def points(self, log: bool) -> list[tuple[float, float, float]]:
        """Return (x, y, error) of the points that can be shown."""
        errors = self.errors or [0.0] * len(self.x)
        rows = [tuple(map(float, row)) for row in zip(self.x, self.y, errors, strict=True)]
        return [
            (x, y, e) for x, y, e in rows if all(map(math.isfinite, (x, y, e))) and (y > 0 or not log)
        ]  # fmt: skip


@dataclass(frozen=True)
class _Axis:
    """A mapping of a range of numbers to a range of pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._own(self.low), self._own(self.high)
        fraction = (self._own(value) - low) / (high - low)
        return self.start + min(1.0, max(0.0, fraction)) * (self.stop - self.start)

    def _own(self, value: float) -> float:
        return math.log10(value) if self.log and value > 0 else value

    def ticks(self) -> list[float]:
        if not self.log:
            return _round_numbers(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [m * 10.0**k for k in decades for m in mantissas]
            found = [v for v in found if self.low <= v <= self.high]
            if len(found) >= 3:
                return found[:: -(-len(found) // 7)]
        return _round_numbers(self.low, self.high)


def _round_numbers(low: float, high: float, count: int = 5) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def line_plot(
    lines: Sequence[Line], *, xlabel: str, ylabel: str, log: bool = False, markers: bool = False
) -> str:
    """Return a plot as an <svg> element, with a legend below if there are several lines.

    Args:
        lines: the lines, in the order of their colors.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        log: whether the vertical axis is logarithmic.
        markers: whether to draw a dot at every point.

    Returns:
        HTML; empty if no line has a point to show.
    """
    shown = [(i, line, points) for i, line in enumerate(lines) if (points := line.points(log))]
    if not shown:
        return ""
    everything = [p for _, _, points in shown for p in points]
    across = _axis([p[0] for p in everything], _LEFT, WIDTH - _RIGHT)
    ends = [y + s * e for _, y, e in everything for s in (-1, 1)]
    ends = [y for y in ends if y > 0 or not log]
    up = _axis(ends, HEIGHT - _BOTTOM, _TOP, log=log, margin=0.04)
    parts = [*_frame(across, up, xlabel, ylabel)]
    for i, _, points in shown:
        parts += _drawn(points, across, up, i % 10, markers)
    told = html.escape(f"{ylabel} against {xlabel}", quote=True)
    plot = f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{told}">{"".join(parts)}</svg>'
    if len(shown) == 1:
        return plot
    keys = "".join(
        f'<span><i class="k s{i % 10}"></i>{html.escape(line.name)}</span>' for i, line, _ in shown
    )
    return f'{plot}<div class="legend">{keys}</div>'


def _axis(
    values: Sequence[float], start: float, stop: float, log: bool = False, margin: float = 0.0
) -> _Axis:
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** margin if high > low else 1.5
        return _Axis(low / room, high * room, start, stop, log=True)
    room = margin * (high - low) if high > low else 0.5 * (abs(high) or 1.0)
    return _Axis(low - room, high + room, start, stop)


def _frame(across: _Axis, up: _Axis, xlabel: str, ylabel: str) -> list[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in up.ticks():
        y = up.at(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, f"{value:.4g}", "end"))
    for value in across.ticks():
        x = across.at(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:g}" y2="{bottom + 4:g}"/>'
        )
        parts.append(_text(x, bottom + 17, f"{value:.6g}", "middle"))
    parts.append(f'<path class="axis" d="M{_LEFT:g} {_TOP:g}V{bottom:g}H{right:g}"/>')
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 5, xlabel, "middle"))
    middle = (_TOP + bottom) / 2
    turned = f'transform="rotate(-90 12 {middle:.0f})"'
    return [*parts, _text(12.0, middle, ylabel, "middle", turned)]


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{html.escape(words)}</text>'
    )


def _drawn(
    points: Sequence[tuple[float, float, float]],
    across: _Axis,
    up: _Axis,
    number: int,
    markers: bool,
) -> list[str]:
    places = [(across.at(x), up.at(y)) for x, y, _ in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="line s{number}" d="{path}"/>']
    for (x, _), (_, y, error) in zip(places, points, strict=True):
        if error:
            low, high = up.at(y - error) if y > error or not up.log else up.start, up.at(y + error)
            parts.append(f'<path class="line s{number}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
    if markers or len(places) == 1:
        parts += [
            f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places
        ]
    return parts
