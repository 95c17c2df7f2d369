"""A report of a run as one HTML file: pictures, curves, numbers with their cards, the config.

The file is self-contained: pictures are data URIs, plots are inline SVG, there is no script, and a content security
policy forbids loading anything. All text from outside of this module is escaped.
"""

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion.evaluation.cards import entries_of, estimate_of, flat, one_line
from diffusion.evaluation.curves import Line, line_plot

_LEVEL = "loss_log_snr/"
_POINTS = 400  # largest number of points of a curve; a longer one is subsampled
_STYLE = """
:root{color-scheme:light dark;--fg:#1c2024;--soft:#5d6670;--bg:#fff;--box:#f4f6f8;--rule:#d5dae0;--l:44%}
@media(prefers-color-scheme:dark){:root{--fg:#e4e8ec;--soft:#9aa5b1;--bg:#14171a;--box:#1e2327;--rule:#39424a;--l:64%}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:70rem;color:var(--fg);background:var(--bg);
 font:16px/1.5 system-ui,"Segoe UI","Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.15rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--rule)}
h3{font-size:1rem;margin:0 0 .3rem}p{margin:.3rem 0}.soft,figcaption,.legend{color:var(--soft);font-size:.85rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0;min-width:0}svg{width:100%;height:auto;display:block}
img{max-width:100%;height:auto;image-rendering:pixelated;border-radius:4px;display:block}
svg text{font-size:11px;fill:var(--soft)}.grid{stroke:var(--rule);stroke-width:.6}
.axis{stroke:var(--soft);fill:none;stroke-width:1}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.legend span{display:inline-block;margin-right:.9rem}.k{display:inline-block;width:.9rem;height:.25rem;
 margin-right:.35rem;vertical-align:middle}
.metric .plots{max-width:34rem}.metric{background:var(--box);border-radius:6px;padding:.7rem .9rem;margin:.7rem 0}
table{border-collapse:collapse;width:100%}td,th{padding:.15rem .6rem .15rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.wide{overflow-x:auto}summary{cursor:pointer;color:var(--soft);font-size:.85rem;margin-top:.3rem}
pre,.card td{font:.8rem/1.4 ui-monospace,"DejaVu Sans Mono",monospace}
.card td:first-child{color:var(--soft);white-space:nowrap;width:1%}
pre{white-space:pre-wrap;background:var(--box);padding:.7rem;border-radius:6px;margin:.4rem 0}
@media(max-width:40rem){.card td{display:block;width:auto}.card td+td{padding:0 0 .4rem 1rem}}
""" + "".join(
    f".s{i}{{stroke:hsl({h} 62% var(--l))}}i.s{i}{{background:hsl({h} 62% var(--l))}}"
    f"circle.s{i}{{fill:hsl({h} 62% var(--l))}}"
    for i, h in enumerate((222, 200, 182, 158, 125, 82, 48, 28, 8, 335))
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with a title and a caption."""

    title: str
    png: bytes
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report; empty parts are omitted.

    Attributes:
        title: title of the page.
        summary: lines under the title.
        pictures: pictures of examples.
        history: lines of metrics.jsonl, in order.
        results: numbers by name, by metric.
        cards: cards by metric.
        config: the resolved config of the run.
        made_by: versions, device, commit.
        commands: command lines by purpose.
    """

    title: str
    summary: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    history: Sequence[Mapping[str, Any]] = ()
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)

    def page(self) -> str:
        """Return the report as HTML."""
        metrics = "".join(
            _metric(name, found, self.cards.get(name)) for name, found in self.results.items()
        )
        config = json.dumps(self.config, indent=1, default=str) if self.config else ""
        parts = [
            f"<h1>{_e(self.title)}</h1>" + "".join(f'<p class="soft">{_e(s)}</p>' for s in self.summary),
            _section("Numbers", metrics),
            *(_section(p.title, _picture(p)) for p in self.pictures),
            _section("Training", _plots(training_curves(self.history))),
            _section("Config", f"<details><summary>all of it</summary><pre>{_e(config)}</pre></details>"
                     if config else ""),
            _section("Made by", _pairs(self.made_by) if self.made_by else ""),
            _section("Commands", "".join(f'<p class="soft">{_e(k)}</p><pre>{_e(v)}</pre>'
                                         for k, v in self.commands.items())),
        ]  # fmt: skip
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{_e(self.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(filter(None, parts))
            + "\n</body></html>\n"
        )


def _e(text: object) -> str:
    return html.escape(str(text))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_e(title)}</h2>\n{content}</section>" if content else ""


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    image = f'<img alt="{_e(picture.title)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{_e(picture.caption)}</figcaption></figure>"


def _plots(plots: Iterable[tuple[str, str]]) -> str:
    figures = [f"<figure><h3>{_e(title)}</h3>{plot}</figure>" for title, plot in plots if plot]
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{_e(k)}</td><td>{_e(v)}</td></tr>" for k, v in flat(values).items())
    return f'<table class="card">{rows}</table>'


# ---- numbers ------------------------------------------------------------------------------------


def _metric(name: str, results: Mapping[str, Any], card: Mapping[str, Any] | None) -> str:
    single = {k: v for k, v in results.items() if not isinstance(v, list)}
    rows = "".join(_number(k, v) for k, v in single.items())
    tables = "".join(_table(k, v) for k, v in results.items() if isinstance(v, list))
    told = ""
    if card:
        told = f"<details><summary>{_e(one_line(card))}</summary>{_pairs(card)}</details>"
    table = f"<table>{rows}</table>" if rows else ""
    return f'<div class="metric"><h3>{_e(name)}</h3>{table}{tables}{told}</div>'


def _number(name: str, value: Any) -> str:
    found, more = estimate_of(value), ""
    if found is None:
        if isinstance(value, Mapping):  # not a single number: show each entry separately
            inner = "".join(_number(f"\N{EN DASH} {k}", v) for k, v in value.items())
            return f'<tr><td colspan="2">{_e(name)}</td></tr>{inner}'
        return f'<tr><td>{_e(name)}</td><td class="n">{_e(value)}</td></tr>'
    number, error = found
    shown = _figure(number) + (f" &plusmn; {_figure(error, 2)}" if error is not None else "")
    if isinstance(value, Mapping):
        rest = {k: v for k, v in value.items() if k not in entries_of(value)}
        more = ", ".join(f"{k} {_figure(v) if _is_number(v) else v}" for k, v in rest.items())
    small = f'<br><span class="soft">{_e(more)}</span>' if more else ""
    return f'<tr><td>{_e(name)}{small}</td><td class="n">{shown}</td></tr>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(value: float | int, digits: int = 5) -> str:
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def _table(name: str, rows: Sequence[Any]) -> str:
    """Return a table of rows as HTML, with a plot if the rows are numbers with errors; the table can be expanded."""
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return f'<p class="soft">{_e(name)}: {_e(rows)}</p>'
    heads = list(rows[0])
    head = "".join(f'<th class="n">{_e(h)}</th>' for h in heads)
    cells = [
        [_figure(row[h]) if _is_number(row.get(h)) else str(row.get(h)) for h in heads] for row in rows
    ]  # fmt: skip
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{_e(c)}</td>' for c in row) + "</tr>" for row in cells
    )
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    found = [estimate_of(row) for row in rows]
    plot = ""
    if len(rows) > 2 and all(f is not None for f in found) and _is_number(rows[0][heads[0]]):
        line = Line(
            name=name, x=[row[heads[0]] for row in rows], y=[f[0] for f in found if f],
            errors=[f[1] or 0.0 for f in found if f],
        )  # fmt: skip
        plot = line_plot([line], xlabel=heads[0], ylabel=name.split("@")[0], log=True, markers=True)
    plot = f'<div class="plots"><figure>{plot}</figure></div>' if plot else ""
    return f"<p>{_e(name)}</p>{plot}<details><summary>table</summary>{table}</details>"


# ---- training -----------------------------------------------------------------------------------


def training_curves(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the curves of a run as (title, SVG): loss, loss by noise level, gradient, trends.

    Args:
        history: lines of metrics.jsonl, each with `step`; a number may be absent or None.
    """
    names = list(dict.fromkeys(k for line in history for k in line))
    levels = [n for n in names if n.startswith(_LEVEL)]
    trends = [n for n in names if "@" in n]
    over = lambda wanted, label, log: line_plot(
        [_history_line(history, n, n.removeprefix(_LEVEL)) for n in wanted],
        xlabel="step", ylabel=label, log=log,
    )  # fmt: skip
    plots = [
        ("Loss", over(["loss"], "loss", True)),
        ("Loss by noise level (log-SNR)", over(levels, "loss", True)),
        ("Loss by noise level, last tenth of the run", _last_levels(history, levels)),
        ("Norm of the gradient", over(["grad_norm"], "gradient norm", True)),
    ]
    plots += [(f"Trend: {name}", over([name], name.split("@")[0], False)) for name in trends]
    return plots


def _history_line(history: Sequence[Mapping[str, Any]], key: str, name: str) -> Line:
    rows = [(r["step"], r[key]) for r in history if _is_number(r.get(key))]
    stride = max(1, -(-len(rows) // _POINTS))
    rows = rows[::-1][::stride][::-1]  # keeps the last row
    return Line(name=name, x=[s for s, _ in rows], y=[v for _, v in rows])


def _ends(name: str) -> list[float]:
    """Return the ends of a bin of log-SNR from its name; empty for other names, as in a damaged line."""
    try:
        low, high = map(float, name.removeprefix(_LEVEL).split(".."))
    except ValueError:
        return []
    return [low, high]


def _last_levels(history: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> str:
    lines = [r for r in history if any(k in r for k in levels)]
    lines = lines[-max(1, len(lines) // 10) :]
    points = []
    for name in levels:
        values = [r[name] for r in lines if _is_number(r.get(name))]
        ends = _ends(name)
        inside = [v for v in ends if math.isfinite(v)]
        if values and inside:  # an open bin is drawn one unit beyond its finite end
            middle = sum(ends) / 2 if len(inside) == 2 else inside[0] + math.copysign(1, sum(ends))
            points.append((middle, sum(values) / len(values)))
    line = Line(name="loss", x=[p[0] for p in points], y=[p[1] for p in points])
    return line_plot([line], xlabel="log-SNR", ylabel="loss", log=True, markers=True)
