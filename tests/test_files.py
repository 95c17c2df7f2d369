"""The one writer of files, and what is said when a file cannot be written or read."""

import ast
import bz2
import errno
import io
import os
import struct
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.config.experiment import Experiment
from diffusion.data import DataSpec
from diffusion.data.storage import UnwritableDataError, publish
from diffusion.evaluation.cards import read_measured
from diffusion.evaluation.images import save_gif, save_png
from diffusion.evaluation.results import Entry, ResultsFile
from diffusion.evaluation.shards import ArrayShards, ShardsError
from diffusion.evaluation.sources import SourceError, open_examples
from diffusion.run.variance_file import read_variance, write_variance
from diffusion.run.workdir import Workdir
from diffusion.runtime import exits
from diffusion.runtime.files import (
    DamagedFileError,
    MissingFileError,
    WriteError,
    decoding,
    located,
    replacing,
    write_atomically,
    writing,
)
from diffusion.runtime.lock import Lock
from diffusion.runtime.npz import save_arrays
from diffusion.runtime.tensors import write_tensors
from diffusion.training.metrics import JsonLines

ROOT = Path(__file__).parents[1]
PICTURE = np.zeros((4, 4), np.uint8)


def left(folder):
    return sorted(p.name for p in folder.rglob("*"))


# ---- one writer -----------------------------------------------------------------------------------

# Others that replace files or folders: whole folders, and the one file that must not replace another.
OTHERS = {
    "diffusion/runtime/files.py": "the writer",
    "diffusion/checkpoints/folders.py": "folders of checkpoints",
    "diffusion/data/storage.py": "folders of data sets",
    "diffusion/run/export.py": "a work directory",
    "diffusion/run/previous.py": "runs that are set aside",
}
OPENED = {  # files that are not replaced: appended to, locked, written inside a folder that is renamed, or exclusive
    "diffusion/training/metrics.py", "diffusion/runtime/lock.py", "diffusion/checkpoints/manifest.py",
    "diffusion/checkpoints/checkpoint.py", "diffusion/data/storage.py", "diffusion/data/decoded.py",
    "diffusion/evaluation/shards.py", "diffusion/runtime/files.py", "diffusion/drawing/film.py",
    "diffusion/runtime/npz.py",
}  # fmt: skip


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def test_there_is_one_writer():
    """Who renames, or opens a file for writing, is named here with a reason; all others use the writer."""
    renames, opens = set(), set()
    for path in [*(ROOT / "diffusion").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for called, node in calls(path):
            words = [
                a.value
                for a in node.args
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            moved = called == "rename" or (
                called == "replace" and len(node.args) == 1 and not node.keywords
            )
            if moved or called in ("mkstemp", "NamedTemporaryFile"):
                renames.add(name)
            mode = called == "open" and any(
                set(w) & set("wax") and set(w) <= set("wabx+t") for w in words
            )
            if mode or called in ("write_text", "write_bytes"):
                opens.add(name)
    assert renames <= set(OTHERS), renames - set(OTHERS)
    assert opens <= OPENED, opens - OPENED


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path, seen = tmp_path / "new" / ("n" * 250), []
    write_atomically(path, b"one", at=lambda: seen.append(left(tmp_path / "new")))
    assert path.read_bytes() == b"one"
    assert len(seen[0]) == 1
    assert seen[0][0].endswith(f".{os.getpid()}.tmp")

    def fail():
        raise KeyboardInterrupt

    for error, at in ((KeyboardInterrupt, fail), (ZeroDivisionError, lambda: 1 / 0)):
        with pytest.raises(error):
            write_atomically(path, b"two", at=at)
        assert path.read_bytes() == b"one"
        assert left(tmp_path / "new") == [path.name]


def test_errors_about_other_files_pass(tmp_path):
    for error in (
        FileNotFoundError(2, "No such file", "other"),
        ConnectionRefusedError(111, "refused"),
    ):
        with pytest.raises(type(error)) as raised, replacing(tmp_path / "x"):
            raise error
        assert not isinstance(raised.value, WriteError)
    assert left(tmp_path) == []


# ---- a full disk ----------------------------------------------------------------------------------


class Full(io.FileIO):
    """A file on a full disk: it opens, and takes nothing."""

    def write(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def results(path):
    ResultsFile(path=path, made_of={}, card={}).write({"a": Entry({"b": 1.0}, {})})


def log_line(path):
    with JsonLines(path) as log:
        log.scalars(1, {"loss": 0.5})


def shard(path):
    with ArrayShards(folder=path.parent, manifest={}, size=4).opened() as shards:
        shards.commit(0, np.zeros((2, 2), np.float32))


WRITERS = {
    "x.npz": lambda p: save_arrays(p, {"x": np.zeros(10)}, {}),
    "v.npz": lambda p: write_variance(p, np.ones(2), np.ones(2), {}),
    "x.png": lambda p: save_png(p, PICTURE),
    "x.gif": lambda p: save_gif(p, [PICTURE] * 3),
    "x.bytes": lambda p: write_atomically(p, b"x"),
    "evaluation.json": results,
    "config.json": lambda p: Workdir.of(p.parent).write("config.json", {}),
    "metrics.jsonl": log_line,
    "manifest.json": shard,
    "lock.json": lambda p: Lock(p.parent).take(),
    "x.safetensors": lambda p: write_tensors(p, {"a": np.zeros(10)}, {}),
}


@pytest.fixture
def full_disk(monkeypatch):
    """No file takes a byte, whoever writes it; reading goes on."""
    import safetensors.numpy

    opened = io.open

    def refusing(file, mode="r", *rest, **options):
        if not set(mode) & set("wax+") or isinstance(file, int):
            return opened(file, mode, *rest, **options)
        raw = io.BufferedWriter(Full(file, "w"))
        return raw if "b" in mode else io.TextIOWrapper(raw)

    def refused(arrays, path, metadata=None):
        text = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise safetensors.SafetensorError(text)

    def unwritten(number, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", refusing)
    monkeypatch.setattr("io.open", refusing)
    monkeypatch.setattr("os.write", unwritten)
    monkeypatch.setattr(safetensors.numpy, "save_file", refused)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_with_file_and_reason_by_every_writer(name, tmp_path, full_disk):
    with pytest.raises(WriteError) as raised:
        WRITERS[name](tmp_path / name)
    assert exits.code_of(raised.value) == exits.FILES == 6
    assert (
        exits.sentence(raised.value) == f"cannot write {tmp_path / name}: No space left on device."
    )
    assert not [n for n in left(tmp_path) if n.endswith(".tmp")]


def test_a_short_write_that_names_no_reason_is_told_as_a_full_disk(tmp_path, monkeypatch):
    """NumPy says "16 requested and 0 written", without a number of the system."""
    with pytest.raises(WriteError, match="x: 16 requested"), writing(tmp_path / "x"):
        raise OSError("16 requested and 0 written")
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(WriteError, match="x: No space left on device"), writing(tmp_path / "x"):
        raise OSError("16 requested and 0 written")


def test_a_data_set_that_cannot_be_put_down_leaves_with_the_code_of_files(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnwritableDataError) as raised:
        publish(tmp_path / "file" / "below", lambda: None, lambda scratch: scratch)
    assert exits.code_of(raised.value) == exits.FILES


# ---- what cannot be read --------------------------------------------------------------------------


def archive(path, method=zipfile.ZIP_STORED):
    """Write examples and all that the readers below look for, compressed by this method."""
    arrays = {
        "x": np.zeros((40, 2), np.float32), "data": np.zeros((40, 2), np.float32), "noise": np.zeros((40, 2)),
        "times": np.ones(3), "values": np.ones(3),
    }  # fmt: skip
    with zipfile.ZipFile(path, "w", method) as made:
        for name, value in arrays.items():
            content = io.BytesIO()
            np.save(content, value)
            made.writestr(f"{name}.npy", content.getvalue())


def unknown_method(path):
    """Name a method of compression that Python does not know."""
    archive(path)
    raw = path.read_bytes()
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = raw.find(mark)
        while at >= 0:
            raw = raw[: at + place] + struct.pack("<H", 97) + raw[at + place + 2 :]
            at = raw.find(mark, at + 1)
    path.write_bytes(raw)


def bad_stream(method):
    """Damage every compressed stream of an archive of this method."""

    def make(path):
        archive(path, method)
        raw = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as made:
            for info in made.infolist():
                begin = info.header_offset + 30 + len(info.filename)
                for k in range(begin, begin + info.compress_size):
                    raw[k] ^= 0x5A
        path.write_bytes(raw)

    return make


def encrypted(path):
    archive(path)
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + place] |= 1
            at = raw.find(mark, at + 1)
    path.write_bytes(raw)


DAMAGES = {
    "an unknown method": unknown_method,
    "LZMA": bad_stream(zipfile.ZIP_LZMA),
    "bzip2": bad_stream(zipfile.ZIP_BZIP2),
    "deflate": bad_stream(zipfile.ZIP_DEFLATED),
    "encrypted": encrypted,
    "cut": lambda p: (archive(p), p.write_bytes(p.read_bytes()[:200])),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("hello"),
}


def read_table(path):
    read_variance(path, Experiment.__new__(Experiment), 1, "raw")


def stored_noise(path):
    coupling = build("coupling", {"name": "stored", "path": str(path)})
    return coupling(build("process", "vp"), jax.random.key(0), {"index": np.arange(2)})


READERS = {
    "array": lambda p: build("dataset", {"name": "array", "path": str(p)}).spec,
    "examples": lambda p: open_examples(p, DataSpec(shape=(2,), kind="points")),
    "stored noise": lambda p: stored_noise(p),
    "variances": read_table,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_are_errors_of_the_input_in_one_line(reader, damage, tmp_path):
    path = tmp_path / f"{damage.replace(' ', '_')}.npz"
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"cannot be read|is damaged") as raised:
        READERS[reader](path)
    assert exits.code_of(raised.value) == exits.USAGE == 2
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_cannot_read_is_not_damaged(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(OSError, match="Input/output") as raised, decoding(path, "as .npz"):
        raise OSError(
            errno.EIO, os.strerror(errno.EIO)
        )  # of a file that is open: the system does not name it
    assert (raised.value.filename, exits.code_of(raised.value)) == (str(path), exits.FILES)
    with pytest.raises(DamagedFileError), decoding(path, "as .npz"):
        bz2.decompress(b"no stream")


DEEP = b'{"metrics": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_json_that_is_nested_too_deeply_is_an_error_of_the_input(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_bytes(DEEP)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_measured(path)
    said = []
    assert ResultsFile(path=path, made_of={}, card={}, say=said.append).read() == {}
    assert "damaged" in said[0]
    (tmp_path / "manifest.json").write_bytes(DEEP)
    (tmp_path / f"000000000-2.{'0' * 64}.npy").write_bytes(b"")
    shards = ArrayShards(folder=tmp_path, manifest={}, size=4)
    with pytest.raises(ShardsError, match="damaged"), shards.opened():
        pass


def test_a_missing_file_has_one_code(tmp_path):
    missing = tmp_path / "x.npz"
    readers = {
        MissingFileError: [
            lambda: read_measured(missing),
            lambda: open_examples(missing, DataSpec(shape=(2,), kind="points")),
            lambda: stored_noise(missing),
            lambda: build("features", {"name": "inception", "weights": str(missing)}).open(DataSpec(shape=(8, 8, 3))),
        ],
    }  # fmt: skip
    for kind, functions in readers.items():
        for function in functions:
            with pytest.raises(kind) as raised:
                function()
            assert exits.code_of(raised.value) == exits.FILES
            assert "x.npz" in exits.sentence(raised.value)
    with pytest.raises(SourceError):  # what callers have caught so far
        open_examples(missing, DataSpec(shape=(2,), kind="points"))


def test_a_path_through_a_loop_of_links(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, loop / "below"):
        with pytest.raises(OSError, match="symbolic links") as raised:
            Workdir.of(path)
        assert exits.code_of(raised.value) == exits.FILES
        assert str(path) in exits.sentence(raised.value)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert located(tmp_path / "link" / "x") == tmp_path / "real" / "x"
    with pytest.raises(ValueError, match="no home folder"):
        located("~nobody-of-this-name/x")
