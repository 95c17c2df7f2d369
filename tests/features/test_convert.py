"""Published .pth files are read without running them; `archive.pth` and `stream.pth` were written by torch.save."""

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from programs import error_of

from diffusion.cli.convert_features import check_digest, convert, recognize
from diffusion.runtime.torch_files import Refused, read_pth

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["archive.pth", "stream.pth"])
def test_both_formats_of_torch(name):
    found = read_pth(HERE / name)
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(found["turned"], base.T)
    np.testing.assert_array_equal(found["part"], base[1:, 2:])
    np.testing.assert_array_equal(found["parameter"], base[:1])
    np.testing.assert_array_equal(found["0.weight"], np.arange(6).reshape(3, 2, 1, 1))
    assert found["1.num_batches_tracked"].shape == ()
    assert found["1.num_batches_tracked"].dtype == np.int64
    assert list(found)[:2] == ["0.weight", "0.bias"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["archive.pth", "stream.pth"])
def test_every_cut_and_many_flips_are_refused_or_harmless(name, tmp_path):
    """A file of 2 kB, cut at many places, and with bytes changed and missing: only `Refused`, never another error."""
    raw, path = (HERE / name).read_bytes(), tmp_path / "x.pth"
    rng = np.random.default_rng(0)
    for end in range(0, len(raw), 37):
        path.write_bytes(raw[:end])
        with pytest.raises(Refused):
            read_pth(path)
    for _ in range(200):
        changed = bytearray(raw)
        changed[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        if rng.random() < 0.5:
            del changed[(at := rng.integers(len(raw))) : at + 9]
        path.write_bytes(changed)
        with contextlib.suppress(Refused):
            read_pth(path)


class Canary:
    """Unpickling one makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def archive(path, pickled, **files):
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("archive/data.pkl", pickled)
        for name, raw in files.items():
            zipped.writestr(f"archive/data/{name}", raw)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_nothing_in_a_file_is_executed(protocol, tmp_path):
    path, canary = tmp_path / "x.pth", tmp_path / "canary"
    for value in (Canary(canary), {"w": Canary(canary)}, OrderedDict(w=[Canary(canary)])):
        pickled = pickle.dumps(value, protocol)
        archive(path, pickled)
        with pytest.raises(Refused):
            read_pth(path)
        path.write_bytes(pickled)
        with pytest.raises(Refused):
            read_pth(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "value", [{}, [1, 2], "text", {"w": 1}, {"model": OrderedDict()}, {1: 2}, OrderedDict(), None]
)
def test_other_contents_are_refused(value, tmp_path):
    archive(tmp_path / "x.pth", pickle.dumps(value, 2))
    with pytest.raises(Refused):
        read_pth(tmp_path / "x.pth")


def tensor(offset, shape, steps, size=4, kind="FloatStorage"):
    """Return the pickle of one tensor, instruction by instruction."""
    number = lambda n: b"\x8a\x08" + n.to_bytes(8, "little", signed=True)
    numbers = lambda ns: b"(" + b"".join(map(number, ns)) + b"t"
    text = lambda t: b"X" + len(t).to_bytes(4, "little") + t.encode()
    storage = (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text("0")
        + text("cpu")
        + number(size)
    )
    window = b"(" + storage + b"tQ" + number(offset) + numbers(shape) + numbers(steps) + b"t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + window + b"Rs."


def test_windows_into_storages(tmp_path):
    path, raw = tmp_path / "x.pth", {"0": np.arange(4, dtype="<f4").tobytes()}
    archive(path, tensor(1, (1, 3), (3, 1)), **raw)
    np.testing.assert_array_equal(read_pth(path)["w"], [[1, 2, 3]])
    hostile = [(2, (3,), (1,)), (0, (2**40,), (0,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2,), (1, 1)),
               (0, (2, 2), (2**62, 1)), (2**62, (1,), (1,))]  # fmt: skip
    for window in hostile:
        archive(path, tensor(*window), **raw)
        with pytest.raises(Refused):
            read_pth(path)
    for size, kind in (
        (5, "FloatStorage"),
        (2**60, "FloatStorage"),
        (4, "Imagined"),
        (-4, "FloatStorage"),
    ):
        archive(path, tensor(0, (1,), (1,), size, kind), **raw)
        with pytest.raises(Refused):
            read_pth(path)


def test_an_archive_that_swells_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("archive/data.pkl", tensor(0, (1,), (1,)))
        zipped.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(Refused, match="it is compressed"):
        read_pth(tmp_path / "x.pth")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    path = tmp_path / "weights-00000000.pth"
    path.write_bytes((HERE / "archive.pth").read_bytes())
    with pytest.raises(ValueError, match=r"is not whole: .*, not 00000000"):
        check_digest(path)
    digest = check_digest(HERE / "archive.pth")
    right = tmp_path / f"weights-{digest[:8]}.pth"
    right.write_bytes(path.read_bytes())
    assert check_digest(right) == digest


@pytest.mark.slow
def test_networks_are_recognized(tmp_path):
    from diffusion.evaluation.features import dinov2, inception

    shapes = inception.ARCHITECTURE.wanted
    assert recognize(shapes) is inception.ARCHITECTURE
    base = dinov2.architecture("base").wanted | {"mask_token": (1, 768)}
    assert recognize(base).title == "DINOv2 base"
    with pytest.raises(
        ValueError, match=r"Nearest is Inception v3 .*: of 472 arrays 1 missing \(fc.bias\)"
    ):
        recognize({k: v for k, v in shapes.items() if k != "fc.bias"})
    with pytest.raises(ValueError, match="of no known network"):
        convert(HERE / "archive.pth", tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"must end in .safetensors"):
        convert(HERE / "archive.pth", tmp_path / "out.npz")


def test_what_is_converted_can_be_opened(tmp_path):
    """From a .pth of the size of DINOv2 small to features that can be opened."""
    import diffusion
    from diffusion.data import DataSpec
    from diffusion.evaluation.features import dinov2

    pickled, raw = io.BytesIO(), {}
    text = lambda t: b"X" + len(t).to_bytes(4, "little") + t.encode()
    number = lambda n: b"J" + n.to_bytes(4, "little")
    numbers = lambda ns: b"(" + b"".join(map(number, ns)) + b"t"
    pickled.write(b"\x80\x02}(")
    for i, (name, shape) in enumerate(dinov2.architecture("small").wanted.items()):
        values = np.full(shape, i, "<f4")
        raw[str(i)] = values.tobytes()
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(i)) + text("cpu")
        steps = [s // 4 for s in values.strides]
        pickled.write(text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage[1:])
        pickled.write(
            number(values.size) + b"tQ" + number(0) + numbers(shape) + numbers(steps) + b"tR"
        )
    pickled.write(b"u.")
    archive(tmp_path / "small.pth", pickled.getvalue(), **raw)
    said = convert(tmp_path / "small.pth", tmp_path / "small.safetensors")
    assert "DINOv2 small, 174 arrays, 22,056,192 numbers; source SHA-256" in said
    spec = dict(name="dinov2", size="small", weights=str(tmp_path / "small.safetensors"))
    extractor = diffusion.build("features", spec).open(DataSpec(shape=(8, 8, 3)))
    assert extractor.card["source"] == "small.pth"
    assert extractor.name == "dinov2_small"


@pytest.mark.programs
@pytest.mark.parametrize(
    ("arguments", "code"), [(["missing.pth", "o.safetensors"], 6), (["x.pth", "o"], 2)]
)
def test_the_program_says_what_is_wrong(arguments, code, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    found, _ = error_of("convert_features", *arguments, cwd=tmp_path)
    assert found == code
