"""What `evidence.canonical` compares, each given the same number of gradients.

Each is a function of a target, a number of gradients and seeds, and gives for each seed the weight
of the mode, the mean loss, and how many gradients it took. Beside `kinopt.canonical`:

    prototype   `kinopt.bbi` with its leapfrog step, weighted in the same way, by the recipe that
                `kinopt.canonical` improves on: f_min = f - n T/4, E = (n/2)^1.5 4.5 T,
                dt = min(.4 sqrt(2/kappa), 4 sqrt(.1/tr H))
    MCLMC       BlackJAX: `mclmc` on the density of the shell that `kinopt.canonical` walks, with
                the same weights; its step has no test, and takes two gradients
    ladder      BlackJAX: `hmc` at six temperatures from T to 5 T (2 T for the cluster), with swaps
                between neighbours
    tempered    BlackJAX: `adaptive_tempered_smc` from a broad Gaussian, `hmc` moves, target ESS 0.7
                (it only has T itself; two Gaussians and a chain have no Gaussian that fits better)

The settings of the last two were chosen by trials on other seeds; they know the curvature of the
loss at its minimum, as all do.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kinopt
from benchmarks.evidence._canonical_targets import Target
from kinopt.averages.recipe import Recipe
from kinopt.averages.walk import Shell, log_density

__all__ = ["METHODS", "automatic", "canonical", "ladder"]

CHAINS = 8
BURN_IN = 0.1
NUM_TEMPERATURES = 6
HMC_STEPS = 5
HMC_LENGTH = 0.9
"""Of a step of HMC, in units of sqrt(T / largest curvature); it is drawn anew within 20 %."""

MOVES = 5
"""Moves of each particle at each temperature."""


def observed(target: Target, x: jax.Array) -> jax.Array:
    """The mode and the loss at x, [2]."""
    side = jnp.nan if target.side is None else target.side(x)
    return jnp.stack([jnp.asarray(side, x.dtype), target.loss(x)])


def canonical(target: Target, budget: int, keys: jax.Array, **settings) -> np.ndarray:
    """`kinopt.canonical`, with automatic settings; and what it says of its error, and refuses."""
    rows = []
    for key in keys:
        found = kinopt.canonical(
            target.loss,
            jnp.asarray(target.starts),
            target.temperature,
            num_steps=budget // CHAINS,
            chains=CHAINS,
            observables=lambda x: observed(target, x),
            key=key,
            refuse=False,
            **settings,
        )
        # Not refused: the evidence alone, and the weight of a mode where none is asked for.
        told = ("no evidence", "the observables are not finite")
        refused = not all(reason.startswith(told) for reason in found.reasons)
        rows.append([*found.mean[0], found.num_gradients, *found.standard_error[0], refused])
    return np.array(rows)


def automatic(target: Target) -> Recipe:
    """The settings that `kinopt.canonical` finds for itself."""
    found = kinopt.canonical(
        target.loss, jnp.asarray(target.starts), target.temperature, num_steps=5000, refuse=False
    )
    return found.settings


def curvature(target: Target) -> tuple[jax.Array, float, float, float]:
    """The lowest start, its loss, the largest curvature there, and the trace of the Hessian."""
    starts = jnp.asarray(target.starts)
    best = starts[int(np.argmin([target.loss(x) for x in starts]))]
    hessian = jax.hessian(target.loss)(best)
    return best, float(target.loss(best)), float(jnp.linalg.eigvalsh(hessian)[-1]), float(
        jnp.trace(hessian)
    )  # fmt: skip


def chain_starts(target: Target, number: int) -> jax.Array:
    """The starts in turn, for so many chains."""
    return jnp.asarray(target.starts)[np.arange(number) % len(target.starts)]


def weighted(seen: jax.Array, density: jax.Array, temperature: float) -> jax.Array:
    """Means of seen [chains, times, 2] at this temperature, from a path of this log density."""
    logs = -seen[..., 1] / temperature - density
    logs = jnp.where(jnp.isfinite(density), logs, -jnp.inf)
    weights = jnp.exp(logs - logs.max())
    return jnp.einsum("ct,ctk->k", weights, seen) / weights.sum()


def prototype(target: Target, budget: int, keys: jax.Array) -> np.ndarray:
    """Leapfrog BBI, weighted."""
    n, t = target.starts.shape[1], target.temperature
    _, lowest, stiffest, trace = curvature(target)
    dt = min(0.4 * np.sqrt(2 / stiffest), 4 * np.sqrt(0.1 / trace))
    f_min, energy = lowest - n * t / 4, (n / 2) ** 1.5 * 4.5 * t
    every = int(np.ceil(np.pi / (dt * np.sqrt(trace / (2 * n)))))
    steps = budget // CHAINS

    def chain(key, x):
        optimizer = kinopt.bbi(
            dt,
            f_min=f_min,
            extra_energy=energy - (target.loss(x) - f_min),
            fixed_bounce_every=every,
            num_fixed_bounces=None,
            patience=None,
            initial_direction="random",
            integrator="leapfrog",
            key=key,
        )

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(target.loss)(x)
            update, state = optimizer.update(gradient, state, x, value=value)
            return (x + update, state), observed(target, x)

        return jax.lax.scan(step, (x, optimizer.init(x)), length=steps)[1]

    def estimate(key):
        seen = jax.vmap(chain)(jax.random.split(key, CHAINS), chain_starts(target, CHAINS))
        seen = seen[:, int(BURN_IN * steps) :]
        hamiltonian = kinopt.hamiltonians.born_infeld()
        density = kinopt.theory.phase_space_density(hamiltonian, seen[..., 1] - f_min, energy, n)
        return weighted(seen, density, t)

    return counted(estimate, keys, steps * CHAINS)


def mclmc(target: Target, budget: int, keys: jax.Array) -> np.ndarray:
    """BlackJAX's MCLMC on the shell's density."""
    import blackjax

    t, found = target.temperature, automatic(target)
    sizes = jnp.linalg.eigvalsh(jax.hessian(target.loss)(curvature(target)[0]))
    directions = int(jnp.sum(sizes > 1e-6 * sizes[-1]))  # rotations of a cluster do not count
    shell = Shell(*(jnp.asarray(x) for x in (found.f_min, found.energy, found.length, 1)))
    steps = budget // CHAINS // 2

    def density(x):
        return log_density(target.loss(x), shell, directions)

    kernel = blackjax.mclmc.build_kernel()

    def chain(key, x):
        start, key = jax.random.split(key)
        state = blackjax.mclmc.init(x, density, start)

        def step(state, key):
            new, _ = kernel(
                key,
                state,
                logdensity_fn=density,
                inverse_mass_matrix=1.0,
                L=found.length * found.bounce_every,
                step_size=found.length,
            )
            # A step that leaves the shell is not made, and the direction drawn anew.
            good = jnp.isfinite(new.logdensity) & jnp.all(jnp.isfinite(new.position))
            turned = state._replace(momentum=-state.momentum)
            state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, turned)
            return state, (observed(target, state.position), state.logdensity)

        return jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    def estimate(key):
        keys = jax.random.split(key, CHAINS)
        seen, logs = jax.vmap(chain)(keys, chain_starts(target, CHAINS))
        first = int(BURN_IN * steps)
        return weighted(seen[:, first:], logs[:, first:], t)

    return counted(estimate, keys, 2 * steps * CHAINS)


def hmc_move(density: Callable, stiffest: float) -> Callable:
    """A move of BlackJAX's HMC at a temperature, of `HMC_STEPS` gradients: key, x, T -> x."""
    import blackjax

    kernel = blackjax.hmc.build_kernel()

    def move(key, x, temperature):
        def scaled(x):
            return density(x) / temperature

        jitter, key = jax.random.split(key)
        size = HMC_LENGTH * jnp.sqrt(temperature / stiffest)
        size = size * jax.random.uniform(jitter, minval=0.8, maxval=1.2)
        state = blackjax.hmc.init(x, scaled)
        return kernel(key, state, scaled, size, jnp.ones(x.size), HMC_STEPS)[0].position

    return move


def ladder(target: Target, budget: int, keys: jax.Array) -> np.ndarray:
    """A ladder of HMC kernels: moves at every temperature, then swaps between neighbours."""
    t = target.temperature
    temperatures = t * jnp.geomspace(1, target.hottest, NUM_TEMPERATURES)
    move = hmc_move(lambda x: -target.loss(x), curvature(target)[2])
    # `init` computes a gradient that the last move knew: it is not counted.
    rounds = budget // (NUM_TEMPERATURES * HMC_STEPS)
    losses = jax.vmap(target.loss)

    def step(x, count_and_key):
        count, key = count_and_key
        moves, swaps = jax.random.split(key)
        x = jax.vmap(move)(jax.random.split(moves, NUM_TEMPERATURES), x, temperatures)
        values = losses(x)
        # Pairs (0, 1), (2, 3), ... and (1, 2), (3, 4), ... in turn.
        place = jnp.arange(NUM_TEMPERATURES)
        partner = jnp.where((place + count) % 2 == 0, place + 1, place - 1)
        partner = jnp.where((partner < 0) | (partner >= NUM_TEMPERATURES), place, partner)
        gain = (1 / temperatures - 1 / temperatures[partner]) * (values - values[partner])
        draws = jnp.log(jax.random.uniform(swaps, (NUM_TEMPERATURES,)))
        swap = draws[jnp.minimum(place, partner)] < gain
        x = jnp.where(swap[:, None], x[partner], x)
        return x, observed(target, x[0])

    def estimate(key):
        start = chain_starts(target, NUM_TEMPERATURES)
        many = jnp.arange(rounds), jax.random.split(key, rounds)
        return jax.lax.scan(step, start, many)[1][int(BURN_IN * rounds) :].mean(axis=0)

    return counted(estimate, keys, rounds * NUM_TEMPERATURES * HMC_STEPS)


def tempered(target: Target, budget: int, keys: jax.Array) -> np.ndarray:
    """Adaptive tempered SMC, with as many particles as the gradients allow."""
    import blackjax
    from blackjax.smc import resampling

    t, n = target.temperature, target.starts.shape[1]
    centre, width = jnp.asarray(target.prior[0]), target.prior[1]
    stiffest = curvature(target)[2]

    def log_prior(x):
        return -jnp.sum((x - centre) ** 2) / (2 * width**2)

    algorithm = blackjax.adaptive_tempered_smc(
        log_prior,
        lambda x: -target.loss(x) / t - log_prior(x),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        {  # with a leading axis: the same for all particles
            "step_size": jnp.array([HMC_LENGTH * np.sqrt(t / stiffest)]),
            "inverse_mass_matrix": jnp.ones((1, n)),
            "num_integration_steps": jnp.array([HMC_STEPS]),
        },
        resampling.systematic,
        target_ess=0.7,
        num_mcmc_steps=MOVES,
    )
    step = jax.jit(algorithm.step)
    see = jax.jit(jax.vmap(functools.partial(observed, target)))

    def once(key, particles):
        first, key = jax.random.split(key)
        state: Any = algorithm.init(centre + width * jax.random.normal(first, (particles, n)), key)
        stages = 0
        while float(state.tempering_param) < 1 and stages < 200:
            state, _ = step(jax.random.fold_in(key, stages), state)
            stages += 1
        return np.asarray(see(state.particles)).mean(axis=0), stages

    stages = once(jax.random.key(99), 200)[1]
    particles = max(20, budget // (stages * MOVES * HMC_STEPS))
    rows = []
    for key in keys:
        means, stages = once(key, particles)
        rows.append([*means, stages * MOVES * HMC_STEPS * particles])
    return np.array(rows)


def counted(estimate: Callable, keys: jax.Array, gradients: int) -> np.ndarray:
    """What `estimate` gives for each key, and the gradients."""
    means = np.asarray(jax.jit(lambda keys: jax.lax.map(estimate, keys))(keys))
    return np.column_stack([means, np.full(len(means), gradients)])


METHODS: dict[str, Callable] = {
    "kinopt.canonical": canonical,
    "prototype": prototype,
    "MCLMC": mclmc,
    "ladder": ladder,
    "tempered": tempered,
}
