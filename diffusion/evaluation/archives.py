"""Writing .npz files that are larger than memory."""

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.files import replacing
from diffusion.numerics import require


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An array that arrives in pieces along its first axis."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]


def _write(file: Any, value: "Stream | np.ndarray") -> None:
    if not isinstance(value, Stream):
        np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
        return
    kind = np.dtype(value.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, header | {"shape": tuple(value.shape)})
    count = 0
    for piece in value.pieces:
        piece = np.ascontiguousarray(piece, kind)
        require(
            piece.shape[1:] == tuple(value.shape[1:]),
            f"a piece of shape {piece.shape} does not belong to an array of shape {value.shape}.",
        )
        file.write(piece.tobytes())
        count += len(piece)
    require(
        count == value.shape[0],
        f"the pieces hold {count} rows; `shape` promised {value.shape[0]}.",
    )


def save_arrays(path: Path, arrays: "Mapping[str, Stream | np.ndarray]", card: Mapping) -> None:
    """Write an .npz file, whole or not at all, with a card of JSON among its arrays.

    Args:
        path: of the file; its folder is made.
        arrays: by name; those that arrive in pieces never lie in memory as a whole.
        card: what the arrays were made of.

    Raises:
        ValueError: the pieces do not add up to the promised shape.
        WriteError: the file cannot be written.
    """
    told = np.array(json.dumps(card, default=str))
    with (
        replacing(path) as scratch,
        zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, value in {"card": told, **arrays}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _write(file, value)
