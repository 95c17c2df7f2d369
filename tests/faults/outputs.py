"""Sampling and measuring that are killed: the same examples and numbers come out in the end."""

import json
import random
from pathlib import Path

import numpy as np

from .processes import Program, run
from .recipe import evaluate, sample
from .tally import Tally


def examples(path: Path) -> list:
    """Return the examples of a file as 8 bits would show them, exactly."""
    with np.load(path) as arrays:
        return np.asarray(arrays["x"], np.float32).tolist()


def sampling(workdir: Path, folder: Path, kills: int, seed: int, span: float) -> Tally:
    """Kill sampling while a shard is written and at random moments, with other batch sizes."""
    tally = Tally("sampling killed in a shard and at random; other batch sizes")
    draw, log, whole = random.Random(seed), folder / "log", folder / "whole.npz"
    first = run(sample(workdir, whole), log)
    if first.code:
        tally.note(wrong=first.text)
        return tally
    expected, done = examples(whole), 0
    for number in range(10**6):
        out, here = folder / f"samples{number}.npz", 0
        while done + here < kills and not out.exists() and here < 6:
            batch = f"--batch_size={draw.choice([7, 16, 50])}"
            if here % 2:
                env = {"DEMOLISH_KILL_AT": f"in_sample_shard:{draw.randint(1, 3)}"}
                ended = run(sample(workdir, out, batch), log, env)
                here += ended.code == -9
            else:
                program = Program(sample(workdir, out, batch), log)
                if not program.ended_within(draw.uniform(0.2, span)):
                    program.send(9)
                    here += 1
                program.wait()
        ended = run(sample(workdir, out), log)
        same = ended.code == 0 and examples(out) == expected
        left = out.with_name(out.name + ".parts").exists()
        for _ in range(max(here, 1)):
            tally.note(whole=same and not left, wrong=f"code {ended.code} {left}: {ended.text}")
        done += max(here, 1)
        if done >= kills:
            return tally
    return tally


def measuring(workdir: Path, folder: Path) -> Tally:
    """Kill an evaluation between its metrics; the numbers are those of an undisturbed one."""
    tally = Tally("evaluation killed between metrics")
    log, results = folder / "log", workdir / "evaluation.json"
    first = run(evaluate(workdir), log)
    if first.code:
        tally.note(wrong=first.text)
        return tally
    expected = json.loads(results.read_text())["results"]
    for place in ("in_eval", "in_eval:2"):
        results.unlink(missing_ok=True)
        run(evaluate(workdir, "--fresh"), log, {"DEMOLISH_KILL_AT": place})
        ended = run(evaluate(workdir), log)
        found = json.loads(results.read_text())["results"] if ended.code == 0 else None
        tally.note(whole=found == expected, wrong=f"code {ended.code}: {ended.text}")
    results.write_text(results.read_text()[:-40])
    ended = run(evaluate(workdir), log)
    found = json.loads(results.read_text())["results"] if ended.code == 0 else None
    tally.note(whole=found == expected, wrong=f"cut file: code {ended.code}: {ended.text}")
    return tally
