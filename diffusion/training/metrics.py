"""Where the numbers of a run go.

A writer takes named floats per step, and named pictures. The file of JSON lines is the truth: when a
run resumes it is cut back to the restored step, so that no step appears twice. The others mirror it.
A line that is damaged costs itself alone: it is left out by readers, and put into a file beside when
the log is cut back.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from diffusion.runtime import failpoints as faults
from diffusion.runtime.files import write_atomically, writing
from diffusion.runtime.progress import Say, nobody
from diffusion.runtime.reading import check_plain, open_plain

_DECODER = json.JSONDecoder()
Scalars = Mapping[str, Any]  # numbers of any type


@runtime_checkable
class Writer(Protocol):
    """What the loop writes to."""

    def scalars(self, step: int, values: Scalars) -> None:
        """Write named numbers; NaN means that there is none."""
        ...

    def close(self) -> None:
        """Write out everything and let go."""
        ...


class _Lines(NamedTuple):
    """What a log holds: lines with their records, in order, and lines that are damaged."""

    good: list[tuple[str, dict[str, Any]]]
    bad: list[bytes]


def _records(line: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the record of a line, with its text; none if it is damaged, two where their newline is."""
    text, found = line.decode("latin-1"), []  # what is written is ASCII
    while text:
        try:
            record, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            return []
        found.append((text[:end], record))
        text = text[end + 1 :]  # one byte stands where the newline was
    return found if all(line.isascii() for line, _ in found) else []


def _read(path: Path) -> _Lines:
    lines = _Lines([], [])
    if not check_plain(path):
        return lines
    with open_plain(path) as file:
        *whole, rest = file.read().split(b"\n")
    for line in whole:
        found = _records(line)
        lines.good.extend(found)
        if len(found) != 1 or found[0][0] != line.decode("latin-1"):
            lines.bad.append(line)
    lines.good.extend(_records(rest))  # else it was cut off by a crash, or is being written
    return lines


def read_jsonl(path: str | Path, say: Say = nobody) -> list[dict[str, Any]]:
    """Read a file of JSON lines, each an object with a whole number `step`.

    Args:
        path: of the file; where there is none there are no lines.
        say: gets a line if others are damaged; these are left out. So is a last one that was cut off by a crash.
    """
    lines = _read(Path(path))
    if lines.bad:
        say(f"{path}: {_count(lines.bad)} left out")
    return [record for _, record in lines.good]


def _count(lines: list[bytes]) -> str:
    return "a damaged line is" if len(lines) == 1 else f"{len(lines)} damaged lines are"


def truncate_jsonl(path: str | Path, step: int, say: Say = nobody) -> None:
    """Drop every line after this step, in one atomic replacement; damaged ones go to a file beside, and it is said."""
    path = Path(path)
    if not path.exists():
        return
    lines = _read(path)
    if lines.bad:
        aside = path.with_name(f"{path.name}.damaged")
        with writing(aside), aside.open("ab") as file:
            file.writelines(line + b"\n" for line in lines.bad)
        say(f"{path}: {_count(lines.bad)} now in {aside.name}; the others stay")
    kept = "".join(f"{line}\n" for line, r in lines.good if r["step"] <= step)
    write_atomically(path, kept.encode())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class JsonLines:
    """One JSON object per line: {"step": 100, "loss": 0.5, ...}; what is not finite is null.

    Also a context manager, which closes the file.
    """

    def __init__(self, path: str | Path, step: int = 0, say: Say = nobody):
        """Open the file, cut back to a step.

        Args:
            path: the file; its folder is made.
            step: the step that training starts from; 0 begins an empty file.
            say: gets a line if some of its lines are damaged.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_plain(self.path)  # a link leads elsewhere, and a pipe waits for a reader
        truncate_jsonl(self.path, step if step else -1, say)
        self._file = self.path.open("a")

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def scalars(self, step: int, values: Scalars) -> None:
        """Append a line."""
        numbers = {k: float(v) for k, v in values.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        with writing(self.path):
            self._append(_line({"step": step, **finite}))

    def _append(self, line: str) -> None:
        if faults.armed("mid_log_line"):
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            faults.failpoint("mid_log_line")
            line = line[len(line) // 2 :]
        self._file.write(line)
        self._file.flush()  # a crash loses at most the line that is being written

    def close(self) -> None:
        """Close the file."""
        with writing(self.path):  # it may hold a line that a full disk did not take
            self._file.close()


class Console:
    """Lines for people: step 100  loss 0.5000  grad_norm 1.200."""

    def __init__(self, say: Callable[[str], None], names: tuple[str, ...] = ("loss", "grad_norm")):
        """Say these numbers, where a step has them."""
        self._say, self._names = say, names

    def scalars(self, step: int, values: Scalars) -> None:
        """Say one line."""
        shown = [f"{name} {values[name]:.4g}" for name in self._names if name in values]
        self._say("  ".join([f"step {step}", *shown]))

    def close(self) -> None:
        """Nothing to close."""


class TensorBoard:
    """Event files for TensorBoard, written by tensorboardX."""

    def __init__(self, directory: str | Path, step: int = 0):
        """Open a folder; what an earlier run wrote after `step` is hidden.

        Raises:
            ImportError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "The TensorBoard writer needs tensorboardX: pip install tensorboardX, or leave it out of the config."
            ) from None
        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Scalars) -> None:
        """Add finite numbers."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
