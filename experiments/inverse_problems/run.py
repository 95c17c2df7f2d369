"""Measure how far every method for y = A x_0 + std n is from the posterior p(x_0 | y).

    python -m experiments.inverse_problems

Two targets whose posterior is known in closed form: a smooth Gaussian of 16 numbers, measured by a mask, by means
of neighbors and by random rows; and three Gaussians in the plane, of which one direction is measured. The denoiser
is exact, so what is left is the error of the method. VP, 100 steps, float64, 3,000 samples for each of three
measurements; differences from samples of the posterior in mean, covariance and energy distance.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion
from diffusion import build
from diffusion.evaluation import energy_distance
from diffusion.evaluation.images import scatter_grid
from diffusion.inverse_problems import dps, moment_matching, pigdm, replacement
from diffusion.inverse_problems.operators import CompressedSensing, Mask, Matrix
from diffusion.testing import CorrelatedGaussian, GaussianMixture, linear_posterior
from experiments._common import heading

HERE = Path(__file__).parent
DIM, DRAWS, STEPS, MEASUREMENTS = 16, 3_000, 100, 3
COMPARED = 1_500  # of the draws, for the energy distance, which costs their square
STDS = (0.05, 0.5)
DISTANCE = np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))
SMOOTH = CorrelatedGaussian(
    0.3 * np.sin(np.arange(DIM)), 0.5 * np.exp(-DISTANCE / 4) + 0.01 * np.eye(DIM)
)
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
PROBLEMS = {
    "Gaussian, mask": (SMOOTH, Mask(values=(np.arange(DIM) % 8 < 4).astype(float))),
    "Gaussian, means of 4": (SMOOTH, Matrix(values=np.kron(np.eye(4), np.full((1, 4), 0.25)))),
    "Gaussian, 4 random rows": (SMOOTH, CompressedSensing(fraction=0.25)),
    "mixture, one direction": (MIXTURE, Matrix(values=np.array([[1.0, -0.5]]))),
}
SCALES = (0.03, 0.1, 0.3, 1.0)  # of dps; the best one is reported, with its name
ODE, NOISY = "dpm_solver_pp_2m", "ancestral"


def methods(
    process: Any, denoise: Any, operator: Any, y: Any, std: float, times: Any
) -> dict[str, Any]:
    """Return (sampler, model) by name."""
    arguments = (process, denoise, operator, y)
    dpm = build("sampler", ODE)
    repaint = lambda n: build("sampler", dict(name="repaint", repeats=n))
    replaced = replacement(*arguments, std=std)
    found = {
        "moment_matching": (
            dpm,
            moment_matching(*arguments, std=std, num_iterations=20, tolerance=1e-10),
        ),
        "pigdm": (dpm, pigdm(*arguments, std=std)),
        "replacement, posterior mean": (dpm, replaced),
        "replacement, state (repaint, 1)": (repaint(1), replaced),
        "repaint, 10": (repaint(10), replaced),
        "no measurement": (dpm, denoise),
    }
    ddim = build("sampler", "ddim")
    for scale in SCALES:
        found[f"dps, {scale:g}"] = (ddim, dps(*arguments, times=times, scale=scale))
    return found


def moments(posterior: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance."""
    if isinstance(posterior, CorrelatedGaussian):
        return np.asarray(posterior.mean), np.asarray(posterior.covariance)
    return posterior.moments()


def judged(x: np.ndarray, posterior: Any, exact: np.ndarray) -> dict[str, float]:
    """Return the distances of samples from a posterior of which `exact` are samples.

    Those of mean and covariance are also given in their own standard errors, the root mean square over entries.
    """
    mean, covariance = moments(posterior)
    variance = np.diag(covariance)
    off, spread = x.mean(0) - mean, np.cov(x.T) - covariance
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / len(x))
    found = energy_distance(x[:COMPARED], exact[:COMPARED])
    root = lambda a: float(np.sqrt((a**2).mean()))
    return {
        "mean": float(np.linalg.norm(off) / np.sqrt(variance.sum())),
        "covariance": float(np.linalg.norm(spread) / np.linalg.norm(covariance)),
        "mean_in_standard_errors": root(off / np.sqrt(variance / len(x))),
        "covariance_in_standard_errors": root(spread / error),
        "energy_distance": found.value,
        "energy_distance_error": found.standard_error,
    }


def rows(name: str, std: float) -> Iterator[dict[str, Any]]:
    """Yield one row per method and measurement."""
    process = build("process", "vp")
    data, operator = PROBLEMS[name]
    times, denoise = process.default_times(STEPS), data.denoiser(process)
    for index in range(MEASUREMENTS):
        key = jax.random.fold_in(jax.random.key(0), index)
        key_x, key_y, key_T, key_s, key_e = jax.random.split(key, 5)
        y = operator.measure(key_y, data.sample(key_x, 1), std)
        posterior = linear_posterior(data, operator, y, std)
        exact = np.asarray(posterior.sample(key_e, DRAWS))
        x_T = process.sample_prior(key_T, (DRAWS, len(moments(posterior)[0])))
        guided = methods(process, denoise, operator, y, std, times)
        guided["exact posterior mean"] = (build("sampler", ODE), posterior.denoiser(process))
        for method, (sampler, model) in guided.items():
            x = diffusion.sample(sampler, process, model, key_s, x_T, times, denoise_last=True)
            row = dict(problem=name, std=std, measurement=index, method=method)
            yield row | judged(np.asarray(x), posterior, exact)


def average(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over measurements; of the scales of dps keep the one of least energy distance."""
    keys = [k for k in found[0] if k not in ("problem", "std", "measurement", "method")]
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["problem"], row["std"], row["method"]), []).append(row)
    averages: list[dict[str, Any]] = [
        dict(problem=p, std=s, method=m) | {k: float(np.mean([r[k] for r in rows])) for k in keys}
        for (p, s, m), rows in groups.items()
    ]
    kept = []
    for problem, std in dict.fromkeys((r["problem"], r["std"]) for r in averages):
        here = [r for r in averages if (r["problem"], r["std"]) == (problem, std)]
        tuned = min(
            (r for r in here if r["method"].startswith("dps")), key=lambda r: r["energy_distance"]
        )
        plain = [r for r in here if not r["method"].startswith("dps")]
        kept += sorted([*plain, tuned], key=lambda r: r["energy_distance"])
    return kept


def pages(averages: list[dict[str, Any]]) -> str:
    """Return everything measured as Markdown."""
    lines = heading("Distance from the posterior, measured", "inverse_problems")
    for problem, std in dict.fromkeys((r["problem"], r["std"]) for r in averages):
        lines += [f"## {problem}, std {std:g}", ""]
        lines += [
            "| method | mean | covariance | in standard errors | energy distance |",
            "|---|---:|---:|---:|---:|",
        ]
        for r in averages:
            if (r["problem"], r["std"]) == (problem, std):
                errors = (
                    f"{r['mean_in_standard_errors']:.1f}, {r['covariance_in_standard_errors']:.1f}"
                )
                distance = f"{r['energy_distance']:.4f} ± {r['energy_distance_error']:.4f}"
                lines.append(
                    f"| {r['method']} | {r['mean']:.3f} | {r['covariance']:.3f} | {errors} | {distance} |"
                )
        lines.append("")
    return "\n".join(lines)


def plot(path: Path) -> None:
    """Draw samples of the mixture's posterior by every method, for one measurement."""
    process, std = build("process", "vp"), 0.5
    data, operator = PROBLEMS["mixture, one direction"]
    y, times = jnp.array([[0.4]]), process.default_times(STEPS)
    posterior = linear_posterior(data, operator, y, std)
    x_T = process.sample_prior(jax.random.key(1), (1500, 2))
    guided = methods(process, data.denoiser(process), operator, y, std, times)
    shown = {
        "the data": data.sample(jax.random.key(2), 1500),
        "the posterior": posterior.sample(jax.random.key(3), 1500),
    }
    for name in ("moment_matching", "pigdm", "dps, 0.1", "replacement, posterior mean",
                 "replacement, state (repaint, 1)", "repaint, 10"):  # fmt: skip
        sampler, model = guided[name]
        shown[name] = diffusion.sample(sampler, process, model, jax.random.key(4), x_T, times)
    panels = [np.asarray(x) for x in shown.values()]
    scatter_grid(path, panels, list(shown), columns=4, limit=2.0)


def main() -> None:
    """Measure and write results.json, table.md and the plot."""
    started, found = time.monotonic(), []
    with jax.enable_x64(True):
        for name in PROBLEMS:
            for std in STDS:
                found += rows(name, std)
                print(f"{name}, std {std:g}: {time.monotonic() - started:.0f} s", flush=True)
        plot(HERE / "mixture.png")
    averages = average(found)
    (HERE / "results.json").write_text(
        json.dumps({"rows": found, "averages": averages}, indent=1) + "\n"
    )
    (HERE / "table.md").write_text(pages(averages))
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
