"""What a finished folder consists of: a manifest with the size and SHA-256 of every file in it.

    manifest.json    {"algorithm", "files": [{"path", "sha256", "size"}, ...], "format", "self", ...}

`self` is the SHA-256 of everything else in it, and the file has exactly one spelling: any bit that
changes in it is seen, like any bit in the files. Files that it does not name are ignored. Nothing of
a folder is interpreted before it was verified, and nothing that a manifest says is believed before
it was compared with what is there: paths are only looked up among the files that were found.
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
    """Return what an error of reading means: damage where something is missing, else nothing of the content.

    Args:
        error: of the system.
        path: of what was to be read.
        reason: of the damage, if it is one.
    """
    what = f"{path}: {error.strerror or error}"
    if not cannot_read(error):
        return DamageError(reason, what)
    return ReadError(
        f"{what}. It cannot be read, but may be whole: nothing was changed. Try again once it can be read, or move "
        "its folder away to go on without it."
    )


def mode_of(path: Path) -> int:
    """Return the mode of what stands at a path, a link or what else; 0 if nothing does.

    Raises:
        ReadError: nobody can tell.
    """
    try:
        return path.lstat().st_mode
    except OSError as error:
        if cannot_read(error):
            raise failed(error, path, "missing") from None
        return 0


def digest(path: Path, *, synced: bool = False) -> str:
    """Return the SHA-256 of a file; bring the file to the disk as well if `synced`."""
    with path.open("rb") as file:
        if synced:
            os.fsync(file.fileno())
        return digest_of_file(file)


def spelled(content: Mapping[str, Any]) -> bytes:
    """Return the one spelling of a manifest, its own hash included."""
    body = {k: v for k, v in content.items() if k != "self"}
    inner = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    body["self"] = hashlib.sha256(inner).hexdigest()
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _found(folder: Path) -> tuple[dict[str, os.stat_result], list[Path]]:
    """Return what a folder holds below it by relative path, and its folders; links are not followed."""
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
    """Hash every file of a folder, write the manifest, and bring all of it to the disk.

    Args:
        folder: complete but for the manifest.
        **facts: further entries, as JSON.
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
    """Read a manifest that is well-formed and agrees with its own hash.

    Raises:
        DamageError: it does not, or there is none.
        ReadError: it cannot be read.
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
    """Refuse a manifest of another format, and one with entries that no file can have."""
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
    """Check that a folder is what was written, before anything in it is interpreted.

    Args:
        folder: one that `write_manifest` has finished.

    Returns:
        The manifest.

    Raises:
        DamageError: a file is missing or is not what was written; the message says which and how.
        ReadError: a file cannot be read, so nobody knows.
    """
    if not stat.S_ISDIR(mode_of(folder)):
        raise DamageError("no-folder", f"{folder} is not a folder")
    content = read_manifest(folder)
    try:
        present, _ = _found(folder)
    except OSError as error:
        raise failed(error, Path(error.filename or folder), "missing") from None
    for entry in content["files"]:  # all sizes first: they cost nothing
        _check_size(folder / entry["path"], present.get(entry["path"]), entry["size"])
    workers = min(4, len(content["files"]), os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # hashing lets go of the interpreter's lock
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
