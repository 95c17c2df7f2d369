"""Statistics of reference data: all examples count, files are believed only when they are whole and meant."""

import errno
from pathlib import Path

import numpy as np
import pytest
from programs import error_of, run
from subjects import digits, points

from diffusion import build
from diffusion.data import Dataset, DataSpec
from diffusion.evaluation import reference
from diffusion.evaluation.features import Pixels

ROOT = Path(__file__).parents[2]


class Rows(Dataset):
    """A data set of given rows; `split` makes it another one of the same content."""

    def __init__(self, rows, split="test"):
        self.rows, self.split = rows.astype(np.float32), split

    @property
    def spec(self):
        return DataSpec(shape=self.rows.shape[1:], size=len(self.rows), kind="points")

    def batch(self, step, batch_size, seed=0, index=None, train=True, rows=None):
        return self.examples(step * batch_size, batch_size)

    def examples(self, start, count):
        return {"data": self.rows[start : start + count]}


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(reference, "_BATCH", 100)
    return np.random.default_rng(0).normal(size=(1037, 3))


def pixels_of(dataset):
    return Pixels().open(dataset.spec)


def test_no_remainder_is_dropped(rows):
    """1,037 rows in batches of 100: moments as of all at once, to round-off."""
    dataset = Rows(rows)
    found = reference.statistics(dataset, pixels_of(dataset), keep=False, num_rows=50)
    assert found.count == 1037
    all_rows = dataset.rows.astype(np.float64)
    np.testing.assert_allclose(found.moments.mean, all_rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.moments.covariance, np.cov(all_rows.T), rtol=1e-12)
    assert len(found.rows) == 50
    assert (np.diff(found.index) > 0).all()
    np.testing.assert_array_equal(found.rows, all_rows[found.index])


def test_files_come_back_the_same(rows):
    dataset = Rows(rows)
    extractor = pixels_of(dataset)
    path = reference.path_of(reference.about_of(dataset, extractor))
    first = reference.statistics(dataset, extractor)
    stamp = path.stat().st_mtime_ns
    second = reference.statistics(Rows(rows), extractor)  # found again by its content
    assert path.stat().st_mtime_ns == stamp
    for a, b in [(first.rows, second.rows), (first.moments.scatter, second.moments.scatter)]:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("other", ["data", "split", "features", "count"])
def test_other_content_has_another_file(rows, other):
    base, changed = Rows(rows), Rows(rows)
    extractor, second = pixels_of(base), pixels_of(base)
    if other == "data":
        changed.rows[1036, 2] += 1e-6
    elif other == "split":
        changed.split = "train"
    elif other == "count":
        changed.rows = changed.rows[:-1]
    else:
        second.sha256 = "0" * 64
    paths = {
        reference.path_of(reference.about_of(d, e))
        for d, e in [(base, extractor), (changed, second)]
    }
    assert len(paths) == 2


@pytest.mark.parametrize("damage", ["bit", "cut", "text", "foreign", "empty"])
def test_damaged_and_foreign_files_are_made_again(rows, damage, caplog):
    dataset = Rows(rows)
    extractor = pixels_of(dataset)
    about = reference.about_of(dataset, extractor)
    path = reference.path_of(about)
    good = reference.statistics(dataset, extractor)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        at = content.find(good.rows.astype(np.float32).tobytes()[:64])
        content[at + 5] ^= 4
    elif damage == "foreign":
        other = Rows(rows + 1)
        found = reference.statistics(other, extractor)
        content = reference.path_of(found.about).read_bytes()
    path.write_bytes(
        {"cut": content[:500], "text": b"no archive", "empty": b""}.get(damage, bytes(content))
    )
    with pytest.raises(ValueError, match="something else" if damage == "foreign" else "damaged"):
        reference.read(path, about)
    again = reference.statistics(dataset, extractor)
    assert "made again" in caplog.text
    np.testing.assert_array_equal(again.moments.scatter, good.moments.scatter)
    reference.read(path, about)


def test_a_file_that_cannot_be_read_stays(rows, caplog, monkeypatch):
    dataset = Rows(rows + 7)
    extractor = pixels_of(dataset)
    good = reference.statistics(dataset, extractor)
    path = reference.path_of(reference.about_of(dataset, extractor))
    before = path.read_bytes()

    def fail(*args, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(reference, "read_arrays", fail)
    again = reference.statistics(dataset, extractor)
    monkeypatch.undo()
    assert "cannot read" in caplog.text
    assert "damaged" not in caplog.text
    np.testing.assert_array_equal(again.moments.scatter, good.moments.scatter)
    assert path.read_bytes() == before


def test_a_read_only_folder_is_no_error(rows, caplog, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(reference, "save_arrays", refuse)
    dataset = Rows(rows + 2)
    assert reference.statistics(dataset, pixels_of(dataset)).count == 1037
    assert "Read-only file system" in caplog.text


def test_what_cannot_be_a_reference(rows):
    with pytest.raises(ValueError, match="at least 2 examples; got 1"):
        reference.statistics(Rows(rows[:1]), pixels_of(Rows(rows)))
    with pytest.raises(ValueError, match="another data set"):
        reference.statistics(Rows(rows[:, :2]), pixels_of(Rows(rows)))
    with pytest.raises(ValueError, match="never ends"):
        reference.content_of(build("dataset", "points2d"))


def test_names():
    assert reference.name_of(digits()) == "digits"
    assert reference.split_of(digits("test")) == "test"
    assert reference.name_of(Rows(np.zeros((2, 2)))) == "rows"

    wrapper = Rows(np.zeros((2, 2)))
    wrapper.wrapped = points()
    assert reference.name_of(wrapper) == "points2d"


@pytest.mark.programs
@pytest.mark.slow
def test_the_program(tmp_path):
    """It makes a file, checks it, and answers bad input with one line and the exit code 2."""
    code, made, err = run("reference", "digits", "--data_dir", tmp_path)
    assert code == 0, err
    (file,) = (tmp_path / "statistics").glob("digits-test-pixels-*.npz")
    code, checked, _ = run("reference", "--check", file)
    assert code == 0
    assert "359" in checked
    assert made.splitlines()[1:] == checked.splitlines()
    file.write_bytes(file.read_bytes()[:-40])
    for words in (["--check", file], ["digits", "--features", "pixel"], ["digitz"], []):
        code, _ = error_of("reference", *words)
        assert code == 2
