"""The training step: compiled once, sent once, its state's memory used again, no word with the host."""

import itertools
import math

import jax
import numpy as np
import pytest
from jaxprs import callbacks, equations

from diffusion import registered
from diffusion.config.experiment import Experiment
from diffusion.run import step as run_step
from diffusion.training import LoopOptions, Monitor, train
from diffusion.training.state import keys_to_data

MLP = {"name": "mlp", "width": 8, "depth": 1}
CONFIG = {
    "seed": 0,
    "process": "vp",
    "network": MLP,
    "sampler": "euler",
    "data": {"name": "points2d", "kind": "moons", "label": True, "batch_size": 8},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "ema": ("0.9",),
    "parallel": {"name": "mesh", "num_devices": 1},
    "train": {"num_steps": 20, "sample_every": 0, "log_every": 5},
}


def experiment(**sections):
    train = CONFIG["train"] | sections.pop("train", {})
    return Experiment.from_config(CONFIG | {"train": train} | sections)


class Counted:
    """A compiled program that counts its calls."""

    def __init__(self, program):
        self.program, self.calls = program, 0

    def __call__(self, *args):
        self.calls += 1
        return self.program(*args)


def placed(e, most=1):
    """A placed state and the batches of one dispatch."""
    layout, batch = e.parallel, first_batch(e)
    batches = layout.place_batch(batch) if most == 1 else layout.place_batches([batch] * most)
    return layout.place_state(e.init_state()), batches


def first_batch(e):
    with run_step.batches_of(e, 0, 1) as batches:
        return next(batches)


@pytest.mark.slow
@pytest.mark.parametrize("layout", registered("parallel"))
@pytest.mark.parametrize(
    ("most", "num_steps", "programs", "calls"),
    [(1, 20, 1, 20), pytest.param(4, 20, 1, 5, marks=pytest.mark.slow), (4, 22, 2, 6)],
)
def test_one_compilation_and_one_dispatch_per_call(
    compilations, layout, most, num_steps, programs, calls
):
    """Over a whole run; after the first dispatch nothing else is compiled either, but for a shorter tail."""
    e = experiment(parallel={"name": layout, "num_devices": 1}, train={"steps_per_dispatch": most})
    step, state = Counted(run_step.compiled_dispatch(e)), e.parallel.place_state(e.init_state())
    place = e.parallel.place_batch if most == 1 else e.parallel.place_batches
    seen = []  # how many programs had been compiled when the loop said what it does

    with run_step.batches_of(e, 0, num_steps) as batches:
        train(
            step, state, batches, num_steps=num_steps, batch_size=8, place=place,
            options=LoopOptions(steps_per_dispatch=most, log_every=5),
            monitor=Monitor(alive=lambda phase: seen.append((phase, len(compilations)))),
        )  # fmt: skip
    assert step.calls == calls
    phases, counts = zip(*seen, strict=True)
    assert phases.count("compile") == programs
    assert (
        counts[-1] - counts[0] == programs
    )  # of whatever kind, from the first dispatch to the last


@pytest.mark.parametrize("layout", registered("parallel"))
@pytest.mark.parametrize("most", [1, 4])
def test_the_state_is_given_up_and_its_memory_used_again(layout, most):
    e = experiment(parallel={"name": layout, "num_devices": 1}, train={"steps_per_dispatch": most})
    step = run_step.compiled_dispatch(e)
    state, batches = placed(e, most)
    size = sum(x.nbytes for x in jax.tree.leaves(keys_to_data(state)))
    memory = step.lower(state, batches).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= size
    new, _ = step(state, batches)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((new, batches)))


@pytest.mark.parametrize("most", [1, 4])
def test_a_dispatch_is_one_program(most):
    e = experiment(train={"steps_per_dispatch": most})
    traced = jax.make_jaxpr(run_step.compiled_dispatch(e))(*placed(e, most))
    assert [eqn.primitive.name for eqn in traced.jaxpr.eqns] == ["jit"]


def test_steps_are_written_out_on_a_cpu_alone():
    """Gradients of convolutions within a loop are slow there; elsewhere a loop is compiled once."""
    from diffusion.training.step import many_steps

    e = experiment(train={"steps_per_dispatch": 4})
    one, four = placed(e), placed(e, 4)
    loops = lambda program, args: jax.jit(program).lower(*args).as_text().count("stablehlo.while")
    step = run_step.training_step(e)
    within = loops(step, one)  # such as those that draw random numbers
    assert loops(many_steps(step, unroll=True), four) == within
    assert loops(many_steps(step, unroll=False), four) == within + 1
    assert loops(run_step.compiled_dispatch(e), four) == within


# ---- every loss ---------------------------------------------------------------------------------


def cases():
    """One change of the config each, so that every registered part of a loss is met."""
    for kind in ("process", "prediction", "weight", "time", "network", "optimizer", "coupling"):
        for name in registered(kind):
            if (kind, name) == ("coupling", "stored"):
                continue  # reads a file
            yield f"{kind}-{name}", {kind: {"name": name}}
    for name in registered("classifier_loss"):
        yield f"classifier-{name}", {"task": "classifier", "classifier_loss": {"name": name}}
    for name, fields in {
        "accumulate": {"accumulate": 2}, "batch_target": {"batch_target": True},
        "learn_variance": {"learn_variance": True}, "loss_target": {"loss_target": "velocity"},
        "steps_per_dispatch": {"steps_per_dispatch": 4},
    }.items():  # fmt: skip
        yield f"train-{name}", {"train": fields}


NEEDED = {  # what some of them cannot do without
    "network-unet": {"network": {"name": "unet", "channels": 4, "multipliers": (1,), "blocks": 1}},
    "network-dit": {"network": {"name": "dit", "width": 8, "depth": 1, "heads": 1}},
}
PICTURES = {"data": {"name": "digits", "batch_size": 8}}


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_no_step_asks_the_host(name):
    """Traced, not compiled; the program of a run, with everything that it logs."""
    sections = CASES[name] | NEEDED.get(name, {})
    if name in NEEDED:
        sections = sections | PICTURES
    if sections.get("task") == "classifier":
        sections = sections | {"network": {"name": "mlp", "width": 8, "depth": 1}}
    logged = {"spike_factor": 10.0} | sections.pop("train", {})
    e = experiment(train=logged, ema=("0.9", "power_0.1"), **sections)
    batch = first_batch(e)
    most = e.train.steps_per_dispatch
    batch = batch if most == 1 else jax.tree.map(lambda x: np.stack([x] * most), batch)
    traced = jax.make_jaxpr(run_step.compiled_dispatch(e))(e.abstract_state(), batch)
    assert callbacks(traced) == set()
    assert sum(1 for _ in itertools.islice(equations(traced), 100)) == 100  # there is a step in it


def test_the_walk_finds_callbacks_wherever_they_hide():
    """So that the tests above are not true of everything."""

    def told(x):
        jax.debug.callback(lambda v: None, x)
        return x

    def asked(x):
        return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct((), x.dtype), x)

    for fn in (told, asked):
        looped = lambda x, fn=fn: jax.lax.fori_loop(0, 3, lambda i, v: jax.jit(fn)(v), x)
        branched = lambda x, fn=fn: jax.lax.cond(x > 0, fn, lambda v: v, x)
        for nested in (fn, looped, branched, jax.jit(jax.checkpoint(looped))):
            assert callbacks(jax.make_jaxpr(nested)(np.float32(math.pi)))
    assert not callbacks(
        jax.make_jaxpr(lambda x: jax.lax.cond(x > 0, jax.numpy.sin, jax.numpy.cos, x))(1.0)
    )
