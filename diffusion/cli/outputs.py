"""Outputs of `demolish sample`: a grid, arrays, or a folder of images; and the shards of an unfinished run."""

import json
import re
from pathlib import Path
from typing import Any

from diffusion.cli.messages import check_writable, fail


def check(out: Path) -> None:
    """Exit with a message unless the path is writable and its kind is known."""
    if out.suffix not in (".png", ".npz", ""):
        fail(f"--out must end in .png or .npz, or name a folder; got {str(out)!r}.")
    check_writable(out)


def kept_in(out: Path) -> Path:
    """Return the folder of the shards of an output."""
    return out.with_name(f"{out.name}.parts") if out.suffix else out / ".shards"


def shards_of(out: Path, manifest: dict[str, Any], size: int) -> Any:
    """Return the shards from which an output is assembled."""
    import sys

    from diffusion.evaluation.shards import MANIFEST, ArrayShards, ImageShards
    from diffusion.runtime.progress import Terminal

    folder, say = kept_in(out), Terminal(sys.stderr).say
    if out.suffix:
        return ArrayShards(folder=folder, manifest=manifest, size=size, say=say)
    numbered = re.compile(r"[0-9]{6,}\.png")
    if not (folder / MANIFEST).is_file() and out.is_dir():
        found = sorted(p.name for p in out.iterdir() if numbered.fullmatch(p.name))
        if found:
            fail(
                f"{out} holds {found[0]} already, and nothing says what it was made of: give --out an empty folder."
            )
    return ImageShards(folder=folder, manifest=manifest, size=size, say=say)


def finish(
    out: Path, shards: Any, start: int, stop: int, spec: Any, labels: Any, card: Any
) -> None:
    """Assemble the shards into the output, in memory that does not grow with their number."""
    import numpy as np

    from diffusion.runtime.npz import Stream, save_arrays

    if not out.suffix:
        write_card(out, card)
        return
    if out.suffix == ".npz":
        shape = (stop - start, *spec.shape)
        x = Stream(shape=shape, dtype=np.float32, pieces=shards.read(start, stop))
        save_arrays(out, {"x": x} | ({} if labels is None else {"label": labels}), card)
    else:
        write(out, np.concatenate(list(shards.read(start, stop))), labels, spec, card)
    shards.remove()


def write(out: Path, x: Any, labels: Any, spec: Any, card: dict) -> None:
    """Write a grid or arrays atomically."""
    from diffusion.evaluation import pictures
    from diffusion.runtime.npz import save_arrays

    if out.suffix == ".npz":
        save_arrays(out, {"x": x} | ({} if labels is None else {"label": labels}), card)
    else:
        order, columns, names = arrange(labels, len(x), spec)
        pictures.save_examples(out, x[order], spec, columns, names)


def write_card(folder: Path, card: dict) -> None:
    """Write the card, which records how images were made, to their folder."""
    from diffusion.runtime.files import write_atomically

    text = json.dumps(card, indent=2, default=str) + "\n"
    write_atomically(folder / "card.json", text.encode())


def arrange(labels: Any, count: int, spec: Any) -> tuple[Any, int, list[str]]:
    """Arrange examples with one row per label; return their order, the number of columns and the row names."""
    import numpy as np

    if labels is None:
        return np.arange(count), max(1, round(count**0.5)), []
    if labels.ndim > 1:  # several attributes: a row for every combination, named after all of them
        name = lambda k, place: spec.class_name(k, place) or str(k)
        some = isinstance(spec.num_classes, tuple)  # else they are multi-hot
        names_of = lambda row: [name(k, place) if some else str(k) for place, k in enumerate(row)]
        words = np.array([":".join(names_of(row)) for row in labels.tolist()])
        names_of, labels = str, words
    else:
        names_of = lambda k: spec.class_name(k) or str(k)
    kinds = list(dict.fromkeys(labels.tolist()))
    rows = [np.flatnonzero(labels == k) for k in kinds]
    columns = min(len(r) for r in rows) if count % len(kinds) == 0 else max(len(r) for r in rows)
    if len({len(r) for r in rows}) > 1:  # rows of different lengths: keep the order, without names
        return np.concatenate(rows), max(1, round(count**0.5)), []
    return np.concatenate(rows), columns, [names_of(k) for k in kinds]
