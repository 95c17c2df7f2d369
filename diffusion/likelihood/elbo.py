"""The evidence lower bound of a `GaussianProcess`, in its three terms.

With SNR = alpha^2 / sigma^2, s the previous time of the chain, s < t, and x^ the model's E[x_0 | x_t],

    -log p(x) <= KL(q(x_T | x) || prior)  +  E[-log p(x | x_t at t_min)]
                 + 1/2 sum over steps of (SNR(s) - SNR(t)) E|x - x^(x_t)|^2

(Ho et al., 2020; Su, kexue.fm 9152; Kingma et al., 2021, eq. 11-14). With infinitely many steps the sum is
1/2 of the integral of SNR |x - x^|^2 over log SNR, which depends on the schedule through its ends alone.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.likelihood.checks import (
    check_batch,
    check_rising,
    rising_times,
)
from diffusion.likelihood.decoders import Decoder, GaussianDecoder
from diffusion.numerics import (
    as_key,
    as_pytree,
    fold_in,
    is_many,
    is_static,
    is_traced,
    normal_like,
    on_host,
    one_of,
    per_example,
    require,
    split,
    sum_features,
    value_and_ddt,
    whole,
)
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import checked
from diffusion.processes import GaussianProcess
from diffusion.processes.base import require_process
from diffusion.registry import takes_names
from diffusion.types import AnyArray, Data, Key, KeyLike, Scalar

_SAMPLINGS = ("log_snr", "time")


class ELBO(NamedTuple):
    """The three terms of the bound on -log p(x), in nats per example, (batch,)."""

    prior: Array
    diffusion: Array
    reconstruction: Array

    @property
    def total(self) -> Array:
        """The bound on -log p(x)."""
        return self.prior + self.diffusion + self.reconstruction


@dataclass(frozen=True)
class _Plan:
    """Settings of the estimate of the sum over steps."""

    num_draws: int | None
    sampling: str
    decoder: Decoder
    prior_std: Scalar | None


class _Steps(NamedTuple):
    """The later time t of every step, and its weight (SNR(s) - SNR(t)) / 2."""

    t: Any
    weight: Any


def _steps(process: GaussianProcess, times: Any) -> _Steps:
    """Return the steps of increasing times, in float64 on the host unless an argument is traced."""
    if is_traced(process, times):
        times = jnp.asarray(times)
        return _Steps(times[1:], _half_drop(process.log_snr(times), jnp))
    return _Steps(times[1:], _half_drop(on_host(process.log_snr, times), np))


def _half_drop(log_snr: Any, xp: Any) -> Any:
    """Return (SNR(s) - SNR(t)) / 2 for consecutive log-SNRs."""
    return -0.5 * xp.exp(log_snr[:-1]) * xp.expm1(log_snr[1:] - log_snr[:-1])


def _stratified(key: Key, x: Data, k: Array, num_draws: int) -> Array:
    """Return uniform numbers from the k-th of `num_draws` equal strata of (0, 1), (batch,).

    Within the stratum the examples of a batch are stratified as well; with one key per example the draws are
    independent.
    """
    if is_many(key):
        u = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(key)
    else:
        u = jax.random.uniform(key, (), x.dtype) + jnp.arange(len(x), dtype=x.dtype) / len(x)
        u = u % 1.0
    return (k.astype(x.dtype) + u) / num_draws


def _draw(process: GaussianProcess, plan: _Plan, steps: _Steps | None, u: Array) -> _Steps:
    """Turn uniform numbers into times and importance weights."""
    if steps is not None:
        num_steps = len(steps.t)
        index = jnp.minimum((u * num_steps).astype(int), num_steps - 1)
        return _Steps(steps.t[index], num_steps * steps.weight[index])
    low, high = jnp.asarray(process.t_min, u.dtype), jnp.asarray(process.t_max, u.dtype)
    if plan.sampling == "time":
        t = low + (high - low) * u
        log_snr, rate = value_and_ddt(process.log_snr, t)
        return _Steps(t, -0.5 * (high - low) * rate * jnp.exp(log_snr))
    first, last = process.log_snr(low), process.log_snr(high)
    log_snr = first + (last - first) * u
    t = jnp.clip(process.time_of_log_snr(log_snr), low, high)
    return _Steps(t, 0.5 * (first - last) * jnp.exp(log_snr))


def _diffusion(
    process: GaussianProcess, plan: _Plan, model: Any, x: Data, key: Key, steps: _Steps | None
) -> Array:
    def cost(key: Key, at: _Steps) -> Array:
        t = jnp.broadcast_to(at.t, x.shape[:1])
        x_t = process.interpolate(x, normal_like(key, x), t)
        return at.weight * sum_features((x - model(x_t, t)) ** 2)

    if plan.num_draws is None:  # sum over all steps
        assert steps is not None

        def add(total: Array, row: tuple[Array, _Steps]) -> tuple[Array, None]:
            return total + cost(fold_in(key, row[0]), row[1]), None

        rows = (jnp.arange(len(steps.t)), steps)
        return jax.lax.scan(add, jnp.zeros(len(x), x.dtype), rows)[0]

    num_draws = plan.num_draws

    def one(total: Array, k: Array) -> tuple[Array, None]:
        key_t, key_z = split(fold_in(key, k))
        u = _stratified(key_t, x, k, num_draws)
        return total + cost(key_z, _draw(process, plan, steps, u)), None

    total = jax.lax.scan(one, jnp.zeros(len(x), x.dtype), jnp.arange(num_draws))[0]
    return total / num_draws


def _elbo(
    process: GaussianProcess, plan: _Plan, model: Any, x: Data, key: Key, steps: _Steps | None
) -> ELBO:
    key_t, key_0 = split(key)
    model = checked(model)
    c = process.coefficients(process.t_max, x)
    std = c.sigma if plan.prior_std is None else per_example(plan.prior_std, x)
    ratio = (c.sigma / std) ** 2
    prior = 0.5 * sum_features((c.alpha * x / std) ** 2 + ratio - 1 - jnp.log(ratio))
    t_min = jnp.full((len(x),), process.t_min, x.dtype)
    x_t = process.interpolate(x, normal_like(key_0, x), t_min)
    reconstruction = -plan.decoder.log_prob(process, model, x, x_t, t_min)
    return ELBO(prior, _diffusion(process, plan, model, x, key_t, steps), reconstruction)


_compiled_elbo = Programs(_elbo, 2)


@takes_names
def elbo(
    process: GaussianProcess,
    model: Any,
    x: AnyArray,
    key: KeyLike,
    times: Any = None,
    *,
    num_steps: int | None = None,
    num_draws: int | None = 32,
    sampling: str = "log_snr",
    decoder: Decoder | None = None,
    prior_std: Scalar | None = None,
) -> ELBO:
    """Estimate the bound on -log p(x) in nats per example, term by term.

    Args:
        process: a `GaussianProcess` with sigma(t_min) > 0; its fields may be traced.
        model: a denoiser E[x_0 | x_t].
        x: examples, (batch, ...features).
        key: a random key; or one per example, so that the estimate of example i does not depend on the batch.
        times: increasing times from t_min to t_max of a chain with finitely many steps, such as
            np.arange(1, 1001) / 1000.
        num_steps: instead of `times`, the number of steps of a chain at the process's default times. Without
            both: the continuous-time limit.
        num_draws: number of random steps or times per example, stratified; None sums over all steps of a chain.
        sampling: distribution of the continuous time: "log_snr" is uniform in log SNR, which bounds the
            variance, "time" uniform in t.
        decoder: p(x | x_t at t_min): `GaussianDecoder()` by default, a density; `DiscretizedDecoder()` for
            integers.
        prior_std: standard deviation of the prior, by default sigma(t_max), as in `sample_prior`; 1 is the
            convention of variance-preserving papers.

    Raises:
        TypeError: the process is not a `GaussianProcess`, or x holds integers.
        ValueError: x has no batch axis, the times are not a chain from t_min to t_max, sigma(t_min) is 0, or a
            count or name is wrong.
    """
    require_process(process, GaussianProcess, "the evidence lower bound")
    x = check_batch(x)
    if key is None:
        raise TypeError("the bound is an estimate and needs a `key`; got None.")
    key = as_key(key)
    one_of(sorted(_SAMPLINGS), sampling=sampling)
    require(times is None or num_steps is None, "give one of `times` and `num_steps`, not both.")
    if num_draws is not None:
        whole(1, num_draws=num_draws)
    if num_steps is not None:
        times = rising_times(process, num_steps)
    elif times is not None:
        times = _check_chain(process, times)
    require(
        num_draws is not None or times is not None,
        "`num_draws=None` takes every step of a chain: give `num_steps`, `times` or a number of draws.",
    )
    _check_noise(process)
    steps = None if times is None else _steps(process, times)
    steps = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), steps)
    plan = _Plan(num_draws, sampling, decoder or GaussianDecoder(), prior_std)
    run = _compiled_elbo if is_static(process, plan) else _elbo
    return run(process, plan, as_pytree(model), x, key, steps)


def _check_chain(process: GaussianProcess, times: Any) -> Any:
    times = check_rising(process, times)
    if not is_traced(times, process.t_min):
        low = float(process.t_min)
        require(
            abs(times[0] - low) <= 1e-6 * abs(low),
            f"`times` of a bound must begin at t_min = {low:.6g}, where the decoder takes over; got {times[0]:.6g}. "
            f"Build the process with t_min={times[0]:.6g}.",
        )
    return times


def _check_noise(process: GaussianProcess) -> None:
    if not is_traced(process):
        require(
            bool(on_host(process.sigma, float(process.t_min)) > 0),
            f"the bound is infinite where sigma(t_min) = 0: give {type(process).__name__} t_min > {process.t_min}.",
        )
