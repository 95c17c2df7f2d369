"""Files from anywhere: nothing waits, nothing takes more than its file allows, nothing goes on for ever."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import zipfile

import numpy as np
import pytest

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.manifest import read_manifest
from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError
from diffusion.data import DataSpec
from diffusion.evaluation.cards import read_measured
from diffusion.evaluation.results import ResultsFile
from diffusion.evaluation.shards import ImageShards
from diffusion.objectives.coupling import _noise_of
from diffusion.run.export import export_run, import_run, read_card
from diffusion.run.rollbacks import Rollbacks
from diffusion.run.variance_file import read_variance
from diffusion.run.workdir import Workdir, open_run
from diffusion.runtime import npz as foreign_arrays
from diffusion.runtime import reading as foreign
from diffusion.runtime.exits import CheckpointError
from diffusion.runtime.lock import Lock, identity
from diffusion.runtime.npz import read_arrays
from diffusion.runtime.reading import NotPlainError, parse_json, read_json, unpacked_limit
from diffusion.runtime.tensors import read_header
from diffusion.runtime.torch_files import Refused, read_pth
from diffusion.training.metrics import JsonLines, read_jsonl


@pytest.fixture(autouse=True)
def at_once():
    """End a test that waits or goes on for ever."""

    def late(number, frame):
        raise TimeoutError("it did not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ---- what is opened -----------------------------------------------------------------------------

CONFIG = {
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 8},
    "ema": ["0.9"],
    "train": {"num_steps": 5},
}

SPEC = dataclasses.asdict(DataSpec(shape=(2,), kind="points"))

READERS = {
    "config.json": lambda folder: Workdir(folder).read_config(),
    "data.json": lambda folder: Workdir(folder).read_spec(),
    "lock.json": lambda folder: Lock(folder).take(),
    "metrics.jsonl": lambda folder: read_jsonl(folder / "metrics.jsonl"),
    "rollbacks.json": lambda folder: Rollbacks.read(Workdir(folder)),
    "variance.npz": lambda folder: read_variance(
        folder / "variance.npz", Experiment.from_config(CONFIG), 1, "raw"
    ),
    "evaluation.json": lambda folder: read_measured(folder),
    "results.json": lambda folder: ResultsFile(
        path=folder / "results.json", made_of={}, card={}
    ).read(),
    "model.json": lambda folder: read_card(folder / "model.safetensors"),
    "log.jsonl": lambda folder: JsonLines(folder / "log.jsonl"),
}
FOLLOWED = {  # files of the user's own, which a link may lead to
    "weights.safetensors": read_header,
    "weights.pth": read_pth,
    "array.npz": read_arrays,
    "noise.npz": lambda path: _noise_of(str(path)),
}


def put(kind, path):
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.with_name("elsewhere").write_text("{}\n")
        path.symlink_to("elsewhere")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["a pipe", "a link", "a folder", "a socket"])
def test_a_work_directory_is_made_of_plain_files(kind, name, tmp_path):
    put(kind, tmp_path / name)
    with pytest.raises(NotPlainError) as error:
        READERS[name](tmp_path)
    assert error.value.strerror == f"is {kind}, not a plain file"
    assert error.value.filename == str(tmp_path / name)


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a socket", "a device"])
def test_files_that_a_user_names_are_plain_too(kind, name, tmp_path):
    put(kind, tmp_path / name)
    with pytest.raises(NotPlainError, match="not a plain file"):
        FOLLOWED[name](tmp_path / name)


def test_a_link_that_a_user_names_is_followed(tmp_path):
    np.savez(tmp_path / "x.npz", data=np.ones(3))
    (tmp_path / "y.npz").symlink_to("x.npz")
    assert read_arrays(tmp_path / "y.npz")["data"].sum() == 3
    with pytest.raises(NotPlainError):
        read_arrays(tmp_path / "y.npz", links=False)


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("elsewhere")
    with pytest.raises(NotPlainError):
        JsonLines(tmp_path / "log.jsonl")
    assert not (tmp_path / "elsewhere").exists()


def test_a_manifest_is_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(CheckpointError, match="not a plain file"):
        read_manifest(tmp_path)


def test_pictures_of_another_folder_are_none_of_a_shards(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    shards = ImageShards(folder=tmp_path / "out" / ".shards", manifest={})
    names = {"../secret": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    for content in (names, [], 7, "x", {"000001.png": 3}):
        assert not shards.is_whole(json.dumps(content).encode())


# ---- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" + b"[]," * foreign.MAX_NODES + b"[]]", "more than .* values"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        (b"[" * 10**6, "nested too deeply|more than"),
        (b"1" * 10**6, "not JSON"),
        (b"\xff", "not JSON"),
        (b" " * (foreign.MAX_BYTES + 1), "longer than"),
    ],
    ids=["many", "deep", "brackets", "digits", "no text", "long"],
)
def test_json_has_a_budget(content, said, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "x.json")


def test_json_that_fits_is_read(tmp_path):
    assert parse_json(b"[" + b"0," * 10**5 + b"0]", "x") == [0] * (10**5 + 1)
    assert parse_json(b'\xef\xbb\xbf{"a": NaN}', "x").keys() == {"a"}


# ---- arrays -------------------------------------------------------------------------------------


def npy(shape, kind="<f4", content=b"", version=1, length=None, header=None):
    """Return an .npy file that claims what it likes."""
    said = header or f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = len(said) if length is None else length
    head = b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 * version, "little")
    return head + said + content


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


HOSTILE = {
    "a header of blanks": npy((), header=b" " * 10**6, version=2),
    "a header of four gigabytes": npy((), header=b"{", version=2, length=2**32 - 1),
    "brackets": npy((), header=b"(" * 9000 + b"\n"),
    "a terabyte": npy((2**38,)),
    "more than there is": npy((3,), content=b"\0" * 8),
    "2^120": npy((2**60, 2**60)),
    "negative": npy((-1, -4), content=b"\0" * 16),
    "objects": npy((1,), "|O", b"\0" * 8),
    "nothing each": npy((2**60,), "|V0"),
    "a number as shape": npy(7),
    "text": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("method", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_arrays_are_refused(content, method, tmp_path):
    path = tmp_path / "x"
    if method is None:
        path.write_bytes(content)
    else:
        zipped(path, {"data": content}, method)
    with pytest.raises(ValueError):  # noqa: PT011  every one with words of its own
        read_arrays(path)


def test_arrays_come_back(tmp_path):
    arrays = {
        "data": np.arange(12, dtype=np.float32).reshape(3, 4).T, "label": np.arange(3), "empty": np.zeros((0, 3)),
        "card": np.array("some text"), "one": np.array(3.0),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_arrays(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, x in arrays.items():
            np.testing.assert_array_equal(found[name], x)
            assert found[name].dtype == x.dtype
            assert found[name].flags.writeable
        assert read_arrays(tmp_path / "x.npz", ("label", "absent")).keys() == {"label"}
    np.save(tmp_path / "x.npy", arrays["data"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "x.npy")["data"], arrays["data"])


def test_every_cut_and_flip_of_an_archive_is_a_value_error_or_harmless(tmp_path):
    path, rng = tmp_path / "x.npz", np.random.default_rng(0)
    np.savez_compressed(path, data=np.arange(50, dtype=np.float32), label=np.arange(9))
    content = path.read_bytes()
    for number in range(400):
        changed = bytearray(content)
        if number % 2:
            del changed[int(rng.integers(len(content))) :]
        else:
            changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):
            found = read_arrays(path)
            assert all(name not in found or found[name].nbytes <= 400 for name in ("data", "label"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_compression_are_refused(method, tmp_path):
    path = zipped(tmp_path / "x.npz", {"data": npy((4,), content=b"\0" * 16)}, method)
    with pytest.raises(ValueError, match="not known here"):
        read_arrays(path)


def test_an_archive_that_swells_is_refused(tmp_path, monkeypatch):
    assert unpacked_limit(2**22) == 2**30
    assert unpacked_limit(2**30) == 2**36
    monkeypatch.setattr(foreign_arrays, "unpacked_limit", lambda size: 64 * size)
    path, size = tmp_path / "x.npz", 2**22
    zipped(path, {"data": npy((size // 4,), content=bytes(size))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="claims to hold more"):
        read_arrays(path)


def test_members_that_overlap_are_refused(tmp_path):
    """A thousand names for one member: 1 MB that would be read a thousand times."""
    path = zipped(tmp_path / "x.npz", {"data": npy((2**18,), content=bytes(2**20))})
    with zipfile.ZipFile(path, "a") as archive:
        one = archive.getinfo("data.npy")
        for number in range(1000):
            again = zipfile.ZipInfo(f"{number:04}.npy")
            for name in ("header_offset", "compress_size", "file_size", "CRC"):
                setattr(again, name, getattr(one, name))
            archive.filelist.append(again)
            archive._didModify = True
    with pytest.raises(ValueError, match="overlap"):
        read_arrays(path)


def test_a_list_of_a_million_members_is_refused(tmp_path):
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    directory = entry * 10**5
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (tmp_path / "x.npz").write_bytes(directory + end)
    with pytest.raises(ValueError, match="at once"):
        read_arrays(tmp_path / "x.npz")


# ---- files of PyTorch ---------------------------------------------------------------------------

LARGE = b")" + b"q\0h\0\x86" * 60  # a tuple of 2^60 parts, in 300 bytes
FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"
BOMBS = {
    "a key": b"\x80\x02}" + LARGE + b"Ns.",
    "a value": b"\x80\x02}X\1\0\0\0a" + LARGE + b"s.",
    "an identity": b"\x80\x02}X\1\0\0\0a" + LARGE + b"Qs.",
    "a storage": b"\x80\x02}X\1\0\0\0a(X\7\0\0\0storage" + LARGE * 4 + b"tQs.",
    "a function": b"\x80\x02}X\1\0\0\0a" + LARGE + b")Rs.",
    "arguments": b"\x80\x02}X\1\0\0\0a" + FUNCTION + LARGE + b"Rs.",
    "a shape": b"\x80\x02}X\1\0\0\0a" + FUNCTION + b"(NK\0" + LARGE + b")tRs.",
    "lists": b"\x80\x02}X\1\0\0\0a]" + b"q\1]q\2(h\1h\1eh\2" * 40 + b"s.",
    "dictionaries": b"\x80\x02}X\1\0\0\0a}"
    + b"q\1}q\2(X\1\0\0\0ah\1X\1\0\0\0bh\1uh\2" * 40
    + b"s.",
    "marks": b"\x80\x02" + b"N" * 100_000 + b"(t0" * 60_000 + b".",
    "a long number": b"\x80\x02\x8b" + (2**24).to_bytes(4, "little") + b"\x7f" * 2**24 + b".",
    "all of it": LARGE + b".",
}


@pytest.mark.parametrize("pickled", BOMBS.values(), ids=BOMBS)
def test_a_pickle_bomb_is_refused(pickled, tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(Refused):
        read_pth(path)
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    version, system = b"\x80\x02M\xe9\x03.", b"\x80\x02}X\x0d\0\0\0little_endian\x88s."
    for parts in ((pickled,), (magic, LARGE + b"."), (magic, version, system, pickled, b"].")):
        path.write_bytes(b"".join(parts) + b".")
        with pytest.raises(Refused):
            read_pth(path)
    path.write_bytes(magic + version + system + b"\x80\x02}." + b"\x80\x02(" + LARGE + b"l.")
    with pytest.raises(Refused):
        read_pth(path)


def test_no_member_of_an_archive_of_tensors_is_compressed(tmp_path):
    for name in ("archive/byteorder", "archive/data.pkl", "archive/notes"):
        path = tmp_path / "x.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}.") if "pkl" not in name else None
            archive.writestr(name, bytes(2**24), zipfile.ZIP_DEFLATED)
        with pytest.raises(Refused, match="is compressed"):
            read_pth(path)


def test_tensors_that_share_numbers_take_no_more_than_four_times_the_file(tmp_path):
    size, text = 2**20, lambda t: b"X" + len(t).to_bytes(4, "little") + t.encode()
    number = lambda n: b"J" + n.to_bytes(4, "little")
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    one = FUNCTION + b"(" + storage + number(size // 4) + b"tQK\0"
    one += number(size // 4) + b"\x85K\1\x85tR"
    for count, fits in ((3, True), (1000, False)):
        pickled = b"\x80\x02}" + b"".join(text(f"w{i}") + one + b"s" for i in range(count)) + b"."
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/data/0", bytes(size))
        if fits:
            assert len(read_pth(tmp_path / "x.pth")) == count
        else:
            with pytest.raises(Refused, match="its tensors take"):
                read_pth(tmp_path / "x.pth")


def test_a_sparse_file_of_a_terabyte_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\x80\x02")
    os.truncate(tmp_path / "x", 2**40)
    with pytest.raises(Refused):
        read_pth(tmp_path / "x")
    with pytest.raises(ValueError, match="begin"):
        read_arrays(tmp_path / "x")
    with pytest.raises(ValueError, match="longer than"):
        read_json(tmp_path / "x")


# ---- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run"))


def made(path, **claims):
    """Make a run whose folder and checkpoint claim these sections."""
    workdir, experiment = Workdir.of(path), Experiment.from_config(CONFIG)
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(5, experiment.init_state(), CONFIG | claims, block=True)
    workdir.write("config.json", CONFIG | claims)
    workdir.write("data.json", dataclasses.asdict(experiment.spec))
    return workdir


MANY = {
    "mlp": {"name": "mlp", "width": 8, "depth": 10**6},
    "unet": {"name": "unet", "channels": 8, "blocks": 10**6},
    "wide": {"name": "mlp", "width": 10**12, "depth": 1},
    "levels": {"name": "unet", "channels": 8, "multipliers": [1] * 10**5},
}


@pytest.mark.parametrize("network", MANY.values(), ids=MANY)
def test_a_network_of_a_million_layers_is_refused(network, tmp_path):
    """In a work directory, and on a card."""
    data = {} if network["name"] == "mlp" else {"shape": [8, 8, 1], "kind": "image"}
    workdir = made(tmp_path / "run", network=network)
    workdir.write("data.json", SPEC | data)
    with pytest.raises(
        CheckpointError, match=r"more layers|does not fit|no width or depth|entries, more"
    ):
        open_run(workdir, workdir.read_config())
    workdir.write("config.json", CONFIG)
    plain = made(tmp_path / "plain")
    path = tmp_path / "model.safetensors"
    export_run(plain, path)
    card = json.loads(path.with_suffix(".json").read_text())
    del card["self"]
    card["config"]["network"] = network
    card["data"] |= data
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(
        CheckpointError, match=r"more layers|does not fit|no width or depth|entries, more"
    ):
        import_run(path, Workdir.of(tmp_path / "made"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.json",
        "model.safetensors",
        "plain",
        "run",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40]}, {"shape": [2**20, 2**20]}, {"shape": [0]}, {"shape": [-2]}, {"shape": ["2"]},
        {"shape": [True]}, {"shape": 2}, {"num_classes": 2**40}, {"num_classes": "2"}, {"multi_hot_dim": 2**40},
        {"vector_dim": -1}, {"class_names": 3}, {"size": -1}, {"size": 0.5}, {"image_channels": 2**40},
    ],
    ids=str,
)  # fmt: skip
def test_data_that_cannot_be_are_refused(change, workdir, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(SPEC))
    assert Workdir(tmp_path).read_spec() == DataSpec(shape=(2,), kind="points")
    (tmp_path / "data.json").write_text(json.dumps(SPEC | change))
    with pytest.raises(ConfigError, match="does not describe data"):
        Workdir(tmp_path).read_spec()


def test_arrays_that_no_checkpoint_of_its_size_can_hold_are_refused(workdir, monkeypatch):
    from diffusion.checkpoints import reader

    monkeypatch.setattr(reader, "unpacked_limit", lambda size: size // 10**4)
    with pytest.raises(CheckpointError, match=r"claims .* MiB of arrays"):
        open_run(workdir, CONFIG)


# ---- what killed imports leave ------------------------------------------------------------------


def test_what_killed_imports_have_left_goes_with_the_next(workdir, tmp_path):
    path = tmp_path / "model.safetensors"
    export_run(workdir, path)
    owners = {
        "11": None,  # killed before it had a lock
        "12": {},
        "13": identity() | {"pid": 2**22 + 1, "started": "1"},
        "14": identity(),  # this process, which lives
        "15": identity() | {"host": "another"},
    }
    for number, owner in owners.items():
        left = tmp_path / f".made.{number}"
        (left / "checkpoints").mkdir(parents=True)
        if owner is not None:
            (left / "lock.json").write_text(json.dumps(owner))
    for name in (".made.x", ".made2.11", ".other.11"):
        (tmp_path / name).mkdir()
    import_run(path, Workdir.of(tmp_path / "made"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".made.14", ".made.15", ".made.x", ".made2.11", ".other.11", "made", "model.json", "model.safetensors",
    ]  # fmt: skip
    assert not (tmp_path / "made/lock.json").exists()
