"""One training run in a work directory: what scripts/train.py does, callable from anywhere."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from diffusion.compatibility import check_training
from diffusion.data import prefetch
from diffusion.evaluation import generate
from diffusion.experiment import Experiment
from diffusion.networks import count_parameters
from diffusion.training import TrainState, make_train_step
from diffusion.training.checkpoint import Checkpoints
from diffusion.training.loop import Hook, LoopOptions, train
from diffusion.training.metrics import Console, JsonLines, TensorBoard
from diffusion.training.progress import Terminal, duration
from diffusion.types import Params
from diffusion.workdir import Workdir, provenance

Say = Callable[[str], None]


def batches_of(experiment: Experiment, start: int, stop: int) -> Any:
    """Return this process's rows of the batches, made ahead of time in one thread."""
    rows = experiment.parallel.local_rows(experiment.batch_size)
    numbers = np.arange(experiment.batch_size, dtype=np.int32)[rows]
    pairing = jax.random.fold_in(jax.random.key(experiment.seed), 2)

    def make(step: int) -> dict[str, Any]:
        batch = experiment.dataset.batch(
            step, experiment.batch_size, seed=experiment.seed, rows=rows, train=True
        )
        key = jax.random.fold_in(pairing, step)
        batch = experiment.coupling(experiment.process, key, batch | {"row": numbers})
        return {k: v for k, v in batch.items() if k in ("data", "cond", "noise", "row")}

    return prefetch(make, start_step=start, stop_step=stop)


def label_dropout(experiment: Experiment) -> float:
    """Return the share of examples trained without their condition; a classifier needs them all."""
    drops = experiment.conditional and experiment.task == "generator"
    return experiment.train.label_dropout if drops else 0.0


def compiled_step(experiment: Experiment) -> Any:
    """Return the training step under the config's layout."""
    step = make_train_step(
        experiment.loss(),
        experiment.optimizer,
        experiment.ema,
        accumulate=experiment.train.accumulate,
        label_dropout=label_dropout(experiment),
        reduce=experiment.parallel.reduce,
        time=experiment.time,
    )
    return experiment.parallel.compile(step)


def _grid_of(experiment: Experiment, params: Params) -> np.ndarray:
    """Generate the examples of a sample grid: fixed seed and keys, classes in turn."""
    classes = experiment.spec.num_classes
    rows = min(classes, 10) if isinstance(classes, int) and classes else 8
    count = rows * experiment.train.samples_per_class
    if experiment.spec.kind != "image":
        count = 1000

    parts = generate(
        experiment.sampler, experiment.process, lambda cond: experiment.model(params, cond),
        experiment.seed, count, experiment.spec.shape, experiment.times(),
        lambda i: experiment.conditions_in_turn(i, rows), batch_size=count,
    )  # fmt: skip
    x = np.concatenate(list(parts))
    if experiment.spec.kind == "image":  # one row per class
        x = x.reshape(experiment.train.samples_per_class, rows, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(-1, *x.shape[2:])
    return x


def sample_grids(experiment: Experiment, workdir: Workdir, say: Say) -> Callable[..., None]:
    """Return a hook that draws grids from the raw and the averaged weights, with fixed keys."""
    from diffusion.evaluation import pictures

    def draw(step: int, state: TrainState, metrics: Any) -> None:
        del metrics
        host = experiment.parallel.fetch({"raw": state.params, **state.ema})
        if jax.process_index() != 0:
            return
        for name, params in host.items():
            x = _grid_of(experiment, params)
            path = workdir.samples / f"{step:08d}_{name.replace('/', '_')}.png"
            columns = experiment.train.samples_per_class
            pictures.save_examples(path, x, experiment.spec, columns, title=f"step {step}, {name}")
        say(f"samples of step {step}: {workdir.samples}")

    return draw


def describe(experiment: Experiment) -> list[str]:
    """Return lines for people about what will be trained."""
    spec, state = experiment.spec, experiment.abstract_state()
    size = "endless" if spec.size is None else f"{spec.size} examples"
    number = count_parameters(state.params)
    total = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if hasattr(x.dtype, "itemsize")
    )
    devices = experiment.parallel.devices
    classes = f", {spec.num_classes} classes" if spec.num_classes else ""
    return [
        f"data: {experiment.config['data']['name']}, {size} of shape {spec.shape}{classes}",
        f"process: {experiment.process}",
        f"network: {number:,} parameters; state with optimizer and averages {total / 2**20:.1f} MiB",
        f"devices: {len(devices)} x {devices[0].device_kind}, {type(experiment.parallel).__name__}",
        f"budget: {experiment.train.steps(experiment.batch_size)} steps of {experiment.batch_size} examples",
    ]


def dry_run(experiment: Experiment) -> dict[str, Any]:
    """Compile the training step and return what it would cost, without training."""
    state = experiment.parallel.place_state(experiment.init_state())
    with batches_of(experiment, 0, 1) as batches:
        batch = experiment.parallel.place_batch(next(batches))
    started = time.monotonic()
    compiled = compiled_step(experiment).lower(state, batch).compile()
    seconds = time.monotonic() - started
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    mebi = lambda name: round(getattr(memory, name, 0) / 2**20, 2)
    return {
        "parameters": count_parameters(experiment.abstract_state().params),
        "state_and_batch_mib": mebi("argument_size_in_bytes"),
        "activations_and_temporaries_mib": mebi("temp_size_in_bytes"),
        "gflop_per_step_and_device": round((cost or {}).get("flops", 0.0) / 1e9, 3),
        "compile_seconds": round(seconds, 1),
        "steps": experiment.train.steps(experiment.batch_size),
        "config": experiment.resolved(),
    }


@contextlib.contextmanager
def _writers(workdir: Workdir, start: int, say: Say, tensorboard: bool) -> Iterator[list[Any]]:
    writers: list[Any] = []
    if jax.process_index() == 0:
        workdir.path.mkdir(parents=True, exist_ok=True)
        names = ("loss", "grad_norm", "images_per_second")
        writers = [JsonLines(workdir.metrics, start), Console(say, names)]
        if tensorboard:
            writers.append(TensorBoard(workdir.path / "tensorboard", start))
    try:
        yield writers
    finally:
        for writer in writers:
            writer.close()


def run(experiment: Experiment, workdir: Workdir, *, tensorboard: bool = False) -> TrainState:
    """Train in a work directory, from its newest checkpoint if there is one.

    Args:
        experiment: what to train.
        workdir: where to; a run of another config in it is refused.
        tensorboard: write event files as well.

    Returns:
        The state after the last step.
    """
    terminal = Terminal(sys.stderr)
    say = terminal.say if jax.process_index() == 0 else lambda text: None
    layout, options = experiment.parallel, experiment.train
    layout.check_batch(experiment.batch_size, options.accumulate)
    check_training(experiment)
    resumed = workdir.claim(experiment.config)
    for line in describe(experiment):
        say(line)
    num_steps = options.steps(experiment.batch_size)
    if jax.process_index() == 0:
        workdir.write("config.json", experiment.config)
        workdir.write("resolved.json", experiment.resolved())
        workdir.write("data.json", dataclasses.asdict(experiment.spec))
        workdir.write("run.json", provenance())
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir.checkpoints, keep=options.keep))
        newest = checkpoints.latest_step()
        start = 0
        if newest is None:
            state = experiment.init_state()
        else:
            state = checkpoints.restore(newest, layout.template(experiment.abstract_state()))
            start = newest
            say(f"resumed from step {start}" + ("" if resumed else " of an earlier run"))
        writers = stack.enter_context(_writers(workdir, start, say, tensorboard))
        batches = stack.enter_context(batches_of(experiment, start, max(num_steps, start + 1)))
        hooks = []
        if options.sample_every and experiment.task == "generator":
            hooks.append(
                Hook(call=sample_grids(experiment, workdir, say), every=options.sample_every)
            )
        began = time.monotonic()
        state = train(
            compiled_step(experiment), layout.place_state(state), batches,
            num_steps=num_steps, batch_size=experiment.batch_size, place=layout.place_batch,
            hooks=hooks, writers=writers, say=say, rewrite=terminal.rewrite,
            save=lambda step, state, block=False: checkpoints.save(
                step, layout.saveable(state), experiment.config, block=block
            ),
            options=LoopOptions(
                log_every=options.log_every, checkpoint_every=options.checkpoint_every,
                max_bad_run=options.max_bad_steps,
            ),
        )  # fmt: skip
    if jax.process_index() == 0 and num_steps > start:
        seconds = time.monotonic() - began
        say(f"trained {num_steps - start} steps in {duration(seconds)}")
        workdir.write("run.json", provenance() | {"steps": num_steps, "seconds": round(seconds, 1)})
    return state
