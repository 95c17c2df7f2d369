"""What scripts/edit.py does once its flags are read: images, masks, operators, results, the grid."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _command
import jax
import jax.numpy as jnp
import numpy as np
from _errors import exits

from diffusion import build, editing, registered
from diffusion.data.pixels import decode, to_float
from diffusion.evaluation import example_keys, generate_batch, pictures
from diffusion.inverse_problems import Replacement, consistent
from diffusion.inverse_problems.base import unexplained
from diffusion.inverse_problems.operators import (
    Blur,
    BoxMask,
    Colorize,
    Mask,
    Operator,
    RandomMask,
    Superres,
)
from diffusion.registry import lookup, nearest
from diffusion.runtime.files import decoding
from diffusion.runtime.npz import read_arrays

VISIBLE = 4  # levels of 255 that a pixel may be off before it is said

SAMPLER_METHODS = ("repaint",)  # methods that are a sampler around the guidance `replacement`


# ---- what is given --------------------------------------------------------------------------------


def load_images(
    text: str, spec: Any, config: dict
) -> tuple[np.ndarray, list[str], set[tuple[int, ...]]]:
    """Return the images of --image, (count, height, width, channels) in [-1, 1], their names, and the sizes of files.

    Files are cropped and resized as data sets do it.
    """
    if spec is None:
        _command.fail(
            "the run does not say what its data is: data.json is missing in --workdir. Train it again."
        )
    if spec.kind != "image":
        _command.fail(f"editing is for images; this run was trained on {spec.kind}.")
    if text.startswith("data:"):
        return *held_out(text.removeprefix("data:"), config), set()
    names = [name for name in text.split(",") if name]
    images, sizes = zip(*(load_image(name, spec.shape) for name in names), strict=True)
    return np.stack(images), [Path(n).stem for n in names], set(sizes)


def held_out(text: str, config: dict) -> tuple[np.ndarray, list[str]]:
    """Return examples of the held-out split by their indices."""
    from diffusion.config.build import dataset_of

    try:
        indices = [int(word) for word in text.split(",")]
    except ValueError:
        _command.fail(f"--image data: needs whole numbers with commas between; got {text!r}.")
    train = dataset_of(config)
    dataset = train.held_out()
    size, which = dataset.spec.size, "training data" if dataset is train else "held-out split"
    if min(indices) < 0 or (size is not None and max(indices) >= size):
        last = "" if size is None else f" {size - 1}"
        _command.fail(f"--image data: indices of the {which} run from 0 to{last}; got {text}.")
    batch = dataset.batch(0, len(indices), index=indices, train=False)
    return np.asarray(batch["data"], np.float32), [str(i) for i in indices]


def load_image(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return one picture in [-1, 1], and the height and width of its file."""
    if not Path(name).is_file():
        _command.fail(f"--image {name}: there is no such file.", exits.FILES)
    if shape[-1] not in (1, 3):
        _command.fail(
            f"pictures have 1 or 3 channels, this run's data {shape[-1]}: use data:INDICES."
        )
    size = decode(name, shape[-1]).shape[:2]
    if size != tuple(shape[:2]):
        _command.say(
            f"{name}: {size[0]} x {size[1]} pixels (height x width), cropped and resized to {shape[0]} x {shape[1]}"
        )
    return to_float(decode(name, shape[-1], tuple(shape[:2]))), size


def mask_of(text: str, shape: tuple[int, ...], seed: int, sizes: set[tuple[int, ...]]) -> Operator:
    """Return the mask of --mask; a picture as large as all the files of --image is cropped and resized like them."""
    kind, _, numbers = text.partition(":")
    try:
        if kind == "box":
            return BoxMask(box=tuple(int(word) for word in numbers.split(",")))
        if kind == "random":
            return RandomMask(share=float(numbers), seed=seed)
    except ValueError as error:
        _command.fail(f"--mask {text}: {error}")
    if not Path(text).is_file():
        _command.fail(
            f"--mask {text}: there is no such file, and it is neither box:TOP,LEFT,BOTTOM,RIGHT nor random:SHARE.",
            exits.FILES,
        )
    if Path(text).suffix == ".npy":
        with decoding(text, "as .npy"):
            values = read_arrays(Path(text))["data"]
    else:
        values = decode(text, 1)
        if sizes == {values.shape[:2]}:
            values = decode(text, 1, tuple(shape[:2]))
        values = values > 127
    if values.shape == tuple(shape[:2]):
        values = values[..., None]
    if values.shape not in (tuple(shape), (*shape[:2], 1)):
        _command.fail(
            f"--mask {text} has shape {' x '.join(map(str, values.shape))}; this model takes {shape[0]} x {shape[1]}."
        )
    return Mask(values=values)


def operator_of(
    command: str, flags: Any, shape: tuple[int, ...], sizes: set[tuple[int, ...]]
) -> Operator:
    """Return the operator that a command measures with, checked against the images."""
    makers: dict[str, Callable[[], Operator]] = {
        "inpaint": lambda: mask_of(flags.mask, shape, flags.seed, sizes),
        "superres": lambda: Superres(factor=flags.factor),
        "deblur": lambda: Blur(width=flags.width, border=flags.border),
        "colorize": Colorize,
    }
    operator = makers[command]()
    operator.check(shape)
    if command == "colorize" and shape[-1] == 1:
        _command.fail("colorize needs a model of images with colours; this run's have one channel.")
    return operator


def check_method(name: str) -> None:
    """Leave with a message unless there is such a method."""
    methods = sorted((*_guidance_methods(), *SAMPLER_METHODS))
    if name not in methods:
        _command.fail(
            f"unknown --method {name!r}.{nearest(name, methods)} Methods: {', '.join(methods)}."
        )


def _guidance_methods() -> list[str]:
    """Return the entries of guidance that have an operator."""
    fields = lambda name: getattr(lookup("guidance", name), "__dataclass_fields__", {})
    return [name for name in registered("guidance") if "operator" in fields(name)]


def repaint(config: dict, inner: str | None, repeats: int) -> dict:
    """Return the sampler section of RePaint; it steps with `inner`, or with ancestral."""
    from diffusion.config.sections import section_of

    given = section_of(config, "sampler") if inner else {"name": "ancestral"}
    return given if inner == "repaint" else {"name": "repaint", "inner": given, "repeats": repeats}


def guidance(method: str, operator: Operator, std: float, scale: float | None) -> list[Any]:
    """Return the entries of guidance for a method: the measurement, then the range of pixels."""
    fields = {"operator": operator, "std": std} | ({} if scale is None else {"scale": scale})
    name = "replacement" if method in SAMPLER_METHODS else method
    entry = build("guidance", {"name": name, **fields})
    if isinstance(entry, Replacement) and not operator.has_pinv:
        _command.fail(
            f"--method {method} needs a pseudo-inverse, which a blur with --border zero has not: take "
            "--border circular, or dps, pigdm or moment_matching."
        )
    return [entry, build("guidance", "clip")]


# ---- what is made of it ---------------------------------------------------------------------------


def batches(total: int, size: int) -> Iterator[np.ndarray]:
    """Yield global indices in batches of one size, the last one padded."""
    size = min(size, total)
    for first in range(0, total, size):
        yield np.arange(first, first + size)


def invert(run: Any, operator: Operator, x: np.ndarray, flags: Any) -> tuple[list[np.ndarray], str]:
    """Sample x given y for every image: return rows of pictures, and what to say of them."""
    experiment, count = run.experiment, flags.num_samples
    key = jax.random.key(flags.seed)
    y = np.asarray(operator.measure(jax.random.fold_in(key, 1), jnp.asarray(x), flags.std))
    parts = []
    progress = _command.progress("sampling", count * len(x))
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
        progress(min(int(indices[-1]) + 1, count * len(x)))
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
    """Say that a method keeps to a measurement without noise only roughly, and what does better."""
    if flags.std > 0 or levels_of(off) <= VISIBLE:
        return
    ways = ["take more steps"] if flags.method == "moment_matching" else ["take moment_matching"]
    ways += ["put the measurement back by --consistent"] if operator.has_pinv else []
    _command.note(
        f"{flags.method} keeps to the measurement only roughly: a number of it is off by {levels_of(off):.0f} of 255 "
        f"levels. To keep closer, {' or '.join(ways)}."
    )


def visible(operator: Operator, y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return measurements as pictures of the size of the images."""
    return y if y.shape[1:] == shape else np.asarray(operator.pinv(jnp.asarray(y), shape))


def finite(x: np.ndarray) -> np.ndarray:
    """Return results if they are finite."""
    if not np.isfinite(x).all():
        _command.fail(
            "some results are not finite; try more steps, another --method or --std above 0.",
            exits.DIVERGED,
        )
    return x


def _times(experiment: Any, level: float) -> np.ndarray:
    """Return the run's grid from a noise level down; say it if that is the level at which it ends."""
    process = experiment.process
    times = editing.times_below(experiment.times(), editing.time_of_level(process, level))
    if len(times) < 2:
        least = editing.level_of_time(process, float(process.t_min))
        _command.note(
            f"--level {level:g} adds no noise, so the model changes nothing: images are made at t_min, where the level "
            f"is {least:.3g} already. Take one above it."
        )
    return times


def vary(run: Any, x: np.ndarray, flags: Any) -> tuple[list[np.ndarray], str]:
    """Make variations of every image: return rows of pictures, and what to say of them."""
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
    """Go from the first image to the second: return one row of pictures, and what to say of it."""
    experiment, process, count = run.experiment, run.experiment.process, flags.num_samples
    share = np.linspace(0, 1, count + 2)[1:-1] if count < 2 else np.linspace(0, 1, count)
    model = experiment.model(run.params, experiment.conditions(None, count))
    a, b = (jnp.asarray(np.repeat(image[None], count, axis=0)) for image in x)
    if flags.through == "latent":
        latents = (editing.encode(process, model, image) for image in (a, b))
        found = editing.decode(process, model, editing.slerp(*latents, share))
        how = "through latents"
    else:
        key = jax.random.key(flags.seed)
        keys = jnp.broadcast_to(key, (count,))  # one noise for the whole row
        times = _times(experiment, flags.level)
        found = editing.interpolate(experiment.sampler, process, model, keys, a, b, share, times)
        how = f"through noise of level {flags.level:g}"
    row = np.concatenate([x[:1], finite(np.asarray(found, np.float32)), x[1:]])
    return [row], f"{count} steps from one image to the other, {how}"


# ---- the picture ----------------------------------------------------------------------------------


def write(path: str, rows: list[np.ndarray], spec: Any, names: list[str]) -> None:
    """Write the rows as one PNG; an image is named where it has a row of its own."""
    labels = names if len(rows) == len(names) else []
    pictures.save_examples(path, np.concatenate(rows), spec, columns=len(rows[0]), names=labels)
