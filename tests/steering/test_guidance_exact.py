"""Guidance where the answer is known: a mixture whose components are the classes, and Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guidance_models import LABELS, MIXTURE, LabeledMixture, Posterior, mixture_model

import diffusion
from diffusion import build
from diffusion.guidance import (
    SIMILARITIES,
    OfLabel,
    cfg_pp_scale,
    classifier,
    classifier_free,
    dynamic_threshold,
    masked,
    on_interval,
    rescale,
    similarity,
    upsample,
)
from diffusion.guidance.model import ConditionalModel
from diffusion.testing import gaussian

KEY = jax.random.key(0)
VP = build("process", "vp")
TIMES = (0.05, 0.4, 0.9)


def points(process, t):
    """Typical states at t."""
    key_0, key_z = jax.random.split(KEY)
    x_0 = MIXTURE.sample(key_0, len(LABELS))
    return process.interpolate(x_0, jax.random.normal(key_z, x_0.shape), t)


# ---- classifiers --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "sub_vp", "edm", "cosine", "rectified_flow"])
def test_the_exact_classifier_at_scale_one_gives_the_exact_conditional_score(name):
    process = build("process", name)
    unconditional = dataclasses.replace(mixture_model(process), guided=MIXTURE.denoiser(process))
    guided = build("guidance", "classifier")(unconditional)
    for share in TIMES:
        t = process.t_min + share * (process.t_max - process.t_min) if name != "edm" else 4 * share
        x = points(process, t)
        found = diffusion.score(process, guided)(x, t)
        for k in range(3):
            rows = np.flatnonzero(k == LABELS)
            exact = MIXTURE.component(k).score(process)(x, t)[rows]
            np.testing.assert_allclose(found[rows], exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_classifier_free_is_guidance_by_the_implied_classifier(scale):
    """log p(y | x_t) = log p(x_t | y) - log p(x_t) + const, whose gradient the two denoisers imply."""
    model, t = mixture_model(VP), 0.4
    x = points(VP, t)
    free = build("guidance", dict(name="classifier_free", scale=scale))(model)

    def implied(x, t):
        ends = [MIXTURE.component(k).log_density(VP, x, t) for k in range(3)]
        return jnp.stack(ends, 1) - MIXTURE.log_density(VP, x, t)[:, None]

    tilted = classifier(VP, MIXTURE.denoiser(VP), OfLabel(implied, LABELS), scale)
    np.testing.assert_allclose(free(x, t), tilted(x, t), rtol=1e-10, atol=1e-10)


def test_label_minus_one_is_not_guided():
    labels = jnp.array([-1, 1, -1, 2, 0])
    model, x = mixture_model(VP, labels), points(VP, 0.4)
    guided = build("guidance", "classifier")(model)(x, 0.4)
    plain = model.conditional(x, 0.4)
    np.testing.assert_array_equal(guided[jnp.array([0, 2])], plain[jnp.array([0, 2])])
    assert not np.any(np.isclose(guided[1], plain[1]))


def test_a_label_that_the_classifier_does_not_know_is_loud():
    model, x = mixture_model(VP, jnp.array([7, 1, 1, 1, 1])), points(VP, 0.4)
    assert bool(jnp.isnan(build("guidance", "classifier")(model)(x, 0.4)[0]).all())


def test_a_clean_classifier_is_asked_about_the_posterior_mean():
    """For N(m, s^2) the posterior mean is linear, so the chain rule has a closed form."""
    mean, std, t = 0.3, 0.5, 0.4
    target, x = gaussian(mean, std, dim=2), points(VP, t)
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)  # d E[x_0 | x_t] / d x_t
    asked = []

    def clean(x, t):  # log N(x; 1, 1)
        asked.append(float(jnp.max(t)) if not isinstance(t, jax.core.Tracer) else VP.t_min)
        return -0.5 * ((x - 1) ** 2).sum(1)

    denoise = target.denoiser(VP)
    found = classifier(VP, denoise, clean, 2.0, through="x_0")(x, t)
    x_0 = denoise(x, t)
    np.testing.assert_allclose(found, x_0 + 2.0 * sigma**2 / alpha * gain * (1 - x_0), rtol=1e-10)
    assert set(asked) == {VP.t_min}


def test_the_discrete_form_vanishes_where_the_posterior_has_no_noise():
    """The shift sigma_t^2 grad log p over that of the predicted noise, beta_t^2 / alpha_t grad log p.

    The author's chain, 1,000 steps with beta_t^2 = 0.02 t / 1000: with the posterior variance the ratio is
    0, 0.33, 0.82, 0.98 at t = 1, 2, 10, 100 (kexue.fm 9257); with the variance beta_t^2 it is alpha_t.
    """
    process = build("process", "proportional_beta")
    gradient, found = 1.0, []
    for k in (1, 2, 10, 100):
        times = np.array([k, k - 1]) * process.t_max / 1000
        t = times[0]
        sampler = build("sampler", dict(name="ancestral", variance="posterior"))
        row = jax.tree.map(lambda c: c[0], sampler.prepare(process, times))
        shift = (
            row.pull * process.sigma(t) ** 2 / process.alpha(t) * gradient
        )  # of our guided denoiser
        found.append(float(row.spread**2 * gradient / shift))
        wide = build("sampler", dict(name="ancestral", variance="beta"))
        row = jax.tree.map(lambda c: c[0], wide.prepare(process, times))
        step = process.alpha(t) / process.alpha(times[1])
        if k > 1:
            np.testing.assert_allclose(row.spread**2 / shift, step, rtol=1e-6)
    np.testing.assert_allclose(found, [0.0, 1 / 3, 0.82, 0.98], atol=5e-3)


# ---- extrapolation ------------------------------------------------------------------------------


def test_scales_zero_and_one_are_the_two_models_bit_for_bit():
    model, x = mixture_model(VP), points(VP, 0.4)
    blank = model.with_cond({"label": jnp.full(len(x), -1)})
    for scale, expected in ((0.0, blank), (1.0, model.conditional)):
        entry = build("guidance", dict(name="classifier_free", scale=scale))
        np.testing.assert_array_equal(entry(model)(x, 0.4), expected(x, 0.4))
        traced = jax.jit(lambda s: classifier_free(model.conditional, blank, s)(x, 0.4))
        np.testing.assert_array_equal(traced(scale), jax.jit(lambda x, e=expected: e(x, 0.4))(x))


@pytest.mark.slow
def test_omega_is_scale_minus_one_by_name():
    model, x = mixture_model(VP), points(VP, 0.4)
    by_scale = build("guidance", dict(name="classifier_free", scale=2.5))
    by_omega = build("guidance", dict(name="classifier_free", omega=1.5))
    assert by_scale == by_omega
    a, b = MIXTURE.component(1).denoiser(VP), MIXTURE.denoiser(VP)
    np.testing.assert_array_equal(
        classifier_free(a, b, 2.5)(x, 0.4), classifier_free(a, b, omega=1.5)(x, 0.4)
    )
    with pytest.raises(TypeError, match="either `scale`"):
        classifier_free(a, b)
    assert by_omega(model)(x, 0.4).shape == x.shape


def test_a_scale_may_depend_on_time():
    model, clocks = mixture_model(VP), {}
    piecewise = dict(name="piecewise", edges=(0.3, 0.6), values=(1.0, 2.0, 0.0))
    linear = dict(name="linear_log_snr", noisy=0.5, clean=2.5, low=-4.0, high=4.0)
    for t in (0.1, 0.3, 0.5, 0.9):
        clocks["piecewise"] = {0.1: 1.0, 0.3: 2.0, 0.5: 2.0, 0.9: 0.0}[t]
        share = np.clip((float(VP.log_snr(t)) + 4) / 8, 0, 1)
        clocks["linear"] = 0.5 + 2 * share
        clocks["python"] = 1 + t
        x = points(VP, t)
        specs = {"piecewise": piecewise, "linear": linear, "python": lambda t: 1 + t}
        for name, scale in specs.items():
            guided = build("guidance", dict(name="classifier_free", scale=scale))(model)
            fixed = build("guidance", dict(name="classifier_free", scale=clocks[name]))(model)
            np.testing.assert_allclose(guided(x, t), fixed(x, t), rtol=1e-12, atol=1e-12)


def test_a_scale_per_example():
    model, x = mixture_model(VP), points(VP, 0.4)
    blank, scales = model.unconditional, jnp.array([0.0, 1.0, 2.0, 3.0, 1.5])
    many = classifier_free(model.conditional, blank, scales)(x, 0.4)
    for i, scale in enumerate(scales):
        one = classifier_free(model.conditional, blank, float(scale))(x, 0.4)
        np.testing.assert_allclose(many[i], one[i], rtol=1e-12)


def test_negative_and_autoguidance_extrapolate_from_what_they_are_given():
    x, t = points(VP, 0.4), 0.4
    model = mixture_model(VP, given={"guide": lambda cond: MIXTURE.denoiser(VP)})
    away = build("guidance", dict(name="negative", label=2, scale=1.7))(model)(x, t)
    weak = MIXTURE.component(2).denoiser(VP)
    expected = classifier_free(model.conditional, weak, 1.7)(x, t)
    np.testing.assert_allclose(away, expected, rtol=1e-10, atol=1e-12)
    auto = build("guidance", dict(name="autoguidance", scale=1.7))(model)(x, t)
    expected = classifier_free(model.conditional, MIXTURE.denoiser(VP), 1.7)(x, t)
    np.testing.assert_array_equal(auto, expected)


def test_cfg_pp_is_ddim_that_renoises_with_the_unconditional_noise():
    """The loop of Chung et al. (2025), algorithm 2, beside the entry under the sampler ddim."""
    process, scale = VP, 0.6
    x = points(process, process.t_max)
    times = build("grid", "uniform_log_snr")(process, 7)
    model = mixture_model(process, given={"times": times})
    guided = build("guidance", dict(name="cfg_pp", scale=scale))(model)
    found = diffusion.sample(build("sampler", "ddim"), process, guided, None, x, times)
    for t, s in zip(times, [*times[1:], None], strict=True):
        cond, uncond = model.conditional(x, t), model.unconditional(x, t)
        mean = uncond + scale * (cond - uncond)
        if s is None:
            x = mean  # the last denoising: nothing is renoised
            break
        noise = (x - process.alpha(t) * uncond) / process.sigma(t)
        x = process.alpha(s) * mean + process.sigma(s) * noise
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-9)


def test_the_scale_of_cfg_pp_is_read_off_a_float32_time():
    times = build("grid", "uniform_log_snr")(VP, 100)
    scale = cfg_pp_scale(VP, times, 0.6)
    exact = [float(scale(t)) for t in times]
    rounded = [float(scale(jnp.float32(t))) for t in times]
    np.testing.assert_allclose(rounded, exact, rtol=1e-6)
    assert exact[-1] == pytest.approx(0.6)
    assert min(exact) == pytest.approx(0.6)


# ---- similarities -------------------------------------------------------------------------------


def test_a_log_probability_is_a_similarity_like_any_other():
    """With log p(y | x_t) as the similarity it is classifier guidance."""
    x, t = points(VP, 0.4), 0.4
    log_prob = OfLabel(Posterior(VP), LABELS)
    tilted = classifier(VP, MIXTURE.denoiser(VP), log_prob, 1.3)(x, t)
    measure = lambda x, target: log_prob(x, t)
    similar = similarity(VP, MIXTURE.denoiser(VP), measure, jnp.zeros(2), 1.3, through="x_t")(x, t)
    np.testing.assert_allclose(similar, tilted, rtol=1e-12)


def test_a_distance_to_the_posterior_mean_has_a_closed_form_on_a_gaussian():
    std, t, target = 0.5, 0.4, jnp.array([1.0, -1.0])
    denoise, x = gaussian(0.3, std, dim=2).denoiser(VP), points(VP, t)
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    x_0 = denoise(x, t)
    found = similarity(VP, denoise, "negative_distance", target, 0.7)(x, t)
    np.testing.assert_allclose(
        found, x_0 + 0.7 * sigma**2 / alpha * gain * (target - x_0), rtol=1e-10
    )
    found = similarity(VP, denoise, "negative_distance", target, 0.7, through="x_t")(x, t)
    np.testing.assert_allclose(
        found, x_0 + 0.7 * sigma**2 / alpha * (alpha * target - x), rtol=1e-10
    )


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_are_greatest_at_the_target_and_finite_at_zero(name):
    fn, y = SIMILARITIES[name], jax.random.normal(KEY, (3, 4, 4, 2))
    at_target, elsewhere = fn(y, y), fn(y + 0.3 * jnp.roll(y, 1, 1), y)
    assert at_target.shape == (3,)
    assert bool(jnp.all(at_target > elsewhere))
    slope = jax.grad(lambda x: fn(x, y).sum())
    np.testing.assert_allclose(slope(y), 0, atol=1e-12)
    assert bool(jnp.isfinite(slope(jnp.zeros_like(y))).all())


def test_gram_forgets_places_and_cosine_forgets_size():
    y = jax.random.normal(KEY, (2, 4, 4, 3))
    moved = y[:, ::-1].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(SIMILARITIES["gram"](moved, y), 0, atol=1e-12)
    np.testing.assert_allclose(SIMILARITIES["cosine"](3 * y, y), 1, rtol=1e-12)


def test_a_similarity_leads_there():
    """Samples of a mixture under a distance to one mean end near it."""
    target = np.asarray(MIXTURE.means[1])
    guided = similarity(VP, MIXTURE.denoiser(VP), "negative_distance", target, 20.0)
    x_T = jax.random.normal(KEY, (200, 2))
    times = build("grid", "uniform_log_snr")(VP, 25)
    sampler = build("sampler", "ddim")
    x = diffusion.sample(sampler, VP, guided, None, x_T, times)
    free = diffusion.sample(sampler, VP, MIXTURE.denoiser(VP), None, x_T, times)
    distance = lambda x: float(jnp.linalg.norm(x - target, axis=1).mean())
    assert distance(x) < 0.5 * distance(free)


def test_a_target_of_the_wrong_shape_is_named():
    guided = similarity(VP, MIXTURE.denoiser(VP), "cosine", jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`target` must have shape .* of one example"):
        guided(points(VP, 0.4), 0.4)


# ---- ranges, parts, sizes -----------------------------------------------------------------------


def test_rescaling_gives_the_plain_deviation():
    x, t = 2.0 * jax.random.normal(KEY, (5, 8, 8, 2)), 0.4
    plain, loud = (lambda x, t: x), (lambda x, t: 3 * x + 0.5)
    std = lambda x: jnp.std(x, axis=(1, 2, 3))
    for share in (0.0, 0.5, 1.0):
        x_0 = rescale(loud, plain, share)(x, t)
        expected = share * std(x) + (1 - share) * std(loud(x, t))
        np.testing.assert_allclose(std(x_0), expected, rtol=1e-12)
    flat = rescale(lambda x, t: jnp.ones_like(x), plain, 1.0)(x, t)
    np.testing.assert_array_equal(flat, 1.0)  # no deviation: nothing to rescale


def test_rescaling_does_not_evaluate_the_conditional_model_again():
    calls = []

    def conditional(x, t):
        calls.append(1)
        return x

    free = classifier_free(conditional, lambda x, t: 0.5 * x, 3.0)
    rescale(free, conditional, 0.7)(points(VP, 0.4), 0.4)
    assert len(calls) == 1


def test_dynamic_threshold_by_numbers():
    """|x_0| of 0 ... 4 has the quantile 0.75 at 3: clipped there, divided by 3."""
    x = jnp.array([[0.0, -1.0, 2.0, -3.0, 4.0], [0.0, 0.1, 0.2, 0.3, 0.4]])
    found = dynamic_threshold(lambda x, t: x, percentile=0.75)(x, 0.5)
    np.testing.assert_allclose(found[0], np.array([0, -1, 2, -3, 3]) / 3, rtol=1e-12)
    np.testing.assert_array_equal(found[1], x[1])  # within the range


def test_an_interval_guides_inside_and_costs_nothing_outside():
    calls = []

    def guided(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    x = points(VP, 0.4)
    run = jax.jit(on_interval(VP, guided, lambda x, t: x, low=-2.0, high=2.0))
    inside = float(VP.time_of_log_snr(0.0))
    for t, factor, count in ((inside, 2, 1), (0.01, 1, 0), (0.99, 1, 0)):
        calls.clear()
        np.testing.assert_array_equal(run(x, t), factor * x)
        jax.effects_barrier()
        assert len(calls) == count
    by_t = on_interval(VP, guided, lambda x, t: x, low=0.3, high=0.5, by="t")
    np.testing.assert_array_equal(by_t(x, 0.4), 2 * x)
    np.testing.assert_array_equal(by_t(x, jnp.array([0.2, 0.3, 0.4, 0.5, 0.6]))[1], 2 * x[1])
    np.testing.assert_array_equal(by_t(x, 0.6), x)


def test_masks_choose_by_channel_or_place():
    x = jax.random.normal(KEY, (2, 4, 4, 3))
    found = masked(lambda x, t: -x, lambda x, t: x, jnp.array([True, False, True]))(x, 0.5)
    np.testing.assert_array_equal(found, x * jnp.array([-1, 1, -1]))


def test_channels_leave_the_others_alone():
    model, x = mixture_model(VP), points(VP, 0.4)
    found = build("guidance", dict(name="channels", channels=[1]))(model)(x, 0.4)
    free = build("guidance", "classifier_free")(model)(x, 0.4)
    np.testing.assert_array_equal(found[:, 1], free[:, 1])
    np.testing.assert_array_equal(found[:, 0], model.conditional(x, 0.4)[:, 0])


def pixels(x, t):
    """E[x_0 | x_t] for independent pixels, some of it nonlinear."""
    return jnp.tanh(x) * (1 - 0.3 * jnp.asarray(t)) + 0.1 * x


@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_is_the_formula_of_the_article(factor):
    """kexue.fm 10055 in terms of the predicted noise, on its own process."""
    process, w, t = VP, 0.2, jnp.asarray(0.4)
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    alpha, sigma = process.alpha(t), process.sigma(t)
    pool = lambda a: a.reshape(2, 8 // factor, factor, 8 // factor, factor, 1).mean((2, 4))
    spread = lambda a: a.repeat(factor, 1).repeat(factor, 2)
    eps = lambda x, t: (x - process.alpha(t) * pixels(x, t)) / process.sigma(t)
    tau = process.time_of_log_snr(process.log_snr(t) + 2 * np.log(factor))
    rho = jnp.sqrt(alpha**2 + sigma**2 / factor**2)
    inner = eps(pool(x) / rho, tau) / factor - pool(eps(x, t))
    expected = (x - sigma * (eps(x, t) + (1 + w) * spread(inner))) / alpha
    found = upsample(process, pixels, factor, 1 + w)(x, t)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_upsampling_by_one_is_the_model_and_its_omega_is_w():
    assert upsample(VP, pixels, 1, 3.0) is pixels
    assert build("guidance", dict(name="upsample", omega=0.2)) == build("guidance", "upsample")


def test_upsampling_corrects_the_coarse_part_alone():
    """At scale 1 the average over blocks is that of the small model, the rest that of the large one."""
    x, t = jax.random.normal(KEY, (2, 8, 8, 1)), jnp.asarray(0.4)
    pool = lambda a: a.reshape(2, 4, 2, 4, 2, 1).mean((2, 4))
    found = upsample(VP, pixels, 2, 1.0)(x, t)
    tau = VP.time_of_log_snr(VP.log_snr(t) + 2 * np.log(2))
    small = pixels(VP.alpha(tau) / VP.alpha(t) * pool(x), tau)
    np.testing.assert_allclose(pool(found), small, rtol=1e-10)
    fine = lambda a: a - pool(a).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(fine(found), fine(pixels(x, t)), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="multiples"):
        upsample(VP, pixels, 3, 1.0)(x, t)


def test_classes_that_are_asked_for_are_generated():
    """Every requested class, at scale 1 and sharper, ends nearest to its own component."""
    labels = jnp.arange(60) % 3
    base = LabeledMixture(cond={"label": labels}, process=VP)
    model = ConditionalModel(base, None, {"classifier": Posterior(VP)})
    times = build("grid", "uniform_log_snr")(VP, 20)
    x_T = jax.random.normal(KEY, (60, 2))
    entries = [dict(name="classifier_free", scale=0.0), dict(name="classifier", scale=3.0)]
    for entry in entries:
        model = dataclasses.replace(model, guided=build("guidance", entry)(model))
    x = diffusion.sample(build("sampler", "ddim"), VP, model.conditional, None, x_T, times)
    found = MIXTURE.log_posterior(VP, x, VP.t_min).argmax(1)
    assert float((found == labels).mean()) > 0.98
