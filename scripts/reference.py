#!/usr/bin/env python
"""Make the statistics of a data set that generated examples are compared with, or say what a file of them holds.

    python scripts/reference.py digits --split test --features pixels
    python scripts/reference.py fashion_mnist --split train --features classifier
    python scripts/reference.py digits --features random_conv,seeds=(0,1)
    python scripts/reference.py --check FILE

All examples of the split count, the last incomplete batch too. evaluate.py makes the same file when it is missing;
it lies in `statistics` in the folder of the data (--data_dir, else $DEMOLISH_DATA, else ~/.cache/demolish), under a
name made of its content. A damaged file, or one of other data, is made again; --fresh makes it again anyway.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import _plain
from _errors import say

# Everything heavy is imported where it is used: `--help` answers at once.


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = _plain.Parser(description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="a data set that data.py lists")
    parser.add_argument("--split", default="test", help="which part of it (test)")
    parser.add_argument(
        "--features", default="pixels", help="NAME or NAME,field=value,... (pixels)"
    )
    parser.add_argument("--data_dir", help="folder of the data sets")
    parser.add_argument("--fresh", action="store_true", help="make the file again")
    parser.add_argument(
        "--check", metavar="FILE", help="say what this file holds, and make nothing"
    )
    options = parser.parse_args(arguments)
    if (options.name is None) == (options.check is None):
        parser.error("give the NAME of a data set, or --check FILE.")
    return options


def make(options: argparse.Namespace) -> Path:
    """Make the statistics unless they are there, and return their file."""
    from diffusion.evaluation import reference
    from diffusion.evaluation.metrics import parse
    from diffusion.evaluation.metrics.base import open_features
    from diffusion.registry import build

    folder = {} if options.data_dir is None else {"data_dir": options.data_dir}
    dataset = build("dataset", options.name, **folder)
    features = build("features", parse(f"frechet[{options.features}]")["features"])
    extractor = open_features(features, dataset)  # trained on the training split, if trained at all
    fields = {f.name for f in dataclasses.fields(dataset)}
    if "split" not in fields:
        raise ValueError(f"the data set {options.name} has no splits; evaluate.py reads it itself.")
    part = dataclasses.replace(dataset, split=options.split)
    about = reference.about_of(part, extractor)
    path = reference.path_of(about, options.data_dir)
    if options.fresh:
        path.unlink(missing_ok=True)
    start = time.monotonic()
    reference.statistics(part, extractor)
    say(f"{time.monotonic() - start:.1f} s")
    return path


def existing(file: str) -> Path:
    """Return the path of a file, or say that it is not there."""
    from diffusion.runtime.files import MissingFileError

    if not Path(file).is_file():
        raise MissingFileError(f"there is no file {file}.")
    return Path(file)


def show(path: Path) -> None:
    """Print what a file holds, after its digest was checked."""
    from diffusion.evaluation import reference

    found = reference.read(path)
    about, features = found.about, found.about["features"]
    lines: dict[str, Any] = {
        "file": path,
        "data": f"{about['dataset']}, split {about['split'] or 'none'}",
        "examples": f"{found.count}, sha256 {about['sha256'][:16]}",
        "features": f"{features['name']}, version {features['version']}, sha256 {features['sha256'][:16]}",
        "moments": f"{len(found.moments.mean)} features of all {found.count} examples",
        "rows": f"features of {len(found.rows)} of the examples",
        "protocol": about["protocol"],
        "mean": f"{found.moments.mean.mean():.4f} on average",
        "variance": f"{found.moments.covariance.trace() / len(found.moments.mean):.4f} on average",
    }
    for key, value in lines.items():
        say(f"{key:12}{value}")
    if "accuracy" in features:
        say(f"{'accuracy':12}{features['accuracy']:.4f} on {features['accuracy_on']}")


def main(arguments: list[str] | None = None) -> int:
    """Make or check; errors become one line and an exit code."""
    options = parse_arguments(arguments)
    work = lambda: show(existing(options.check) if options.check else make(options))
    return _plain.run(work, options)


if __name__ == "__main__":
    sys.exit(main())
