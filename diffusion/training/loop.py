"""The training loop around the compiled step, with its logs, checkpoints, hooks and progress.

The loop runs ahead of the device by a few dispatches and reads metrics only when they are ready, so that
the device never waits for the host. A dispatch is one call of a compiled program, of one step or of
several. It ends at the next hook or checkpoint, so these fall on the same steps for any length of a dispatch.
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
    """A function to call at regular steps: call(step, state, metrics).

    Attributes:
        call: takes the number of completed steps, the placed state and the metrics on the device. The next step
            donates the state: copy whatever is kept.
        every: steps between calls; called if this divides the step.
        at_end: also call it after the last step.
    """

    call: HookCall
    every: int
    at_end: bool = True

    def __post_init__(self):
        at_least(1, every=self.every, of="a hook")

    def due(self, step: int, last: bool) -> bool:
        """Return whether to call it after this step."""
        return step % self.every == 0 or (last and self.at_end)


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Options of the loop, which do not change the result of training, except for roundoff.

    Attributes:
        log_every: steps per line of the log, which holds the means over these steps.
        checkpoint_every: steps between checkpoints; None: only at the end. The end is always saved.
        max_bad_steps: stop after this many non-finite steps in a row.
        steps_per_dispatch: largest number of steps in one call of the compiled program. Above 1, the program is one
            of `layout.compile_many`, and takes fewer steps before a hook or a checkpoint.
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
    """Connections of a run to the outside: messages, the watchdog, and the stop flag.

    Attributes:
        say: prints a line.
        rewrite: prints a line that the next one replaces, on a terminal.
        alive: reports progress to the watchdog, with the phase: "compile", "hook", or "training".
        stop: the flag that signals set.
    """

    say: Say = nobody
    rewrite: Say | None = None
    alive: Say = nobody
    stop: StopFlag = field(default_factory=StopFlag)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Division of the steps of a run into dispatches.

    It depends only on the number of completed steps, so that a resumed run has the same dispatches as an
    uninterrupted one.

    Attributes:
        num_steps: steps of the whole run.
        most: largest number of steps of a dispatch.
        periods: periods of hooks and checkpoints; a dispatch ends at every multiple of any of them.
    """

    num_steps: int
    most: int = 1
    periods: tuple[int, ...] = ()

    def length(self, done: int) -> int:
        """Return the number of steps of the dispatch after `done` steps; 0 at the end."""
        left = max(self.num_steps - done, 0)
        return min(self.most, left, *(period - done % period for period in self.periods))


def _following(
    batches: Iterator, place: Callable, plan: Plan, done: int, stop: StopFlag
) -> tuple[int, Any]:
    """Place the batches of the next dispatch while the device computes the current one; None after a signal.

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
    """Train until `num_steps` steps are completed, counted from the beginning of the run.

    Args:
        step: a compiled step, from `layout.compile`; from `layout.compile_many` if
            options.steps_per_dispatch is above 1.
        state: a placed state; its buffers are donated.
        batches: batches in order, beginning with the batch of step `state.step`.
        num_steps: steps of the whole run, including those before a resume.
        batch_size: images per step, over all devices.
        place: `layout.place_batch`, which places a batch on the devices; or `layout.place_batches`, which places
            the list of batches of several steps.
        hooks: functions to call at regular steps.
        save: save(step, state, block=False), which calls `Checkpoints.save`; with block it returns when
            the checkpoint is on disk.
        report: report(step, metrics), called for each skipped step, with host arrays.
        writers: writers of the log.
        options: options of the loop.
        monitor: messages, watchdog and stop flag; by default the loop only handles signals.

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
                save(done, state, block=False)  # asynchronous: written during the next steps
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
    # all processes wait for hooks that only one of them runs, and know what they are waiting for
    together(f"hooks after step {done}")
    monitor.alive(f"training, after step {done}")


def _finish(ledger: Ledger, step: int, state: Any, save: Save | None) -> None:
    """Wait for the device, log the remaining steps, and save the final checkpoint."""
    ledger.finish(step)
    if save:
        save(step, state, block=True)
        ledger.saved = step


def _first(
    step: CompiledStep, state: Any, batch: Any, count: int, monitor: Monitor
) -> tuple[Any, Metrics]:
    """Run the first dispatch of a length, which includes compilation, and report to the watchdog."""
    monitor.alive("compile")
    start = time.monotonic()
    what = "the training step" if count == 1 else f"{count} training steps"
    with heartbeat(f"compiling {what}", monitor.say, monitor.rewrite):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    monitor.say(f"compiled in {duration(time.monotonic() - start)}")
    return state, metrics
