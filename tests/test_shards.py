"""Shards: what is there counts, what is damaged does not, and an example has the same bits everywhere."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusion.evaluation.shards import ArrayShards, ImageShards, ShardsError
from diffusion.runtime.digests import difference, digest_of
from diffusion.runtime.exits import LockedError
from diffusion.runtime.files import write_atomically
from diffusion.runtime.npz import Stream, save_arrays

SHAPE = (4, 4, 1)


def truth(first, count):
    """Examples that are a function of their index, in [-1, 1]."""
    i = np.arange(first, first + count, dtype=np.float32).reshape(-1, 1, 1, 1)
    return np.sin(i + np.arange(16, dtype=np.float32).reshape(SHAPE))


def maker(batch=3, log=None):
    def make(first, count):
        for k in range(first, first + count, batch):
            x = truth(k, min(batch, first + count - k))
            if log is not None:
                log.extend(range(k, k + len(x)))
            yield x

    return make


def arrays(folder, size=10, said=None, **manifest):
    say = (lambda text: None) if said is None else said.append
    return ArrayShards(
        folder=folder / "parts", manifest={"seed": 0, **manifest}, size=size, say=say
    )


def read(shards, start, stop):
    return np.concatenate(list(shards.read(start, stop)))


def test_all_are_made_once_and_read_back(tmp_path):
    made = []
    with arrays(tmp_path).opened() as shards:
        assert shards.missing(5, 38) == [(5, 10), (10, 20), (20, 30), (30, 38)]
        assert shards.fill(5, 38, maker(log=made)) == 33
        assert made == list(range(5, 38))
        np.testing.assert_array_equal(read(shards, 5, 38), truth(5, 33))
        np.testing.assert_array_equal(read(shards, 17, 31), truth(17, 14))
        assert shards.fill(5, 38, maker(log=made)) == 33
        assert made == list(range(5, 38))
    assert not list(tmp_path.glob("**/*.tmp"))


@pytest.mark.parametrize("batch", [3, 10, 25])
def test_shards_side_by_side_are_made_in_one_go(tmp_path, batch):
    """Devices would wait between calls; a shard is written as soon as it is whole."""
    calls, there = [], []
    with arrays(tmp_path).opened() as shards:
        shards.fill(20, 30, maker())

        def make(first, count):
            calls.append((first, count))
            for x in maker(batch)(first, count):
                there.append(sum(s.count for s in shards.committed()))
                yield x

        assert shards.fill(0, 55, make) == 55
        np.testing.assert_array_equal(read(shards, 0, 55), truth(0, 55))
        assert [s.count for s in shards.committed()] == [10, 10, 10, 10, 10, 5]
    assert calls == [(0, 20), (30, 25)]
    made = [min(k, 20) for k in range(0, 20, batch)] + [20 + k for k in range(0, 25, batch)]
    assert there == [10 + m - m % 10 for m in made]


@pytest.mark.parametrize("stops", list(itertools.product((1, 4, 7), (2, 5))))
def test_a_stop_keeps_what_there_is_and_another_size_goes_on(tmp_path, stops):
    """Stopped twice in the middle of a shard, then finished with shards of another size."""
    made = []
    for size, batches in zip((10, 7), stops, strict=True):
        left = itertools.count(batches, -1)
        with arrays(tmp_path, size).opened() as shards:
            done = shards.fill(0, 41, maker(log=made), lambda left=left: next(left) <= 0)
            assert done == len(made) < 41
    with arrays(tmp_path, 6).opened() as shards:
        assert shards.fill(0, 41, maker(log=made)) == 41
        np.testing.assert_array_equal(read(shards, 0, 41), truth(0, 41))
    assert sorted(made) == list(range(41))  # none missing, none twice


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "rename", "gone"])
def test_a_damaged_shard_is_made_anew(tmp_path, harm):
    with arrays(tmp_path).opened() as shards:
        shards.fill(0, 40, maker())
    victim = sorted((tmp_path / "parts").glob("*.npy"))[1]
    content = bytearray(victim.read_bytes())
    if harm == "flip":
        content[200] ^= 4
        victim.write_bytes(content)
    elif harm == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        victim.write_bytes(b"")
    elif harm == "rename":
        victim.rename(victim.with_name(victim.name.replace("000000010-10", "000000011-10")))
    else:
        victim.unlink()
    made, said = [], []
    with arrays(tmp_path, said=said).opened() as shards:
        shards.fill(0, 40, maker(log=made))
        np.testing.assert_array_equal(read(shards, 0, 40), truth(0, 40))
    assert made == list(range(10, 20))
    assert len(said) == (harm != "gone")


def test_half_a_file_of_a_killed_process_does_not_count(tmp_path):
    with arrays(tmp_path).opened() as shards:
        shards.fill(0, 10, maker())
    (tmp_path / "parts" / ".000000010-10.abc.77.tmp").write_bytes(b"half")
    with arrays(tmp_path).opened() as shards:
        assert shards.missing(0, 20) == [(10, 20)]
    assert not list(tmp_path.glob("**/*.tmp"))


def test_another_manifest_is_refused_with_what_differs(tmp_path):
    with arrays(tmp_path, config={"sampler": {"name": "ddim", "eta": 0.0}}).opened():
        pass
    with (
        pytest.raises(ShardsError, match=r"config\.sampler\.eta: 0\.0 -> 0\.5; seed: 0 -> 1"),
        arrays(tmp_path, seed=1, config={"sampler": {"name": "ddim", "eta": 0.5}}).opened(),
    ):
        pass
    assert ShardsError.exit_code == 2
    assert difference({"a": {}}, {"a": {}, "b": None}) == ["b: absent -> None"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_manifest(tmp_path, content):
    """Without shards it is written anew; with them nobody knows what they are."""
    with arrays(tmp_path).opened():
        pass
    (tmp_path / "parts" / "manifest.json").write_bytes(content)
    with arrays(tmp_path).opened() as shards:
        shards.fill(0, 3, maker())
    (tmp_path / "parts" / "manifest.json").write_bytes(content)
    with pytest.raises(ShardsError, match="damaged"), arrays(tmp_path).opened():
        pass


def test_two_at_a_time_are_refused(tmp_path):
    with (
        arrays(tmp_path).opened(),
        pytest.raises(LockedError, match="another process"),
        arrays(tmp_path).opened(),
    ):
        pass


def test_images_that_are_missing_or_damaged_are_made_anew(tmp_path):
    def opened():
        return ImageShards(folder=tmp_path / ".shards", manifest={}, size=4).opened()

    with opened() as shards:
        shards.fill(0, 10, maker())
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.png")}
    assert sorted(before) == [f"{i:06d}.png" for i in range(10)]
    (tmp_path / "000001.png").unlink()
    (tmp_path / "000009.png").write_bytes(before["000009.png"][:-1])
    made = []
    with opened() as shards:
        assert shards.fill(0, 10, maker(log=made)) == 10
    assert made == [0, 1, 2, 3, 8, 9]
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.png")} == before


def test_a_stream_is_the_same_file_as_the_array(tmp_path):
    x, label = truth(0, 23), np.arange(23)
    pieces = (x[k : k + 5] for k in range(0, 23, 5))
    save_arrays(tmp_path / "a.npz", {"x": x, "label": label}, {"seed": 0})
    stream = Stream(shape=x.shape, dtype=x.dtype, pieces=pieces)
    save_arrays(tmp_path / "b.npz", {"x": stream, "label": label}, {"seed": 0})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "b.npz") as found:
        np.testing.assert_array_equal(found["x"], x)
        assert json.loads(str(found["card"])) == {"seed": 0}
    short = Stream(shape=(9, *SHAPE), dtype=x.dtype, pieces=[x[:5]])
    with pytest.raises(ValueError, match="rows; got 5 and 9"):
        save_arrays(tmp_path / "c.npz", {"x": short}, {})
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_digests_see_names_shapes_types_and_values():
    trees = [
        {"a": np.zeros(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.array([0, 0, 0, -0.0], np.float32)},
    ]
    assert len({digest_of(tree) for tree in trees}) == len(trees)
    assert digest_of(trees[0]) == digest_of({"a": np.zeros(4, np.float32)})


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        write_atomically(tmp_path / "x", b"content")  # a folder is in its place
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_shards_of_another_order_of_sums_are_refused_and_those_of_an_unknown_one_are_told(tmp_path):
    """Devices and cores are told, and compared only where sums depend on them."""
    made_by = {"made_by": {"jax": "1", "xla_flags": ""}}
    file = tmp_path / "parts" / "manifest.json"
    with arrays(tmp_path, **made_by).opened() as shards:  # by a version that did not know
        shards.fill(0, 10, maker())
    manifest = json.loads(file.read_bytes())
    assert set(manifest.pop("begun_on")) == {"devices", "cores"}
    file.write_text(json.dumps(manifest))
    said = []
    fixed = {"made_by": {**made_by["made_by"], "sums": "fixed"}}
    with arrays(tmp_path, said=said, **fixed).opened() as shards:
        assert shards.missing(0, 20) == [(10, 20)]
    assert len(said) == 1
    assert "did not record the order of sums" in said[0]
    file.unlink()
    elsewhere = {"devices": 6, "cores": 6}
    with arrays(tmp_path, **fixed).opened():
        pass
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"begun_on": elsewhere}))
    with arrays(tmp_path, **fixed).opened():  # another number of devices is free
        pass
    free = {"made_by": {**made_by["made_by"], "sums": "2 threads"}}
    with (
        pytest.raises(ShardsError, match=r"made_by\.sums: fixed -> 2 threads; it was begun on .*6"),
        arrays(tmp_path, **free).opened(),
    ):
        pass


PLACES = {"1 core": (1, 1), "1 device": (1, 64), "2 devices": (2, 64), "6 devices": (6, 64)}


def results(*words):
    """What `bits_program` prints on each number of devices and cores."""
    runs = {
        place: subprocess.run(
            [sys.executable, "-m", "bits_program", str(devices), str(cores), *words],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600, check=False,
        )
        for place, (devices, cores) in PLACES.items()
    }  # fmt: skip
    assert all(r.returncode == 0 for r in runs.values()), runs["1 core"].stderr[-2000:]
    return {place: json.loads(r.stdout) for place, r in runs.items()}


@pytest.mark.programs
def test_sums_have_the_same_bits_on_every_number_of_devices_and_cores():
    """Which they have not without the flag: the library divides them by the threads of its pool."""
    found = results("sums")
    assert all(sums == found["1 core"] for sums in found.values())


@pytest.fixture(scope="module")
def bits():
    return results()


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet", "mlp", "steps of a whole batch"])
def test_an_example_has_the_same_bits_at_every_batch_size_and_device_count(bits, network):
    """Not only its 8-bit levels: the floats. Every example goes through one program, at one place in it."""
    cases = ("batch 1", "batch 7", "batch 32", "start 45")
    assert len({tuple(bits[n][network][case]) for n in bits for case in cases}) == 1
    assert len({tuple(bits[n][network]["block 16"]) for n in bits}) == 1
    for n in bits:
        assert bits[n][network]["inside"] > 0.2  # the levels are not all black or white
        if network == "steps of a whole batch":
            continue  # other neighbors, other steps
        # another block is another program: five steps of a network of some ten layers, some 1e2 roundings
        # of 1e-7 each, on values of order one
        assert bits[n][network]["apart"] < 1e-4
