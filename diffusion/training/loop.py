"""The loop around the compiled step. It owns the clock, logs, checkpoints and progress.

It runs ahead of the device by a few steps and looks at numbers only when they have arrived, so that
the device never waits for the host.
"""

import itertools
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from diffusion.numerics import require
from diffusion.training.exits import DivergedError, Stopped
from diffusion.training.metrics import Writer
from diffusion.training.progress import Progress, Say, duration, heartbeat, nobody
from diffusion.training.step import LEVEL_EDGES, Metrics
from diffusion.training.stop import StopFlag, StopRequestedError

HookCall = Callable[[int, Any, Metrics], None]
Report = Callable[[int, Mapping[str, Any]], None]  # report(step, metrics on the host)
Save = Callable[..., Any]  # save(step, state, block=False)
CompiledStep = Callable[[Any, Any], tuple[Any, Metrics]]


@dataclass(frozen=True, kw_only=True)
class Hook:
    """Something to do every so many steps: call(step, state, metrics).

    Attributes:
        call: gets the number of steps done, the placed state and the metrics on the device. The
            state is given up by the next step: copy what is to be kept.
        every: steps between calls; it is called when this divides the step.
        at_end: call it after the last step as well.
    """

    call: HookCall
    every: int
    at_end: bool = True

    def __post_init__(self):
        require(self.every >= 1, f"`every` of a hook must be at least 1; got {self.every}.")

    def due(self, step: int, last: bool) -> bool:
        """Say whether it is to be called after this step."""
        return step % self.every == 0 or (last and self.at_end)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How the loop behaves; nothing here changes what is computed.

    Attributes:
        log_every: steps per line of the log, which holds the means over these steps.
        checkpoint_every: steps between checkpoints; None: only at the end. The end is always saved.
        max_bad_run: stop after this many non-finite steps in a row.
        ahead: steps that may be under way on the device; more only costs memory for their batches.
        handle_signals: save and leave on SIGTERM, SIGINT and SIGUSR1.
    """

    log_every: int = 50
    checkpoint_every: int | None = None
    max_bad_run: int = 20
    ahead: int = 2
    handle_signals: bool = True

    def __post_init__(self):
        for name in ("log_every", "checkpoint_every", "max_bad_run", "ahead"):
            value = getattr(self, name)
            allowed = value is None if name == "checkpoint_every" else False
            require(allowed or value >= 1, f"`{name}` must be at least 1; got {value}.")


def level_names() -> list[str]:
    """Name the bins of the loss by noise level as the log does."""
    edges = [f"{e:g}" for e in (-math.inf, *LEVEL_EDGES, math.inf)]
    return [f"loss_log_snr/{a}..{b}" for a, b in itertools.pairwise(edges)]


def summarize(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average the metrics of several steps on the host.

    Returns:
        loss and grad_norm as means over finite steps (NaN if there is none), the last value of every
        other number, and the mean loss in each bin of log_snr that was met.
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


@dataclass
class _Ledger:
    """Metrics on their way from the device to the log."""

    options: LoopOptions
    writers: Sequence[Writer]
    save: Save | None
    report: Report | None = None
    progress: Progress | None = None
    saved: int | None = None  # step of the newest checkpoint
    pending: deque = field(default_factory=deque)
    window: list = field(default_factory=list)

    def add(self, step: int, metrics: Metrics) -> None:
        """Take the metrics of a step that may still be running."""
        self.pending.append((step, metrics))
        while len(self.pending) > self.options.ahead or (
            self.pending and self.pending[0][1]["bad_run"].is_ready()
        ):
            self._arrived(*self.pending.popleft())

    def _arrived(self, step: int, metrics: Metrics) -> None:
        bad_run = int(metrics["bad_run"])  # waits if the loop is too far ahead
        self.window.append({k: v for k, v in metrics.items() if k not in ("rows", "counted")})
        if self.report and not metrics.get("counted", True):
            self.report(step, jax.device_get(dict(metrics)))
        if step % self.options.log_every == 0:
            self.log(step)
        if bad_run >= self.options.max_bad_run:
            self.log(step)
            kept = "none was saved" if self.saved is None else f"step {self.saved}"
            raise DivergedError(
                step,
                f"Loss or gradient was not finite in {bad_run} steps in a row, up to step {step}. "
                f"The parameters are those of step {step - bad_run}; newest checkpoint: {kept}. "
                "Lower optimizer.learning_rate, set optimizer.clip = 1.0, or look for bad data.",
                good=step - bad_run,
            )
        if self.progress and self.progress.due():
            self.progress.show(step, f"loss {float(metrics['loss']):.4g}")

    def log(self, step: int) -> None:
        """Write the means over the steps since the last line."""
        if not self.window:
            return
        record = summarize(self.window)
        self.window.clear()
        if self.progress:
            rate = self.progress.rate(step)
            record |= {"images_per_second": rate} if math.isfinite(rate) else {}
        for writer in self.writers:
            writer.scalars(step, record)

    def save_if_due(self, step: int, state: Any, num_steps: int) -> None:
        """Write a checkpoint behind the back of the next steps."""
        every = self.options.checkpoint_every
        if self.save and every and step % every == 0 and step < num_steps:
            self.save(step, state, block=False)
            self.saved = step

    def finish(self, step: int, state: Any) -> None:
        """Wait for the device, log what is left and save for good."""
        while self.pending:
            self._arrived(*self.pending.popleft())
        self.log(step)
        if self.save:
            self.save(step, state, block=True)
            self.saved = step


def _following(
    batches: Iterator, place: Callable, step: int, num_steps: int, stop: StopFlag
) -> Any:
    """Place the next batch, while the device still works on the last one; None after a signal."""
    if step >= num_steps:
        return None
    try:
        with stop.waiting():
            batch = next(batches)
        return place(batch)
    except StopRequestedError:
        return None
    except StopIteration:
        raise ValueError(
            f"`batches` ended after step {step} of {num_steps}; it must go on, epoch after epoch."
        ) from None


def train(
    step: CompiledStep,
    state: Any,
    batches: Iterable,
    *,
    num_steps: int,
    batch_size: int,
    place: Callable[[Any], Any] = lambda batch: batch,
    hooks: Sequence[Hook] = (),
    save: Save | None = None,
    report: Report | None = None,
    writers: Sequence[Writer] = (),
    options: LoopOptions | None = None,
    stop: StopFlag | None = None,
    say: Say = nobody,
    rewrite: Say | None = None,
) -> Any:
    """Train until `num_steps` steps are done, counted from the beginning of the run.

    Args:
        step: a compiled step, from `layout.compile`.
        state: a placed state; it is given up.
        batches: batches in order, beginning with that of step `state.step`.
        num_steps: steps of the whole run, those before a resume included.
        batch_size: images per step, over all devices.
        place: puts a batch on the devices, `layout.place_batch`.
        hooks: things to do every so many steps.
        save: save(step, state, block=False), around `Checkpoints.save`; with block it returns when
            the checkpoint is on disk.
        report: report(step, metrics) is told of each step that did not count, with host arrays.
        writers: where the log goes.
        options: how the loop behaves.
        stop: the flag that signals raise, for those whose hooks look at it too.
        say: shows a line to people.
        rewrite: shows a line that the next one replaces, on a terminal.

    Returns:
        The state after the last step.

    Raises:
        Stopped: a signal came; the state is saved. It is a SystemExit with a documented code.
        DivergedError: too many non-finite steps in a row.
        ValueError: `batches` ended too early.
    """
    options = options or LoopOptions()
    start = int(np.asarray(jax.device_get(state.step)).flat[0])
    ledger = _Ledger(options, writers, save, report, saved=start or None)
    iterator = iter(batches)
    with stop or StopFlag(options.handle_signals) as stop:
        batch = _following(iterator, place, start, num_steps, stop)
        if batch is None and stop.received:
            raise Stopped(start, stop.received, saved=start > 0)
        for turn, done in enumerate(range(start + 1, num_steps + 1)):
            if turn == 0:
                state, metrics = _first(step, state, batch, say, rewrite)
                ledger.progress = Progress(done, num_steps, batch_size, say, rewrite)
            else:
                state, metrics = step(state, batch)
            batch = _following(iterator, place, done, num_steps, stop)
            ledger.add(done, metrics)
            for hook in hooks:
                if hook.due(done, done == num_steps) and not (stop.hurried and done < num_steps):
                    hook.call(done, state, metrics)
            if stop.requested(turn) and done < num_steps:
                ledger.finish(done, state)
                raise Stopped(done, stop.received or signal.SIGTERM, saved=save is not None)
            ledger.save_if_due(done, state, num_steps)
        if ledger.progress:
            ledger.finish(num_steps, state)
            ledger.progress.show(num_steps)
        else:
            say(f"Nothing to do: {start} of {num_steps} steps are done.")
    return state


def _first(
    step: CompiledStep, state: Any, batch: Any, say: Say, rewrite: Say | None
) -> tuple[Any, Metrics]:
    """Take the first step, which compiles, under a sign of life."""
    start = time.monotonic()
    with heartbeat("compiling the training step", say, rewrite):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    say(f"compiled in {duration(time.monotonic() - start)}")
    return state, metrics
