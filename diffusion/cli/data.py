"""Prepare, list and inspect data sets.

    demolish data list
    demolish data prepare fashion_mnist
    demolish data prepare tfds --set dataset=svhn_cropped
    demolish data inspect digits --out digits.png
    demolish data inspect points2d --set kind=spirals --out spirals.png
    demolish data inspect folder --set path=my_pictures --set size=32
    demolish data inspect fashion_mnist --duplicates pairs.png

The data folder is --data_dir, else $DEMOLISH_DATA, else ~/.cache/demolish.
"""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from diffusion.cli.messages import say
from diffusion.cli.parser import Parser, real_number, whole_number


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, cleans_up=True)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument("--data_dir", help="folder of prepared data sets")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("name", metavar="NAME", help="a name that `list` shows, or module:attribute")
    named.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the data set, such as split=test or path=my_pictures; repeatable",
    )

    def add(name: str, purpose: str, *parents: Any) -> Parser:
        title = f"demolish data {name}: {purpose}."
        return commands.add_parser(
            name, parents=parents, help=purpose, description=title, allow_abbrev=True
        )

    add("list", "show the names of all data sets, and which are prepared", root)
    add("prepare", "download a data set and write it to the data folder", root, named)
    show = add("inspect", "print counts and moments, and draw a picture", root, named)
    show.add_argument("--out", help="write a training batch, with augmentation, to this PNG")
    show.add_argument(
        "--batch_size", type=whole_number, help="examples in the picture (64; points: 2000)"
    )
    show.add_argument("--step", type=whole_number, default=0, help="which batch to draw")
    show.add_argument(
        "--seed", type=whole_number, default=0, help="seed of the order and the augmentation"
    )
    show.add_argument(
        "--duplicates",
        metavar="PNG",
        help="find the nearest training example of every held-out example; list and draw the closest pairs",
    )
    show.add_argument(
        "--pairs", type=whole_number, default=20, help="how many pairs to list and draw"
    )
    show.add_argument("--against", metavar="SPLIT", help="the held-out split (test)")
    show.add_argument(
        "--max", type=whole_number, help="compare at most this many examples of each split (all)"
    )
    show.add_argument(
        "--near",
        type=real_number,
        default=8.0,
        help="count pairs below this distance, in levels of 255",
    )
    return parser


def read_fields(name: str, pairs: list[str]) -> dict[str, Any]:
    """Parse FIELD=VALUE pairs by the types of the data set's fields: a path `2024_01` is text, a size `32` a number."""
    from diffusion.registry.typed import field_type, read

    fields = {}
    for pair in pairs:
        field, equals, text = pair.partition("=")
        if not equals or not field:
            raise ValueError(f"`--set` wants FIELD=VALUE; got {pair!r}.")
        fields[field] = read(text, field_type("dataset", name, [field]))
    return fields


def make_dataset(name: str, pairs: list[str], data_dir: str | None) -> Any:
    """Build the data set that the command line describes."""
    from diffusion.registry import build

    folder = {} if data_dir is None else {"data_dir": data_dir}
    return build("dataset", {"name": name, **read_fields(name, pairs)}, **folder)


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Any]:
    """Yield a callback (done, total) that draws a progress bar with the time left on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    console = Console(stderr=True)
    still = not console.is_terminal  # no moving bar in a log file
    with Progress(*columns, console=console, transient=True, disable=still) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def list_datasets(data_dir: str | None) -> None:
    """Print every registered data set with the first line of its documentation, and whether it is prepared."""
    from diffusion.data import PreparedImages, data_root
    from diffusion.registry import build, lookup, registered

    for name in registered("dataset"):
        summary = (lookup("dataset", name).__doc__ or "").strip().splitlines()[0]
        state = ""
        with contextlib.suppress(TypeError):  # needs a hyperparameter, such as a path
            dataset = build("dataset", name, **({"data_dir": data_dir} if data_dir else {}))
            if isinstance(dataset, PreparedImages):
                state = "  [prepared]" if dataset.find() else "  [not prepared]"
        say(f"{name:18}{summary}{state}")
    say(f"\nData folder: {data_root(data_dir)}")


def prepare(name: str, pairs: list[str], data_dir: str | None) -> None:
    """Prepare a data set and decode its splits."""
    import dataclasses

    from diffusion.data import PreparedImages
    from diffusion.data.records import split_sizes

    dataset = make_dataset(name, pairs, data_dir)
    if not isinstance(dataset, PreparedImages):
        say(f"{name} needs no preparation: {dataset.spec}")
        return
    with progress_bar(f"preparing {name}") as report:
        folder = dataset.prepare(download=True, progress=report)
    for split, size in split_sizes(folder).items():
        part = dataclasses.replace(dataset, split=split)
        say(f"{split}: {size} examples of shape {part.spec.shape}")
        len(part.source)  # decodes the split, if it is held in memory
    say(f"Prepared in {folder}")


def inspect(options: argparse.Namespace) -> None:
    """Print statistics of a data set; draw a batch, or the nearest pairs of two splits."""
    from diffusion.data import summarize
    from diffusion.data.classes import remarks

    dataset = make_dataset(options.name, options.set, options.data_dir)
    spec = dataset.spec
    if options.duplicates:
        check_duplicates(dataset, options)
    with progress_bar(f"reading {options.name}") as report:
        found = summarize(dataset, report)
    rows = {
        "examples": spec.size or f"endless (statistics of {found.num_examples})",
        "shape": f"{spec.shape} ({spec.kind}, {spec.bits or 'no'} bits)",
        "classes": spec.num_classes,
        "range": f"{found.low:.4g} ... {found.high:.4g}",
        "mean": f"{found.mean:.4f}",
        "sigma_data": f"{found.std:.4f}",
        "noise levels": f"{found.sigma_min:.3g} ... {found.sigma_max:.3g} suggested",
    }
    if held_out := dataset.division():
        rows["held out"] = held_out
    print_rows(rows | dataset.notes())
    for number, count in enumerate(found.class_counts):
        label = spec.class_name(number) if spec.class_names else ""
        say(f"  class {number:<4}{count:>8}  {label}")
    for line in remarks(dataset):
        say(f"  {line}")
    if options.out:
        draw(dataset, options)
        say(f"Wrote {options.out}")
    if options.duplicates:
        list_duplicates(dataset, options)


def print_rows(rows: dict[str, Any]) -> None:
    """Print names and values in two columns."""
    for title, value in rows.items():
        say(f"{title:14}{value}")


def check_duplicates(dataset: Any, options: argparse.Namespace) -> None:
    """Raise ValueError if the examples cannot be compared, before anything is read."""
    if dataset.spec.bits != 8 or dataset.spec.shape[-1] not in (1, 3):
        raise ValueError("`--duplicates` compares 8-bit images of 1 or 3 channels.")
    if options.pairs < 1 or (options.max is not None and options.max < 1):
        raise ValueError("`--pairs` and `--max` must be at least 1.")


def list_duplicates(dataset: Any, options: argparse.Namespace) -> None:
    """Print how close the examples of two splits are, and draw the closest pairs side by side."""
    import dataclasses

    import numpy as np

    from diffusion.data.duplicates import find_duplicates

    held_out = dataset.held_out()
    if options.against:
        held_out = dataclasses.replace(held_out, split=options.against)
    with progress_bar("comparing") as report:
        found = find_duplicates(dataset, held_out, options.max, report)
    ours, theirs = held_out.split, dataset.split  # a set without this field was refused above
    few, half, most = np.quantile(found.distance, [0.01, 0.5, 1])
    rows = {
        "exact copies": f"{found.exact} of {ours} are in {theirs}",
        "repeats": f"{found.repeats[1]} within {ours}, {found.repeats[0]} within {theirs}",
        "near copies": f"{(found.distance < options.near).sum()} of {ours} within {options.near:g} levels",
        "nearest": f"1 % within {few:.1f} levels, half within {half:.1f}, all within {most:.1f}",
    }
    if found.same_label is not None:
        rows["same class"] = f"{found.same_label:.1%} have the class of their nearest"
    say(f"\n{len(found.index)} of {ours} against {found.num_train} of {theirs}")
    print_rows(rows)
    draw_pairs(options.duplicates, dataset, held_out, found.closest(options.pairs))


def draw_pairs(path: str, train: Any, held_out: Any, pairs: list[tuple[int, int, float]]) -> None:
    """List pairs, the closest first, and draw each as a row: held out on the left, training on the right."""
    import numpy as np

    from diffusion.evaluation.images import image_grid, label_rows, save_png, to_uint8

    images, labels = [], []
    for ours, theirs, distance in pairs:
        label = f"{held_out.split} {ours}, {train.split} {theirs}: {distance:.1f}"
        parts = held_out.examples(ours, 1), train.examples(theirs, 1)
        say(f"  {label}{''.join(f'  {class_of(train.spec, part)}' for part in parts)}")
        images += [to_uint8(part["data"][0]) for part in parts]
        labels.append(label)
    grid = image_grid(np.stack(images), columns=2, scale=max(1, 64 // train.spec.shape[0]))
    save_png(path, label_rows(grid, labels))
    say(f"Wrote {path}")


def class_of(spec: Any, example: Any) -> str:
    """Return the class of a batch of one example, by name if classes have names; "" without labels."""
    if not isinstance(spec.num_classes, int) or "label" not in example.get("cond", {}):
        return ""
    return spec.class_name(int(example["cond"]["label"][0]))


def draw(dataset: Any, options: argparse.Namespace) -> None:
    """Draw a training batch and write it to --out."""
    import math

    from diffusion.evaluation.images import save_grid, scatter_grid
    from diffusion.evaluation.pictures import save_examples

    spec = dataset.spec
    default = 64 if spec.pictured else 2000
    batch = dataset.batch(options.step, options.batch_size or default, options.seed)
    data = batch["data"]
    if spec.kind == "image" and spec.shape[-1] in (1, 3):
        scale = max(1, 64 // spec.shape[0])
        save_grid(options.out, data, columns=math.isqrt(len(data)), scale=scale)
    elif spec.pictured:
        save_examples(options.out, data, spec, columns=math.isqrt(len(data)))
    elif spec.kind == "points" and spec.shape == (2,):
        scatter_grid(options.out, [data], titles=[options.name])
    else:
        raise ValueError(f"`--out` draws images and points in the plane, not {spec.shape}.")


def main(options: argparse.Namespace) -> None:
    """Run list, prepare or inspect."""
    if options.command == "list":
        list_datasets(options.data_dir)
    elif options.command == "prepare":
        prepare(options.name, options.set, options.data_dir)
    else:
        inspect(options)
