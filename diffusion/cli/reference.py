"""Compute the reference statistics of a data set, for metrics such as FID, or show the content of such a file.

    demolish reference digits --split test --features pixels
    demolish reference fashion_mnist --split train --features classifier
    demolish reference digits --features random_conv,seeds=(0,1)
    demolish reference --check FILE

All examples of the split count, including the last incomplete batch. `demolish evaluate` computes the same file if it
is missing. The file is written to the folder `statistics` of the data folder (--data_dir, else $DEMOLISH_DATA, else
~/.cache/demolish) under a name derived from its content. A file that is damaged or belongs to other data is computed
again; --fresh always computes it again.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from diffusion.cli.messages import fail, say
from diffusion.cli.parser import Parser


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, cleans_up=True, allow_abbrev=True)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a data set listed by `demolish data list`"
    )
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument(
        "--features", default="pixels", help="feature extractor: NAME or NAME,field=value,..."
    )
    parser.add_argument("--data_dir", help="folder of prepared data sets")
    parser.switch("fresh", "compute the file even if it exists")
    parser.add_argument(
        "--check", metavar="FILE", help="show the content of this file, and compute nothing"
    )
    return parser


def make(options: argparse.Namespace) -> Path:
    """Compute the statistics unless they exist, and return their file."""
    from diffusion.evaluation import reference
    from diffusion.evaluation.metrics import parse
    from diffusion.evaluation.metrics.base import open_features
    from diffusion.registry import build

    folder = {} if options.data_dir is None else {"data_dir": options.data_dir}
    dataset = build("dataset", options.name, **folder)
    features = build("features", parse(f"frechet[{options.features}]")["features"])
    extractor = open_features(features, dataset)  # a classifier is trained on the training split
    fields = {f.name for f in dataclasses.fields(dataset)}
    if "split" not in fields:
        raise ValueError(f"{options.name} has no splits; `demolish evaluate` reads it itself.")
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
    """Return the path of an existing file; raise MissingFileError if there is none."""
    from diffusion.runtime.files import MissingFileError

    if not Path(file).is_file():
        raise MissingFileError(f"there is no file {file}.")
    return Path(file)


def show(path: Path) -> None:
    """Check the digest of a file and print its content."""
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


def main(options: argparse.Namespace) -> None:
    """Compute the statistics, or show a file."""
    if (options.name is None) == (options.check is None):
        fail("give the NAME of a data set, or --check FILE. See --help.")
    show(existing(options.check) if options.check else make(options))
