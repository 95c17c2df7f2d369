"""Models in and out: what was exported comes back, and a file from a stranger can do nothing."""

import json
import os
import pickle
import struct
import time

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.config.identity import stated
from diffusion.config.sections import ConfigError
from diffusion.run.export import export_run, import_run, read_card
from diffusion.run.workdir import Workdir, open_run
from diffusion.runtime.exits import CheckpointError
from diffusion.runtime.tensors import read_header, read_tensors, write_tensors

CONFIG = {
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 8},
    "ema": ["0.9", "power_0.1"],
    "train": {"num_steps": 5},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose weights and averages all differ."""
    import dataclasses

    workdir = Workdir.of(tmp_path_factory.mktemp("run"))
    experiment = Experiment.from_config(CONFIG)
    state = experiment.init_state()
    averages = {
        n: jax.tree.map(lambda x, k=k: x + k, t) for k, (n, t) in enumerate(state.ema.items(), 1)
    }
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(3, state, CONFIG, block=True)
        checkpoints.save(5, state._replace(ema=averages), CONFIG, block=True)
    workdir.write("config.json", CONFIG)
    workdir.write("data.json", dataclasses.asdict(experiment.spec))
    return workdir


@pytest.fixture
def files(workdir, tmp_path):
    path = tmp_path / "model.safetensors"
    export_run(workdir, path)
    return path


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("ema", ["", "power_0.1", "raw"])
def test_weights_come_back_bit_for_bit(workdir, tmp_path, ema):
    path = tmp_path / "model.safetensors"
    card = export_run(workdir, path, ema)
    assert (card["step"], card["ema"]) == (5, ema or "0.9")
    made = Workdir.of(tmp_path / "made")
    assert import_run(path, made) == 5
    wanted = open_run(workdir, CONFIG, ema)
    for name in ("", "raw", "power_0.1"):
        found = open_run(made, made.read_config(), name)
        assert found.step == 0
        assert found.experiment.spec == wanted.experiment.spec
        assert_same(found.params, wanted.params)


def test_an_earlier_checkpoint_is_named_by_its_step(workdir, tmp_path):
    earlier, newest = (open_run(workdir, CONFIG, step=step) for step in (3, None))
    assert (earlier.step, newest.step) == (3, 5)
    assert_same(earlier.params, Experiment.from_config(CONFIG).init_state().params)
    path = tmp_path / "earlier.safetensors"
    assert export_run(workdir, path, step=3)["step"] == 3
    made = Workdir.of(tmp_path / "made")
    import_run(path, made)
    assert_same(open_run(made, made.read_config()).params, earlier.params)
    with pytest.raises(CheckpointError, match=r"No checkpoint of step 4 .* there are: \(3, 5\)"):
        open_run(workdir, CONFIG, step=4)


def test_other_programs_can_read_it(files):
    from safetensors.numpy import load_file

    card = json.loads(files.with_suffix(".json").read_text())
    loaded = load_file(files)
    assert sum(x.size for x in loaded.values()) > 0
    assert all(isinstance(x, np.ndarray) for x in loaded.values())
    assert card["config"] == stated(CONFIG, build("process", CONFIG["process"]))
    assert card["data"]["shape"] == [2]


def test_a_folder_with_something_in_it_is_left_alone(files, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        import_run(files, Workdir.of(tmp_path / "made"))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_every_change_is_seen_and_nothing_is_left_behind(files, tmp_path, name):
    file = tmp_path / name
    content = file.read_bytes()
    for at in range(0, len(content), len(content) // 60):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        if bytes(changed).split() == content.split():
            continue  # one blank for another
        file.write_bytes(changed)
        with pytest.raises(CheckpointError):
            import_run(files, Workdir.of(tmp_path / "made"))
    for size in (0, 7, 8, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        if size < len(content) - 1 or name.endswith(
            "tensors"
        ):  # the last byte of the other is a newline
            with pytest.raises(CheckpointError):
                import_run(files, Workdir.of(tmp_path / "made"))
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def rewritten(files, change):
    """Change the JSON file as its author might: its own hash goes away."""
    file = files.with_suffix(".json")
    card = json.loads(file.read_text())
    del card["self"]
    change(card)
    file.write_text(json.dumps(card))


def test_a_config_that_names_code_is_refused(files, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("import os\nos.mkdir('canary')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for place in (
        lambda c: c["config"]["process"].update(name="stranger:Process"),
        lambda c: c["config"].update(sampler="stranger:Sampler"),
        lambda c: c["config"].update(guidance=[{"name": "os:system", "command": "mkdir canary"}]),
    ):
        rewritten_files = files.parent / "again.safetensors"
        rewritten_files.write_bytes(files.read_bytes())
        rewritten_files.with_suffix(".json").write_text(files.with_suffix(".json").read_text())
        rewritten(rewritten_files, place)
        with pytest.raises(ConfigError, match="--allow_code"):
            import_run(rewritten_files, Workdir.of(tmp_path / "made"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c.update(format=2), "format 2"),
        (lambda c: c.update(more=1), "must have the entries"),
        (lambda c: c.update(step="5"), "'step'"),
        (lambda c: c.update(weights=[]), "'weights'"),
        (lambda c: c["weights"].update(size=2**62), "bytes"),
        (lambda c: c["weights"].update(sha256=None), "SHA-256"),
        (lambda c: c["data"].update(color="red"), "does not describe data"),
        (lambda c: c["config"].update(proces={}), "no section 'proces'"),
        (lambda c: c["config"]["network"].update(width=10), "does not fit its config"),
        (lambda c: c["config"]["network"].update(depth=2), "missing: "),
    ],
)
def test_files_that_do_not_fit_are_refused(files, tmp_path, change, error):
    rewritten(files, change)
    with pytest.raises((CheckpointError, ConfigError), match=error):
        import_run(files, Workdir.of(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


# ---- headers ------------------------------------------------------------------------------------


def tensor(begin=0, end=8, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def header(entries):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw


MANY = b'"a%d":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'  # as `tensor` writes it
HOSTILE = {
    "nothing": b"",
    "too short": b"\x01\0\0",
    "longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "all ones": b"\xff" * 64,
    "pickle": pickle.dumps({"a": np.zeros(3)}),
    "zip bomb's head": b"PK\x03\x04" + b"\0" * 60,
    "deep": header(b"[" * 10**6),
    "a list": header([1]),
    "no text": header(b"\xff\xfe{}"),
    "absurd shape": header({"a": tensor(shape=(2**62, 2**62))}) + b"\0" * 8,
    "claims 2^62 bytes": header({"a": tensor(end=2**62, shape=(2**60,))}) + b"\0" * 8,
    "negative": header({"a": tensor(shape=(-2,))}) + b"\0" * 8,
    "backwards": header({"a": tensor(8, 0)}) + b"\0" * 8,
    "overlap": header({"a": tensor(), "b": tensor(4, 12)}) + b"\0" * 12,
    "gap": header({"a": tensor(), "b": tensor(12, 20)}) + b"\0" * 20,
    "more data": header({"a": tensor()}) + b"\0" * 9,
    "less data": header({"a": tensor()}) + b"\0" * 7,
    "objects": header({"a": tensor(dtype="O")}) + b"\0" * 8,
    "type is a list": header({"a": tensor(dtype=["F32"])}) + b"\0" * 8,
    "truth values": header({"a": tensor(shape=(True, 2))}) + b"\0" * 8,
    "more keys": header({"a": tensor(code="import os")}) + b"\0" * 8,
    "many dimensions": header({"a": tensor(shape=(2,) + (1,) * 10**5)}) + b"\0" * 8,
    "a name twice": header(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2)) + b"\0" * 8,
    "many": header(b"{%s}" % b",".join(MANY % (i, 8 * i, 8 * i + 8) for i in range(2 * 10**5))),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    assert time.process_time() - started < 2
    assert len(str(error.value)) < 1000


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(files, tmp_path):
    os.truncate(files, 2**40)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="bytes"):
        read_card(files)
    with pytest.raises(CheckpointError, match="bytes of arrays"):
        read_header(files)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool"]
)
def test_types_and_shapes_come_back(tmp_path, dtype):
    arrays = {
        "scalar": np.ones((), jax.numpy.dtype(dtype)),
        "a/matrix": np.arange(6).reshape(2, 3).astype(jax.numpy.dtype(dtype)).T,  # not contiguous
        "empty": np.zeros((0, 3), jax.numpy.dtype(dtype)),
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, arrays, {"step": "1"})
    assert read_header(path) == {name: (x.shape, dtype) for name, x in arrays.items()}
    read = read_tensors(path, {name: x.shape for name, x in arrays.items()})
    for name, x in arrays.items():
        assert read[name].dtype == x.dtype
        np.testing.assert_array_equal(read[name], x)
