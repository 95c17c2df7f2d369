"""Convert published weights of Inception v3 or DINOv2 from a PyTorch .pth file to .safetensors.

    demolish convert_features pt_inception-2015-12-05-6726825d.pth inception.safetensors
    demolish convert_features dinov2_vitl14_pretrain.pth dinov2.safetensors

PyTorch is not needed, and no code in the file is executed. The arrays keep their published names. The network is
recognized from the names and shapes; weights of any other network are refused. If the file name contains the first
eight digits of the file's SHA-256, as that of the published Inception file does, the digits are compared. The name
and the SHA-256 of the source are stored in the new file and appear on the card of every number computed with it.
"""

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from diffusion.cli.messages import say
from diffusion.cli.parser import Parser


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, cleans_up=True)
    parser.add_argument("source", type=Path, metavar="FILE.pth", help="the published file")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="the file to write")
    return parser


def check_digest(source: Path) -> str:
    """Return the SHA-256 of a file; raise ValueError if it contradicts the digits in the file name."""
    from diffusion.runtime.reading import open_plain

    with open_plain(source, links=True) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = re.search(r"-([0-9a-f]{8})$", source.stem)
    if named and not digest.startswith(named[1]):
        raise ValueError(f"{source} is not whole: its SHA-256 is {digest[:8]}..., not {named[1]}.")
    return digest


def recognize(shapes: dict[str, tuple[int, ...]]) -> Any:
    """Return the network whose weights have these names and shapes; raise ValueError if there is none."""
    from diffusion.evaluation.features import dinov2, inception
    from diffusion.evaluation.features.published import disagreement
    from diffusion.networks.dinov2 import SIZES

    known = [inception.ARCHITECTURE, *map(dinov2.architecture, SIZES)]
    shared = {a.title: len(shapes.keys() & a.wanted.keys()) for a in known}
    differences = {a.title: disagreement(shapes, a.wanted, a.passed) for a in known}
    for a in known:
        if not differences[a.title]:
            return a
    # Networks of one family share all names up to a depth, so ties go to the shortest list of differences.
    nearest = max(known, key=lambda a: (shared[a.title], -len(differences[a.title]))).title
    raise ValueError(
        f"these weights are of no known network ({', '.join(shared)}). Nearest is {nearest}: {differences[nearest]}."
    )


def convert(source: Path, out: Path) -> str:
    """Convert the file `source` to the file `out`; return a line that describes the weights."""
    from diffusion.runtime.torch_files import read_pth

    if out.suffix != ".safetensors":
        raise ValueError(f"the new file must end in .safetensors; got {out.name}.")
    digest = check_digest(source)
    arrays = read_pth(source)

    from diffusion.runtime.tensors import write_tensors

    found = recognize({name: x.shape for name, x in arrays.items()})
    kept = {name: arrays[name] for name in found.wanted}
    other = sorted({str(x.dtype) for x in kept.values()} - {"float32"})
    if other:
        raise ValueError(f"weights of {found.title} are float32; these are {', '.join(other)}.")
    write_tensors(out, kept, {"source": source.name, "source_sha256": digest})
    count = sum(x.size for x in kept.values())
    return f"{out}: {found.title}, {len(kept)} arrays, {count:,} numbers; source SHA-256 {digest}"


def main(options: argparse.Namespace) -> None:
    """Convert the file that the flags name."""
    say(convert(options.source, options.out))
