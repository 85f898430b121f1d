r"""Isokinetic descent: steps of given length whose direction the gradient turns.

The direction u, |u| = 1, moves on the sphere of all parameters, and the time of a step is the
length of its path. With e = -grad F/|grad F|, d parameters and the peak rate rho,

$$
delta = kappa |grad F| / (F - F_0),   kappa = rho (eta/2) d/(d-1)
u <- (u + e (sinh delta + (e.u)(cosh delta - 1))) / (cosh delta + (e.u) sinh delta)    kick
theta <- (1 - w a_t) theta + rho a_t u                                                  drift
$$

The kick is exact: u turns towards e in their common plane, tan(angle/2) falling by exp(-delta).
The orbits are those of the separable Hamiltonian with s = 0, H = eta log(F - F_0) + log |Pi|^2
(ECDSep, `kinopt.hamiltonians.separable`), but for the factor d/(d - 1); there |Pi| is a function of
F, here it need not be known, and no power of F is ever taken. With the factor a mixing run at a
constant rate spends its path with the density (F - F_0)^(-eta d / 2). It is the member q = 1 of the
family of arXiv 2501.18419. Departures from it: `cool`, decoupled decay, one sphere for all tensors.

With a sphere for each neuron (`kinopt.spheres`), of d_n parameters, u moves on a product of them,

$$
|u_n| = sqrt(d_n/d),   kappa_n = rho (eta/2) sqrt(d_n/d) d/(d_n - 1)
$$

and each neuron turns by its own gradient. Speed and density stay: the neuron's path has the length
rho sqrt(d_n/d), and its sphere of d_n - 1 dimensions asks for d/(d_n - 1).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kinopt import descent_checks, momenta, spheres, trees
from kinopt._batching import if_any_lane
from kinopt._checks import check_dtype, check_flag, check_key, check_number, is_zero
from kinopt._keys import key_data, typed_key
from kinopt._typing import Key, Number, PyTree, Scalar, Schedule
from kinopt.descent_state import at_rest, step_lengths
from kinopt.layers import along_leaves, as_mask
from kinopt.spheres import Spheres, turn

__all__ = ["IsokineticState", "isokinetic"]

LARGEST_KICK = 30.0
"""Of delta: beyond, u is e to the last digit, and in float32 exp(-2 delta) is still a number."""


LARGE = 2**16
"""Parameters from which on another pass over them is saved where it can be."""

MEASURED_EVERY = 16
"""Steps after which |u|^2 of a large tree is read off u: between, it is known but for rounding."""

CANCELLED = 0.25
"""Of the terms of |u|^2: below what they leave, it is read off u too."""


class IsokineticState(NamedTuple):
    """State of `isokinetic`. `[]` is the shape of a scalar; read by `kinopt.ecd_stats`."""

    count: jax.Array  # int32 []: steps so far  # pyright: ignore[reportIncompatibleMethodOverride]
    momentum: PyTree  # like the parameters, in mu_dtype: u
    momentum_sq: jax.Array  # float []: |u|^2; 0 before the first step
    lowest_value: jax.Array  # float []: lowest loss so far
    key: jax.Array  # uint32 [...]: data of the key of the rotations

    # What only shows.
    potential: jax.Array  # float []: F - F_0 at the start of the last step
    kick: jax.Array  # float []: delta of the last step, the mean over parameters
    num_clamped: jax.Array  # int32 []: steps with F <= F_0, on which u is set to e
    num_skipped: jax.Array  # int32 []: updates passed over: something not finite

    only_shown = ("potential", "kick", "num_clamped", "num_skipped")


def isokinetic(
    learning_rate: Number | Schedule,
    *,
    eta: Number = 100.0,
    f_min: Number = -1.0,
    weight_decay: Number = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    nu: Number = 0.0,
    cool: bool = True,
    key: Key = 0,
    mu_dtype: Any = None,
    per_neuron: bool = False,
    neuron_axes: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Descent at unit speed: each update has the length that the schedule gives.

    $$
    delta = rho (eta/2) d/(d-1) |g| / (F - F_0),   e = -g/|g|
    u <- (u + e (sinh delta + (e.u)(cosh delta - 1))) / (cosh delta + (e.u) sinh delta)
    update = rho a_t u - w a_t theta
    $$

    One momentum is all its state, half of Adam's. To begin with: a cosine schedule from
    rho = 0.01 |theta_0| (all parameters as one vector) to 0, the other arguments as they are, and
    weight_decay=1e-3. Then tune rho, and eta: a smaller one forgets more slowly, for clean data.

    Args:
      learning_rate: rho a_t > 0, the length of a step in parameter space; float or schedule, whose
        value at count 0 is rho.
      eta: > 0, how fast u turns. Only eta/(F - F_0) matters, and rho.
      f_min: F_0, below all losses that will be seen: the default is for losses >= 0. Where
        F <= F_0 the kick takes u to e, and `num_clamped` counts it.
      weight_decay: w >= 0: the part of the parameters that is taken off at the peak rate.
      mask: which leaves decay: a tree of bools or a prefix, a function from the parameters to one,
        or patterns as in `kinopt.layer_mask`; None: all.
      nu: >= 0: u turns at random at each step, by an angle of about nu sqrt(d), as in ECDSep.
      cool: the schedule anneals the drift alone, and delta keeps rho; False: delta has rho a_t.
      key: int, typed key or raw key data, for `nu`.
      mu_dtype: type of u; by default that of each parameter. In bfloat16 an entry of u
        keeps no change below 1/512 of itself, so that turns much smaller than that are lost, step
        after step: look at `kick`, delta, in `kinopt.ecd_stats`. A step is as long as the schedule
        says but for the rounding of u, 1/256 at most.
      per_neuron: a sphere for each neuron, and one for all that is in none (biases, scales): each
        turns by its own gradient, and goes sqrt(d_n/d) of the step. One that has none moves on as
        it did, a rare token too.
      neuron_axes: which axes count neurons, as in `kinopt.soft_collision`; None: the last one. For
        an embedding NeuronAxes(0), for the queries of attention NeuronAxes((1, 2)), for their
        biases, which are no neurons, NeuronAxes((0, 1), ()).

    Returns:
      A transformation with `update(grads, state, params=None, *, value, **extra)`, state
      `IsokineticState`. It closes a chain. `value` is the loss F, shape []. A value or gradient
      that is not finite makes a zero update and changes nothing but `num_skipped`; a gradient of
      zero leaves u as it is. `params` are needed for decay only.

    Raises:
      TypeError: for arguments of another type; for complex parameters.
      ValueError: for arguments out of range, a schedule that starts at 0, a single parameter (in
        all, or beside the neurons), for which there is no sphere; in `update`, for a missing or
        non-scalar `value`, for gradients of another structure or shape than the parameters, and
        for decay without `params`.

    Under `optax.inject_hyperparams` (`static_args=kinopt.static_args(isokinetic)`) a scheduled rate
    anneals the kick too, since the schedule is not seen.

    >>> import jax, jax.numpy as jnp, kinopt, optax
    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    >>> optimizer = kinopt.isokinetic(optax.cosine_decay_schedule(0.1, 100))
    >>> x = jnp.array([2.0, -1.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(100):
    ...     value, gradient = jax.value_and_grad(loss)(x)
    ...     update, state = optimizer.update(gradient, state, x, value=value)
    ...     x = optax.apply_updates(x, update)
    >>> bool(loss(x) < 1e-2)
    True
    """
    check_number("learning_rate", learning_rate, least=0, schedule=True)
    check_number("eta", eta, above=0)
    check_number("f_min", f_min)
    check_number("weight_decay", weight_decay, least=0)
    check_number("nu", nu, least=0)
    check_flag("cool", cool)
    check_key("key", key)
    check_dtype("mu_dtype", mu_dtype)
    check_flag("per_neuron", per_neuron)
    if neuron_axes is not None and not per_neuron:
        raise ValueError("neuron_axes says where neurons are, for per_neuron=True: give both.")
    mask = as_mask(mask)
    descent_checks.check_start_of_schedule(learning_rate)
    decays = not is_zero(weight_decay)

    def on_spheres(tree: PyTree) -> Spheres:
        return spheres.neurons(tree, neuron_axes) if per_neuron else spheres.whole(tree)

    def init(params: PyTree) -> IsokineticState:
        momentum, dtype = at_rest(params, mu_dtype)
        along_leaves(mask, params, True, "mask")
        if any(group.size == 1 for group in on_spheres(momentum).groups):
            raise ValueError(
                "isokinetic needs two parameters or more: the direction of a single one cannot "
                "turn. Use kinopt.ecdsep; or, where it is a single bias beside neurons, "
                "per_neuron=False."
            )
        return IsokineticState(  # no buffer twice: the state may be donated
            count=jnp.zeros((), jnp.int32),
            momentum=momentum,
            momentum_sq=jnp.zeros((), dtype),
            lowest_value=jnp.full((), jnp.inf, dtype),
            key=key_data(key),
            potential=jnp.zeros((), dtype),
            kick=jnp.zeros((), dtype),
            num_clamped=jnp.zeros((), jnp.int32),
            num_skipped=jnp.zeros((), jnp.int32),
        )

    @functools.partial(jax.jit, inline=True)
    def step(gradient, state, loss, params):
        dtype = state.momentum_sq.dtype
        loss = loss.astype(dtype)
        rate, peak = step_lengths(learning_rate, state.count, dtype)
        gap = loss - jnp.asarray(f_min, dtype)
        parts = on_spheres(state.momentum)
        # The barrier keeps XLA from another sum over all entries.
        slopes = jax.lax.optimization_barrier(parts.inner(gradient, gradient))
        good = jnp.isfinite(loss) & jnp.isfinite(sum(map(jnp.sum, slopes), jnp.zeros((), dtype)))
        kappa = (peak if cool else rate) * jnp.asarray(eta, dtype) / 2
        turned, delta, known_sq = kicked(parts, state, gradient, slopes, kappa, gap)
        if not is_zero(nu):
            turned = rotated(parts, turned, state, jnp.asarray(nu, dtype), good)
        momentum = momenta.stored(turned, state.momentum, good)
        leaves, finest = jax.tree.leaves(momentum), jnp.finfo(dtype).eps
        small = parts.size < LARGE
        if small or not is_zero(nu) or momenta.unit_roundoff(*leaves) > finest:
            momentum_sq = momenta.stored_sq(momentum)
        else:
            known = jnp.isfinite(known_sq) & (state.count % MEASURED_EVERY != 0)
            momentum_sq = if_any_lane(~known, lambda: momenta.stored_sq(momentum), lambda: known_sq)
        momentum_sq = momentum_sq.astype(dtype)
        # u with its rounding: to divide by its length would take another pass over u, and the next
        # kick makes the length good.
        drift = jnp.where(good, rate, 0)
        decay = jnp.where(good, jnp.asarray(weight_decay, dtype) * (rate / peak), 0)
        on = None if params is None else along_leaves(mask, params, True, "mask")
        update = momenta.displacement(drift, momentum, gradient, decay, params, on)
        after = state._replace(
            count=optax.safe_increment(state.count),
            momentum_sq=momentum_sq,
            lowest_value=jnp.minimum(loss, state.lowest_value),
            potential=gap,
            kick=delta,
            num_clamped=state.num_clamped + (gap <= 0).astype(jnp.int32),
        )
        skipped = state._replace(num_skipped=optax.safe_increment(state.num_skipped))
        # The momentum, which is chosen already, is no part of the choice.
        after, skipped = after._replace(momentum=None), skipped._replace(momentum=None)
        return update, trees.where(good, after, skipped)._replace(momentum=momentum)

    def rotated(parts, u, state, nu, good):
        """The direction u + nu N; back on its spheres."""
        draw = jax.random.fold_in(typed_key(state.key, key), state.count)
        u = momenta.combine(jnp.ones_like(nu), u, nu, trees.random_normal(draw, u, good))
        scales = [
            parts.share(group) ** 0.5 / length_of(squared)
            for group, squared in zip(parts.groups, parts.inner(u, u), strict=True)
        ]
        return parts.combine(scales, u, [jnp.zeros_like(x) for x in scales], u)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        loss, gradient = descent_checks.checked_step(value, updates, state.momentum)
        if decays and params is None:
            raise ValueError(descent_checks.NO_PARAMS)
        return step(gradient, state, loss, params if decays else None)

    return optax.GradientTransformationExtraArgs(init, update)


def length_of(squared: jax.Array) -> jax.Array:
    """|u|, and 1 where there is no u."""
    return jnp.where(squared > 0, momenta.root(squared), 1)


def kicked(
    parts: Spheres,
    state: IsokineticState,
    gradient: PyTree,
    slopes: list[jax.Array],
    kappa: Scalar,
    gap: Scalar,
) -> tuple[PyTree, Scalar, Scalar]:
    """What the kick makes of u; the mean of delta over parameters; and |u|^2.

    The first goes along e. The slopes are |g_n|^2. Where terms of |u|^2 cancel, it is not known:
    infinite.
    """
    # The barrier: XLA would write down in float32 what it reads twice, a narrow momentum.
    turns = parts.inner(jax.lax.optimization_barrier(state.momentum), gradient)
    one = len(parts.groups) == 1 and parts.groups[0].axes is None
    lengths = [state.momentum_sq] if one else parts.inner(state.momentum, state.momentum)
    of_u, of_g, (mean, terms, mixed) = [], [], (jnp.zeros_like(gap),) * 3
    for group, g_sq, u_g, u_sq in zip(parts.groups, slopes, turns, lengths, strict=True):
        u_sq = u_sq.astype(gap.dtype)
        steepness, length = momenta.root(g_sq.astype(gap.dtype)), length_of(u_sq)
        delta = kappa * parts.turning(group) * steepness / jnp.where(gap > 0, gap, 1)
        delta = jnp.where(gap > 0, delta, LARGEST_KICK)
        delta = jnp.where(steepness > 0, jnp.minimum(delta, LARGEST_KICK), 0)
        slope = jnp.where(steepness > 0, steepness, 1)
        keeps, gains = turn(jnp.clip(-u_g.astype(gap.dtype) / (length * slope), -1, 1), delta)
        starts = (steepness > 0) & (u_sq <= 0)
        radius = parts.share(group) ** 0.5
        of_u.append(radius * jnp.where(starts, 0, keeps) / length)
        of_g.append(-radius * jnp.where(starts, 1, gains) / slope)
        mean += parts.share(group) * jnp.sum(delta)
        terms += jnp.sum(of_u[-1] ** 2 * u_sq + of_g[-1] ** 2 * g_sq)
        mixed += jnp.sum(2 * of_u[-1] * of_g[-1] * u_g)
    length_sq = jnp.where(terms + mixed > CANCELLED * terms, terms + mixed, jnp.inf)
    return parts.combine(of_u, state.momentum, of_g, gradient), mean, length_sq
