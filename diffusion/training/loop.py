"""The loop around the compiled step. It owns the clock, logs, checkpoints and progress.

It runs ahead of the device by a few dispatches and looks at numbers only when they have arrived, so that
the device never waits for the host. A dispatch is one call of a compiled program, of one step or of
several; it ends where somebody is to see the state, so hooks and checkpoints fall on the same steps
whatever its length.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from diffusion.numerics import at_least
from diffusion.runtime.distributed import together
from diffusion.runtime.exits import Stopped
from diffusion.runtime.progress import Progress, Say, duration, heartbeat, nobody
from diffusion.runtime.stop import StopFlag, StopRequestedError
from diffusion.training.ledger import Ledger, Report, Save
from diffusion.training.metrics import Writer
from diffusion.training.step import Metrics

HookCall = Callable[[int, Any, Metrics], None]
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
        at_least(1, every=self.every, of="a hook")

    def due(self, step: int, last: bool) -> bool:
        """Say whether it is to be called after this step."""
        return step % self.every == 0 or (last and self.at_end)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How the loop behaves; nothing here changes what is computed, but for roundoff.

    Attributes:
        log_every: steps per line of the log, which holds the means over these steps.
        checkpoint_every: steps between checkpoints; None: only at the end. The end is always saved.
        max_bad_steps: stop after this many non-finite steps in a row.
        steps_per_dispatch: steps that one call of the compiled program takes at most. Above 1 it is one of
            `layout.compile_many`, and fewer steps are taken where a hook or a checkpoint is due.
    """

    log_every: int = 50
    checkpoint_every: int | None = None
    max_bad_steps: int = 20
    steps_per_dispatch: int = 1

    def __post_init__(self):
        at_least(1, log_every=self.log_every, max_bad_steps=self.max_bad_steps)
        at_least(1, steps_per_dispatch=self.steps_per_dispatch)
        at_least(1, checkpoint_every=self.checkpoint_every, none="none on the way")


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Who watches a run from outside, and may ask it to stop.

    Attributes:
        say: shows a line to people.
        rewrite: shows a line that the next one replaces, on a terminal.
        alive: gets what begins, as a sign of life: "compile", "hook", or that a dispatch is done.
        stop: the flag that signals raise.
    """

    say: Say = nobody
    rewrite: Say | None = None
    alive: Say = nobody
    stop: StopFlag = field(default_factory=StopFlag)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which steps are taken at once.

    It is a function of the steps done alone, so that a resumed run takes the same dispatches as one that was
    not interrupted.

    Attributes:
        num_steps: steps of the whole run.
        most: steps of a dispatch.
        periods: after a multiple of any of them somebody is to see the state.
    """

    num_steps: int
    most: int = 1
    periods: tuple[int, ...] = ()

    def length(self, done: int) -> int:
        """Return how many steps to take after so many; 0 at the end."""
        left = max(self.num_steps - done, 0)
        return min(self.most, left, *(period - done % period for period in self.periods))


def _following(
    batches: Iterator, place: Callable, plan: Plan, done: int, stop: StopFlag
) -> tuple[int, Any]:
    """Place the batches of the next dispatch, while the device works on the last one; None after a signal.

    Returns:
        The number of steps, and their batches.
    """
    count, taken = plan.length(done), []
    if not count:
        return 0, None
    try:
        with stop.waiting():
            while len(taken) < count:
                taken.append(next(batches))
        return count, place(taken if plan.most > 1 else taken[0])
    except StopRequestedError:
        return 0, None
    except StopIteration:
        raise ValueError(
            f"`batches` ended after step {done + len(taken)} of {plan.num_steps}; it must go on, epoch after epoch."
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
    monitor: Monitor | None = None,
) -> Any:
    """Train until `num_steps` steps are done, counted from the beginning of the run.

    Args:
        step: a compiled step, from `layout.compile`; from `layout.compile_many` where
            options.steps_per_dispatch is above 1.
        state: a placed state; it is given up.
        batches: batches in order, beginning with that of step `state.step`.
        num_steps: steps of the whole run, those before a resume included.
        batch_size: images per step, over all devices.
        place: puts a batch on the devices, `layout.place_batch`; or a list of those of several steps,
            `layout.place_batches`.
        hooks: things to do every so many steps.
        save: save(step, state, block=False), around `Checkpoints.save`; with block it returns when
            the checkpoint is on disk.
        report: report(step, metrics) is told of each step that did not count, with host arrays.
        writers: where the log goes.
        options: how the loop behaves.
        monitor: who watches; by default only signals are heeded.

    Returns:
        The state after the last step.

    Raises:
        Stopped: a signal came; the state is saved. It is a SystemExit with a documented code.
        DivergedError: too many non-finite steps in a row.
        ValueError: `batches` ended too early.
    """
    options, monitor = options or LoopOptions(), monitor or Monitor()
    every = options.checkpoint_every if save else None
    periods = (*(hook.every for hook in hooks), *([every] if every else []))
    plan = Plan(num_steps=num_steps, most=options.steps_per_dispatch, periods=periods)
    done = start = int(np.asarray(jax.device_get(state.step)).flat[0])
    ledger = Ledger(options.log_every, options.max_bad_steps, writers, report, saved=start or None)
    iterator, turn, compiled = iter(batches), 0, set()
    with monitor.stop as stop:
        count, batch = _following(iterator, place, plan, done, stop)
        if batch is None and stop.received:
            raise Stopped(start, stop.received, saved=start > 0)
        while done < num_steps:
            if count in compiled:
                state, metrics = step(state, batch)
            else:
                state, metrics = _first(step, state, batch, count, monitor)
                compiled.add(count)
            first, done = done + 1, done + count
            ledger.progress = ledger.progress or Progress(
                done, num_steps, batch_size, monitor.say, monitor.rewrite
            )
            count, batch = _following(iterator, place, plan, done, stop)
            ledger.add(first, done, metrics, stacked=plan.most > 1)
            monitor.alive(f"training, after step {done}")
            _call(hooks, done, state, metrics, plan, monitor)
            if stop.requested(turn) and done < num_steps:
                _finish(ledger, done, state, save)
                raise Stopped(done, stop.received or signal.SIGTERM, saved=save is not None)
            if save and every and done % every == 0 and done < num_steps:
                save(done, state, block=False)  # while the next steps are taken
                ledger.saved = done
            turn += 1
        if ledger.progress:
            _finish(ledger, num_steps, state, save)
            ledger.progress.show(num_steps)
        else:
            monitor.say(f"Nothing to do: {start} of {num_steps} steps are done.")
    return state


def _call(
    hooks: Sequence[Hook],
    done: int,
    state: Any,
    metrics: Metrics,
    plan: Plan,
    monitor: Monitor,
) -> None:
    """Call the hooks that are due, with the metrics of the last step of a dispatch."""
    last = done == plan.num_steps
    due = [hook for hook in hooks if hook.due(done, last)]
    if not due:
        return
    if plan.most > 1:
        metrics = jax.tree.map(lambda x: x[-1], metrics)
    for hook in due:
        if last or not monitor.stop.hurried:
            monitor.alive(f"hook, after step {done}")
            hook.call(done, state, metrics)
    # what one process does takes others as long, and they know what it is
    together(f"hooks after step {done}")
    monitor.alive(f"training, after step {done}")


def _finish(ledger: Ledger, step: int, state: Any, save: Save | None) -> None:
    """Wait for the device, log what is left and save for good."""
    ledger.finish(step)
    if save:
        save(step, state, block=True)
        ledger.saved = step


def _first(
    step: CompiledStep, state: Any, batch: Any, count: int, monitor: Monitor
) -> tuple[Any, Metrics]:
    """Take the first dispatch of a length, which compiles, under a sign of life."""
    monitor.alive("compile")
    start = time.monotonic()
    what = "the training step" if count == 1 else f"{count} training steps"
    with heartbeat(f"compiling {what}", monitor.say, monitor.rewrite):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    monitor.say(f"compiled in {duration(time.monotonic() - start)}")
    return state, metrics
