"""Measure the order of every sampler, and its error against the number of evaluations.

    python -m experiments.sampler_orders

Two targets with known posterior means: a Gaussian, whose map from noise to data is known in closed form, and
a mixture of three Gaussians in the plane, whose map is computed by RK4 with 4,096 steps. Errors are
root mean squares over 64 starting points drawn from the marginal at t_max, in float64, at t_min. Methods
with noise are judged by the spread of 65,536 samples of the Gaussian.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion
from diffusion import build, registered
from diffusion.samplers import StepSampler
from diffusion.testing import GaussianMixture, gaussian, gaussian_flow
from experiments._common import heading

HERE = Path(__file__).parent
PROCESSES = ("vp", "edm", "rectified_flow")
GRIDS = ("uniform", "uniform_log_snr", "karras", "quadratic", "cosine")
BUDGETS = (5, 10, 20, 40, 80)
FINEST = (160, 320, 640)  # steps for the measured order
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
VARIANTS = {
    "deis": [dict(order=order) for order in (1, 2, 3, 4)] + [dict(clock="time"), dict(clock="rho")],
    "unipc": [dict(order=o, variant=v) for o in (1, 2, 3) for v in ("bh1", "bh2")],
    "ancestral": [dict(variance=v) for v in ("posterior", "beta")],
}
DRAWS = 65_536


def samplers() -> Iterator[tuple[str, Any]]:
    """Yield (label, sampler) for everything registered, with the variants worth telling apart."""
    for name in registered("sampler"):
        for fields in VARIANTS.get(name, [{}]):
            label = " ".join([name, *(str(v) for v in fields.values())])
            yield label, build("sampler", {"name": name, **fields})


def starts(process: Any, target: Any, key: Any, count: int = 64) -> Any:
    """Draw points of the exact marginal at t_max."""
    key_x, key_z = jax.random.split(key)
    x_0 = target.sample(key_x, count)
    return process.interpolate(x_0, jax.random.normal(key_z, x_0.shape), process.t_max)


def reference(process: Any, target: Any, x: Any, name: str) -> Any:
    """Return where the exact flow ends."""
    if name == "gaussian":
        return gaussian_flow(process, x, process.t_max, process.t_min)
    times = process.default_times(4096)
    return diffusion.integrate_flow(process, target.denoiser(process), x, times)


def solved(sampler: Any, process: Any, target: Any, times: Any, x: Any) -> Any:
    """Return the solution at t_min, without the last denoising step."""
    key = jax.random.key(1)
    return diffusion.solve(
        sampler, process, target.denoiser(process), key, x, times, denoise_last=False
    )


def distance(end: Any, exact: Any) -> float:
    """Return the root mean square error."""
    return float(jnp.sqrt(jnp.mean((end - exact) ** 2)))


def order(errors: list[float]) -> float:
    """Return the slope between the two finest grids that lie above round-off."""
    usable = [e for e in errors if e > 1e-12]
    return float(np.log2(usable[-2] / usable[-1])) if len(usable) >= 2 else float("nan")


def deterministic(process_name: str) -> Iterator[dict[str, Any]]:
    """Yield one row per target, sampler and grid."""
    process = build("process", process_name)
    for target_name, target in {"gaussian": gaussian(dim=2), "mixture": MIXTURE}.items():
        jax.clear_caches()
        x = starts(process, target, jax.random.key(0))
        exact = reference(process, target, x, target_name)
        for label, sampler in samplers():
            if not isinstance(sampler, StepSampler) or sampler.stochastic:
                continue
            for grid in GRIDS:
                run = lambda n, s=sampler, g=grid, p=process, t=target, x=x, e=exact: distance(
                    solved(s, p, t, build("grid", g)(p, n), x).x, e
                )
                by_budget = {n: run(max(1, n // sampler.evaluations)) for n in BUDGETS}
                yield dict(
                    process=process_name, target=target_name, sampler=label, grid=grid,
                    declared=sampler.order + sampler.gains, measured=order([run(n) for n in FINEST]),
                    error=by_budget,
                )  # fmt: skip


def stochastic(process_name: str) -> Iterator[dict[str, Any]]:
    """Yield one row per sampler with noise: the relative error of the standard deviation."""
    process, target = build("process", process_name), gaussian()
    x = starts(process, target, jax.random.key(0), DRAWS)
    alpha, sigma = process.alpha(process.t_min), process.sigma(process.t_min)
    exact = float(jnp.sqrt(alpha**2 * 0.25 + sigma**2))
    for label, sampler in samplers():
        if not isinstance(sampler, StepSampler) or not sampler.stochastic:
            continue
        for grid in GRIDS:
            error = {}
            for n in BUDGETS:
                times = build("grid", grid)(process, max(1, n // sampler.evaluations))
                error[n] = float(solved(sampler, process, target, times, x).x.std()) / exact - 1
            yield dict(process=process_name, sampler=label, grid=grid, error=error)


def adaptive(process_name: str) -> Iterator[dict[str, Any]]:
    """Yield one row per adaptive method and tolerance: what it cost, and the error on the mixture."""
    process = build("process", process_name)
    x = starts(process, MIXTURE, jax.random.key(0))
    exact = reference(process, MIXTURE, x, "mixture")
    times = process.default_times(20)
    specs = [dict(name="dpm_solver_12")] + [
        dict(name="diffrax", solver=s) for s in ("Heun", "Bosh3", "Tsit5", "Dopri8")
    ]
    for spec in specs:
        for tol in TOLERANCES:
            sampler = build("sampler", {**spec, "rtol": tol, "atol": tol})
            found = solved(sampler, process, MIXTURE, times, x)
            yield dict(
                process=process_name, sampler=" ".join(spec.values()), tolerance=tol,
                nfe=int(found.nfe), error=distance(found.x, exact),
            )  # fmt: skip


def table(rows: list[dict[str, Any]], head: str, cells: Any) -> list[str]:
    """Return a Markdown table, one line per row."""
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    return [*lines, *(f"| {' | '.join(cells(row))} |" for row in rows), ""]


def pages(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return everything measured as Markdown."""
    budgets = " | ".join(str(n) for n in BUDGETS)
    errors = lambda row, form: [form.format(row["error"][n]) for n in BUDGETS]
    lines = heading("Orders and errors, measured", "sampler_orders")
    for process in PROCESSES:
        for target in ("gaussian", "mixture"):
            lines += [f"## {process}, {target}: error by evaluations", ""]
            lines += table(
                [r for r in found["deterministic"] if (r["process"], r["target"]) == (process, target)],
                f"| sampler | grid | order | measured | {budgets} |",
                lambda r: [r["sampler"], r["grid"], str(r["declared"]), f"{r['measured']:.2f}",
                           *errors(r, "{:.1e}")],
            )  # fmt: skip
        lines += [
            f"## {process}, Gaussian, with noise: relative error of the standard deviation",
            "",
        ]
        lines += [f"Of {DRAWS:,} samples, so to ±{1 / np.sqrt(2 * DRAWS):.1%}.", ""]
        lines += table(
            [r for r in found["stochastic"] if r["process"] == process],
            f"| sampler | grid | {budgets} |",
            lambda r: [r["sampler"], r["grid"], *errors(r, "{:+.1%}")],
        )
        lines += [f"## {process}, mixture, adaptive", ""]
        lines += table(
            [r for r in found["adaptive"] if r["process"] == process],
            "| sampler | tolerance | evaluations | error |",
            lambda r: [r["sampler"], f"{r['tolerance']:g}", str(r["nfe"]), f"{r['error']:.1e}"],
        )
    return "\n".join(lines)


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw error against evaluations on the mixture, uniform in log-SNR."""
    from diffusion.evaluation.pictures import save_lines

    shown = ("dpm_solver_1", "dpm_solver_2", "dpm_solver_3", "dpm_solver_pp_2m", "dpm_solver_pp_3m",
             "unipc 2 bh2", "unipc 3 bh2", "deis 3", "heun", "rk4")  # fmt: skip
    curves = {
        row["sampler"]: (BUDGETS, [row["error"][n] for n in BUDGETS])
        for row in found["deterministic"]
        if (row["process"], row["target"], row["grid"]) == ("vp", "mixture", "uniform_log_snr")
        and row["sampler"] in shown
    }
    save_lines(path, curves, "evaluations per example", "root mean square error", log=True)


def main() -> None:
    """Measure and write results.json, table.md and the plot."""
    found: dict[str, list[dict[str, Any]]] = {"deterministic": [], "stochastic": [], "adaptive": []}
    with jax.enable_x64(True):
        for process in PROCESSES:
            for part, rows in found.items():
                rows += {
                    "deterministic": deterministic,
                    "stochastic": stochastic,
                    "adaptive": adaptive,
                }[part](process)
                jax.clear_caches()  # thousands of compiled loops would exhaust the memory maps
                print(f"{process}, {part}: {len(rows)} rows", flush=True)
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "table.md").write_text(pages(found))
    plot(found, HERE / "error.png")
    rows = [r for r in found["deterministic"] if r["grid"] == "uniform_log_snr"]
    off = [r for r in rows if abs(r["measured"] - r["declared"]) > 0.15]
    print(f"{len(off)} of {len(rows)} orders differ from the declared ones on uniform_log_snr:")
    for r in off:
        print(
            f"  {r['process']} {r['target']} {r['sampler']}: {r['declared']} declared, {r['measured']:.2f}"
        )


if __name__ == "__main__":
    main()
