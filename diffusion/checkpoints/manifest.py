"""Manifest of a finished folder: the size and SHA-256 of every file in it.

    manifest.json    {"algorithm", "files": [{"path", "sha256", "size"}, ...], "format", "self", ...}

`self` is the SHA-256 of all other entries, and the file has a canonical serialization: a change of any bit of the
manifest is detected, like a change of any bit of the files. Files that the manifest does not name are ignored. No file
of a folder is interpreted before the folder is verified, and no entry of a manifest is trusted before it is compared
with the folder: paths are only looked up among the files found there.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffusion.runtime.digests import digest_of_file
from diffusion.runtime.exits import DamageError, ReadError, cannot_read
from diffusion.runtime.files import sync
from diffusion.runtime.reading import MAX_BYTES, open_plain, parse_json

NAME = "manifest.json"
FORMAT = 2
_ENTRY = {"path": str, "sha256": str, "size": int}


def failed(error: OSError, path: Path, reason: str) -> DamageError | ReadError:
    """Return a DamageError for a missing file, and a ReadError for any other error of reading.

    Args:
        error: error of the operating system.
        path: the file or folder that was read.
        reason: reason of the DamageError.
    """
    what = f"{path}: {error.strerror or error}"
    if not cannot_read(error):
        return DamageError(reason, what)
    return ReadError(
        f"{what}. It cannot be read, but may be whole: nothing was changed. Try again once it can be read, or move "
        "its folder away to go on without it."
    )


def mode_of(path: Path) -> int:
    """Return the mode of a path, without following links; 0 if it does not exist.

    Raises:
        ReadError: the path cannot be examined.
    """
    try:
        return path.lstat().st_mode
    except OSError as error:
        if cannot_read(error):
            raise failed(error, path, "missing") from None
        return 0


def digest(path: Path, *, synced: bool = False) -> str:
    """Return the SHA-256 of a file; also flush the file to disk if `synced`."""
    with path.open("rb") as file:
        if synced:
            os.fsync(file.fileno())
        return digest_of_file(file)


def spelled(content: Mapping[str, Any]) -> bytes:
    """Return the canonical serialization of a manifest, including its own hash."""
    body = {k: v for k, v in content.items() if k != "self"}
    inner = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    body["self"] = hashlib.sha256(inner).hexdigest()
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _found(folder: Path) -> tuple[dict[str, os.stat_result], list[Path]]:
    """Return the files below a folder by relative path, and its subfolders; links are not followed."""
    entries: dict[str, os.stat_result] = {}
    folders, waiting = [folder], [folder]
    while waiting:
        with os.scandir(waiting.pop()) as scan:
            for entry in scan:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    waiting.append(path)
                else:
                    name = path.relative_to(folder).as_posix()
                    entries[name] = entry.stat(follow_symlinks=False)
    return entries, folders


def write_manifest(folder: Path, **facts: Any) -> None:
    """Hash every file of a folder, write the manifest, and flush everything to disk.

    Args:
        folder: folder that is complete except for the manifest.
        **facts: further entries, as JSON data.
    """
    entries, folders = _found(folder)
    files = [
        {"path": name, "sha256": digest(folder / name, synced=True), "size": found.st_size}
        for name, found in sorted(entries.items())
        if name != NAME
    ]
    content = {"algorithm": "sha256", "format": FORMAT, "files": files} | facts
    with (folder / NAME).open("wb") as file:
        file.write(spelled(content))
        file.flush()
        os.fsync(file.fileno())
    for path in folders:
        sync(path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest, and check its form and its own hash.

    Raises:
        DamageError: the manifest is missing, malformed, or does not agree with its own hash.
        ReadError: the manifest cannot be read.
    """
    path = folder / NAME
    mode = mode_of(path)
    if not mode:
        raise DamageError("no-manifest", f"{folder} has no {NAME}")
    if not stat.S_ISREG(mode):
        raise DamageError("no-manifest", f"{path} is not a plain file")
    try:
        with open_plain(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise failed(error, path, "missing") from None
    if len(raw) > MAX_BYTES:
        raise DamageError("manifest", f"{path} is longer than {MAX_BYTES} bytes")
    try:
        content = parse_json(raw, path)
        genuine = isinstance(content, dict) and spelled(content) == raw
    except (ValueError, RecursionError) as error:
        raise DamageError("manifest", str(error)) from None
    if not genuine:
        raise DamageError("manifest", f"{path} does not agree with its own hash")
    _check_entries(content, path)
    return content


def _check_entries(content: Mapping[str, Any], path: Path) -> None:
    """Raise DamageError for a manifest of another format or with impossible entries."""
    given = content.get("format")
    if given != FORMAT or content.get("algorithm") != "sha256":
        raise DamageError("format", f"{path} has format {str(given)[:20]}, not {FORMAT}")
    files = content.get("files")
    if not isinstance(files, list) or not files:
        raise DamageError("manifest", f"{path} names no files")
    for entry in files:
        if not isinstance(entry, dict) or {k: type(v) for k, v in entry.items()} != _ENTRY:
            raise DamageError("manifest", f"{path} has an entry that is none: {str(entry)[:100]}")
        parts = entry["path"].split("/")
        if (
            max(map(len, parts)) > 255
            or {"", ".", ".."} & set(parts)
            or "\\" in entry["path"]
            or "\0" in entry["path"]
        ):
            raise DamageError("unsafe-path", f"{path} names {entry['path'][:100]!r}")
    if len({entry["path"] for entry in files}) < len(files):
        raise DamageError("manifest", f"{path} names a file twice")


def verify(folder: Path) -> dict[str, Any]:
    """Check a folder against its manifest, before anything in it is interpreted.

    Args:
        folder: folder with a manifest from `write_manifest`.

    Returns:
        The manifest.

    Raises:
        DamageError: a file is missing or differs from what was written; the message names the file and the difference.
        ReadError: a file cannot be read; it may be intact.
    """
    if not stat.S_ISDIR(mode_of(folder)):
        raise DamageError("no-folder", f"{folder} is not a folder")
    content = read_manifest(folder)
    try:
        present, _ = _found(folder)
    except OSError as error:
        raise failed(error, Path(error.filename or folder), "missing") from None
    for entry in content["files"]:  # all sizes first: they are cheap to check
        _check_size(folder / entry["path"], present.get(entry["path"]), entry["size"])
    workers = min(4, len(content["files"]), os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # hashing releases the GIL
        list(pool.map(lambda entry: _check_content(folder, entry), content["files"]))
    return content


def _check_size(path: Path, found: os.stat_result | None, size: int) -> None:
    if found is None:
        raise DamageError("missing", f"{path} is missing")
    if not stat.S_ISREG(found.st_mode):
        raise DamageError("no-file", f"{path} is not a plain file")
    if found.st_size != size:
        raise DamageError("size", f"{path} has {found.st_size} bytes, {size} were written")


def _check_content(folder: Path, entry: Mapping[str, Any]) -> None:
    path = folder / entry["path"]
    try:
        same = digest(path) == entry["sha256"]
    except OSError as error:
        raise failed(error, path, "missing") from None
    if not same:
        raise DamageError("checksum", f"{path} is not what was written: its SHA-256 differs")
