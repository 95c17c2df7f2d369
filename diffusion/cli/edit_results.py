"""Results of `demolish edit`: samples given measurements, variations, interpolations, and their picture."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import editing
from diffusion.cli.messages import fail, note, progress
from diffusion.evaluation import example_keys, generate_batch, pictures
from diffusion.inverse_problems import consistent
from diffusion.inverse_problems.base import unexplained
from diffusion.inverse_problems.operators import Operator
from diffusion.runtime import exits

VISIBLE = 4  # largest error of a pixel, in levels of 255, that needs no warning


def batches(total: int, size: int) -> Iterator[np.ndarray]:
    """Yield global indices in batches of equal size, the last one padded."""
    size = min(size, total)
    for first in range(0, total, size):
        yield np.arange(first, first + size)


def invert(run: Any, operator: Operator, x: np.ndarray, flags: Any) -> tuple[list[np.ndarray], str]:
    """Sample x given y for every image; return rows of pictures and a summary line."""
    experiment, count = run.experiment, flags.num_samples
    key = jax.random.key(flags.seed)
    y = np.asarray(operator.measure(jax.random.fold_in(key, 1), jnp.asarray(x), flags.std))
    parts = []
    show = progress("sampling", count * len(x))
    for indices in batches(count * len(x), flags.batch_size):
        given = experiment.replaced(
            given={**experiment.given, "measurement": y[indices // count % len(x)]}
        )
        found = generate_batch(
            experiment.sampler, experiment.process, lambda cond, g=given: g.model(run.params, cond),
            flags.seed, indices, x.shape[1:], experiment.times(),
            experiment.conditions(None, len(indices)),
        ).x  # fmt: skip
        parts.append(np.asarray(found, np.float32))
        show(min(int(indices[-1]) + 1, count * len(x)))
    flat, repeated = finite(np.concatenate(parts)[: count * len(x)]), np.repeat(y, count, axis=0)
    if flags.consistent:
        flat = np.asarray(consistent(operator, repeated, jnp.asarray(flat)))
    results = flat.reshape(len(x), count, *x.shape[1:])
    off = np.asarray(unexplained(operator, repeated, jnp.asarray(flat)))
    said = (
        f"input, measurement and {count} results by {flags.method} for {len(x)} images; root mean square of y - A x "
        f"{np.sqrt((off**2).mean()):.3f} (noise {flags.std:g}), at most {levels_of(off):.0f} of 255 levels; of results "
        f"less input {np.sqrt(((results - x[:, None]) ** 2).mean()):.3f}"
    )
    say_if_far(operator, off, flags)
    shown = visible(operator, y, x.shape[1:])
    return [
        np.concatenate([a[None], b[None], c]) for a, b, c in zip(x, shown, results, strict=True)
    ], said


def levels_of(difference: np.ndarray) -> float:
    """Return the largest difference of pixels in [-1, 1], in levels of 255."""
    return 127.5 * float(np.abs(difference).max())


def say_if_far(operator: Operator, off: np.ndarray, flags: Any) -> None:
    """Warn if results match a noiseless measurement only approximately, and suggest an alternative."""
    if flags.std > 0 or levels_of(off) <= VISIBLE:
        return
    ways = ["take more steps"] if flags.method == "moment_matching" else ["take moment_matching"]
    ways += ["put the measurement back by --consistent"] if operator.has_pinv else []
    note(
        f"{flags.method} keeps to the measurement only roughly: a number of it is off by {levels_of(off):.0f} of 255 "
        f"levels. To keep closer, {' or '.join(ways)}."
    )


def visible(operator: Operator, y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return measurements as pictures of the image size."""
    return y if y.shape[1:] == shape else np.asarray(operator.pinv(jnp.asarray(y), shape))


def finite(x: np.ndarray) -> np.ndarray:
    """Return the results; exit with a message if some are not finite."""
    if not np.isfinite(x).all():
        fail(
            "some results are not finite; try more steps, another --method or --std above 0.",
            exits.DIVERGED,
        )
    return x


def _times(experiment: Any, level: float) -> np.ndarray:
    """Return the run's time grid from a noise level down; warn if this is already the final level of the grid."""
    process = experiment.process
    times = editing.times_below(experiment.times(), editing.time_of_level(process, level))
    if len(times) < 2:
        least = editing.level_of_time(process, float(process.t_min))
        note(
            f"--level {level:g} adds no noise, so the model changes nothing: images are made at t_min, where the level "
            f"is {least:.3g} already. Take one above it."
        )
    return times


def vary(run: Any, x: np.ndarray, flags: Any) -> tuple[list[np.ndarray], str]:
    """Make variations of every image; return rows of pictures and a summary line."""
    experiment, count = run.experiment, flags.num_samples
    times = _times(experiment, flags.level)
    total = count * len(x)
    parts = []
    for indices in batches(total, flags.batch_size):
        model = experiment.model(run.params, experiment.conditions(None, len(indices)))
        parts.append(editing.vary(
            experiment.sampler, experiment.process, model, example_keys(flags.seed, indices),
            jnp.asarray(x[indices // count % len(x)]), times,
        ))  # fmt: skip
    results = finite(np.concatenate(parts)[:total]).reshape(len(x), count, *x.shape[1:])
    rows = [np.concatenate([a[None], b]) for a, b in zip(x, results, strict=True)]
    changed = np.sqrt(((results - x[:, None]) ** 2).mean())
    return rows, (
        f"input and {count} variations at noise level {flags.level:g} for {len(x)} images; root mean square of the "
        f"changes {changed:.3f}, at most {levels_of(results - x[:, None]):.0f} of 255 levels"
    )


def interpolate(run: Any, x: np.ndarray, flags: Any) -> tuple[list[np.ndarray], str]:
    """Interpolate from the first image to the second; return one row of pictures and a summary line."""
    experiment, process, count = run.experiment, run.experiment.process, flags.num_samples
    fraction = np.linspace(0, 1, count + 2)[1:-1] if count < 2 else np.linspace(0, 1, count)
    model = experiment.model(run.params, experiment.conditions(None, count))
    a, b = (jnp.asarray(np.repeat(image[None], count, axis=0)) for image in x)
    if flags.through == "latent":
        start, end = (editing.encode(process, model, image) for image in (a, b))
        found = editing.decode(process, model, editing.slerp(start, end, fraction))
        how = "through latents"
    else:
        key = jax.random.key(flags.seed)
        keys = jnp.broadcast_to(key, (count,))  # the same noise for the whole row
        times = _times(experiment, flags.level)
        found = editing.interpolate(experiment.sampler, process, model, keys, a, b, fraction, times)
        how = f"through noise of level {flags.level:g}"
    row = np.concatenate([x[:1], finite(np.asarray(found, np.float32)), x[1:]])
    return [row], f"{count} steps from one image to the other, {how}"


# ---- the picture ----------------------------------------------------------------------------------


def write(path: str, rows: list[np.ndarray], spec: Any, names: list[str]) -> None:
    """Write the rows as one PNG; rows are titled with the image names if each image has its own row."""
    labels = names if len(rows) == len(names) else []
    pictures.save_examples(path, np.concatenate(rows), spec, columns=len(rows[0]), names=labels)
