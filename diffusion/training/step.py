"""One training step: a pure function of state and global batch.

    key    = fold_in(state.key, state.step)
    loss   = mean over the global batch of loss(params, key, batch)
    params, optimizer state, averages and statistics change unless the step is skipped (see `guards`)

The same function is used with `jax.jit` over a mesh, where the batch is global and no reduction is needed, and with
`jax.pmap`, where each device sees a slice and `Reduce` holds the collectives.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from diffusion.guidance.model import null_cond
from diffusion.numerics import at_least, in_interval, multiple_of, row_keys
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.training.ema import Average, update_ema
from diffusion.training.guards import SpikeRule
from diffusion.training.optimizers import Optimizer
from diffusion.training.state import TrainState
from diffusion.types import Cond, Key, Params, Scalar

# Loss is logged by noise level: ten bins of log_snr, the outer two open.
LEVEL_EDGES = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)
NUM_LEVELS = len(LEVEL_EDGES) + 1

Batch = Mapping[str, Any]
Metrics = dict[str, Array]
Loss = Callable[[Params, Key, Batch], tuple[Array, Mapping[str, Array]]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class Reduce(NamedTuple):
    """Collectives that combine the results of the slices of a batch; by default identities, for a global batch."""

    mean: Callable[[Any], Any] = lambda tree: tree
    sum: Callable[[Any], Any] = lambda tree: tree
    gather: Callable[[Any], Any] = lambda tree: tree


def over_axis(name: str) -> Reduce:
    """Return the collectives over a mapped axis of this name."""
    return Reduce(
        mean=lambda tree: jax.lax.pmean(tree, name),
        sum=lambda tree: jax.lax.psum(tree, name),
        gather=lambda tree: jax.lax.all_gather(tree, name, tiled=True),
    )


def drop_cond(key: Key, row: Int[Array | np.ndarray, " batch"], cond: Cond, rate: Scalar) -> Cond:
    """Replace the condition of random rows by the null condition; see `diffusion.null_cond`.

    Args:
        key: one key; whether row i is dropped depends only on the key and row[i].
        row: global row numbers.
        cond: a pytree with leading axis batch, or None.
        rate: probability.
    """
    if not rate or cond is None:
        return cond
    drop = jax.vmap(lambda k: jax.random.bernoulli(k, rate))(row_keys(key, jnp.asarray(row)))

    def choose(x: Array, null: Array) -> Array:
        return jnp.where(drop.reshape(-1, *(1,) * (x.ndim - 1)), null, x)

    return jax.tree.map(choose, cond, null_cond(cond))


def levels(
    log_snr: Float[Array, " batch"], loss: Float[Array, " batch"]
) -> tuple[Float[Array, " levels"], Float[Array, " levels"]]:
    """Return the sum and the number of the losses in each bin of log_snr."""
    index = jnp.searchsorted(jnp.asarray(LEVEL_EDGES, log_snr.dtype), log_snr)
    member = jax.nn.one_hot(index, NUM_LEVELS, dtype=loss.dtype)
    return loss @ member, member.sum(axis=0)


def _split(batch: Batch, parts: int) -> list[Batch]:
    """Divide the rows into micro-batches such that rows stay on their devices."""
    size = batch["row"].shape[0]
    multiple_of(parts, rows=size, hint="`accumulate` divides the rows of a device evenly.")
    dealt = jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]), dict(batch))
    return [jax.tree.map(lambda x, i=i: x[:, i], dealt) for i in range(parts)]


class _Sums(NamedTuple):
    loss: Array
    level_sum: Array
    level_count: Array
    tracked: tuple[
        Array, ...
    ] = ()  # per bin of the times: sum of squared losses and number of losses


class Rows(NamedTuple):
    """Values per example of a batch, for the report of a skipped step."""

    row: Array
    log_snr: Array
    loss: Array


def with_statistics(state: TrainState, batch: Batch) -> Batch:
    """Return a batch with the statistics of the time distribution, if it tracks any, as input of a loss."""
    return {**batch, "statistics": state.statistics} if state.statistics else batch


def _tracked(
    aux: Mapping[str, Array], plain: Array, statistics: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Return the sum of the squared losses and the number of losses in each bin of the times."""
    bins = len(jax.tree.leaves(statistics)[0])
    member = jax.nn.one_hot(aux["bin"], bins, dtype=plain.dtype)
    return plain**2 @ member, member.sum(axis=0)


def _gradient(
    loss: Loss, state: TrainState, key: Key, batch: Batch, parts: int
) -> tuple[Params, _Sums, Rows]:
    """Return the gradient of the mean loss and the logged sums, accumulated over `parts` equal micro-batches."""
    params, statistics = state.params, state.statistics

    def mean_loss(params: Params, batch: Batch) -> tuple[Array, tuple[_Sums, Rows]]:
        each, aux = loss(params, key, with_statistics(state, batch))
        each = each.astype(jnp.promote_types(each.dtype, jnp.float32))
        # loss before the importance weights of the drawn times
        plain = aux.get("plain", each).astype(each.dtype)
        tracked = _tracked(aux, plain, statistics) if statistics and "bin" in aux else ()
        log_snr = aux["log_snr"].astype(each.dtype)
        sums = _Sums(each.mean(), *levels(log_snr, plain), tracked)
        return each.mean(), (sums, Rows(jnp.asarray(batch["row"]), log_snr, plain))

    gradient = jax.grad(mean_loss, has_aux=True)
    total: Any = None
    seen = []
    for micro in _split(batch, parts):  # unrolled: conv gradients in a scan are very slow on CPUs
        if total is not None:  # in sequence: otherwise the memory of all would be held at once
            micro, total = jax.lax.optimization_barrier((micro, total))
        gradients, (sums, rows) = gradient(params, micro)
        part = gradients, sums
        total = part if total is None else jax.tree.map(jnp.add, total, part)
        seen.append(rows)
    gradients, sums = total
    gradients = jax.tree.map(lambda g: g / parts, gradients)
    rows = jax.tree.map(lambda *dealt: jnp.stack(dealt, axis=1).reshape(-1), *seen)
    return gradients, sums._replace(loss=sums.loss / parts), rows


def _select(ok: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


def make_train_step(
    loss: Loss,
    optimizer: Optimizer | optax.GradientTransformation | Any,
    ema: Mapping[str, Average],
    *,
    accumulate: int = 1,
    label_dropout: Scalar = 0.0,
    reduce: Reduce | None = None,
    time: TimeDistribution | None = None,
    spikes: SpikeRule | None = None,
) -> Step:
    """Return step(state, batch) -> (state, metrics), to be compiled by a `parallel` layout.

    Args:
        loss: (params, key, batch) -> (losses (batch,), record with "log_snr" (batch,)).
        optimizer: an `Optimizer`, or any optax transformation.
        ema: averages to update, the same that the state was initialized with.
        accumulate: micro-batches per step; the batch is divided, not enlarged.
        label_dropout: probability that a row is trained without its condition.
        reduce: collectives over devices; `parallel.reduce` of the layout that compiles the step.
        time: the time distribution of the loss, if it learns from the losses; the state holds its statistics, and
            the loss gets them in its batch.
        spikes: rule for finite steps to skip; None for none.

    Returns:
        A pure function. Its metrics are device arrays: loss, grad_norm (before clipping), bad_steps,
        bad_run, counted (whether this step was applied), learning_rate and spikes if known, per bin of
        log_snr level_sum and level_count, and `rows`, values per example. `step` always
        advances by one; a step that is not finite, or a spike, changes only the counters.
    """
    at_least(1, accumulate=accumulate)
    in_interval("[0, 1]", label_dropout=label_dropout)
    reduce, spikes = reduce or Reduce(), spikes or SpikeRule()
    rate = optimizer.rate if isinstance(optimizer, Optimizer) else None

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key_loss, key_drop = jax.random.split(jax.random.fold_in(state.key, state.step))
        if "cond" in batch:
            cond = drop_cond(key_drop, batch["row"], batch["cond"], label_dropout)
            batch = {**batch, "cond": cond}
        gradients, sums, rows = _gradient(loss, state, key_loss, batch, accumulate)
        gradients, value = reduce.mean((gradients, sums.loss))
        level_sum, level_count = reduce.sum((sums.level_sum, sums.level_count))
        tracked = reduce.sum(sums.tracked)
        grad_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        spike = spikes.is_spike(state.guard, grad_norm)
        ok = finite & ~spike

        count = state.step - state.bad_steps
        batch_size = reduce.sum(batch["row"].shape[0])
        moved = _update(optimizer, ema, state, gradients, count, batch_size)
        statistics = state.statistics
        if time is not None and tracked:
            statistics = time.update(statistics, *tracked)
        moved = (*moved, statistics)
        new = _select(ok, moved, (state.params, state.opt_state, state.ema, state.statistics))
        state = TrainState(
            step=state.step + 1,
            params=new[0],
            opt_state=new[1],
            ema=new[2],
            key=state.key,
            bad_steps=state.bad_steps + ~ok,
            bad_run=jnp.where(finite, 0, state.bad_run + 1),
            statistics=new[3],
            guard=spikes.update(state.guard, grad_norm, finite, spike),
        )
        metrics = {
            "loss": value,
            "grad_norm": grad_norm,
            "bad_steps": state.bad_steps,
            "bad_run": state.bad_run,
            "level_sum": jnp.where(ok, level_sum, 0),
            "level_count": jnp.where(ok, level_count, 0),
            "counted": ok,
            "rows": reduce.gather(rows)._asdict(),
        }
        if state.guard:
            metrics["spikes"] = state.guard["spikes"]
        if rate is not None:
            metrics["learning_rate"] = jnp.asarray(rate(count))
        return state, metrics

    return step


def many_steps(step: Step, *, unroll: bool) -> Step:
    """Return a function that takes several steps in sequence; its batches and metrics have a leading axis of steps.

    Args:
        step: (state, batch) -> (state, metrics).
        unroll: unroll the steps instead of compiling a loop.
    """

    def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(step, state, dict(batches), unroll=unroll or 1)

    return steps


def _update(
    optimizer: Any,
    ema: Mapping[str, Average],
    state: TrainState,
    gradients: Params,
    count: Array,
    batch_size: int,
) -> tuple[Params, Any, dict[str, Params]]:
    """Return new parameters, optimizer state and averages."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averages = {
        name: update_ema(state.ema[name], params, average.weight(count, batch_size))
        for name, average in ema.items()
    }
    return params, opt_state, averages
