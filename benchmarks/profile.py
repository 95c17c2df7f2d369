"""Breakdown of the time of a training step, of a sampling call or of a start, from a trace of the profiler.

    python -m benchmarks.profile train|sample|start [--case unet|dit|edm56] [--size small|base|tiny] [--steps N]

A trace has the time of every operation of the compiled program on every thread; names are
looked up in the program's text, and times are summed by kind. Threads overlap, so fractions are of the summed time;
`busy` is the union of all operations over the wall time, the fraction of time in which the device had work.

A start is the time of training from the config to the end of the first step, without a compilation cache: seconds
by phase, and seconds of all events that the runtime and the compiler report by name, which may be nested.
"""

import argparse
import collections
import contextlib
import glob
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \S+ ([\w\-]+)\((.*)$", re.MULTILINE)


def kinds_of(program: str) -> dict[str, str]:
    """Return the kind of every instruction of a compiled program's text, by its name."""
    kinds = {}
    for name, opcode, rest in INSTRUCTION.findall(program):
        source = re.search(r'op_name="([^"]*)"', rest)
        told = source.group(1) if source else ""
        kinds[name] = _kind(opcode, name, rest, told)
    return kinds


def _kind(opcode: str, name: str, rest: str, source: str) -> str:
    target = re.search(r'custom_call_target="([^"]*)"', rest)
    what = (
        f"{opcode} {name} {target.group(1) if target else ''} {source.rsplit('/', 1)[-1]}".lower()
    )
    if "conv_general" in what or re.search(r"convolution|conv\$|cudnn\$conv", what):
        return "gradient of convolutions" if "transpose(" in source else "convolutions"
    if re.search(r"\bdot|gemm|matmul|dot_general", what):
        return "gradient of matrix products" if "transpose(" in source else "matrix products"
    if re.search(r"fmha|attention", what):
        return "attention"
    if re.search(r"all-reduce|all-gather|reduce-scatter|collective", what):
        return "between devices"
    if "rng" in what or "threefry" in what or "random" in what:
        return "random numbers"
    if re.search(r"transpose|copy|pad|concatenate|slice|reshape|bitcast", opcode + name):
        return "copies and changes of layout"
    if "reduce" in what:
        return "reductions"
    return "elementwise"


def events_of(folder: str) -> list[tuple[str, str, float, float]]:
    """Return (line, name, start, duration) in seconds of every event in the newest trace of a folder."""
    import jax

    files = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    found = []
    for plane in jax.profiler.ProfileData.from_file(max(files, key=os.path.getmtime)).planes:
        for line in plane.lines:
            where = f"{plane.name}/{line.name}"
            found += [(where, e.name, e.start_ns / 1e9, e.duration_ns / 1e9) for e in line.events]
    return found


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals (start, end)."""
    total, end = 0.0, float("-inf")
    for a, b in sorted(spans):
        total += max(0.0, b - max(a, end))
        end = max(end, b)
    return total


def summarize(
    events: Sequence[tuple[str, str, float, float]], kinds: Mapping[str, str], wall: float
) -> dict[str, Any]:
    """Return seconds by kind, their sum, and the fraction of the wall time in which any operation ran."""
    sums: Any = collections.Counter()
    spans = []
    for _, name, start, duration in events:
        if (kind := kinds.get(name)) is not None and duration > 0:
            sums[kind] += duration
            spans.append((start, start + duration))
    return {"seconds": dict(sums.most_common()), "busy": union(spans) / wall, "wall": wall}


def traced(work: Any, count: int, program: str) -> dict[str, Any]:
    """Run work under the profiler and return its summary."""
    import jax

    work(1)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            work(count)
            wall = time.perf_counter() - began
        return summarize(events_of(folder), kinds_of(program), wall)


def train(case: Any, count: int) -> dict[str, Any]:
    """Profile training steps with their data, as in `demolish train`."""
    from benchmarks.peers.ours import experiment_of
    from diffusion.run.step import batches_of, compiled_step

    experiment = experiment_of(case)
    layout = experiment.parallel
    box = [layout.place_state(experiment.init_state())]
    with batches_of(experiment, 0, count + 2) as source:
        batch = layout.place_batch(next(source))
        program = compiled_step(experiment).lower(box[0], batch).compile()

        def work(n: int) -> None:
            import jax

            metrics = None
            for _ in range(n):
                box[0], metrics = program(box[0], layout.place_batch(next(source)))
            jax.block_until_ready(metrics)

        return traced(work, count, program.as_text())


def sample(case: Any, count: int) -> dict[str, Any]:
    """Profile calls of DDIM with 20 steps and the batch size of the case."""
    import jax
    import jax.numpy as jnp

    import diffusion
    from benchmarks.peers.ours import experiment_of

    experiment = experiment_of(case)
    params = experiment.init_params()
    times, shape = experiment.times(), (case.batch, *case.shape)

    @jax.jit
    def draw(params: Any, key: Any) -> Any:
        model = experiment.model(params)
        z = jax.random.normal(key, shape, jnp.float32)
        return diffusion.sample(experiment.sampler, experiment.process, model, key, z, times)

    program = draw.lower(params, jax.random.key(0)).compile()

    def work(n: int) -> None:
        found = [program(params, jax.random.key(i)) for i in range(n)]
        jax.block_until_ready(found)

    return traced(work, count, str(program.as_text()))


@contextlib.contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    """Record the seconds of a block under a name."""
    began = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - began


def start(case: Any) -> dict[str, Any]:
    """Profile a start, from the config to the end of the first step."""
    import jax

    from benchmarks.peers.ours import experiment_of
    from diffusion.run.step import batches_of, compiled_step

    jax.config.update("jax_enable_compilation_cache", False)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # or every call of a Python function would be slowed down
    phases: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            with timed(phases, "experiment"):
                experiment = experiment_of(case)
            with timed(phases, "first state"):
                state = experiment.parallel.place_state(experiment.init_state())
                jax.block_until_ready(state)
            with timed(phases, "first batch"), batches_of(experiment, 0, 1) as source:
                batch = experiment.parallel.place_batch(next(source))
            with timed(phases, "trace"):
                traced = compiled_step(experiment).trace(state, batch)
            with timed(phases, "lower"):
                lowered = traced.lower()
            with timed(phases, "compile"):
                program = lowered.compile()
            with timed(phases, "first step"):
                jax.block_until_ready(program(state, batch))
        inside = by_name(events_of(folder))
    return {"phases": phases, "inside": inside, "wall": sum(phases.values())}


def by_name(events: Sequence[tuple[str, str, float, float]]) -> dict[str, tuple[float, int]]:
    """Return seconds and number of the events of each name; overlapping events on one line count as their union."""
    spans: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line, name, begin, duration in events:
        lines = spans.setdefault(name, {})
        lines.setdefault(line, []).append((begin, begin + duration))
    return {
        name: (sum(map(union, lines.values())), sum(map(len, lines.values())))
        for name, lines in spans.items()
    }


def told_of_start(found: Mapping[str, Any], least: float = 0.02) -> str:
    """Return the phases, and the names with at least a fraction `least` of the time, as lines of text."""
    wall = found["wall"]
    line = lambda seconds, name: f"{seconds:9.2f} s {seconds / wall:6.1%}  {name}"
    inside = sorted(found["inside"].items(), key=lambda item: -item[1][0])
    return "\n".join([
        f"{wall:9.2f} s from the config to the end of the first step",
        *(line(seconds, name) for name, seconds in found["phases"].items()),
        "what was reported by name:",
        *(line(s, f"{name} ({count})") for name, (s, count) in inside if s >= least * wall),
    ])  # fmt: skip


def told(found: Mapping[str, Any], count: int) -> str:
    """Return the summary as lines of text."""
    whole = sum(found["seconds"].values()) or 1.0
    lines = [
        f"{found['wall'] / count * 1e3:9.2f} ms a call; operations ran in {found['busy']:.1%} of the time"
    ]
    for kind, seconds in found["seconds"].items():
        lines.append(f"{seconds / count * 1e3:9.2f} ms {seconds / whole:6.1%}  {kind}")
    return "\n".join(lines)


def main() -> None:
    """Profile one kind of work and print where its time goes."""
    from benchmarks.cases import CASES, SIZES, case_of

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description="Where time goes, by kind of operation."
    )
    parser.add_argument("what", choices=("train", "sample", "start"))
    parser.add_argument("--case", choices=tuple(CASES), default="unet")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--steps", type=int, default=10, help="steps or calls under the profiler")
    given = parser.parse_args()
    case = case_of(given.case, given.size)
    if given.what == "start":
        text = told_of_start(start(case))
    else:
        text = told((train if given.what == "train" else sample)(case, given.steps), given.steps)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
