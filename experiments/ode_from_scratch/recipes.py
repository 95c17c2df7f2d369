"""The definitions that are compared, each with what it needs beyond the common config.

What a recipe adds to the config follows from its class: for an `AffineProcess` what the network predicts and
which noise levels it is shown; for a plain `Process`, where it predicts the velocity, which times.
"""

from dataclasses import dataclass, field
from typing import Any

UNIFORM = dict(name="uniform", stratified=True)
LEVELS = dict(name="log_normal", mean=-0.5, std=1.5, stratified=True)  # log(sigma / alpha)
CLOCK = dict(name="default", stratified=True)  # geometric, where times span decades
VELOCITY, RESIDUAL, DATA, V = (dict(name=n) for n in ("velocity", "edm", "data", "v"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A definition by name, and how its network is trained.

    Args:
        family: which construction it is.
        process: the section of the config.
        prediction: the section; it has no effect for a plain `Process`.
        time: the section.
        weight: the section, likewise.
        network: fields that are added to the section.
        train: fields that are added to the section.
        exact: whether there is an exact field of the data; or a process that is the same in law and has its
            inverse in closed form, where Newton steps for every pair of points would take too long.
    """

    family: str
    process: dict[str, Any]
    prediction: dict[str, Any] = field(default_factory=lambda: VELOCITY)
    time: dict[str, Any] = field(default_factory=lambda: UNIFORM)
    weight: dict[str, Any] = field(default_factory=lambda: dict(name="simple"))
    network: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    exact: bool | dict[str, Any] = True


def _prior(low: float, high: float) -> dict[str, Any]:
    return dict(name="uniform", low=low, high=high)


def _residual(sigma_data: float) -> dict[str, Any]:
    return RESIDUAL | dict(sigma_data=sigma_data)


TWO_BLOBS = dict(name="mixture", means=((-1.5, 0.0), (1.5, 0.0)), std=0.5)
MOONS = dict(name="data", dataset=dict(name="points2d", kind="moons"))

PLANE = {
    "vp": Recipe(
        family="reference", process=dict(name="vp"), prediction=V, time=LEVELS
    ),
    "heat": Recipe(
        family="heat equation", process=dict(name="heat"), prediction=_residual(1.0), time=LEVELS
    ),
    "poisson_flow": Recipe(
        family="gravity", process=dict(name="poisson_flow"), prediction=DATA, time=LEVELS
    ),
    "poisson_flow, batch": Recipe(
        family="the same, the mean of the batch as target",
        process=dict(name="poisson_flow"), prediction=DATA, time=LEVELS,
        weight=dict(name="min_snr", gamma=100.0), train=dict(batch_target=True),
    ),
    "poisson_flow 8": Recipe(
        family="gravity, 8 extra dimensions", process=dict(name="poisson_flow", extra_dims=8.0),
        prediction=_residual(1.0), time=LEVELS,
    ),
    "radial tanh": Recipe(
        family="radial law of r/t", process=dict(name="radial", law="tanh"),
        prediction=_residual(1.0), time=LEVELS,
    ),
    "radial tanh, x_0": Recipe(
        family="the same, x_0 predicted", process=dict(name="radial", law="tanh"),
        prediction=DATA, time=LEVELS,
    ),
    "radial tanh_sinh": Recipe(
        family="radial law psi(r, t)",
        process=dict(name="radial", law="tanh_sinh", t_min=0.02, t_max=20.0),
        time=dict(name="logit_normal", mean=-3.0, std=1.5, stratified=True),
    ),
    "radial tanh_sinh, skip": Recipe(
        family="the same, a linear skip connection",
        process=dict(name="radial", law="tanh_sinh", t_min=0.02, t_max=20.0),
        time=dict(name="logit_normal", mean=-3.0, std=1.5, stratified=True), network=dict(linear_skip=True),
    ),
    "radial tanh_sinh, clock": Recipe(
        family="the same, times by the clock",
        process=dict(name="radial", law="tanh_sinh", t_max=40.0), time=CLOCK, exact=False,
    ),
    "straight_line uniform": Recipe(
        family="characteristics", process=dict(name="straight_line", prior=_prior(-2.0, 2.0))
    ),
    "parabola": Recipe(family="characteristics", process=dict(name="parabola")),
    "asinh_path": Recipe(family="characteristics", process=dict(name="asinh_path")),
    "linear_path": Recipe(family="linear path", process=dict(name="linear_path")),
    "bridge two blobs": Recipe(
        family="interpolant", process=dict(name="bridge", prior=TWO_BLOBS),
        exact=dict(name="straight_line", prior=TWO_BLOBS),
    ),
    "bridge moons": Recipe(
        family="interpolant", process=dict(name="bridge", prior=MOONS), exact=False
    ),
    "rectified_flow": Recipe(family="interpolant", process=dict(name="rectified_flow")),
    "rectified_flow, residual": Recipe(
        family="the same, the residual predicted", process=dict(name="rectified_flow"),
        prediction=_residual(1.0), time=LEVELS,
    ),
}  # fmt: skip


def exact_field_of(name: str) -> str | None:
    """Return the first recipe whose exact field is that of this one, if it has one: its name."""
    of = lambda recipe: recipe.process if recipe.exact is True else recipe.exact
    wanted = of(PLANE[name])
    return next(n for n, recipe in PLANE.items() if of(recipe) == wanted) if wanted else None


_PIXELS = 0.7  # standard deviation of the pixels of the digits, which lie in [-1, 1]

DIGITS = {
    "vp": Recipe(family="reference", process=dict(name="vp"), prediction=V),
    "heat": Recipe(
        family="heat equation", process=dict(name="heat"), prediction=_residual(_PIXELS),
        time=LEVELS,
    ),
    "blur": Recipe(family="heat equation of an image", process=dict(name="blur")),
    "poisson_flow": Recipe(
        family="gravity", process=dict(name="poisson_flow"), prediction=DATA, time=LEVELS
    ),
    "radial tanh": Recipe(
        family="radial law of r/t", process=dict(name="radial", law="tanh", rms=True),
        prediction=_residual(_PIXELS), time=LEVELS,
    ),
    "straight_line uniform": Recipe(
        family="characteristics", process=dict(name="straight_line", prior=_prior(-1.0, 1.0))
    ),
    "parabola": Recipe(family="characteristics", process=dict(name="parabola")),
    "linear_path": Recipe(family="linear path, blurred", process=dict(name="linear_path")),
    "rectified_flow": Recipe(family="interpolant", process=dict(name="rectified_flow")),
    "trigonometric": Recipe(
        family="interpolant", process=dict(name="trigonometric"), prediction=V
    ),
}  # fmt: skip
