"""Shards of generated examples on disk, so that a killed command continues where it stopped.

A folder of shards holds `manifest.json`, which records everything that determines the examples, and shards: each a
contiguous range of global indices, in a file FIRST-COUNT.SHA256.npy whose name contains the digest of the range
and its content. Shards are written atomically (temporary file, fsync, rename); a damaged shard
does not match its name and is generated again. `ImageShards` is an index of PNG files in the same way.
"""

import abc
import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import jax
import numpy as np

from diffusion.evaluation import images
from diffusion.numerics import at_least
from diffusion.runtime import exits
from diffusion.runtime.compilation import cores
from diffusion.runtime.digests import as_json, difference
from diffusion.runtime.failpoints import failpoint
from diffusion.runtime.files import flock, write_atomically
from diffusion.runtime.npz import read_arrays
from diffusion.runtime.reading import NotPlainError, parse_json, read_bytes, read_json
from diffusion.types import Say

MANIFEST = "manifest.json"
# manifest entry of the machine that began the folder: for messages, not compared
BEGUN_ON = "begun_on"
_PICTURE = re.compile(r"[0-9]{6,}\.png")
_NAME = re.compile(r"([0-9]+)-([0-9]+)\.([0-9a-f]{64})\.(npy|json)")


class ShardsError(ValueError):
    """A folder of shards belongs to other examples; the message lists the differences."""

    exit_code = exits.USAGE


@dataclass(frozen=True)
class Shard:
    """A committed range of examples."""

    first: int
    count: int
    path: Path

    @property
    def stop(self) -> int:
        """The index after the last."""
        return self.first + self.count


@dataclass(frozen=True, kw_only=True)
class Shards(abc.ABC):
    """A folder of shards.

    Attributes:
        folder: the folder, created when it is opened.
        manifest: everything that determines the examples, as JSON data.
        size: examples per shard; a shard ends at multiples of it. It may change between runs of the command.
        say: prints a line.
    """

    suffix: ClassVar[str]
    folder: Path
    manifest: Mapping[str, Any]
    size: int = 1000
    say: Say = lambda text: None

    def __post_init__(self):
        at_least(1, size=self.size, of="shards")

    @abc.abstractmethod
    def pack(self, first: int, x: np.ndarray) -> bytes:
        """Return the content of a shard."""

    @abc.abstractmethod
    def is_whole(self, content: bytes) -> bool:
        """Return whether the examples of a shard with this content exist."""

    @contextlib.contextmanager
    def opened(self) -> Iterator["Shards"]:
        """Lock the folder while the block runs.

        Raises:
            ShardsError: the folder belongs to other examples.
            LockedError: another process is using the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "a") as file:
            try:
                flock(file, wait=False)
            except BlockingIOError:
                raise exits.LockedError(
                    f"another process is at work in {self.folder}; wait, or stop it."
                ) from None
            for rest in self.folder.glob(".*.tmp"):
                rest.unlink(missing_ok=True)
            self._claim()
            yield self

    def _claim(self) -> None:
        file, wanted = self.folder / MANIFEST, as_json(self.manifest)
        here = {"devices": len(jax.local_devices()), "cores": cores()}
        try:
            there = read_json(file)
            if not isinstance(there, dict):
                raise ValueError
        except FileNotFoundError:
            there = None
        except ValueError:
            # also UnicodeDecodeError; a damaged manifest is replaced only if there are no shards
            if any(_NAME.fullmatch(p.name) for p in self.folder.iterdir()):
                raise ShardsError(
                    f"{file} is damaged: it says what {self.folder} holds. Remove the folder or give another --out."
                ) from None
            there = None
        if there is None:
            write_atomically(file, json.dumps(wanted | {BEGUN_ON: here}, indent=1).encode())
            return
        begun_on = there.pop(BEGUN_ON, None)
        differs = difference(there, wanted)
        if differs == [f"made_by.sums: absent -> {wanted.get('made_by', {}).get('sums')}"]:
            self.say(
                f"{self.folder} was begun by a version that did not record the order of sums: its examples count, and "
                "those that are still missing may differ in the last bits of their floats from what it would have made"
            )
            return
        if differs:
            shown = "; ".join(line[:120] for line in differs[:6])
            more = f"; and {len(differs) - 6} more" if len(differs) > 6 else ""
            more += (
                f"; it was begun on {begun_on}, this is {here}"
                if begun_on not in (None, here)
                else ""
            )
            raise ShardsError(
                f"{self.folder} holds examples of another command ({shown}{more}). Give that, or another --out."
            )

    def committed(self) -> list[Shard]:
        """Return the intact shards, in order; damaged ones are removed, with a message."""
        found = []
        for path in sorted(self.folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if not name:
                continue
            first, count = int(name[1]), int(name[2])
            content = _content(path)
            if _digest(first, count, content) == name[3] and self.is_whole(content):
                found.append(Shard(first, count, path))
                continue
            self.say(f"examples {first} to {first + count - 1} in {path} are damaged: made anew")
            path.unlink()
        return sorted(found, key=lambda shard: shard.first)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges (first, stop) of missing examples, none longer than a shard."""
        holes, at = [], start
        for shard in [*self.committed(), Shard(stop, 0, self.folder)]:
            end = min(shard.first, stop)
            while at < end:
                cut = min(end, (at // self.size + 1) * self.size)
                holes.append((at, cut))
                at = cut
            at = max(at, shard.stop)
        return holes

    def commit(self, first: int, x: np.ndarray) -> None:
        """Write examples, from index `first` on, as one shard."""
        content = self.pack(first, x)
        name = f"{first:09d}-{len(x)}.{_digest(first, len(x), content)}.{self.suffix}"
        write_atomically(self.folder / name, content, at=lambda: failpoint("in_sample_shard"))

    def fill(
        self,
        start: int,
        stop: int,
        make: Callable[[int, int], Iterable[np.ndarray]],
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Generate missing examples, shard by shard.

        Args:
            start: index of the first example.
            stop: index after the last example.
            make: make(first, count) yields the examples of a range, batch by batch; called once for adjacent missing
                shards.
            stopping: called after every batch; if it returns True, the examples so far are committed as a shard,
                and no more are generated.
            progress: called with the number of existing examples.

        Returns:
            The number of existing examples; stop - start if all exist.
        """
        holes = self.missing(start, stop)
        done = stop - start - sum(b - a for a, b in holes)
        for row in _side_by_side(holes):  # in one call: no device waits while a shard is written
            if stopping():
                break
            first, ends, made = row[0][0], [end for _, end in row], []
            for x in make(first, ends[-1] - first):
                made.append(x)
                done += len(x)
                progress(done)
                while ends and first + sum(map(len, made)) >= ends[0]:
                    whole, size = np.concatenate(made), ends.pop(0) - first
                    self.commit(first, whole[:size])
                    first, made = first + size, [whole[size:]]
                if stopping():
                    break
            if sum(map(len, made)):
                self.commit(first, np.concatenate(made))
        return done

    def remove(self) -> None:
        """Remove the folder, after its examples were written elsewhere."""
        shutil.rmtree(self.folder)


def _side_by_side(ranges: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group ordered ranges (first, stop) into runs of adjacent ranges."""
    rows: list[list[tuple[int, int]]] = []
    for first, stop in ranges:
        if rows and rows[-1][-1][1] == first:
            rows[-1].append((first, stop))
        else:
            rows.append([(first, stop)])
    return rows


@final
@dataclass(frozen=True, kw_only=True)
class ArrayShards(Shards):
    """Shards that hold the examples themselves."""

    suffix: ClassVar[str] = "npy"

    def pack(self, first: int, x: np.ndarray) -> bytes:
        """Return an .npy file."""
        del first
        file = io.BytesIO()
        np.lib.format.write_array(file, np.ascontiguousarray(x), allow_pickle=False)
        return file.getvalue()

    def is_whole(self, content: bytes) -> bool:
        """Return True; the content was already checked against its digest."""
        return True

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the examples start ... stop - 1 in order, one shard at a time.

        Raises:
            ShardsError: examples are missing or damaged.
        """
        at = start
        for shard in self.committed():
            if shard.stop <= at or shard.first >= stop:
                continue
            if shard.first > at:
                break
            x = read_arrays(shard.path, links=False)["data"]
            yield x[at - shard.first : stop - shard.first]
            at = min(shard.stop, stop)
        if at < stop:
            raise ShardsError(f"{self.folder} lacks example {at}; the same command makes it.")


@final
@dataclass(frozen=True, kw_only=True)
class ImageShards(Shards):
    """Shards that index PNG files in the parent folder, by name and digest; the files are written atomically."""

    suffix: ClassVar[str] = "json"

    def pack(self, first: int, x: np.ndarray) -> bytes:
        """Write the images of floats in [-1, 1], and return their names and digests."""
        names = {}
        for i, image in enumerate(images.to_uint8(x), first):
            file = self.folder.parent / f"{i:06d}.png"
            images.save_png(file, image)
            names[file.name] = _sha256(file)
        return json.dumps(names).encode()

    def is_whole(self, content: bytes) -> bool:
        """Return whether all images exist and match their digests."""
        try:
            names = parse_json(content, self.folder)
        except ValueError:
            return False
        if not isinstance(names, dict) or not all(map(_PICTURE.fullmatch, names)):
            return False  # refuses paths that lead out of the folder
        return all(_sha256(self.folder.parent / name) == names[name] for name in names)


def _digest(first: int, count: int, content: bytes) -> str:
    """Return the digest of a range and its content, which also detects a file of another range."""
    return hashlib.sha256(f"{first}-{count}:".encode() + content).hexdigest()


def _content(path: Path) -> bytes:
    """Return the content of a shard; b"" if it is not a regular file."""
    try:
        return read_bytes(path, path.lstat().st_size)
    except NotPlainError:
        return b""


def _sha256(path: Path) -> str:
    """Return the digest of a file; "" if it is not a regular file."""
    return hashlib.sha256(_content(path)).hexdigest() if path.is_file() else ""
