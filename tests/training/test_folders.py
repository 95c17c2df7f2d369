"""Folders by step: whatever is killed, damaged and deleted in whatever order, what was whole stays whole.

The first test compares random sequences of saving, dying, damaging, recovering and pruning with a
model of a few lines: a dictionary from steps to what they should hold.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from diffusion.checkpoints import folders as module
from diffusion.checkpoints.folders import StepFolders
from diffusion.runtime.exits import CheckpointError, DamageError


class DiedError(BaseException):
    """What stands for a kill: nothing handles it."""


PLACES = (
    "after_tmp_open",
    "before_manifest",
    "before_rename",
    "after_rename",
    "before_prune",
    "mid_prune",
)


def write(folders, step, content):
    folder = folders.begin(step)
    (folder / "state").mkdir()
    (folder / "state" / "data").write_bytes(content)
    (folder / "meta.json").write_text(f'{{"step": {step}}}')
    folders.commit(step)


def read(folders, step):
    return (folders.path(step) / "state" / "data").read_bytes()


def damage(folders, step, chance):
    """Change a checkpoint in one of the ways in which disks and people do."""
    folder = folders.path(step)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    file = chance.choice(files)
    way = chance.choice(["flip", "cut", "delete", "grow", "rename"])
    content = bytearray(file.read_bytes())
    if way == "flip":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
    elif way == "cut":
        os.truncate(file, chance.choice([0, len(content) // 2, len(content) - 1]))
    elif way == "delete":
        file.unlink()
    elif way == "grow":
        file.write_bytes(content + b"\0")
    else:
        other = folders.path(step + 1000)
        if other.exists():
            return step
        folder.rename(other)
        return step + 1000
    return step


class Run:
    """A run that saves, dies and resumes, and a model of what must be on the disk."""

    def __init__(self, directory, chance):
        self.folders, self.chance, self.keep = StepFolders(directory), chance, chance.randint(1, 3)
        self.whole, self.step, self.lines = {}, 0, []

    def save(self, dies, monkeypatch):
        """Save the next step; perhaps die at a named place."""
        self.step += self.chance.randint(1, 3)
        content = self.chance.randbytes(self.chance.randint(1, 40))
        reached = []

        def failpoint(name):
            reached.append(name)
            if name == dies:
                raise DiedError

        monkeypatch.setattr(module, "failpoint", failpoint)
        try:
            write(self.folders, self.step, content)
            self.folders.prune(self.keep, self.step)
        except DiedError:
            pass
        if "after_rename" in reached:
            self.whole[self.step] = content
        # what is counted are folders under a number, damaged or not: pruning reads none of them
        for gone in set(self.whole) - set(self.folders.steps()):
            assert gone < self.step
            del self.whole[gone]
        upto = [step for step in self.folders.steps() if step <= self.step]
        assert dies or len(upto) <= self.keep

    def damage(self):
        step = self.chance.choice(self.folders.steps())
        damage(self.folders, step, self.chance)
        self.whole.pop(step, None)

    def resume(self):
        """Start anew after a death."""
        self.folders.sweep()
        before = set(self.folders.steps())
        wrong = before - set(self.whole)
        if not self.whole and (wrong or self.folders.set_aside_before()):
            with pytest.raises(CheckpointError, match="--restart"):
                self.folders.newest(self.lines.append, move=True)
            assert set(self.folders.steps()) == before
            shutil.rmtree(self.folders.directory)
            self.folders.directory.mkdir()
            self.step = 0
            return
        lines = []
        newest = self.folders.newest(lines.append, move=True)
        assert newest == max(self.whole, default=None)
        assert len(lines) == len([s for s in wrong if s > (newest or 0)])
        self.step = newest or 0
        assert not [n for n in os.listdir(self.folders.directory) if n.startswith(".")]


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_leaves_what_the_model_says(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(os, "fsync", lambda number: None)  # no machine stops here, only processes
    chance = random.Random(seed)
    run = Run(tmp_path, chance)
    for _ in range(25):
        action = chance.random()
        if action < 0.6:
            dies = chance.choice(PLACES) if chance.random() < 0.4 else None
            run.save(dies, monkeypatch)
            if dies:
                run.resume()
        elif action < 0.8 and run.folders.steps():
            run.damage()
        else:
            run.resume()
        for step, content in run.whole.items():
            assert run.folders.verify(step)
            assert read(run.folders, step) == content


def test_pruning_goes_by_number_alone(tmp_path):
    folders = StepFolders(tmp_path)
    for step in (9, 10, 11, 100):  # in the order of text 9 would come last
        write(folders, step, b"x")
        os.utime(folders.path(step), (1e9 - step, 1e9 - step))  # the clock ran backwards
    folders.prune(2, new=100)
    assert folders.steps() == (11, 100)
    write(folders, 5, b"x")
    folders.prune(2, new=5)
    assert folders.steps() == (5, 11, 100)  # what was just written is never deleted
    write(folders, 12, b"x")
    folders.prune(1, new=12)
    assert folders.steps() == (12, 100)


def test_a_step_that_was_set_aside_can_be_saved_again(tmp_path):
    folders = StepFolders(tmp_path)
    for step in (1, 2):
        write(folders, step, b"first")
    for number in (1, 2):
        (folders.path(2) / "state" / "data").write_bytes(b"worse")
        lines = []
        assert folders.newest(lines.append, move=True) == 1
        assert lines[0].endswith(
            f"it is now 2.damaged-checksum-{number}; step 1 is used, 1 before it"
        )
        write(folders, 2, b"again")
        assert read(folders, 2) == b"again"
    assert folders.set_aside_before() == ["2.damaged-checksum-1", "2.damaged-checksum-2"]


def test_looking_changes_nothing(tmp_path):
    folders = StepFolders(tmp_path)
    for step in (1, 2):
        write(folders, step, b"first")
    (folders.path(2) / "meta.json").unlink()
    (tmp_path / ".saving-3").mkdir()
    before = sorted(p for p in tmp_path.rglob("*"))
    lines = []
    assert folders.newest(lines.append, move=False) == 1
    assert "missing" in lines[0]
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_nothing_begun_is_nothing_wrong(tmp_path):
    assert StepFolders(tmp_path / "none").newest(lambda line: None, move=True) is None
    assert StepFolders(tmp_path / "none").steps() == ()


def test_what_is_not_a_folder_of_a_step_is_ignored(tmp_path):
    folders = StepFolders(tmp_path)
    write(folders, 7, b"x")
    (tmp_path / "8").write_text("a file")
    (tmp_path / "9").symlink_to(folders.path(7))
    (tmp_path / "10").symlink_to(tmp_path / "10")
    others = ("07", "+7", "7.0", "-1", "a", "٧", "1٧", ".saving-٧", "٧.damaged-size-1")
    for name in others:
        (tmp_path / name).mkdir()
    assert folders.steps() == (7,)
    assert folders.set_aside_before() == []
    folders.sweep()
    assert all((tmp_path / name).is_dir() for name in others)


def test_patterns_know_ascii_digits_alone():
    """The class of digits of the module re holds those of every script, and `int` reads them all as numbers."""
    root = Path(__file__).parents[2]
    files = [*(root / "diffusion").rglob("*.py"), *(root / "scripts").glob("*.py")]
    assert len(files) > 100
    assert [p for p in files if "\\d" in p.read_text()] == []


def test_an_existing_step_is_never_written_over(tmp_path):
    folders = StepFolders(tmp_path)
    write(folders, 1, b"first")
    with pytest.raises(OSError, match="1"):
        write(folders, 1, b"second")
    assert read(folders, 1) == b"first"


def test_a_renamed_folder_does_not_pass_for_another_step(tmp_path):
    folders = StepFolders(tmp_path)
    write(folders, 1, b"x")
    folders.path(1).rename(folders.path(2))
    with pytest.raises(DamageError, match="written as step 1") as error:
        folders.verify(2)
    assert error.value.reason == "renamed"
