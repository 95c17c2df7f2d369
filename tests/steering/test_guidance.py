"""Laws of guidance, over everything that is registered: what is added is tested."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import known_processes
import numpy as np
import pytest
from guidance_models import LABELS, network_model
from pairwise import pairwise

import diffusion
from diffusion import build, registered
from diffusion.guidance import Guidance, entry_name
from diffusion.guidance.model import ConditionalModel
from diffusion.processes import AffineProcess
from diffusion.registry import lookup

KEY = jax.random.key(0)
SHAPE = (4, 4, 2)
NAMES = [
    n
    for n in registered("guidance")
    if isinstance(lookup("guidance", n), type) and lookup("guidance", n).neutral is not None
]
ALL = [
    n
    for n in registered("guidance")
    if lookup("guidance", n).__module__.startswith("diffusion.guidance")
]
WIDE = dict(name="interval", low=-100.0, high=100.0)  # all of the way
CHANGES = {  # what makes an entry change a state of the size of these laws
    "clip": dict(low=-0.1, high=0.1),
    "dynamic_threshold": dict(limit=0.1, percentile=0.9),
    "interval": dict(low=-100.0, high=100.0),
    "negative": dict(label=2),
}
LOWEST = sorted({*registered("process")} - {*known_processes.names(AffineProcess)})


def entry_of(name, **fields):
    return build("guidance", dict(name=name) | CHANGES.get(name, {}) | fields)


def state(dtype=jnp.float64):
    return jax.random.normal(KEY, (len(LABELS), *SHAPE), dtype)


def middle(process, dtype=jnp.float64):
    return jnp.asarray(process.default_times(4)[2], dtype)


def behind(name, model):
    """The model that an entry is for: `rescale` tames other guidance."""
    if name != "rescale":
        return model
    return dataclasses.replace(model, guided=build("guidance", "classifier_free")(model))


@pytest.mark.parametrize("name", NAMES)
def test_neutral_fields_change_nothing(name):
    """To the last bit: what is not wanted costs nothing and moves nothing."""
    process, x = build("process", "vp"), state()
    model, t = network_model(process, x, LABELS), middle(process)
    entry = build("guidance", dict(name=name) | dict(lookup("guidance", name).neutral))
    np.testing.assert_array_equal(entry(model)(x, t), model.conditional(x, t))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_an_entry_changes_the_model_and_keeps_the_dtype(name):
    """float32 stays float32 under x64, and agrees with float64 to its precision."""
    process, ends = build("process", "vp"), []
    for dtype in (jnp.float32, jnp.float64):
        x = state(dtype)
        model, t = behind(name, network_model(process, x, LABELS)), middle(process, dtype)
        x_0 = entry_of(name)(model)(x, t)
        assert x_0.dtype == dtype
        assert x_0.shape == x.shape
        assert float(jnp.abs(x_0 - model.conditional(x, t)).max()) > 1e-3
        ends.append(np.asarray(x_0, np.float64))
    # the two states differ in their draws, so each is held against itself in the other precision
    x = state(jnp.float32)
    wide = network_model(process, x.astype(jnp.float64), LABELS)
    params = network_model(process, x, LABELS).base.params
    wide = dataclasses.replace(wide, base=dataclasses.replace(wide.base, params=params))
    guide = network_model(process, x, LABELS).given["guide"]
    wide = dataclasses.replace(wide, given={**wide.given, "guide": guide})
    x_0 = entry_of(name)(behind(name, wide))(x.astype(jnp.float64), middle(process))
    np.testing.assert_allclose(ends[0], x_0, rtol=2e-3, atol=2e-4)  # scale / (1 - rho) is about 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_an_example_does_not_see_its_neighbors(name):
    process, x = build("process", "vp"), state()
    t = middle(process)
    whole = entry_of(name)(network_model(process, x, LABELS))(x, t)
    part = entry_of(name)(network_model(process, x[1:3], LABELS[1:3]))(x[1:3], t)
    np.testing.assert_allclose(whole[1:3], part, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_one_time_per_example(name):
    """t of shape (batch,) gives each example what its own t gives to all."""
    process, x = build("process", "vp"), state()
    t = jnp.asarray(process.default_times(6)[1:6])
    guided = entry_of(name)(network_model(process, x, LABELS))
    many = guided(x, t)
    for i in (0, 4):
        np.testing.assert_allclose(many[i], guided(x, t[i])[i], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_entries_are_functions_of_denoisers(name):
    """Each composes: an entry behind another one changes what that one made of the model."""
    process, x = build("process", "vp"), state()
    model, t = network_model(process, x, LABELS), middle(process)
    first = build("guidance", dict(name="autoguidance", scale=3.0))(model)
    inner = dataclasses.replace(model, guided=first)
    both = entry_of(name)(inner)(x, t)
    neutral = lookup("guidance", name).neutral
    if neutral is not None:
        entry = build("guidance", dict(name=name) | dict(neutral))
        np.testing.assert_array_equal(entry(inner)(x, t), first(x, t))
    assert both.shape == x.shape
    assert float(jnp.abs(both - entry_of(name)(model)(x, t)).max()) > 1e-4


def scaled(name):
    """The same entry with another number, which may change while a compiled program stays."""
    known = {f.name for f in dataclasses.fields(lookup("guidance", name))}
    numbers = {"scale": 0.35, "phi": 0.4, "percentile": 0.8, "low": -99.0}
    field = next(f for f in numbers if f in known)
    return entry_of(name, **{field: numbers[field]})


@pytest.mark.parametrize("name", [n for n in ALL if n != "channels"])
def test_a_compiled_program_serves_other_scales_labels_and_parameters(name):
    process, x = build("process", "vp"), state()
    traces = []

    @jax.jit
    def run(denoise, x, t):
        traces.append(1)
        return denoise(x, t)

    t = middle(process)
    for entry, labels, seed in (
        (entry_of(name), LABELS, 0),
        (scaled(name), LABELS, 0),
        (entry_of(name), LABELS[::-1].copy(), 5),
    ):
        model = network_model(process, x, labels, seed=seed)
        denoise = entry(model)
        np.testing.assert_allclose(run(denoise, x, t), denoise(x, t), rtol=1e-9, atol=1e-9)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_takes_it(name):
    """A few steps of a sampler, in float32 as in use, end finite."""
    process = build("process", "vp")
    x = state(jnp.float32)
    model = network_model(process, x, LABELS)
    x_T = process.sample_prior(KEY, x.shape).astype(jnp.float32)
    times = process.default_times(4)
    ends = diffusion.sample(
        build("sampler", "ddim"), process, entry_of(name)(model), None, x_T, times
    )
    assert bool(jnp.isfinite(ends).all())


@pytest.mark.parametrize("name", ALL)
def test_entries_are_records(name):
    entry = entry_of(name)
    assert isinstance(entry, Guidance)
    assert entry_name(entry) == name
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert hash(entry) == hash(entry_of(name))
    assert build("guidance", diffusion.registry.spec_of("guidance", entry)) == entry


# ---- a plain `Process` ----------------------------------------------------------------------------

COMBINING = {
    "classifier_free": {},
    "negative": dict(label=2),
    "autoguidance": {},
    "channels": {},
    "interval": dict(by="t", low=0.0, high=1e9),
}


@pytest.mark.parametrize(
    ("name", "process"),
    pairwise(
        name=ALL,
        process=LOWEST,
        kinds=dict(name=COMBINING.__contains__, process=known_processes.family),
    ),
)
def test_velocities_are_combined_and_nothing_else(name, process):
    """What extrapolates works on velocities; what needs x_0 says which entry and process disagree."""
    process, x = build("process", process), state()
    model = network_model(process, x, LABELS)
    if name not in COMBINING:
        with pytest.raises(TypeError, match=f"guidance '{name}' needs .*{type(process).__name__}"):
            entry_of(name)(model)
        return
    guided, t = build("guidance", dict(name=name) | COMBINING[name])(model), middle(process)
    assert guided(x, t).shape == x.shape
    assert not np.allclose(guided(x, t), model.conditional(x, t))


@pytest.mark.parametrize("name", ["classifier", "similarity", "upsample"])
def test_gradients_need_gaussian_noise(name):
    process, x = build("process", "poisson_flow"), state()
    with pytest.raises(TypeError, match=f"guidance '{name}' needs Gaussian noise.*PoissonFlow"):
        entry_of(name)(network_model(process, x, LABELS))


def test_an_interval_of_log_snr_needs_one_and_asks_for_its_inner():
    process, x = build("process", LOWEST[0]), state()
    model = network_model(process, x, LABELS)
    with pytest.raises(TypeError, match="guidance 'interval' needs alpha"):
        build("guidance", dict(name="interval", by="log_snr"))(model)
    with pytest.raises(TypeError, match="guidance 'clip' needs alpha"):
        build("guidance", dict(name="interval", by="t", low=0.0, high=1.0, inner="clip"))(model)


# ---- what is missing or wrong -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "needs", "flag"),
    [
        ("classifier", "classifier", "--classifier WORKDIR"),
        ("autoguidance", "guide", "--guide WORKDIR"),
        ("similarity", "target", "experiment.replaced"),
        ("negative", "negative", "experiment.replaced"),
    ],
)
def test_what_is_missing_is_named(name, needs, flag):
    process, x = build("process", "vp"), state()
    model = dataclasses.replace(network_model(process, x, LABELS), given={})
    with pytest.raises(ValueError, match=rf"guidance '{name}' needs given\['{needs}'\]") as error:
        build("guidance", name)(model)
    assert flag in str(error.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (dict(name="classifier_free", scale=-1.0), "must not be negative"),
        (dict(name="classifier_free", scale=float("nan")), "must not be negative"),
        (dict(name="classifier_free", scale=1e30), "nor above 10,000"),
        (dict(name="classifier", scale=float("inf")), "nor above 10,000"),
        (dict(name="dps", scale=float("nan")), "must not be negative"),
        (dict(name="dps", std=float("inf")), "finite"),
        (dict(name="classifier_free", scale=dict(name="piecewise", values=(1.0, float("inf")))), "finite"),
        (dict(name="classifier_free", scale=3.0, omega=1.0), "either `scale` or `omega`"),
        (dict(name="classifier", through="x0"), "'x_0'"),
        (dict(name="similarity", measure="cosin"), "'cosine'"),
        (dict(name="interval", low=2.0, high=-2.0), "`low` must lie below `high`"),
        (dict(name="interval", by="snr"), "log_snr, t"),
        (dict(name="rescale", phi=1.5), "must lie in"),
        (dict(name="dynamic_threshold", percentile=99.5), "must lie in"),
        (dict(name="cfg_pp", scale=2.0), "classifier_free"),
        (dict(name="clip", low=1.0, high=0.0), "`low` must lie below"),
        (dict(name="classifier_free", scale=dict(name="piecewise", edges=(0.5,), values=(1.0,))), "one entry more"),
        (dict(name="classifier_free", scale=dict(name="linear_log_snr", low=1.0, high=0.0)), "`low` must lie below"),
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        build("guidance", spec)


def test_entries_fit_the_data_or_say_why_not():
    from diffusion.guidance import check_entries

    vp = build("process", "vp")
    cases = [
        (["classifier_free"], (4, 4, 1), dict(conditional=False, dropout=0.1), "trained under conditions"),
        ([dict(name="interval")], (4, 4, 1), dict(conditional=False, dropout=0.1), "trained under conditions"),
        (["cfg_pp"], (4, 4, 1), dict(conditional=True, dropout=0.0), "label_dropout"),
        ([dict(name="channels", channels=(3,))], (4, 4, 3), dict(conditional=True, dropout=0.1), "0 ... 2"),
        (["upsample"], (2,), dict(conditional=True, dropout=0.1), "images"),
    ]  # fmt: skip
    for entries, shape, how, said in cases:
        with pytest.raises(ValueError, match=said):
            check_entries([build("guidance", e) for e in entries], vp, shape, **how)
    neutral = build("guidance", dict(name="classifier_free", scale=1.0))
    check_entries([neutral], vp, (2,), conditional=False, dropout=0.0)


def test_a_model_without_conditions_cannot_be_compared():
    process, x = build("process", "vp"), state()
    model = network_model(process, x, LABELS)
    blank = ConditionalModel(model.base.with_cond(None), None, model.given)
    with pytest.raises(ValueError, match="conditions, and this model has none"):
        build("guidance", "classifier_free")(blank)
    asked = dataclasses.replace(blank, asked={"label": jnp.asarray(LABELS)})
    assert build("guidance", "classifier")(asked)(x, middle(process)).shape == x.shape
    with pytest.raises(ValueError, match="one label per example"):
        build("guidance", "classifier")(blank)
