"""A sphere for each neuron: lengths, the kick of each, and where such a descent spends its time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import kinopt
from kinopt import spheres

AXES = {"tokens": kinopt.NeuronAxes(0), "query": kinopt.NeuronAxes(2, 0)}


def parameters():
    keys = jax.random.split(jax.random.key(0), 6)
    return {
        "tokens": jax.random.normal(keys[0], (5, 3)),
        "query": jax.random.normal(keys[1], (4, 2, 3)),  # inputs, heads, features
        "kernel": jax.random.normal(keys[2], (4, 6)),
        "bias": jax.random.normal(keys[3], (6,)),
        "head": jax.random.normal(keys[4], (6, 1)),
        "narrow": jax.random.normal(keys[5], (1, 2)),  # neurons of one weight cannot turn
    }


def axes_of(params):
    return {name: AXES.get(name) for name in params}


def parts(tree):
    """Every neuron and the rest as vectors, sorted out by hand."""
    tokens, query, kernel = (np.asarray(tree[name]) for name in ("tokens", "query", "kernel"))
    found = list(tokens)
    found += [query[:, head, n] for head in range(2) for n in range(3)]
    found += list(kernel.T)
    rest = [np.ravel(tree[name]) for name in ("bias", "head", "narrow")]
    return [*found, np.concatenate(rest)]


SIZE = 5 * 3 + 4 * 6 + 4 * 6 + 6 + 6 + 2


def test_neurons_and_all_that_is_none_have_their_share_of_the_entries():
    found = spheres.neurons(parameters(), axes_of)
    assert found.size == SIZE
    sizes = [group.size for group in found.groups]
    assert sorted(sizes) == [3, 4, 4, 14]  # tokens; query, kernel; bias with what is no neuron
    whole = spheres.whole(parameters())
    assert [(group.size, group.axes) for group in whole.groups] == [(SIZE, None)]
    assert whole.turning(whole.groups[0]) == pytest.approx(SIZE / (SIZE - 1))
    rates = [np.sqrt(d / SIZE) * SIZE / (d - 1) for d in sizes]
    assert [found.turning(group) for group in found.groups] == pytest.approx(rates)


@pytest.mark.parametrize("nu", [0.0, 0.1])
def test_each_neuron_goes_its_share_of_the_step(nu):
    tx = kinopt.isokinetic(
        optax.linear_schedule(0.2, 0.1, 10), per_neuron=True, neuron_axes=axes_of, nu=nu
    )
    params = updates = parameters()
    state = tx.init(params)
    for n in range(4):
        gradient = jax.tree.map(jnp.add, params, updates)
        updates, state = tx.update(gradient, state, value=2.0)
        for part in parts(updates):
            expected = (0.2 - 0.01 * n) * np.sqrt(len(part) / SIZE)
            np.testing.assert_allclose(np.linalg.norm(part), expected, rtol=1e-5)
        np.testing.assert_allclose(state.momentum_sq, 1, rtol=1e-5)


def test_each_neuron_turns_by_its_own_gradient():
    """tan(angle / 2) falls by exp(-delta_n), with delta_n = kappa_n |g_n| / (F - F_0)."""
    rate, eta, gap = 0.05, 4.0, 2.0
    tx = kinopt.isokinetic(rate, eta=eta, f_min=0.0, per_neuron=True, neuron_axes=axes_of)
    params = parameters()
    _, state = tx.update(jax.tree.map(jnp.cos, params), tx.init(params), value=gap)
    before = parts(state.momentum)
    gradient = jax.tree.map(lambda x: x / 20, params)
    _, state = tx.update(gradient, state, value=gap)
    deltas = []
    for u, after, g in zip(before, parts(state.momentum), parts(gradient), strict=True):
        d, slope = len(g), np.linalg.norm(g)
        kappa = rate * eta / 2 * np.sqrt(d / SIZE) * SIZE / (d - 1)
        deltas.append(kappa * slope / gap)
        radius, e = np.sqrt(d / SIZE), -g / slope
        angles = [np.arccos(v @ e / radius) for v in (u, after)]
        expected = np.tan(angles[0] / 2) * np.exp(-deltas[-1])
        np.testing.assert_allclose(np.tan(angles[1] / 2), expected, rtol=1e-3)
        plane = np.linalg.matrix_rank(np.stack([u, e, after]), tol=1e-4)
        assert plane == 2
    mean = np.average(deltas, weights=[len(part) for part in before])
    np.testing.assert_allclose(state.kick, mean, rtol=1e-5)


def test_a_neuron_without_gradient_rests_until_it_has_one():
    tx = kinopt.isokinetic(0.1, per_neuron=True)
    w = jnp.ones((3, 2))
    only = jnp.array([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    update, state = tx.update(only, tx.init(w), value=1.0)
    np.testing.assert_allclose(update, -0.1 * 0.5**0.5 * only / 3, rtol=1e-6)
    update, _ = tx.update(only[:, ::-1], state, value=1.0)
    first, second = np.asarray(update.T)
    np.testing.assert_allclose(first, -0.1 * 0.5**0.5 * only[:, 0] / 3, rtol=1e-6)
    np.testing.assert_allclose(second, first, rtol=1e-6)


def test_where_it_spends_its_time():
    """The density is that of one sphere, (F - F_0)^(-eta d / 2), whatever the neurons' sizes."""
    eta, d = 2.0, 8

    def height(x):
        return (jnp.sum(x["w"] ** 2) + jnp.sum(x["b"] ** 2)) / 2 + 0.5

    def last(seed):
        keys = jax.random.split(jax.random.key(seed))
        x = {"w": jax.random.normal(keys[0], (3, 2)), "b": jax.random.normal(keys[1], (2,))}
        tx = kinopt.isokinetic(0.06, eta=eta, f_min=0.0, nu=0.1, key=seed, per_neuron=True)

        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(height)(x)
            update, state = tx.update(gradient, state, x, value=value)
            return (optax.apply_updates(x, update), state), None

        (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=1200)
        return jnp.sqrt(2 * height(x) - 1), jnp.linalg.norm(x["b"])

    radii, biases = jax.jit(jax.vmap(last))(jnp.arange(1000, dtype=jnp.uint32))
    r = np.linspace(0, 200, 2_000_001)

    def p_value(found, power, entries):
        density = np.cumsum(r ** (entries - 1) * (r**2 / 2 + 0.5) ** -power)
        cdf = density / density[-1]
        return stats.kstest(np.asarray(found), lambda x: np.interp(x, r, cdf)).pvalue

    assert p_value(radii, eta * d / 2, d) > 1e-3
    assert p_value(radii, eta * d / 2 - 1, d) < 1e-6
    # The marginal of the density over the six other entries has 3 less in the exponent.
    assert p_value(biases, eta * d / 2 - 3, 2) > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kinopt.isokinetic(0.1, neuron_axes=kinopt.NeuronAxes(0)), "per_neuron=True"),
        (lambda: kinopt.isokinetic(0.1, per_neuron=True).init(jnp.zeros(1)), "two parameters"),
        (
            lambda: kinopt.isokinetic(0.1, per_neuron=True).init(
                {"w": jnp.zeros((3, 2)), "b": jnp.zeros(1)}
            ),
            "per_neuron=False",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
