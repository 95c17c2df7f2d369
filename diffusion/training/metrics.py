"""Writers of the metrics of a run.

A writer takes named floats per step. The file of JSON lines is the authoritative log: when a run resumes, it is
truncated to the restored step, so that no step appears twice. The other writers mirror it. A damaged line does not
affect the others: readers skip it, and it is moved to a separate file when the log is truncated.
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
    """Destination of the metrics of a training loop."""

    def scalars(self, step: int, values: Scalars) -> None:
        """Write named numbers; NaN means that a number is missing."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class _Lines(NamedTuple):
    """Content of a log: intact lines with their records, in order, and damaged lines."""

    good: list[tuple[str, dict[str, Any]]]
    bad: list[bytes]


def _records(line: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the record of a line, with its text; none if it is damaged, two if the newline between them is."""
    text, found = line.decode("latin-1"), []  # intact lines are ASCII
    while text:
        try:
            record, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return []
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            return []
        found.append((text[:end], record))
        text = text[end + 1 :]  # skips the damaged byte in place of the newline
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
    # no record if the last line was cut off by a crash, or is being written
    lines.good.extend(_records(rest))
    return lines


def read_jsonl(path: str | Path, say: Say = nobody) -> list[dict[str, Any]]:
    """Read a file of JSON lines, each an object with an integer `step`.

    Args:
        path: the file; a missing file has no lines.
        say: called with a message if there are damaged lines, which are skipped. A last line that was cut off by a
            crash is skipped without a message.
    """
    lines = _read(Path(path))
    if lines.bad:
        say(f"{path}: {_count(lines.bad)} left out")
    return [record for _, record in lines.good]


def _count(lines: list[bytes]) -> str:
    return "a damaged line is" if len(lines) == 1 else f"{len(lines)} damaged lines are"


def truncate_jsonl(path: str | Path, step: int, say: Say = nobody) -> None:
    """Drop all lines after a step, atomically; move damaged lines to a separate file, with a message."""
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
    """Writer of one JSON object per line: {"step": 100, "loss": 0.5, ...}; non-finite numbers become null.

    Also a context manager, which closes the file.
    """

    def __init__(self, path: str | Path, step: int = 0, say: Say = nobody):
        """Open the file and truncate it to a step.

        Args:
            path: the file; its folder is created.
            step: the step that training starts from; 0 starts an empty file.
            say: called with a message if some lines are damaged.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_plain(self.path)  # refuses links, which lead elsewhere, and pipes, which block
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
        self._file.flush()  # a crash loses at most the current line

    def close(self) -> None:
        """Close the file."""
        with writing(self.path):  # flushes a line that may have failed on a full disk
            self._file.close()


class Console:
    """Writer of readable lines: step 100  loss 0.5000  grad_norm 1.200."""

    def __init__(self, say: Callable[[str], None], names: tuple[str, ...] = ("loss", "grad_norm")):
        """Print the numbers of these names, if a step has them."""
        self._say, self._names = say, names

    def scalars(self, step: int, values: Scalars) -> None:
        """Print one line."""
        shown = [f"{name} {values[name]:.4g}" for name in self._names if name in values]
        self._say("  ".join([f"step {step}", *shown]))

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Writer of TensorBoard event files, by tensorboardX."""

    def __init__(self, directory: str | Path, step: int = 0):
        """Open a folder; steps after `step` from an earlier run are hidden.

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
        """Write the finite numbers."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
