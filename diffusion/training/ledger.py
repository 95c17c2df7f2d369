"""Transfer of metrics from the device to the log.

A dispatch is one call of a compiled program that takes one or several steps. The metrics of a dispatch arrive
together, with a leading axis of steps if there are several. They are read when they are ready; after that, each step
is logged and checked individually, independent of its dispatch.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from diffusion.runtime.exits import DivergedError
from diffusion.runtime.progress import Progress
from diffusion.training.metrics import Writer
from diffusion.training.step import LEVEL_EDGES, Metrics

Report = Callable[[int, Mapping[str, Any]], None]  # report(step, metrics on the host)
Save = Callable[..., Any]  # save(step, state, block=False)

# Dispatches that may be in flight on the device; more would only cost memory for their batches.
AHEAD = 2


def level_names() -> list[str]:
    """Return the names, in the log, of the bins of the loss by noise level."""
    edges = [f"{e:g}" for e in (-math.inf, *LEVEL_EDGES, math.inf)]
    return [f"loss_log_snr/{a}..{b}" for a, b in itertools.pairwise(edges)]


def summarize(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average the metrics of several steps on the host.

    Returns:
        loss and grad_norm as means over finite steps (NaN if there is none), the last value of every
        other number, and the mean loss in each bin of log_snr that has examples.
    """
    values = jax.device_get(list(window))
    record = {k: float(v) for k, v in values[-1].items() if np.ndim(v) == 0}
    for name in ("loss", "grad_norm"):
        finite = [float(v[name]) for v in values if np.isfinite(v[name])]
        record[name] = math.fsum(finite) / len(finite) if finite else math.nan
    if "level_sum" in values[-1]:
        total = np.sum([v["level_sum"] for v in values], axis=0)
        count = np.sum([v["level_count"] for v in values], axis=0)
        record |= {
            name: float(total[i] / count[i]) for i, name in enumerate(level_names()) if count[i] > 0
        }
    return record


@dataclass(frozen=True)
class _Dispatch:
    """The metrics of one call of the compiled program, which may still be running."""

    first: int  # number of the first step
    last: int
    metrics: Metrics
    stacked: bool  # whether the metrics have an axis of steps

    def is_ready(self) -> bool:
        """Return whether the device has finished the dispatch."""
        flag: Any = self.metrics["bad_run"]
        return flag.is_ready()

    def each(self) -> Iterator[tuple[int, Mapping[str, Any], Callable[[], Any]]]:
        """Yield, for each step, its number, its metrics, and a function that fetches the values per row.

        The metrics of several steps are fetched at once; values per row stay on the device until they are needed.
        """
        known = {k: v for k, v in self.metrics.items() if k != "rows"}
        rows = self.metrics.get("rows", {})
        if not self.stacked:
            yield self.first, known, lambda: jax.device_get(rows)
            return
        known = jax.device_get(known)  # blocks if the loop is too far ahead
        for i, step in enumerate(range(self.first, self.last + 1)):
            one = {k: v[i] for k, v in known.items()}
            yield step, one, lambda i=i: jax.tree.map(lambda x: x[i], jax.device_get(rows))


@dataclass
class Ledger:
    """Queue of metrics that are on their way from the device to the log.

    Attributes:
        log_every: steps per line of the log.
        max_bad_steps: number of non-finite steps in a row that ends the run.
        writers: writers of the log.
        report: called for each skipped step.
        progress: progress line; None before the first dispatch.
        saved: step of the newest checkpoint.
    """

    log_every: int
    max_bad_steps: int
    writers: Sequence[Writer]
    report: Report | None = None
    progress: Progress | None = None
    saved: int | None = None
    pending: deque[_Dispatch] = field(default_factory=deque)
    window: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, first: int, last: int, metrics: Metrics, stacked: bool) -> None:
        """Add the metrics of a dispatch, which may still be running."""
        self.pending.append(_Dispatch(first, last, metrics, stacked))
        while len(self.pending) > AHEAD or (self.pending and self.pending[0].is_ready()):
            self._arrived(self.pending.popleft())

    def _arrived(self, dispatch: _Dispatch) -> None:
        loss = math.nan
        for step, metrics, rows in dispatch.each():
            self._count(step, metrics, rows, dispatch.last)
            loss = metrics["loss"]
        if self.progress and self.progress.due():
            self.progress.show(dispatch.last, f"loss {float(loss):.4g}")

    def _count(self, step: int, metrics: Mapping[str, Any], rows: Callable, reached: int) -> None:
        bad_run = int(metrics["bad_run"])  # blocks if the loop is too far ahead
        self.window.append({k: v for k, v in metrics.items() if k != "counted"})
        if self.report and not metrics.get("counted", True):
            self.report(step, {**jax.device_get(dict(metrics)), "rows": rows()})
        if step % self.log_every == 0:
            self.log(step, reached)
        if bad_run >= self.max_bad_steps:
            self.log(step, reached)
            kept = "none was saved" if self.saved is None else f"step {self.saved}"
            raise DivergedError(
                step,
                f"Loss or gradient was not finite in {bad_run} steps in a row, up to step {step}. "
                f"The parameters are those of step {step - bad_run}; newest checkpoint: {kept}. "
                "Lower optimizer.learning_rate, set optimizer.clip = 1.0, or look for bad data.",
                good=step - bad_run,
            )

    def log(self, step: int, reached: int) -> None:
        """Write the means over the steps since the last line; `reached` is the last step with known metrics."""
        if not self.window:
            return
        record = summarize(self.window)
        self.window.clear()
        if self.progress:
            rate = self.progress.rate(reached)
            record |= {"images_per_second": rate} if math.isfinite(rate) else {}
        for writer in self.writers:
            writer.scalars(step, record)

    def finish(self, step: int) -> None:
        """Wait for the device and log the remaining steps."""
        while self.pending:
            self._arrived(self.pending.popleft())
        self.log(step, step)
