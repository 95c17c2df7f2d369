"""Files of named arrays in the safetensors format: a JSON header, then bytes.

    8 bytes    n, the length of the header
    n bytes    {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}
    the rest   the arrays, one after the other, without gaps

Nothing in such a file can run code. The whole header is checked against the length of the file and against the
expected arrays before any array is allocated.
"""

import importlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.runtime.digests import digest_of_file
from diffusion.runtime.exits import CheckpointError
from diffusion.runtime.files import replacing
from diffusion.runtime.reading import open_plain, parse_json

MAX_HEADER = 2**22  # bytes: about 40,000 arrays
Shape = tuple[tuple[int, ...], str]  # shape and name of the dtype
_TYPES = {  # names in the file -> names in NumPy and JAX
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_SIZES = {"BOOL": 1, "BF16": 2} | {k: int(k[1:]) // 8 for k in _TYPES if k not in ("BOOL", "BF16")}


def _library(part: str = "") -> Any:
    """Import safetensors, or a part of it."""
    try:
        return importlib.import_module(f"safetensors.{part}".rstrip("."))
    except ImportError:
        raise ImportError("Export and import need safetensors: pip install safetensors.") from None


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], note: Mapping[str, str]) -> str:
    """Write arrays to a file atomically.

    Args:
        path: the file.
        tensors: arrays by name.
        note: short texts for the metadata in the header.

    Returns:
        The SHA-256 of the file.

    Raises:
        WriteError: the file cannot be written.
    """
    with replacing(path) as scratch:
        dense = {name: np.array(x, order="C") for name, x in tensors.items()}
        _library("numpy").save_file(dense, scratch, metadata=dict(note))
        with scratch.open("rb") as file:
            return digest_of_file(file)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def read_header(path: Path) -> dict[str, Shape]:
    """Return shape and dtype of every array of a file, by name.

    Raises:
        CheckpointError: the header is invalid; nothing else of the file was read.
        OSError: the file cannot be read.
    """
    with open_plain(path, links=True) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CheckpointError(f"{path} is no file of tensors: its header has {length} bytes.")
        raw = file.read(length)
    try:
        header = parse_json(raw, "it", pairs=_unique)
        if not isinstance(header, dict):
            raise ValueError("it is no mapping")
        header.pop("__metadata__", None)
        ends = [_checked(name, entry) for name, entry in header.items()]
    except ValueError as error:
        raise CheckpointError(f"{path} has an unsound header: {str(error)[:200]}.") from None
    at = 0
    for begin, end in sorted(ends):
        if begin != at:
            raise CheckpointError(f"{path} has an unsound header: arrays overlap or leave gaps.")
        at = end
    if at != size - 8 - length:
        raise CheckpointError(
            f"{path} has {size - 8 - length} bytes of arrays, not {str(at)[:30]}."
        )
    return {k: (tuple(e["shape"]), _TYPES[e["dtype"]]) for k, e in header.items()}


def _checked(name: str, entry: Any) -> tuple[int, int]:
    """Return the begin and end offsets of an array; raise ValueError for an invalid entry."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name[:100]!r} is not described by dtype, shape and data_offsets")
    shape, offsets, kind = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{name[:100]!r} has the type {str(kind)[:20]!r}")
    natural = lambda x: type(x) is int and 0 <= x < 2**63
    for numbers, most in ((shape, 32), (offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) > most or not all(map(natural, numbers)):
            raise ValueError(f"{name[:100]!r} has a shape or offsets that are none")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _SIZES[kind]:
        raise ValueError(f"{name[:100]!r} does not fill its place")
    return offsets[0], offsets[1]


def read_tensors(path: Path, like: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read arrays with known names and shapes.

    Args:
        path: the file.
        like: shapes by name; the file must hold exactly these arrays.

    Raises:
        CheckpointError: the header is invalid, or differs from `like`; no array was read.
    """
    have = {name: shape for name, (shape, _) in read_header(path).items()}
    wrong = [f"missing: {n}" for n in like if n not in have]
    wrong += [f"left over: {n[:100]}" for n in have if n not in like]
    wrong += [
        f"{n} is {list(have[n])}, wanted {list(like[n])}"
        for n in like
        if n in have and have[n] != like[n]
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{path} does not fit its config: {'; '.join(wrong[:5])}{more}.")
    with _library().safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in like}
