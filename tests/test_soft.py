"""The soft law against the paper's loops, closed forms, invariants and extreme inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kinopt
import tests.oracle as oracle
from kinopt.collisions.crowd import Crowd
from kinopt.collisions.rows import energy_ratio, scales
from kinopt.collisions.soft import soft_law

SCHEMES = [
    {"self_term": self_term, "normalize": normalize}
    for self_term in (True, False)
    for normalize in (False, True)
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


def layer(neurons, features, seed=0, condensed=0.0):
    """Random weights and gradients; `condensed` is the weight of a direction common to all."""
    rng = np.random.default_rng(seed)
    w, g = rng.normal(size=(2, neurons, features))
    common = rng.normal(size=(2, 1, features))
    return w + condensed * common[0], g + condensed * common[1]


@functools.partial(
    jax.jit,
    static_argnames=("self_term", "normalize", "alike", "block_size"),
    compiler_options={"xla_backend_optimization_level": 0},  # it runs for a millisecond
)
def law(w, g, c, block_size=None, **scheme):
    """The law with a block size, and |g'|^2 / |g|^2 beside what it saw."""
    after, stats = soft_law(w, g, c, crowd=Crowd(block_size=block_size), **scheme)
    seen = stats._asdict() | {"energy_ratio": energy_ratio(after, g, scales(g))}
    return after, seen


def collide(w, g, c, **scheme):
    """g' in float32."""
    return np.asarray(law(np.float32(w), np.float32(g), c, **(SCHEMES[0] | scheme))[0])


def collide64(w, g, c, **scheme):
    """g' and the stats in float64."""
    with jax.enable_x64(True):
        after, stats = law(jnp.asarray(w), jnp.asarray(g), c, **(SCHEMES[0] | scheme))
        assert after.dtype == jnp.float64
        return np.asarray(after), stats


@every_scheme
@pytest.mark.parametrize("shape", [(1, 3), (6, 4), (5, 30)])
@pytest.mark.parametrize("condensed", [0.0, 3.0])
def test_agrees_with_the_paper(shape, condensed, scheme):
    w, g = layer(*shape, condensed=condensed)
    expected = oracle.soft(w, g, 0.3, **scheme)
    np.testing.assert_allclose(collide64(w, g, 0.3, **scheme)[0], expected, rtol=0, atol=1e-12)


@every_scheme
def test_rows_of_zeros(scheme):
    """A zero row has no direction: it repels nobody, and a zero gradient stays zero."""
    w, g = layer(6, 4)
    w[1], g[2], w[4], g[4] = 0, 0, 0, 0
    after, _ = collide64(w, g, 0.3, **scheme)
    np.testing.assert_allclose(after, oracle.soft(w, g, 0.3, **scheme), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(after[[1, 2, 4]], g[[1, 2, 4]])


@every_scheme
@pytest.mark.parametrize("block_size", [1, 3])
def test_does_not_depend_on_the_block_size(block_size, scheme):
    w, g = layer(7, 5, condensed=1.0)
    dense, dense_stats = collide64(w, g, 0.3, **scheme)
    blocks, stats = collide64(w, g, 0.3, block_size=block_size, **scheme)
    np.testing.assert_allclose(blocks, dense, rtol=0, atol=1e-14)
    for name in stats:
        np.testing.assert_allclose(stats[name], dense_stats[name], rtol=1e-13)


@every_scheme
def test_stats(scheme):
    w, g = layer(6, 4, condensed=1.0)
    after, stats = collide64(w, g, 0.3, **scheme)
    norm = np.abs(oracle.similarity_products(w, g, scheme["self_term"])).sum(1).max()
    cosines = [abs(oracle.cosine(w[i], w[j])) for i in range(6) for j in range(i)]
    assert stats["energy_ratio"] == pytest.approx((after**2).sum() / (g**2).sum(), rel=1e-13)
    assert stats["gain"] == pytest.approx(0.3 if scheme["normalize"] else 0.3 * norm, rel=1e-13)
    assert stats["mean_abs_cosine"] == pytest.approx(np.mean(cosines), rel=1e-13)
    assert stats["max_abs_cosine"] == pytest.approx(np.max(cosines), rel=1e-13)


class TestClosedForms:
    """Layers for which Algorithm 2 can be done by hand."""

    def test_copies_turn_at_one_over_the_number_of_neurons(self):
        """Identical rows: M is all ones, so g' = (1 - c N) g, which flips beyond c = 1/N."""
        w, g = (np.tile(row, (8, 1)) for row in layer(1, 5))
        for c in (0.05, 1 / 8, 0.25):
            np.testing.assert_allclose(collide64(w, g, c)[0], (1 - 8 * c) * g, atol=1e-14)
        np.testing.assert_allclose(
            collide64(w, g, 0.25, normalize=True)[0], (1 - 0.25) * g, atol=1e-14
        )
        np.testing.assert_allclose(
            collide64(w, g, 0.25, self_term=False)[0], (1 - 7 * 0.25) * g, atol=1e-14
        )

    def test_orthogonal_neurons_only_meet_themselves(self):
        w, g = np.eye(5), layer(5, 5)[1]
        np.testing.assert_allclose(collide64(w, g, 0.2)[0], 0.8 * g, atol=1e-14)
        np.testing.assert_array_equal(collide64(w, g, 0.2, self_term=False)[0], g)

    def test_single_neuron(self):
        w, g = layer(1, 5)
        np.testing.assert_allclose(collide64(w, g, 0.2)[0], 0.8 * g, atol=1e-15)
        for normalize in (False, True):
            alone, _ = collide64(w, g, 0.2, self_term=False, normalize=normalize)
            np.testing.assert_array_equal(alone, g)


@every_scheme
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_normalized_keeps_descending(c, scheme):
    """<g, g'> >= 0 for every c <= 1 once M is divided by its infinity norm, as documented."""
    for seed in range(5):
        for condensed in (0.0, 1.0, 10.0, 1000.0):
            w, g = layer(6, 4, seed, condensed)
            cosine = (collide64(w, g, c, **(scheme | {"normalize": True}))[0] * g).sum() / (
                g**2
            ).sum()
            assert cosine >= -1e-12, (seed, condensed)
    w, g = layer(6, 4, 0, condensed=10.0)
    assert (oracle.soft(w, g, 0.5) * g).sum() < 0, "these rows do not test the normalization"


@every_scheme
def test_zero_coefficient_is_the_identity_bit_for_bit(scheme):
    w, g = np.float32(layer(6, 4))
    g[0], g[1, 1], g[2] = 0.0, -0.0, 1e-42
    after = collide(w, g, 0.0, **scheme)
    assert after.tobytes() == g.tobytes()


@every_scheme
def test_nothing_to_do(scheme):
    """No gradients, or a zero-initialised head: nothing changes and nothing is NaN."""
    w, g = np.float32(layer(6, 4))
    np.testing.assert_array_equal(collide(w, np.zeros_like(g), 0.5, **scheme), 0)
    np.testing.assert_array_equal(collide(np.zeros_like(w), g, 0.5, **scheme), g)
    np.testing.assert_array_equal(collide(0 * w, 0 * g, 0.5, **scheme), 0)


@every_scheme
@pytest.mark.parametrize("scale", [1e-20, 1e25])
def test_rows_of_any_norm(scale, scheme):
    """Float32 holds the norms, though not their squares."""
    w, g = np.float32(layer(6, 8, condensed=1.0))
    rows = np.where(np.arange(6) % 2, np.float32(scale), 1)[:, None].astype(np.float32)
    np.testing.assert_allclose(
        collide(rows * w, g, 0.3, **scheme), collide(w, g, 0.3, **scheme), rtol=0, atol=3e-6
    )
    for small, large in ((w, scale * g), (w, rows * g)):
        after, stats = law(small, np.float32(large), 0.3, **scheme)
        expected = oracle.soft(small, np.float32(large), 0.3, **scheme)
        np.testing.assert_allclose(after, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
        ratio = np.square(expected / np.abs(large).max()).sum() / np.square(
            large / np.abs(large).max()
        ).sum(dtype=np.float64)
        assert stats["energy_ratio"] == pytest.approx(ratio, rel=1e-4)


def test_bfloat16_is_accumulated_in_float32():
    """The transformation rounds once, at its end."""
    kernel, grads = (jnp.asarray(x.T, jnp.bfloat16) for x in layer(40, 300, condensed=0.3))
    transform = kinopt.soft_collision(0.02)
    updates, _ = transform.update(grads, transform.init(kernel), kernel)
    assert updates.dtype == jnp.bfloat16
    wide, _ = law(kernel.T.astype(jnp.float32), grads.T.astype(jnp.float32), 0.02)
    disagree = np.mean(np.asarray(updates) != np.asarray(wide.T.astype(jnp.bfloat16)))
    assert disagree < 1e-3, "only ties may round differently"


class TestSymmetries:
    """What must not matter: the order of neurons, the scale of g and w, the frame."""

    c = 0.2

    @given(seed=st.integers(0, 2**32 - 1), scheme=st.sampled_from(SCHEMES))
    def test_permutation(self, seed, scheme):
        w, g = layer(6, 4, seed, condensed=1.0)
        order = np.random.default_rng(seed).permutation(6)
        permuted, _ = collide64(w[order], g[order], self.c, **scheme)
        np.testing.assert_allclose(
            permuted, collide64(w, g, self.c, **scheme)[0][order], rtol=0, atol=1e-13
        )

    @given(
        seed=st.integers(0, 2**32 - 1),
        scheme=st.sampled_from(SCHEMES),
        factor=st.sampled_from([-3.0, 1e-8, 0.7, 1e6]),
    )
    def test_proportional_to_g_and_blind_to_the_size_of_w(self, seed, scheme, factor):
        w, g = layer(6, 4, seed)
        after, _ = collide64(w, g, self.c, **scheme)
        of_scaled_g, _ = collide64(w, factor * g, self.c, **scheme)
        np.testing.assert_allclose(of_scaled_g / factor, after, rtol=0, atol=1e-13)
        of_scaled_w, _ = collide64(factor * w, g, self.c, **scheme)
        np.testing.assert_allclose(of_scaled_w, after, rtol=0, atol=1e-13)

    @given(seed=st.integers(0, 2**32 - 1), scheme=st.sampled_from(SCHEMES))
    def test_rotation(self, seed, scheme):
        w, g = layer(6, 4, seed)
        rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
        rotated, _ = collide64(w @ rotation, g @ rotation, self.c, **scheme)
        np.testing.assert_allclose(
            rotated, collide64(w, g, self.c, **scheme)[0] @ rotation, rtol=0, atol=1e-13
        )
