"""Reading named arrays from PyTorch files without executing code in them.

Such a file is a zip archive (since PyTorch 1.6) or one stream (before); both contain a pickle, a program for a small
stack machine. Python's unpickler imports and calls whatever the program names. The interpreter below knows only the
about twenty instructions that a dictionary of tensors needs; names stay text and are never imported, and the only
"calls" are four descriptions of data, listed in `_build`. Anything else is refused by name. Values are never traversed
recursively: a few hundred bytes of pickle can describe a value with exponentially many parts.
"""

import io
import math
import os
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.runtime.files import DAMAGE
from diffusion.runtime.npz import Bounded, open_zip
from diffusion.runtime.reading import open_plain

TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C  # the first value of the older format
MOST_INSTRUCTIONS = 300_000  # enough for about 10,000 tensors
MOST_AT_ONCE = 2**24  # bytes of one text or number, and of the whole pickle
MOST_DIMENSIONS = 32
# tensors may share storage; copies take at most this many times the size of the file
MOST_SHARED = 4


@dataclass(frozen=True)
class Name:
    """Name of an object that Python's unpickler would import, such as "torch FloatStorage"."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A flat array of numbers, with its key in the file."""

    type: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset, shape and strides, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class Refused(ValueError):
    """The file is damaged, or holds something other than named tensors."""


def _told(value: Any) -> str:
    """Return a short description of a value, without traversing it."""
    plain = isinstance(value, bool | int | float | str | None)
    return str(value)[:60] if plain else f"a {type(value).__name__}"


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _build(name: Any, arguments: Any) -> Any:
    """Return the result of one of the four allowed calls."""
    text = name.text if isinstance(name, Name) else _told(name)
    if not isinstance(arguments, tuple):
        raise Refused(f"it would call {text!r} with {_told(arguments)}")
    empty = len(arguments) == 0 or (
        len(arguments) == 1 and type(arguments[0]) is list and not arguments[0]
    )
    if text == "collections OrderedDict" and empty:
        return {}
    if text == "torch._utils _rebuild_tensor_v2" and len(arguments) >= 4:
        storage, offset, shape, steps = arguments[:4]
        whole = [isinstance(x, tuple) and len(x) <= MOST_DIMENSIONS for x in (shape, steps)]
        if (
            isinstance(storage, Storage)
            and all(whole)
            and all(map(_natural, (offset, *shape, *steps)))
        ):
            return Tensor(storage, offset, shape, steps)
    if text == "torch._utils _rebuild_parameter" and arguments:
        return arguments[0]
    raise Refused(f"it would call {text!r}; a file of tensors has no need to")


def _storage(identity: Any) -> Storage:
    """Return the storage of a persistent id: ("storage", type, key, location, size, ...)."""
    if isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage":
        _, kind, key, _, size = identity[:5]
        type_name = kind.text.removeprefix("torch ") if isinstance(kind, Name) else ""
        if type_name in TYPES and isinstance(key, str) and _natural(size):
            return Storage(TYPES[type_name], key, size)
    raise Refused(f"it refers to {_told(identity)}, which is no storage of numbers")


CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_DICT": {}, "EMPTY_LIST": [],
}  # fmt: skip
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINUNICODE", "SHORT_BINUNICODE",
    "UNICODE", "BINFLOAT", "FLOAT",
}  # fmt: skip
PASSED = {"PROTO", "FRAME"}


class _Machine:
    """Stack machine for pickles; `run` reads one pickle and returns its value."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: Any) -> Any:
        for count, (code, value, _) in enumerate(pickletools.genops(file)):
            if count > MOST_INSTRUCTIONS:
                raise Refused("it is too long for a dictionary of tensors")
            if code.name == "STOP":
                return self.stack.pop()
            self.step(code.name, value)
        raise Refused("it ends too early")

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        found = self.stack[at:]
        del self.stack[at:]
        return found

    def step(self, name: str, value: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            constant = CONSTANTS[name]
            stack.append(constant.copy() if isinstance(constant, dict | list) else constant)
        elif name in VALUES:
            stack.append(value)
        elif name in PASSED:
            pass
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(Name(value))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(value)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(value)])
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[5:] or 0)
            items = [stack.pop() for _ in range(size)][::-1] if size else self.since_mark()
            self.stack.append(tuple(items))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self.since_mark()
            if any(type(key) is not str for key in items[::2]):
                raise Refused("it names something by what is no text")
            self.target(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self.since_mark()
            self.target(list).extend(items)
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_build(function, arguments))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "BUILD":
            # attributes of an OrderedDict: version numbers of PyTorch modules, not needed
            stack.pop()
            self.target(dict)
        else:
            raise Refused(f"it has the instruction {name}, of no dictionary of tensors")

    def target(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"it fills a {type(self.stack[-1]).__name__} like a {kind.__name__}")
        return self.stack[-1]


def _view(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return a tensor as an array, after checking that it is inside its storage."""
    sound = len(tensor.shape) == len(tensor.steps)
    # refuses tensors expanded by a stride of 0
    sound = sound and math.prod(tensor.shape) <= len(numbers)
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.shape, tensor.steps, strict=False)
    )
    if not sound or (0 not in tensor.shape and last >= len(numbers)):
        raise Refused("a tensor reaches beyond its numbers")
    steps = [s * numbers.itemsize for s in tensor.steps]
    inside = numbers[tensor.offset :]
    return np.lib.stride_tricks.as_strided(inside, tensor.shape, steps, writeable=False).copy()


def _zipped(path: Path) -> tuple[Any, dict[str, bytes]]:
    """Read the format of PyTorch 1.6 and later."""
    with open_zip(path, packed=False) as archive:
        names = archive.namelist()
        main = [n for n in names if n.endswith("/data.pkl")]
        if len(main) != 1:
            raise Refused("the archive holds no data.pkl, or several")
        root = main[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in names and archive.read(order) != b"little":
            raise Refused("its numbers are big-endian")
        if archive.getinfo(main[0]).file_size > MOST_AT_ONCE:
            raise Refused("its description of tensors is too long")
        value = _Machine().run(io.BytesIO(archive.read(main[0])))
        wanted = {f"{root}data/{s.key}": s.key for s in _storages(value)}
        return value, {key: archive.read(n) for n, key in wanted.items() if n in names}


def _streamed(path: Path) -> tuple[Any, dict[str, bytes]]:
    """Read the format before PyTorch 1.6: five pickles, then each storage after its count."""
    with open_plain(path, links=True) as whole:
        file: Any = Bounded(whole, MOST_AT_ONCE)  # a stated length cannot allocate more memory
        if _Machine().run(file) != MAGIC:
            raise Refused("it does not begin as PyTorch's files do")
        version, system, value, keys = (_Machine().run(file) for _ in range(4))
        if version != 1001 or not system.get("little_endian", False):
            raise Refused(f"its version is {_told(version)}, or its numbers are big-endian")
        found = {s.key: s for s in _storages(value)}
        if not isinstance(keys, list) or any(type(key) is not str for key in keys):
            raise Refused("its storages have no names")
        data = {}
        for key in keys:
            count = int.from_bytes(whole.read(8), "little")
            if key not in found or count != found[key].size or key in data:
                raise Refused(f"storage {key[:30]!r} is not as long as the tensors say")
            size = count * np.dtype(found[key].type).itemsize
            if size > os.fstat(whole.fileno()).st_size - whole.tell():
                raise Refused(f"storage {key[:30]!r} reaches beyond its end")
            data[key] = whole.read(size)
        return value, data


def _storages(value: Any) -> list[Storage]:
    return (
        [x.storage for x in value.values() if isinstance(x, Tensor)]
        if isinstance(value, dict)
        else []
    )


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a dictionary {name: tensor} written by `torch.save`.

    Raises:
        Refused: the file is damaged, or holds anything else.
        OSError: the file cannot be read.
    """
    try:
        with open_plain(path, links=True) as file:
            size, zipped = os.fstat(file.fileno()).st_size, zipfile.is_zipfile(file)
        value, data = _zipped(path) if zipped else _streamed(path)
        if not isinstance(value, dict) or not value:
            raise Refused(f"it holds a {type(value).__name__}, wanted tensors by name")
        other = [
            str(k)[:60] for k, x in value.items() if not (type(k) is str and isinstance(x, Tensor))
        ]
        if other:
            raise Refused(f"{len(other)} entries are no tensors: {', '.join(other[:3])}")
        taken = sum(math.prod(x.shape) * np.dtype(x.storage.type).itemsize for x in value.values())
        if taken > MOST_SHARED * size:
            raise Refused(f"its tensors take {_told(taken)} bytes, the file has {size}")
        return {name: _view(x, _numbers(x.storage, data)) for name, x in value.items()}
    except Refused as error:
        raise Refused(f"{path}: {error}.") from None
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the file, which has a name; a seek before its beginning, from bad content, has none
        raise Refused(f"{path} is damaged, or no file of PyTorch: {str(error)[:100]}.") from None


def _numbers(storage: Storage, data: dict[str, bytes]) -> np.ndarray:
    kind = np.dtype(storage.type)
    raw = data.get(storage.key, b"")
    if len(raw) != storage.size * kind.itemsize:
        raise Refused(
            f"storage {storage.key[:30]!r} has {len(raw)} bytes, not {storage.size * kind.itemsize}"
        )
    return np.frombuffer(raw, kind)
