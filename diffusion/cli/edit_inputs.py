"""Inputs of `demolish edit`, read and checked: images, masks, operators, methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.cli.messages import fail, say
from diffusion.data.pixels import decode, to_float
from diffusion.inverse_problems import Replacement
from diffusion.inverse_problems.operators import (
    Blur,
    BoxMask,
    Colorize,
    Mask,
    Operator,
    RandomMask,
    Superres,
)
from diffusion.registry import build, lookup, nearest, registered
from diffusion.runtime import exits
from diffusion.runtime.files import decoding
from diffusion.runtime.npz import read_arrays

SAMPLER_METHODS = ("repaint",)  # methods that are a sampler around the guidance `replacement`


def load_images(
    text: str, spec: Any, config: dict
) -> tuple[np.ndarray, list[str], set[tuple[int, ...]]]:
    """Return the images of --image, (count, height, width, channels) in [-1, 1], their names, and the file sizes.

    Files are cropped and resized as training data is.
    """
    if spec is None:
        fail(
            "the run does not say what its data is: data.json is missing in --workdir. Train it again."
        )
    if spec.kind != "image":
        fail(f"editing is for images; this run was trained on {spec.kind}.")
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
        fail(f"--image data: needs whole numbers with commas between; got {text!r}.")
    train = dataset_of(config)
    dataset = train.held_out()
    size, which = dataset.spec.size, "training data" if dataset is train else "held-out split"
    if min(indices) < 0 or (size is not None and max(indices) >= size):
        last = "" if size is None else f" {size - 1}"
        fail(f"--image data: indices of the {which} run from 0 to{last}; got {text}.")
    batch = dataset.batch(0, len(indices), index=indices, train=False)
    return np.asarray(batch["data"], np.float32), [str(i) for i in indices]


def load_image(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return one picture in [-1, 1], and the height and width of its file."""
    if not Path(name).is_file():
        fail(f"--image {name}: there is no such file.", exits.FILES)
    if shape[-1] not in (1, 3):
        fail(f"pictures have 1 or 3 channels, this run's data {shape[-1]}: use data:INDICES.")
    size = decode(name, shape[-1]).shape[:2]
    if size != tuple(shape[:2]):
        say(
            f"{name}: {size[0]} x {size[1]} pixels (height x width), cropped and resized to {shape[0]} x {shape[1]}"
        )
    return to_float(decode(name, shape[-1], (shape[0], shape[1]))), size


def mask_of(text: str, shape: tuple[int, ...], seed: int, sizes: set[tuple[int, ...]]) -> Operator:
    """Return the mask of --mask; a picture of the same size as all files of --image is cropped and resized likewise."""
    kind, _, numbers = text.partition(":")
    try:
        if kind == "box":
            return BoxMask(box=tuple(int(word) for word in numbers.split(",")))
        if kind == "random":
            return RandomMask(fraction=float(numbers), seed=seed)
    except ValueError as error:
        fail(f"--mask {text}: {error}")
    if not Path(text).is_file():
        fail(
            f"--mask {text}: there is no such file, and it is neither box:TOP,LEFT,BOTTOM,RIGHT nor random:FRACTION.",
            exits.FILES,
        )
    if Path(text).suffix == ".npy":
        with decoding(text, "as .npy"):
            values = read_arrays(Path(text))["data"]
    else:
        values = decode(text, 1)
        if sizes == {values.shape[:2]}:
            values = decode(text, 1, (shape[0], shape[1]))
        values = values > 127
    if values.shape == tuple(shape[:2]):
        values = values[..., None]
    if values.shape not in (tuple(shape), (*shape[:2], 1)):
        fail(
            f"--mask {text} has shape {' x '.join(map(str, values.shape))}; this model takes {shape[0]} x {shape[1]}."
        )
    return Mask(values=values)


def operator_of(
    command: str, flags: Any, shape: tuple[int, ...], sizes: set[tuple[int, ...]]
) -> Operator:
    """Return the measurement operator of a command, checked against the images."""
    makers: dict[str, Callable[[], Operator]] = {
        "inpaint": lambda: mask_of(flags.mask, shape, flags.seed, sizes),
        "superres": lambda: Superres(factor=flags.factor),
        "deblur": lambda: Blur(width=flags.width, border=flags.border),
        "colorize": Colorize,
    }
    operator = makers[command]()
    operator.check(shape)
    if command == "colorize" and shape[-1] == 1:
        fail("colorize needs a model of images with colors; this run's have one channel.")
    return operator


def check_method(name: str) -> None:
    """Exit with a message if the method is unknown."""
    methods = sorted((*_guidance_methods(), *SAMPLER_METHODS))
    if name not in methods:
        fail(f"unknown --method {name!r}.{nearest(name, methods)} Methods: {', '.join(methods)}.")


def _guidance_methods() -> list[str]:
    """Return the names of the guidance entries that take an operator."""
    fields = lambda name: getattr(lookup("guidance", name), "__dataclass_fields__", {})
    return [name for name in registered("guidance") if "operator" in fields(name)]


def repaint(config: dict, inner: str | None, repeats: int) -> dict:
    """Return the sampler section of RePaint, with the sampler `inner`, by default ancestral."""
    from diffusion.config.sections import section_of

    given = section_of(config, "sampler") if inner else {"name": "ancestral"}
    return given if inner == "repaint" else {"name": "repaint", "inner": given, "repeats": repeats}


def guidance(method: str, operator: Operator, std: float, scale: float | None) -> list[Any]:
    """Return the entries of guidance for a method: the measurement, then the range of pixels."""
    fields = {"operator": operator, "std": std} | ({} if scale is None else {"scale": scale})
    name = "replacement" if method in SAMPLER_METHODS else method
    entry = build("guidance", {"name": name, **fields})
    if isinstance(entry, Replacement) and not operator.has_pinv:
        fail(
            f"--method {method} needs a pseudo-inverse, which a blur with --border zero has not: take "
            "--border circular, or dps, pigdm or moment_matching."
        )
    return [entry, build("guidance", "clip")]
