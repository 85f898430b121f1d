"""The hard law against the paper's loops, its noise against theory, invariants, extreme inputs."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinopt
import tests.oracle as oracle
from kinopt.collisions.crowd import Crowd
from kinopt.collisions.hard import hard_law
from kinopt.collisions.partners import accepts, points, random_matching, squared_distances
from kinopt.collisions.rows import energy_ratio, scales
from kinopt.collisions.scattering import noise_of_factor, pair_directions, pool_rows

COMBINE = ["sum", "metropolis", "matching"]
every_combine = pytest.mark.parametrize("combine", COMBINE)

QUICK = {"xla_backend_optimization_level": 0}  # these programs run for a millisecond
SCHEME = {
    "distance": "rms",
    "approaching_only": False,
    "combine": "sum",
    "scatter": "pairs",
    "block_size": None,
    "restitution": 1.0,
}
STATIC = tuple(name for name in SCHEME if name != "restitution")


class Seen(NamedTuple):
    """What the law saw, and the change of energy."""

    accepted_fraction: Any
    pair_effect: Any
    mean_abs_cosine: Any
    max_abs_cosine: Any
    energy_ratio: Any


def law_in_blocks(w, g, key, c, block_size=None, **scheme):
    after, stats = hard_law(w, g, key, c, crowd=Crowd(block_size=block_size), **scheme)
    return after, Seen(*stats, energy_ratio(after, g, scales(g)))


law = jax.jit(law_in_blocks, static_argnames=STATIC, compiler_options=QUICK)
draw = jax.jit(pair_directions, compiler_options=QUICK)


def layer(neurons, features, seed=0, spread=0.4):
    """Random weights of which a good part is near enough to collide, and random gradients."""
    rng = np.random.default_rng(seed)
    return spread * rng.normal(size=(neurons, features)), rng.normal(size=(neurons, features))


def collide(w, g, c, seed=0, **scheme):
    """g' and the stats in float32."""
    key = jax.random.key(seed)
    after, stats = law(np.float32(w), np.float32(g), key, c, **(SCHEME | scheme))
    return np.asarray(after), Seen(*map(float, stats))


def collide64(w, g, c, seed=0, **scheme):
    """g' and the stats in float64."""
    with jax.enable_x64(True):
        after, stats = law(w, g, jax.random.key(seed), c, **(SCHEME | scheme))
        assert after.dtype == jnp.float64
        return np.asarray(after), Seen(*map(float, stats))


@functools.partial(jax.jit, static_argnames=STATIC, compiler_options=QUICK)
def collide_many(w, g, keys, c, restitution=1.0, **scheme):
    """g' and the stats for each key."""
    scheme["restitution"] = restitution
    return jax.vmap(lambda key: law_in_blocks(w, g, key, c, **scheme))(keys)


def matching_of(neurons, seed=0):
    """The disjoint candidate pairs that this seed gives."""
    i, j = random_matching(jax.random.key(seed), neurons)
    return list(zip(np.asarray(i), np.asarray(j), strict=True))


def by_the_paper(w, g, c, seed=0, combine="sum", dtype=jnp.float64, **scheme):
    """g' and the accepted pairs of the oracle, given the library's directions and matching."""
    neurons = len(w)
    key, partners = jax.random.key(seed), None
    with jax.enable_x64(dtype == jnp.float64):
        if combine == "matching":
            partners = np.arange(neurons)
            for i, j in matching_of(neurons, seed):
                partners[i], partners[j] = j, i
        i, j = np.triu_indices(neurons, 1)
        n = draw(key, jnp.asarray(i), jnp.asarray(j), jnp.asarray(g, dtype))
        directions = dict(zip(zip(i, j, strict=True), np.asarray(n), strict=True))
    return oracle.hard(
        w, g, c, lambda i, j: directions[i, j], combine=combine, partners=partners, **scheme
    )


@pytest.mark.parametrize(("distance", "approaching_only"), [("rms", False), ("l2", True)])
@every_combine
def test_agrees_with_the_paper(combine, distance, approaching_only):
    scheme = {"combine": combine, "distance": distance, "approaching_only": approaching_only}
    collisions = 0
    for seed, c, restitution in [(0, 0.8, 1.0), (1, 0.6, 0.5), (2, 0.9, 0.0), (3, 1.0, 1.0)]:
        w, g = layer(7, 4, seed)
        expected, accepted = by_the_paper(w, g, c, seed, restitution=restitution, **scheme)
        after, stats = collide64(w, g, c, seed, restitution=restitution, **scheme)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
        candidates = 3 if combine == "matching" else 21
        assert stats.accepted_fraction == pytest.approx(len(accepted) / candidates)
        collisions += len(accepted)
    assert collisions > 3


@pytest.mark.slow
def test_agrees_with_the_paper_beyond_one_chunk_of_pairs():
    w, g = layer(24, 3)
    expected, accepted = by_the_paper(w, g, 1.0)
    assert len(accepted) == 24 * 23 / 2 > 4 * 64
    np.testing.assert_allclose(collide64(w, g, 1.0, distance="l2")[0], expected, atol=1e-12)


@pytest.mark.parametrize(("combine", "block_size"), [("sum", 1), ("metropolis", 3)])
def test_does_not_depend_on_the_block_size(combine, block_size):
    w, g = layer(7, 4)
    dense, dense_stats = collide64(w, g, 0.7, combine=combine)
    blocks, stats = collide64(w, g, 0.7, combine=combine, block_size=block_size)
    np.testing.assert_allclose(blocks, dense, rtol=0, atol=1e-14)
    np.testing.assert_allclose(stats, dense_stats, rtol=1e-12)
    assert 0 < stats.accepted_fraction < 1


@every_combine
def test_stats(combine):
    w, g = layer(7, 4)
    after, stats = collide64(w, g, 0.8, combine=combine)
    pairs = list(itertools.combinations(range(7), 2))
    if combine == "matching":
        pairs = matching_of(7)
    cosines = [abs(oracle.cosine(w[i], w[j])) for i, j in pairs]
    assert stats.energy_ratio == pytest.approx((after**2).sum() / (g**2).sum(), rel=1e-12)
    assert stats.mean_abs_cosine == pytest.approx(np.mean(cosines), rel=1e-12)
    assert stats.max_abs_cosine == pytest.approx(np.max(cosines), rel=1e-12)


@pytest.mark.parametrize("neurons", [2, 7, 30])
def test_a_matching_pairs_each_neuron_once(neurons):
    i, j = map(np.asarray, random_matching(jax.random.key(1), neurons))
    assert (i < j).all()
    assert len(set(i.tolist() + j.tolist())) == 2 * len(i) == neurons // 2 * 2


def test_equal_rows_have_distance_zero_to_the_last_digit():
    """The three terms of |a|^2 + |b|^2 - 2 a.b are summed up in different orders."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(60, 301)), jnp.float32)
    distances = np.asarray(squared_distances(points(x), points(x)))
    np.testing.assert_array_equal(distances.diagonal(), 0)
    assert (distances[~np.eye(60, dtype=bool)] > 100).all()


def test_every_pair_is_as_likely_in_a_matching():
    keys = jax.random.split(jax.random.key(0), 4000)
    i, j = map(np.asarray, jax.vmap(lambda key: random_matching(key, 5))(keys))
    assert np.all(i < j)
    disjoint = np.sort(np.concatenate([i, j], axis=1), axis=1)
    assert np.all(np.diff(disjoint, axis=1) > 0)
    counts = np.bincount(np.ravel(5 * i + j), minlength=25).reshape(5, 5)[np.triu_indices(5, 1)]
    expected, error = 0.2 * 4000, np.sqrt(0.2 * 0.8 * 4000)  # 2 of 10 pairs
    assert np.all(np.abs(counts - expected) < 5 * error)


def test_a_key_gives_one_result():
    w, g = layer(7, 4)
    first, again, other = (collide64(w, g, 0.9, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


class TestConservation:
    """Momentum always, energy where the scheme says so."""

    @given(
        seed=st.integers(0, 2**32 - 1),
        combine=st.sampled_from(COMBINE),
        c=st.floats(0, 1),
        restitution=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def test_momentum(self, seed, combine, c, restitution):
        w, g = layer(7, 4, seed)
        after, _ = collide64(w, g, c, seed % 1000, combine=combine, restitution=restitution)
        np.testing.assert_allclose(after.sum(axis=0), g.sum(axis=0), rtol=0, atol=1e-13)

    def test_momentum_of_the_gaussian_scatter(self):
        w, g = layer(12, 4)
        after, stats = collide64(w, g, 0.7, scatter="gaussian")
        np.testing.assert_allclose(after.sum(axis=0), g.sum(axis=0), rtol=0, atol=1e-13)
        assert stats.accepted_fraction > 0.1
        after, _ = collide(w, g, 0.7, scatter="gaussian")
        np.testing.assert_allclose(after.sum(axis=0), g.sum(axis=0), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("neurons", [6, 7])
    def test_matching_conserves_energy(self, neurons):
        for seed in range(10):
            w, g = layer(neurons, 4, seed)
            after, stats = collide64(w, g, 0.9, seed, combine="matching")
            assert (after**2).sum() == pytest.approx((g**2).sum(), rel=1e-14)
            assert stats.energy_ratio == pytest.approx(1, rel=1e-14)
            assert np.any(after != g)
            unmoved = np.flatnonzero(np.all(after == g, axis=1))
            assert len(unmoved) % 2 == neurons % 2, "collisions come in pairs"

    @pytest.mark.parametrize(("neurons", "in_the_notes"), [(2, 1), (10, 18.6), (50, 588)])
    def test_literal_sum_multiplies_energy(self, neurons, in_the_notes):
        """With all pairs accepted: 1/N + (N-1)/N ((1 - N/2)^2 + N/2) for iid Gaussian gradients."""
        exact = 1 / neurons + (neurons - 1) / neurons * ((1 - neurons / 2) ** 2 + neurons / 2)
        assert exact == pytest.approx(in_the_notes, rel=0.03)
        g = np.float32(np.random.default_rng(0).normal(size=(60, neurons, 20)))
        keys = jax.random.split(jax.random.key(0), len(g))
        many = jax.vmap(lambda g, key: law_in_blocks(0 * g, g, key, 1.0)[1])
        stats = jax.jit(many, compiler_options=QUICK)(g, keys)
        np.testing.assert_array_equal(stats.accepted_fraction, 1)
        error = np.std(stats.energy_ratio, ddof=1) / np.sqrt(len(g))
        assert abs(np.mean(stats.energy_ratio) - exact) < 4 * error + 1e-5
        assert error < 0.03 * exact

    @pytest.mark.slow
    def test_metropolis_never_raises_the_expected_energy(self):
        rises = 0
        for combine, seed in itertools.product(("sum", "metropolis"), range(3)):
            w, g = np.float32(layer(8, 4, seed))
            keys = jax.random.split(jax.random.key(seed), 200)
            ratios = collide_many(w, g, keys, 0.8, combine=combine)[1].energy_ratio
            error = np.std(ratios, ddof=1) / np.sqrt(len(ratios))
            if combine == "metropolis":
                assert np.mean(ratios) < 1 + 4 * error + 1e-6, seed
            rises += np.mean(ratios) > 1 + 4 * error + 1e-6
        assert rises == 3, "the literal sum raises it in these layers"


def noise_laplacian(g, accepted, combine, restitution):
    """L_w with weights (a_ij e g_r)^2 / (4 D): the row covariance of the noise; and degrees."""
    neurons, features = g.shape
    degree = np.bincount(np.ravel(accepted), minlength=neurons)
    laplacian = np.zeros((neurons, neurons))
    for i, j in accepted:
        a = 1 / max(degree[i], degree[j]) if combine == "metropolis" else 1
        weight = (a * restitution) ** 2 * ((g[i] - g[j]) ** 2).sum() / (4 * features)
        laplacian[[i, j, i, j], [i, j, j, i]] += [weight, weight, -weight, -weight]
    return laplacian, degree


@pytest.mark.parametrize("combine", ["sum", "metropolis"])
@pytest.mark.parametrize("scatter", ["pairs", "gaussian"])
def test_mean_and_covariance_of_the_scattering(scatter, combine):
    """Mean (I - L/2) g; covariance L_w for rows, L_w with weights (a e g_r)^2 / (4D), times I."""
    w, g = layer(6, 3)
    w[5] += 20  # out of everybody's reach
    scheme = {"combine": combine, "restitution": 0.8}
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 2000)
        after = np.asarray(collide_many(w, g, keys, 0.7, scatter=scatter, **scheme)[0])
    mean, accepted = by_the_paper(w, g, 0.7, combine=combine, distance="rms", restitution=0.0)
    laplacian, degree = noise_laplacian(g, accepted, **scheme)
    assert 3 < degree.sum() / 2 < 10, "neither an empty nor a complete graph"
    noise = after - mean
    np.testing.assert_array_equal(after[:, degree == 0], np.broadcast_to(g[5], (2000, 1, 3)))
    np.testing.assert_allclose(noise.sum(axis=1), 0, atol=1e-13)

    samples = noise.reshape(len(noise), -1)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(axis=0)) <= 5 * error + 1e-14)

    products = samples[:, :, None] * samples[:, None, :]
    error = products.std(axis=0, ddof=1) / np.sqrt(len(samples))
    expected = np.kron(laplacian, np.eye(3))
    assert np.all(np.abs(products.mean(axis=0) - expected) <= 5 * error + 1e-7)
    assert np.all(error.diagonal() <= 0.07 * expected.diagonal()), "too few samples to tell"


@pytest.mark.slow
def test_auto_is_decided_for_each_of_many_layers():
    """Under `vmap`: a layer with few collisions, pair by pair, beside one with many, at once."""
    w, g = layer(12, 4)
    w = np.stack([14 * w, w])  # far apart, and near

    def auto(w, g):
        return law_in_blocks(w, g, jax.random.key(0), 0.99, scatter="auto")

    with jax.enable_x64(True):
        after, stats = jax.jit(jax.vmap(auto, (0, None)), compiler_options=QUICK)(w, g)
        after, accepted = np.asarray(after), np.asarray(stats.accepted_fraction) * 66
    assert 3 < accepted[0] < 24 < accepted[1]
    by_pairs = [collide64(w[n], g, 0.99)[0] for n in (0, 1)]
    np.testing.assert_allclose(after[0], by_pairs[0], rtol=0, atol=1e-12)
    assert np.abs(after[0] - g).max() > 0.1
    assert np.abs(after[1] - by_pairs[1]).max() > 0.1


def test_a_pool_in_parts_is_the_whole_pool():
    """Devices draw the rows of Z 256 at a time, the last ones beyond the layer's end."""
    factor = jnp.asarray(np.random.default_rng(0).normal(size=(3, 600)), jnp.float32)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(key, factor, g):
        return noise_of_factor(key, factor, g), factor @ pool_rows(key, 0, 768, g)[:600]

    found, expected = both(jax.random.key(4), factor, jnp.zeros((600, 2)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).min() > 1


class TestIdentities:
    """Where nothing may change, not a bit does."""

    @every_combine
    def test_zero_coefficient(self, combine):
        w, g = np.float32(layer(7, 4))
        w[1] = w[0]  # distance zero: U_r = 1 for the fastest pair there is
        g[0], g[1], g[2, 2], g[3] = 9.0, -9.0, -0.0, 1e-42
        for scatter in ("pairs", "gaussian") if combine == "sum" else ("pairs",):
            after, stats = collide(w, g, 0.0, combine=combine, scatter=scatter)
            assert after.tobytes() == g.tobytes()
            assert (stats.accepted_fraction, stats.energy_ratio) == (0, 1)

    @every_combine
    def test_equal_gradients(self, combine):
        w, _ = layer(7, 4)
        for row in ([0.1, -0.3, 0.7, 1e-3], [1e20, 3.3, 0.0, -0.0], np.zeros(4)):
            g = np.tile(np.float32(row), (7, 1))
            for c in (0.5, 1.0):
                after, stats = collide(w, g, c, combine=combine)
                assert after.tobytes() == g.tobytes()
                assert stats.accepted_fraction == 0

    @every_combine
    def test_no_neuron_to_meet(self, combine):
        kernel = jnp.asarray(layer(1, 5)[0].T)
        transform = kinopt.hard_collision(1.0, combine=combine)
        updates, _ = transform.update(-kernel, transform.init(kernel), kernel)
        np.testing.assert_array_equal(updates, -kernel)


class TestAcceptance:
    """Eq. 7 at its ends, and where float32 is short of digits."""

    @pytest.mark.parametrize(
        ("g_r", "w_r", "g_max", "c", "collides"),
        [
            (0.0, 0.0, 0.0, 0.5, False),  # equal gradients
            (0.0, 0.0, 1.0, 1.0, False),  # one pair of them
            (0.5, 0.0, 1.0, 0.5, False),  # g_r e^{-w_r} / max g_r is 1 - c, not more
            (0.6, 0.0, 1.0, 0.5, True),
            (0.6, 0.0, 2.0, 0.5, False),
            (0.6, 1.0, 1.0, 0.5, False),
            (1.0 + 1e-6, 0.0, 1.0, 0.0, False),  # the largest, rounded twice
            (1e-30, 200.0, 1.0, 1.0, True),  # it moves
        ],
    )
    def test_eq_7_on_the_border(self, g_r, w_r, g_max, c, collides):
        assert bool(accepts(*map(jnp.float32, (g_r, w_r, g_max)), c)) == collides

    @every_combine
    def test_one_accepts_every_pair_that_moves(self, combine):
        w, g = np.float32(layer(7, 4))
        w[3] += 300  # e^{-w_r} is 0 in float32
        assert collide(w, g, 1.0, combine=combine)[1].accepted_fraction == 1
        if combine != "matching":
            g[1] = g[0]
            _, stats = collide(w, g, 1.0, combine=combine)
            assert stats.accepted_fraction == pytest.approx(20 / 21)

    def test_the_maximum_is_over_all_pairs_also_those_that_recede(self):
        """`approaching_only` does not change max g_r (contract)."""
        w = 1e-3 * np.arange(7.0)[:, None] * np.ones(4)
        g = np.tile(np.array([[10], [-10], [-9], [10], [10], [10], [10]]), (1, 4)) / 2.0
        g[3:] = g[2]  # neurons 2 to 6 move together; 1 alone is faster, and behind them
        scheme = {"distance": "l2", "approaching_only": True}
        assert by_the_paper(w, g, 0.9, **scheme)[1] == []
        np.testing.assert_array_equal(collide64(w, g, 0.9, **scheme)[0], g)
        after, _ = collide64(w, g, 0.96, **scheme)
        assert by_the_paper(w, g, 0.96, **scheme)[1] == [(1, j) for j in range(2, 7)]
        np.testing.assert_array_equal(np.any(after != g, axis=1), [False] + 6 * [True])

    @pytest.mark.parametrize("combine", ["sum", "metropolis"])
    @pytest.mark.parametrize("of", ["w", "g"])
    def test_common_mode(self, combine, of):
        """A mean row 1e3 times the spread: the Gram matrix alone would be wrong by 31 %."""
        for seed in range(5):
            w, g = layer(7, 4, seed)
            common = 1e3 * np.random.default_rng(seed).normal(size=4)
            w, g = (w + common, g) if of == "w" else (w, g + common)
            w, g = np.float32(w), np.float32(g)
            scheme = {"combine": combine, "distance": "rms"}
            expected, accepted = by_the_paper(w, g, 0.6, seed, dtype=jnp.float32, **scheme)
            after, stats = collide(w, g, 0.6, seed, **scheme)
            assert stats.accepted_fraction == pytest.approx(len(accepted) / 21)
            assert 0 < len(accepted) < 21
            rounding = 1e-5 + 4e-7 * np.abs(g).max()
            np.testing.assert_allclose(after, expected, rtol=0, atol=rounding)

    @pytest.mark.parametrize("combine", ["sum", "metropolis"])
    def test_two_tight_clusters_far_apart(self, combine):
        """Inside a cluster differences are taken directly, and the drift keeps its digits."""
        rng = np.random.default_rng(0)
        w = rng.normal(size=(7, 4)) * 1e-3
        g = rng.normal(size=(7, 4)) * 0.03
        w[4:] += 1
        g[4:] += 1
        w, g = np.float32(w), np.float32(g)
        for c in (0.9, 0.99):
            scheme = {"combine": combine, "distance": "rms"}
            expected, accepted = by_the_paper(w, g, c, dtype=jnp.float32, **scheme)
            after, stats = collide(w, g, c, **scheme)
            assert stats.accepted_fraction == pytest.approx(len(accepted) / 21)
            np.testing.assert_allclose(after, expected, rtol=0, atol=2e-6 * np.abs(expected).max())

    @pytest.mark.xfail(reason="float32 Gram distances below 1e-3 of the largest", strict=True)
    @pytest.mark.parametrize("combine", ["sum", "metropolis"])
    def test_one_accepts_slow_pairs_beside_a_fast_neuron(self, combine):
        """A gradient 1e4 times the others must not stop the others from colliding at c = 1."""
        w, g = np.float32(layer(7, 4))
        g[0] *= 1e4
        assert collide(w, g, 1.0, combine=combine)[1].accepted_fraction == 1

    @pytest.mark.xfail(reason="float32 Gram distances below 1e-3 of the largest", strict=True)
    @pytest.mark.parametrize("combine", ["sum", "metropolis"])
    def test_distances_inside_clusters_very_far_apart(self, combine):
        """Neurons at distance 1 in clusters 3000 apart do not sit in one place."""
        w, g = np.float32(layer(7, 4, spread=1.0))
        w[4:] += 3e3
        scheme = {"combine": combine, "distance": "rms"}
        expected, _ = by_the_paper(w, g, 0.5, dtype=jnp.float32, **scheme)
        after, _ = collide(w, g, 0.5, **scheme)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-4)


class TestExtremes:
    """Zero rows and heads, dead neurons, norms whose squares leave float32."""

    @every_combine
    def test_zeros(self, combine):
        w, g = np.float32(layer(7, 4))
        scheme = {"combine": combine, "distance": "rms"}
        w[2], g[3], w[5], g[5] = 0, 0, 0, 0
        for weights in (w, 0 * w):
            expected, _ = by_the_paper(weights, g, 0.8, dtype=jnp.float32, **scheme)
            after, stats = collide(weights, g, 0.8, **scheme)
            np.testing.assert_allclose(after, expected, rtol=0, atol=3e-6)
            assert np.all(np.isfinite(stats))

    def test_zeros_that_the_compiler_knows(self):
        zeros, g = jnp.zeros((7, 4)), jnp.asarray(layer(7, 4)[1], jnp.float32)
        argument = law(zeros, g, jax.random.key(0), 0.8, **SCHEME)
        known = jax.jit(lambda g: law_in_blocks(zeros, g, jax.random.key(0), 0.8, **SCHEME))(g)
        for found, expected in zip(known, argument, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
        assert np.all(np.isfinite(known[1]))

    @every_combine
    @pytest.mark.parametrize("scale", [1e-20, 1e25])
    def test_gradients_of_any_norm(self, combine, scale):
        w, g = np.float32(layer(7, 4))
        scheme = {"combine": combine, "distance": "rms"}
        mixed = g.copy()
        mixed[::2] *= np.float32(scale)
        for gradients in (g * np.float32(scale), mixed):
            expected, _ = by_the_paper(w, gradients, 0.8, dtype=jnp.float32, **scheme)
            after, stats = collide(w, gradients, 0.8, **scheme)
            largest = np.abs(expected).max()
            np.testing.assert_allclose(after / largest, expected / largest, rtol=0, atol=2e-6)
            assert np.all(np.isfinite(stats))

    @every_combine
    @pytest.mark.parametrize("scale", [1e-20, 1e25])
    def test_weights_of_any_norm(self, combine, scale):
        w, g = np.float32(layer(7, 4))
        mixed = w.copy()
        mixed[::2] *= np.float32(scale)
        for weights in (w * np.float32(scale), mixed):
            scheme = {"combine": combine, "distance": "rms"}
            expected, accepted = by_the_paper(weights, g, 0.8, dtype=jnp.float32, **scheme)
            after, stats = collide(weights, g, 0.8, **scheme)
            np.testing.assert_allclose(after, expected, rtol=0, atol=2e-6)
            assert np.all(np.isfinite(stats))
            candidates = 3 if combine == "matching" else 21
            assert stats.accepted_fraction == pytest.approx(len(accepted) / candidates)

    @pytest.mark.parametrize(
        "combine",
        [
            pytest.param("sum", marks=pytest.mark.xfail(reason="law of cosines, in float32")),
            "matching",
        ],
    )
    def test_cosines_of_neurons_of_different_lengths(self, combine):
        """Neurons a thousand times smaller than others keep the angles they have."""
        w, g = np.float32(layer(7, 4))
        w[::2] *= np.float32(1e-3)
        _, stats = collide(w, g, 0.5, combine=combine)
        pairs = list(itertools.combinations(range(7), 2))
        pairs = matching_of(7) if combine == "matching" else pairs
        cosines = [abs(oracle.cosine(np.float64(w[i]), np.float64(w[j]))) for i, j in pairs]
        assert stats.mean_abs_cosine == pytest.approx(np.mean(cosines), abs=1e-5)
        assert stats.max_abs_cosine == pytest.approx(np.max(cosines), abs=1e-5)

    def test_bfloat16_is_accumulated_in_float32(self):
        """The transformation computes in float32 and rounds once, at its end."""
        kernel, grads = (jnp.asarray(x.T, jnp.bfloat16) for x in layer(20, 30))
        wide_kernel, wide_grads = kernel.astype(jnp.float32), grads.astype(jnp.float32)
        transform = kinopt.hard_collision(0.9, combine="matching")
        update = jax.jit(transform.update, compiler_options=QUICK)
        updates, _ = update(grads, transform.init(kernel), kernel)
        wide, _ = update(wide_grads, transform.init(wide_kernel), wide_kernel)
        assert updates.dtype == jnp.bfloat16
        assert np.abs(wide - wide_grads).max() > 0.1
        disagree = np.mean(np.asarray(updates) != np.asarray(wide.astype(jnp.bfloat16)))
        assert disagree < 1e-2, "only ties may round differently"


class TestSymmetries:
    """What must not matter: the order of neurons without scattering, the unit of g, the origin."""

    @given(
        seed=st.integers(0, 2**32 - 1),
        c=st.floats(0.3, 1),
        combine=st.sampled_from(["sum", "metropolis"]),
    )
    def test_permutation(self, seed, c, combine):
        w, g = layer(7, 4, seed)
        order = np.random.default_rng(seed).permutation(7)
        scheme = {"combine": combine, "restitution": 0.0}
        permuted, _ = collide64(w[order], g[order], c, **scheme)
        expected = collide64(w, g, c, **scheme)[0][order]
        np.testing.assert_allclose(permuted, expected, rtol=0, atol=1e-13)

    @given(
        seed=st.integers(0, 2**32 - 1),
        power=st.integers(-60, 60),
        combine=st.sampled_from(COMBINE),
    )
    def test_powers_of_two_of_g(self, seed, power, combine):
        w, g = np.float32(layer(7, 4, seed))
        factor = np.float32(2.0**power)
        after, _ = collide(w, g, 0.8, combine=combine)
        of_scaled_g, _ = collide(w, factor * g, 0.8, combine=combine)
        np.testing.assert_array_equal(of_scaled_g, factor * after)

    @given(seed=st.integers(0, 2**32 - 1), combine=st.sampled_from(COMBINE))
    def test_moving_frame(self, seed, combine):
        """Only differences matter: a common shift of w does nothing, one of g is carried along."""
        w, g = layer(7, 4, seed)
        shift_w, shift_g = np.random.default_rng(seed).normal(size=(2, 4))
        after, _ = collide64(w, g, 0.8, combine=combine)
        shifted, _ = collide64(w + shift_w, g + shift_g, 0.8, combine=combine)
        np.testing.assert_allclose(shifted - shift_g, after, rtol=0, atol=1e-12)
