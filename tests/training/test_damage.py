"""Damaged and hostile checkpoints: every change is seen, before a byte of them is interpreted or run."""

import errno
import io
import json
import os
import pickle
import random
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints import manifest
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.manifest import MAX_BYTES, read_manifest, spelled, verify
from diffusion.checkpoints.reader import CheckpointReader
from diffusion.runtime.exits import CheckpointError, DamageError, ReadError

from .problem import make


@pytest.fixture(scope="module")
def state():
    return make(build("optimizer", "adamw"), ema=("0.9",))[0]


@pytest.fixture(scope="module")
def stored(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("stored") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {"seed": 0})
    return folder


@pytest.fixture
def folder(tmp_path, stored):
    return shutil.copytree(stored, tmp_path / "checkpoints")


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_truncation_of_every_file_is_seen(folder):
    for file in files_of(folder / "2"):
        content = file.read_bytes()
        for size in {0, 1, len(content) // 2, len(content) - 1} - {len(content)}:
            file.write_bytes(content[:size])
            with pytest.raises(DamageError):
                verify(folder / "2")
        file.write_bytes(content)
    verify(folder / "2")


def test_every_file_that_is_missing_is_seen(folder):
    for file in files_of(folder / "2"):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DamageError) as error:
            verify(folder / "2")
        assert error.value.reason in ("missing", "no-manifest")
        file.write_bytes(content)


def test_flipped_bits_are_seen(folder):
    chance, files = random.Random(0), files_of(folder / "2")
    contents = [p.read_bytes() for p in files]
    flips = [(k, b) for k, c in enumerate(contents) for b in range(8 * len(c))]
    for k, bit in chance.sample(flips, 200):
        changed = bytearray(contents[k])
        changed[bit // 8] ^= 1 << bit % 8
        files[k].write_bytes(changed)
        with pytest.raises(DamageError):
            verify(folder / "2")
        files[k].write_bytes(contents[k])
    verify(folder / "2")


def test_every_bit_of_a_manifest_counts(folder):
    file = folder / "2" / "manifest.json"
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), 13):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(DamageError):
            read_manifest(folder / "2")


def test_the_one_before_is_used_and_the_step_is_saved_again(folder, state):
    (folder / "2" / "state" / "extra").write_text("what nobody knows is ignored")
    with CheckpointReader(folder) as checkpoints:
        assert checkpoints.recover() == 2
    (folder / "2" / "meta.json").write_text("{}")
    lines = []
    with CheckpointReader(folder, say=lines.append) as checkpoints:
        assert checkpoints.recover() == 1
        assert np.isfinite(checkpoints.restore_params(1)["out"]["bias"]).all()
        with pytest.raises(DamageError, match="2 bytes"):
            checkpoints.restore(2, state)
    assert (folder / "2").is_dir()
    with Checkpoints(folder, say=lines.append) as checkpoints:
        assert checkpoints.recover() == 1
        assert checkpoints.save(2, state, {})
    assert {p.name for p in folder.iterdir()} == {"1", "2", "2.damaged-size-1"}
    assert "; step 1 is used, 1 before it" in lines[0]
    assert "; it is now 2.damaged-size-1; step 1 is used" in lines[1]


def test_a_damaged_step_is_no_reason_not_to_save_it(folder, state):
    (folder / "2" / "meta.json").write_text("{}")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.save(2, state, {}, block=True)
        assert not checkpoints.save(2, state, {})
        checkpoints.restore(2, state)


def test_if_all_are_damaged_nothing_is_changed(folder):
    for step in "12":
        (folder / step / "manifest.json").unlink()
    before = sorted(folder.rglob("*"))
    for _ in range(2):
        with (
            Checkpoints(folder) as checkpoints,
            pytest.raises(CheckpointError, match=r"step 2: .*step 1: .*--restart"),
        ):
            checkpoints.recover()
        assert sorted(folder.rglob("*")) == before


# ---- hostile ------------------------------------------------------------------------------------


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def signed(folder, change):
    """Write a manifest whose own hash is right, whatever it says."""
    file = folder / "2" / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_bytes(spelled(content))


def entry(content):
    return content["files"][0]


HOSTILE_MANIFESTS = {
    "absurd size": (lambda c: entry(c).update(size=2**62), "size"),
    "negative size": (lambda c: entry(c).update(size=-1), "size"),
    "no number": (lambda c: entry(c).update(size=1.5), "manifest"),
    "truth value": (lambda c: entry(c).update(size=True), "manifest"),
    "another key": (lambda c: entry(c).update(more=1), "manifest"),
    "no hash": (lambda c: entry(c).update(sha256=None), "manifest"),
    "upwards": (lambda c: entry(c).update(path="../1/meta.json"), "unsafe-path"),
    "far upwards": (lambda c: entry(c).update(path="state/../../../../etc/passwd"), "unsafe-path"),
    "absolute": (lambda c: entry(c).update(path="/etc/passwd"), "unsafe-path"),
    "backslash": (lambda c: entry(c).update(path="..\\x"), "unsafe-path"),
    "zero byte": (lambda c: entry(c).update(path="a\0b"), "unsafe-path"),
    "empty name": (lambda c: entry(c).update(path=""), "unsafe-path"),
    "long name": (lambda c: entry(c).update(path="a" * 10**6), "unsafe-path"),
    "twice": (lambda c: c["files"].append(entry(c)), "manifest"),
    "no files": (lambda c: c.update(files=[]), "manifest"),
    "no list": (lambda c: c.update(files={"a": 1}), "manifest"),
    "numbers": (lambda c: c.update(files=[1, 2]), "manifest"),
    "another format": (lambda c: c.update(format=3), "format"),
    "weaker hash": (lambda c: c.update(algorithm="md5"), "format"),
    "a million files": (
        lambda c: c["files"].extend({"path": f"f{i}", "sha256": "", "size": 0} for i in range(10**6)),
        "manifest",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), HOSTILE_MANIFESTS.values(), ids=HOSTILE_MANIFESTS)
def test_a_hostile_manifest_is_refused(folder, change, reason):
    signed(folder, change)
    started = time.process_time()
    with pytest.raises(DamageError) as error:
        verify(folder / "2")
    assert time.process_time() - started < 1
    assert error.value.reason == reason
    assert len(str(error.value)) < 1000


HOSTILE_JSON = {
    "empty": b"",
    "deep": b"[" * 10**6,
    "deep and whole": b'{"config":' * 200 + b"1" + b"}" * 200,
    "deep objects": b'{"a":' * 10**5,
    "huge number": b"1" * 10**5,
    "no text": b"\xff\xfe",
    "NaN": b"NaN",
    "list": b"[]",
    "long": b" " * (MAX_BYTES + 1),
}


@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
@pytest.mark.parametrize("name", ["manifest.json", "meta.json"])
def test_hostile_json_is_refused(folder, name, content):
    (folder / "2" / name).write_bytes(content)
    if name == "meta.json":  # the hashes are right, the content is not
        import hashlib

        digest = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        signed(folder, lambda c: [e.update(digest) for e in c["files"] if e["path"] == name])
    started = time.process_time()
    with CheckpointReader(folder) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.meta(2)
    assert time.process_time() - started < 2
    assert len(str(error.value)) < 1000


def test_pickles_are_not_read(folder, tmp_path):
    """Even where all hashes are right."""
    import hashlib

    content = pickle.dumps(Canary(tmp_path / "canary"))
    for file in files_of(folder / "2"):
        if file.name != "manifest.json":
            file.write_bytes(content)
    digest = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    signed(folder, lambda c: [e.update(digest) for e in c["files"]])
    verify(folder / "2")
    with CheckpointReader(folder) as checkpoints, pytest.raises(CheckpointError):
        checkpoints.restore_params(2)
    (folder / "2" / "manifest.json").write_bytes(content)
    with CheckpointReader(folder) as checkpoints, pytest.raises(DamageError):
        checkpoints.restore_params(2)
    assert not (tmp_path / "canary").exists()


def test_shapes_that_no_memory_holds_are_refused(stored):
    with CheckpointReader(stored) as checkpoints:
        like = checkpoints.restore_params(2)
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2**31, 2**31), x.dtype), like)
        with pytest.raises(CheckpointError, match="differs: hidden/bias is float32"):
            checkpoints.restore_params(2, like=wide)


@pytest.mark.parametrize("kind", ["loop", "outside", "folder", "device", "pipe"])
def test_links_and_devices_are_not_followed(folder, tmp_path, kind):
    file = folder / "2" / "meta.json"
    outside = tmp_path / "outside"
    outside.write_bytes(file.read_bytes())
    file.unlink()
    if kind == "loop":
        file.symlink_to(file)
    elif kind == "outside":
        file.symlink_to(outside)  # the same bytes, but they may change
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        (folder / "2" / "state").rename(tmp_path / "state")
        (folder / "2" / "state").symlink_to(tmp_path / "state")
        outside.rename(file)
    (folder / "2" / "around").symlink_to(folder / "2")
    with pytest.raises(DamageError) as error:
        verify(folder / "2")
    assert error.value.reason in ("no-file", "missing")


# ---- what cannot be read is not damaged -----------------------------------------------------------

ERRORS = [
    (errno.EACCES, "open"), (errno.EMFILE, "open"), (errno.EIO, "read"), (errno.ESTALE, "read"),
    (errno.ESTALE, "lstat"), (errno.EIO, "lstat"), (errno.EMFILE, "scandir"), (errno.EACCES, "scandir"),
]  # fmt: skip


@pytest.fixture
def refusing(monkeypatch):
    """A function that makes the system refuse to open, read or look at a path with an error, and to list it."""

    def refuse(path, number, call):
        def guarded(function, at):
            def guard(given, *args, **options):
                if os.fspath(given) == os.fspath(at):
                    raise OSError(number, os.strerror(number), os.fspath(given))
                return function(given, *args, **options)

            return guard

        if call == "read":  # the file opens, and its disk fails

            class Broken(io.FileIO):
                def readinto(self, buffer):
                    raise OSError(number, os.strerror(number))

                read = readall = readinto

            opened = lambda given, *args, **options: (
                Broken(given) if given == path else builtin(given, *args, **options)
            )
            builtin = Path.open
            monkeypatch.setattr(Path, "open", opened)
            plain = manifest.open_plain
            monkeypatch.setattr(
                manifest, "open_plain",
                lambda given, **o: io.BufferedReader(Broken(given)) if given == path else plain(given, **o),
            )  # fmt: skip
        elif call == "open":
            monkeypatch.setattr(Path, "open", guarded(Path.open, path))
            monkeypatch.setattr(os, "open", guarded(os.open, path))
        elif call == "lstat":
            monkeypatch.setattr(Path, "lstat", guarded(Path.lstat, path))
        else:
            for name in ("scandir", "listdir"):
                monkeypatch.setattr(os, name, guarded(getattr(os, name), path.parent))

    return refuse


@pytest.mark.parametrize(("number", "call"), ERRORS)
@pytest.mark.parametrize("name", ["manifest.json", "meta.json"])
def test_what_cannot_be_read_stays_where_it_is(folder, refusing, monkeypatch, number, name, call):
    before = sorted(p for p in folder.rglob("*"))
    refusing(folder / "2" / name, number, call)
    for kind in (Checkpoints, CheckpointReader):
        lines = []
        with (
            kind(folder, say=lines.append) as checkpoints,
            pytest.raises(ReadError, match="nothing was changed") as error,
        ):
            checkpoints.recover()
        assert error.value.exit_code == 6
        assert os.strerror(number) in str(error.value)
        assert lines == []
    monkeypatch.undo()
    assert sorted(folder.rglob("*")) == before


def test_a_folder_that_cannot_be_listed_or_seen_is_not_empty(folder, refusing):
    refusing(folder / "2", errno.EIO, "scandir")  # of the folder above
    with pytest.raises(ReadError), CheckpointReader(folder) as checkpoints:
        checkpoints.recover()
    refusing(folder / "2", errno.ESTALE, "lstat")
    with pytest.raises(ReadError), CheckpointReader(folder) as checkpoints:
        checkpoints.recover()


def test_the_libraries_that_read_say_it_in_their_own_ways(folder, state, monkeypatch):
    with CheckpointReader(folder) as checkpoints:

        def fail(error):
            def restore(*args, **options):
                raise error

            monkeypatch.setattr(checkpoints._handler, "restore", restore)

        fail(ValueError("UNKNOWN: Error reading local file: Failed to open [os_error_code='5']"))
        with pytest.raises(ReadError, match="cannot be read"):
            checkpoints.restore(2, state)
        fail(OSError(errno.EMFILE, "Too many open files"))
        with pytest.raises(ReadError, match="cannot be read"):
            checkpoints.restore(2, state)
        fail(ValueError("NOT_FOUND: Error reading [os_error_code='2']"))
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoints.restore(2, state)


def test_a_number_that_is_no_folder_is_said_and_makes_room(folder, tmp_path, state):
    (folder / "2").rename(tmp_path / "elsewhere")
    (folder / "2").symlink_to(tmp_path / "elsewhere")
    (folder / "3").write_text("a file")
    lines = []
    with Checkpoints(folder, say=lines.append) as checkpoints:
        assert checkpoints.recover() == 1
        assert checkpoints.save(2, state, {})
    assert [line.split(":")[0] for line in lines] == [
        "checkpoint of step 3 is damaged",
        "checkpoint of step 2 is damaged",
    ]
    assert (folder / "2.damaged-no-folder-1").is_symlink()
    assert (tmp_path / "elsewhere" / "manifest.json").is_file()
