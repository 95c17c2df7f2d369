"""Shared functions of the studies: incremental results, training, sampling, measuring, and result pages.

A study is a package experiments/NAME with

    README.md      the question, the method, a table between two marks, and the findings
    results.json   {tier: {...}}, written after every item: a repeated call measures only missing items
    table.md       all results
    run.py         TIERS by name and `main()`, called by `python -m experiments.NAME --tier small|full`
    pages.py       `table(found)`, the text of table.md, and `summary(found)`, the table of README.md; both depend only
                   on results.json, so that a test can check them

Models are trained by the ordinary runner into --keep DIR; studies that need the same model share it.
"""

import argparse
import contextlib
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.runtime.compilation import use_compilation_cache
from experiments._results import Results

BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"


@dataclass(frozen=True)
class Call:
    """One call of a study: its tier, the folder of trained models, and the results so far."""

    tier: str
    models: Path
    results: Results
    began: float

    def say(self, text: str) -> None:
        """Print a line with the seconds since the call began."""
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def item(self, *path: str, make: Callable[[], Any]) -> Any:
        """Return the result at a path of the tier; measure and write it if it is missing."""
        record = self.results.get(self.tier, *path)
        if record is None:
            record = self.results.keep(self.tier, *path, record=make())
            self.say(f"{', '.join(path)}: {json.dumps(record)[:160]}")
        return record


def command(study: Path, doc: str | None, tiers: Sequence[str] = ("small", "full")) -> Call:
    """Parse the command line of a study.

    Args:
        study: folder of the study.
        doc: description, whose first line is shown by --help.
        tiers: names of the tiers, the default first.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{study.name}", description=(doc or "").splitlines()[0]
    )
    parser.add_argument("--tier", choices=tuple(tiers), default=tiers[0])
    parser.add_argument("--keep", type=Path, default=Path("runs/studies"),
                        help="where trained models lie")  # fmt: skip
    args = parser.parse_args()
    use_compilation_cache(say=print)
    return Call(args.tier, args.keep, Results(study / "results.json"), time.monotonic())


# ---- models and examples ------------------------------------------------------------------------


def config_of(file: str) -> dict[str, Any]:
    """Return a config of the folder configs by the name of its file, with a variant after a colon."""
    from diffusion.config.sections import plain

    name, *word = file.split(":")
    return plain(importlib.import_module(f"configs.{name}").get_config(*word))


def trained(
    folder: Path,
    file: str,
    changes: Sequence[tuple[str, Any]] = (),
    loss: Callable[[Any], Any] | None = None,
) -> Any:
    """Train a config with changes, unless it is trained already, and open the run.

    Args:
        folder: the work directory; a run of another config in it is refused.
        file: name of the config in the folder configs; "name:variant" selects a variant.
        changes: pairs (path, value), such as ("process.name", "ddpm").
        loss: function from an experiment to a loss that replaces its own.

    Returns:
        `diffusion.run.workdir.Trained`: experiment, params (the first average), step, ema.
    """
    from diffusion.config.experiment import Experiment
    from diffusion.config.overrides import apply_overrides
    from diffusion.run import runner
    from diffusion.run.workdir import Workdir, open_run
    from diffusion.runtime.exits import CheckpointError

    values = [("train.sample_every", 0), *changes]
    config = apply_overrides(config_of(file), [(path, str(value)) for path, value in values])
    kind = Experiment
    if loss is not None:
        kind = type("WithLoss", (Experiment,), {"loss": lambda self, batch_size=None: loss(self)})
    workdir, experiment = Workdir.of(folder), kind.from_config(config)
    if workdir.checkpoints.is_dir():  # several studies may read a run that is done
        workdir.refuse_another(workdir.read_config(), config)
        with contextlib.suppress(CheckpointError):
            run = open_run(workdir, workdir.read_config())
            if run.step >= experiment.train.steps(experiment.batch_size):
                return run
    runner.run(experiment, workdir)
    return open_run(workdir, workdir.read_config())


def samples(
    experiment: Any,
    model_of: Callable[[Any], Any],
    count: int,
    *,
    sampler: Any = None,
    times: Any = None,
    process: Any = None,
    seed: int = 0,
    batch_size: int = 250,
) -> np.ndarray:
    """Generate examples, the classes in turn, with the settings of the experiment by default.

    Args:
        experiment: sampler, times, process and data set.
        model_of: function from a condition to a denoiser.
        count: number of examples.
        sampler: replaces the experiment's sampler.
        times: replace the experiment's times.
        process: replaces the experiment's process.
        seed: seed of the noise.
        batch_size: number of examples computed at once.
    """
    times = experiment.times() if times is None else times  # of the experiment's own process
    experiment = experiment.replaced(
        sampler=sampler or experiment.sampler, process=process or experiment.process
    )
    classes = experiment.spec.num_classes
    parts = experiment.generate(
        model_of, count, seed=seed, times=times, batch_size=batch_size, block=batch_size,
        cond_of=lambda i: experiment.conditions(i % classes if classes else None, len(i)),
    )  # fmt: skip
    return np.concatenate(list(parts))


def measured(
    x: np.ndarray, experiment: Any, metrics: Sequence[Any] = ("frechet",)
) -> dict[str, float]:
    """Return the numbers of registered metrics for generated examples.

    Examples that are not finite are counted under "lost" and replaced by zeros.

    Args:
        x: examples, the classes in turn.
        experiment: experiment whose data is the reference.
        metrics: names or sections.
    """
    from diffusion import build
    from diffusion.evaluation import EvalInputs

    lost = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    shown = np.where(lost.reshape(-1, *(1,) * (x.ndim - 1)), 0, x)

    def generated(count: int, start: int = 0) -> Iterator[np.ndarray]:
        yield shown[start : start + count]

    inputs = EvalInputs(
        process=experiment.process, model_of=lambda cond: None, generate=generated,
        train=experiment.dataset, held_out=experiment.held_out(), num_samples=len(x),
    )  # fmt: skip
    numbers: dict[str, float] = {"lost": float(lost.mean())} if lost.any() else {}
    for metric in metrics:
        numbers |= build("metric", metric)(inputs)
    return numbers


# ---- pages --------------------------------------------------------------------------------------


def heading(title: str, study: str) -> list[str]:
    """Return the first lines of a table.md."""
    return [f"# {title}", "", f"Written by `python -m experiments.{study}`.", ""]


def markdown(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a Markdown table, one line per row, and an empty line."""
    line = lambda cells: f"| {' | '.join(str(c) for c in cells)} |"
    return [line(head), "|---" + "|---:" * (len(head) - 1) + "|", *map(line, rows), ""]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean of values and, if there are several, their standard deviation, as text."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def write_pages(study: Path, pages: Any) -> None:
    """Write table.md and the table in README.md from results.json; `pages` has `table` and `summary`."""
    found = Results(study / "results.json").load()
    (study / "table.md").write_text(pages.table(found))
    readme = study / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{pages.summary(found).strip()}\n\n{END}{after}")


@dataclass(frozen=True)
class Panel:
    """One set of curves: name -> (x, y) or (x, y, half the error bar)."""

    curves: Mapping[str, Sequence[Any]]
    x: str
    y: str
    log_x: bool = True
    log_y: bool = True
    level: float | None = None  # a dotted line, such as that of real data
    level_name: str = ""


def plot(path: Path, panels: Sequence[Panel], columns: int = 3) -> None:
    """Write panels of curves side by side, with one common legend if all show the same curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from diffusion.evaluation.images import write_file

    columns = min(columns, len(panels))
    shared = len({tuple(panel.curves) for panel in panels}) == 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).reshape(-1)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(all_axes, panels, strict=False):
        for name, (x, y, *error) in panel.curves.items():
            axes.errorbar(x, y, error[0] if error else None, marker="o", markersize=3.5, linewidth=1.2,
                          capsize=2, label=name)  # fmt: skip
        if panel.level is not None:
            axes.axhline(panel.level, color="gray", linestyle=":", label=panel.level_name)
        axes.set(xlabel=panel.x, ylabel=panel.y)
        axes.set_xscale("log" if panel.log_x else "linear")
        axes.set_yscale("log" if panel.log_y else "linear")
        if not shared:
            axes.legend(fontsize=7)
    if shared:
        handles = all_axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    write_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=100))
