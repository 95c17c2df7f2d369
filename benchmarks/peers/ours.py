"""This framework, through the pieces that its own programs use."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import called, compiled, count, peak_memory, repeated, versions
from benchmarks.worker import Work
from diffusion import build, sample
from diffusion.config.experiment import Experiment
from diffusion.evaluation import generate
from diffusion.evaluation.generate import block_size, generate_batch
from diffusion.run.step import batches_of, compiled_step, training_step
from diffusion.runtime.compilation import use_compilation_cache


def network(case: Case) -> dict[str, Any]:
    """Return the section of the network."""
    if case.family == "dit":
        names = ("patch", "width", "depth", "heads", "dtype")
        return {"name": "dit", "positions": "sincos", **{n: getattr(case, n) for n in names}}
    names = ("channels", "multipliers", "blocks", "attention", "resample",
             "resample_in_block", "adaptive_scale", "dropout", "residual_scale", "dtype")  # fmt: skip
    return {"name": "unet", **{n: getattr(case, n) for n in names}}


def config(case: Case, path: str) -> dict[str, Any]:
    """Return the config of a run on an array of pictures."""
    return dict(
        seed=0,
        process=dict(name="vp"),
        prediction=dict(name="noise"),
        time=dict(name="uniform"),
        weight=dict(name="simple"),
        network=network(case),
        data=dict(name="array", path=path, batch_size=case.batch, test_fraction=0.0),
        optimizer=dict(name="adam", learning_rate=case.learning_rate),
        ema=(str(case.ema_decay),),
        train=dict(num_steps=10**9),
        sampler=dict(name="ddim"),
        grid=dict(name="uniform", num_steps=20),
        guidance=(),
        parallel=dict(name="mesh"),
        evaluate=dict(num_samples=1000),
    )


def experiment_of(case: Case, examples: int = 1024) -> Experiment:
    """Build the experiment on random bytes; the file of these goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="benchmark")
    path = Path(folder.name) / "pictures.npz"
    size = (max(examples, case.batch), *case.shape)
    pictures = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    np.savez(path, data=pictures)
    experiment = Experiment.from_config(config(case, str(path)))
    experiment.dataset.batch(0, case.batch, seed=0)  # read now: the folder is about to go
    return experiment


def train(case: Case, variant: str) -> Work:
    """Return the step of a run.

    With the variant "pipeline" its batches are made and placed as well; "many" takes four steps per dispatch;
    "patches" has a U-Net that sees 2x2 pixels as one, so other work: a quarter of the operations.
    """
    experiment = experiment_of(case)
    if variant == "patches":
        experiment = experiment.replaced(network=build("network", network(case) | {"patch": 2}))
    layout = experiment.parallel
    layout.check_batch(case.batch)
    state = layout.place_state(experiment.init_state())
    with batches_of(experiment, 0, 4) as source:
        made = list(source)
    if variant == "many":
        return _many(experiment, state, made)
    batches = [layout.place_batch(batch) for batch in made]
    program, facts = compiled(compiled_step(experiment), state, batches[0])
    facts |= versions("demolish", "optax") | {"parameters": count(state.params)}
    if variant == "pipeline":
        return Work(run=_with_data(experiment, program, state), facts=facts, memory=peak_memory)
    return Work(run=repeated(program, state, batches), facts=facts, memory=peak_memory)


def _many(experiment: Experiment, state: Any, made: list[Any]) -> Work:
    """Return dispatches of as many steps as there are batches; the facts are those of one step."""
    layout, steps = experiment.parallel, len(made)
    batches = layout.place_batches(made)
    program, facts = compiled(layout.compile_many(training_step(experiment)), state, batches)
    facts |= versions("demolish", "optax") | {"parameters": count(state.params)}
    facts |= {name: facts[name] / steps for name in ("flops", "flops_xla")}
    run = repeated(program, state, [batches])
    return Work(run=run, facts=facts, memory=peak_memory, size=steps)


def cached(case: Case, variant: str) -> Work:
    """Return the step of a run whose compiled programs are kept in the folder `variant`, if it is one."""
    if variant:
        use_compilation_cache(variant)
    return train(case, "")


def _with_data(experiment: Experiment, program: Any, state: Any) -> Any:
    """Return what does n steps, each with a new batch."""
    source, box = batches_of(experiment, 0, 10**9), [state]

    def run(n: int) -> None:
        for _ in range(n):
            batch = experiment.parallel.place_batch(next(source))
            box[0], told = program(box[0], batch)
        jax.block_until_ready((box[0], told))

    return run


def shrink(x: Any, t: Any) -> Any:
    """Stand for a denoiser: one multiplication."""
    del t
    return 0.9 * x


def overhead(case: Case, variant: str) -> Work:
    """Return calls of `diffusion.sample`, `case.steps` steps each, around a denoiser that costs nothing.

    The variant is the sampler's name, or NAME:jit: under one more `jax.jit`, so that its table of
    coefficients is a constant.
    """
    name, _, how = variant.partition(":")
    process, sampler = build("process", "vp"), build("sampler", name)
    times = build("grid", "uniform")(process, case.steps)
    key_x, key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (case.batch, *case.shape))
    once = lambda x, key: sample(sampler, process, shrink, key, x, times)
    call = jax.jit(once) if how else once

    return Work(
        run=called(call, x, key),
        facts=versions("demolish") | {"devices_used": 1},
        memory=peak_memory,
    )


def draw(case: Case, variant: str) -> Work:
    """Return calls that draw a batch with the network of the case."""
    del variant
    experiment = experiment_of(case)
    params = experiment.init_params()
    keys = np.arange(case.batch)
    parts = experiment.sampler, experiment.process, lambda cond: experiment.model(params, cond)
    times = experiment.grid(experiment.process, case.steps)

    def run(n: int) -> None:
        for i in range(n):
            y = generate_batch(*parts, i, keys, case.shape, times, denoise_last=False).x
        jax.block_until_ready(y)

    facts = versions("demolish") | {"parameters": count(params), "devices_used": jax.device_count()}
    return Work(run=run, facts=facts, memory=peak_memory)


def stream(case: Case, variant: str) -> Work:
    """Return calls that draw blocks as a survey does: "one" awaited at a time, or "many" at once.

    A piece of work is four blocks per device; seconds are told for one.
    """
    experiment = experiment_of(case)
    params, times = experiment.init_params(), experiment.grid(experiment.process, case.steps)
    parts = experiment.sampler, experiment.process, lambda cond: experiment.model(params, cond)
    per_call = block_size(case.shape) * jax.local_device_count()

    def run(n: int) -> None:
        size = per_call if variant == "one" else 4 * per_call
        for _ in generate(*parts, 0, 4 * n * per_call, case.shape, times, batch_size=size):
            pass

    facts = versions("demolish") | {"block": per_call, "parameters": count(params)}
    return Work(run=run, facts=facts, memory=peak_memory, size=4)
