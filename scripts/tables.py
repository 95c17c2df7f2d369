#!/usr/bin/env python
"""Write the tables of the documentation that are generated from the code: names, fields, exit codes.

    python scripts/tables.py

In a page, a table is enclosed by two marks with its name; the text between the marks is replaced.
"""

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _elsewhere import MISSING, NONE, WHOLE
from _elsewhere import TABLES as ELSEWHERE

from diffusion.cli.messages import say
from diffusion.cli.parser import Parser
from diffusion.cli.program import run
from diffusion.runtime import exits

# Slow imports are inside functions, so that `--help` answers at once.

DOCS = Path(__file__).resolve().parents[1] / "docs"
RUNGS = {"Process": "any", "AffineProcess": "affine", "GaussianProcess": "Gaussian"}


def fields_of(kind: str, name: str) -> str:
    """Return the fields of a class with their defaults, as a cell."""
    from diffusion.registry import resolve

    shown = lambda v: v["name"] if isinstance(v, dict) else repr(v)
    return ", ".join(f"`{k}={shown(v)}`" for k, v in resolve(kind, name).items() if k != "name")


def sampler_table() -> str:
    """Return the table of samplers."""
    from diffusion import build, registered
    from diffusion.samplers import StepSampler

    rows = ["| name | order | evaluations per step | noise | process | fields |"]
    rows += ["|---|---:|---:|---|---|---|"]
    for name in registered("sampler"):
        sampler = build("sampler", name)
        evaluations = sampler.evaluations if isinstance(sampler, StepSampler) else "adaptive"
        noise, requires = "yes" if sampler.stochastic else "no", RUNGS[sampler.requires.__name__]
        row = (f"`{name}`", sampler.order, evaluations, noise, requires, fields_of("sampler", name))
        rows.append("| " + " | ".join(map(str, row)).rstrip() + " |")
    return "\n".join(rows)


def process_table() -> str:
    """Return the table of processes."""
    from diffusion import build, registered

    classes = RUNGS | {"Process": "general"}
    rows = ["| name | class | definition | fields |", "|---|---|---|---|"]
    for name in registered("process"):
        process: Any = build("process", name)
        requires = next(classes[c.__name__] for c in type(process).__mro__ if c.__name__ in RUNGS)
        what = type(process).__doc__.strip().partition("\n")[0].replace("|", "\\|")
        rows.append(f"| `{name}` | {requires} | {what} | {fields_of('process', name)} |")
    return "\n".join(rows)


# ---- names of other libraries -------------------------------------------------------------------


def looked_up(cell: str) -> str:
    """Return a cell with `{kind:name}` and `{kind:name.field}` replaced by registered names.

    Raises:
        ValueError: the name is not registered, or has no such field.
    """
    from diffusion.registry import lookup
    from diffusion.registry.typed import parameters_of

    def replaced(found: re.Match) -> str:
        kind, name, field = found.groups()
        try:
            target = lookup(kind, name)
        except KeyError as error:
            raise ValueError(f"{cell!r}: {error.args[0]}") from None
        if field and field not in parameters_of(target):
            raise ValueError(f"{cell!r}: {kind} {name!r} has no field {field!r}.")
        return f"`{field or name}`"

    return re.sub(r"\{(\w+):(\w+)(?:\.(\w+))?\}", replaced, cell)


def refuse_false_denials(rows: Sequence[tuple[str, ...]]) -> None:
    """Raise ValueError if a row denies a counterpart and a registered name is similar."""
    from diffusion.registry import KINDS, registered

    names = {(kind, name) for kind in KINDS for name in registered(kind)}
    for theirs, ours, *_ in rows:
        words = set(re.findall(r"[a-z0-9]{4,}", theirs.lower()))
        near = [f"{kind} {name!r}" for kind, name in names if words & set(name.split("_"))]
        if ours == NONE and near:
            raise ValueError(
                f"{theirs!r} is said to have no counterpart; there is {', '.join(near)}."
            )


def comparison(name: str) -> str:
    """Return a table of names of another library."""
    head, *rows = ELSEWHERE[name]
    refuse_false_denials(rows)
    line = lambda cells: (
        "| " + " | ".join(map(looked_up, cells)).replace("|  ", "| ").rstrip() + " |"
    )
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def without_counterpart() -> str:
    """Return, by kind, the registered names that no table of other libraries has, and names that are not registered."""
    from diffusion.registry import registered

    cells = [cell for rows in ELSEWHERE.values() for row in rows for cell in row]
    named = {found for cell in cells for found in re.findall(r"\{(\w+):(\w+)", cell)}
    lines = []
    for kind in WHOLE:
        left = [f"`{name}`" for name in registered(kind) if (kind, name) not in named]
        lines.append(f"- Kind `{kind}`: {', '.join(left)}.")
    for kind, names in MISSING.items():
        wrong = set(names) & set(registered(kind))
        if wrong:
            raise ValueError(
                f"said to be missing, and registered: {kind} {', '.join(sorted(wrong))}."
            )
        lines.append(f"\nNot registered (kind `{kind}`): {', '.join(f'`{n}`' for n in names)}.")
    return "\n".join(lines)


TABLES = {  # by name: the page, and what makes the table
    "samplers": ("sampling.md", sampler_table),
    "processes": ("processes.md", process_table),
    "exit codes": ("reliability.md", exits.markdown),
    **{name: ("coming_from.md", functools.partial(comparison, name)) for name in ELSEWHERE},
    "names without a counterpart": ("coming_from.md", without_counterpart),
}


def around(table: str) -> tuple[Path, str, str, str]:
    """Return the page of a table, and what stands before, in and after it.

    Raises:
        ValueError: the page lacks a mark.
    """
    page = DOCS / TABLES[table][0]
    begin, end = f"<!-- {table}: written by scripts/tables.py -->\n", f"<!-- end of {table} -->"
    head, found, rest = page.read_text().partition(begin)
    inside, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(
            f"docs/{page.name} lacks a mark: {begin.strip()} and {end} stand around the table."
        )
    return page, head + begin, inside.strip(), end + tail


def write() -> None:
    """Write every table anew."""
    from diffusion.runtime.files import write_atomically

    for table, (_, make) in TABLES.items():
        page, head, old, tail = around(table)
        new = make()
        if new != old:
            write_atomically(page, f"{head}{new}\n{tail}".encode())
            say(f"wrote the table of {table} in docs/{page.name}")


if __name__ == "__main__":
    sys.exit(run(Parser(__doc__, cleans_up=True), lambda flags: write(), sys.argv[1:]))
