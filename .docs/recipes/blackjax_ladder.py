"""Samples of exp(-loss/T) by BlackJAX, from the minima that kinopt finds: a ladder of HMC kernels.

For more parameters than `kinopt.canonical` is made for, or where its errors are larger. States at
neighbouring temperatures are exchanged, so that the coldest comes to all the basins.
"""

import blackjax
import jax
import jax.numpy as jnp

import kinopt

TEMPERATURES = jnp.array([1.0, 1.5, 2.2, 3.3, 5.0])
NUM_STEPS, NUM_ROUNDS = 8, 2000
PLACES = jnp.arange(len(TEMPERATURES))


def loss(x):
    """Two wells of different width in eight dimensions."""
    narrow = jnp.sum((x - 1) ** 2) + 1
    wide = jnp.sum((x + 1) ** 2) / 2
    return -jnp.logaddexp(-narrow, -wide)


points = 2 * jax.random.normal(jax.random.key(0), (30, 8))
found = kinopt.basins.discover(loss, points)
curvature = max(jnp.linalg.eigvalsh(hessian)[-1] for hessian in found.hessians)
kernel = blackjax.hmc.build_kernel()


def move(key, x, temperature):
    """One move of HMC at a temperature, its step as long as the stiffest direction allows."""

    def log_density(x):
        return -loss(x) / temperature

    step_size = 0.9 * jnp.sqrt(temperature / curvature)
    state = blackjax.hmc.init(x, log_density)
    state, _ = kernel(key, state, log_density, step_size, jnp.ones(x.size), NUM_STEPS)
    return state.position


def exchange(key, x, even):
    """Swaps with the neighbour above or below, accepted so that every temperature stays exact."""
    partner = jnp.where((PLACES + even) % 2 == 0, PLACES + 1, PLACES - 1)
    partner = jnp.where((partner < 0) | (partner >= len(PLACES)), PLACES, partner)
    losses, colder = jax.vmap(loss)(x), 1 / TEMPERATURES
    gain = (colder - colder[partner]) * (losses - losses[partner])
    draws = jnp.log(jax.random.uniform(key, (len(PLACES),)))[jnp.minimum(PLACES, partner)]
    return jnp.where((draws < gain)[:, None], x[partner], x)


@jax.jit
def sample(key, x):
    """All rounds of a ladder; what the coldest temperature saw."""

    def one(x, inputs):
        number, key = inputs
        moves, swaps = jax.random.split(key)
        x = jax.vmap(move)(jax.random.split(moves, len(PLACES)), x, TEMPERATURES)
        x = exchange(swaps, x, number % 2)
        return x, x[0]

    rounds = jnp.arange(NUM_ROUNDS), jax.random.split(key, NUM_ROUNDS)
    return jax.lax.scan(one, x, rounds)[1][NUM_ROUNDS // 10 :]


starts = found.minimizers[PLACES % len(found.values)]
ladders = jax.vmap(sample, (0, None))(jax.random.split(jax.random.key(1), 4), starts)
in_wide = jnp.mean(jnp.sum(ladders, axis=-1) < 0, axis=1)
print(f"{len(found.values)} minima, at {found.values.round(2)}")
print(f"in the wide well: {in_wide.mean():.3f} \u00b1 {in_wide.std(ddof=1) / 2:.3f}")
