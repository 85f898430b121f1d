"""Theorem 3.3, "both collisions reduce the weight correlation", as it really holds.

The proof (KO paper, appendix A) compares the cosines after a small descent step with and without
the collision, Eq. 15. Its last line rests on assumptions about a pair of neurons:

    soft    w_i . g_i < 0 and g_i closer to w_i than to w_j (below Eq. 17)
    hard    (w_i - w_j) . (g_i - g_j) > 0: moving along -g the neurons approach (below Eq. 19)

The tests below show the theorem where these hold, and its opposite where they do not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import metrics
from kinopt.collisions.hard import hard_law
from kinopt.collisions.soft import soft_law

STEP = 1e-6  # learning rate: the second order is out of sight
SEEDS = range(10)

soft = jax.jit(soft_law, static_argnames="self_term")
hard = jax.jit(
    hard_law,
    static_argnames=("distance", "approaching_only"),
    compiler_options={"xla_backend_optimization_level": 0},  # it runs for a millisecond
)
correlation = jax.jit(metrics.weight_correlation)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def effect(w, g, collided):
    """d(mean |cos|) / d(learning rate) that is due to the collision: Eq. 15 less its first line."""
    return float(correlation(w - STEP * collided) - correlation(w - STEP * g)) / STEP


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def condensed(seed, neurons=10, features=20):
    """Neurons around one direction, mean |cos| about 0.8."""
    return normal(seed, 1, features) + 0.5 * normal(seed + 1000, neurons, features)


def unit(w):
    return w / np.linalg.norm(w, axis=1, keepdims=True)


class TestSoft:
    """Algorithm 2 with c = 0.1."""

    def effect(self, w, g, **scheme):
        w, g = jnp.asarray(w), jnp.asarray(g)
        return effect(w, g, soft(w, g, 0.1, **scheme)[0])

    def test_two_neurons_follow_eq_17(self):
        """d|C| = c |C| cos(g_i, g_j) (w_i . P_j g_i + w_j . P_i g_j) / (|w_i| |w_j|).

        P_j projects out w_j. The sign of the bracket decides.
        """
        for seed in SEEDS:
            w, g = normal(seed, 2, 5), normal(seed + 50, 2, 5)
            (u_i, u_j), (e_i, e_j) = unit(w), unit(g)
            across_j, across_i = w[0] - u_j * (u_j @ w[0]), w[1] - u_i * (u_i @ w[1])
            lengths = np.linalg.norm(w[0]) * np.linalg.norm(w[1])
            expected = 0.1 * abs(u_i @ u_j) * (e_i @ e_j) * (across_j @ g[0] + across_i @ g[1])
            found = self.effect(w, g, self_term=False)
            assert found == pytest.approx(expected / lengths, rel=1e-3, abs=1e-8)

    @pytest.mark.parametrize("self_term", [True, False])
    def test_lowers_when_condensed_and_w_g_is_negative(self, self_term):
        for seed in SEEDS:
            w = condensed(seed)
            g = -w + 0.1 * normal(seed + 7, *w.shape)
            assert self.effect(w, g, self_term=self_term) < -0.1

    @pytest.mark.parametrize("self_term", [True, False])
    def test_raises_when_condensed_and_w_g_is_positive(self, self_term):
        for seed in SEEDS:
            w = condensed(seed)
            g = w + 0.1 * normal(seed + 7, *w.shape)
            assert self.effect(w, g, self_term=self_term) > 0.1

    def test_does_nothing_to_random_weights(self):
        for seed in SEEDS:
            w = normal(seed, 10, 1000)
            assert abs(self.effect(w, -w)) < 1e-4
            assert self.effect(condensed(seed), -condensed(seed)) < -0.1


class TestHard:
    """Algorithm 1 with every pair accepted (c = 1); without scattering unless said otherwise."""

    def effect(self, w, g, key=0, approaching_only=False, restitution=0.0):
        w, g = jnp.asarray(w), jnp.asarray(g)
        scheme = {"approaching_only": approaching_only, "distance": "l2"}
        collided, _ = hard(w, g, jax.random.key(key), 1.0, restitution=restitution, **scheme)
        return effect(w, g, collided)

    def test_two_neurons_follow_eq_19(self):
        """C' = -(1 + C) (w_i - w_j) . (g_i - g_j) / 2 for neurons of length 1."""
        signs = set()
        for seed in SEEDS:
            w, g = unit(normal(seed, 2, 5)), normal(seed + 50, 2, 5)
            cosine, closing = w[0] @ w[1], (w[0] - w[1]) @ (g[0] - g[1])
            expected = -np.sign(cosine) * (1 + cosine) * closing / 2
            assert self.effect(w, g) == pytest.approx(expected, rel=1e-3, abs=1e-8)
            signs.add((cosine > 0, closing > 0, expected < 0))
        # Approaching neurons lower |cos| at an acute angle, and raise it at an obtuse one.
        assert {(True, True, True), (False, True, False), (True, False, False)} <= signs

    def test_lowers_for_approaching_neurons(self):
        for seed in SEEDS:
            w = unit(condensed(seed))
            assert self.effect(w, w) < -0.01  # all approach
            g = normal(seed + 7, *w.shape)  # half of the pairs do
            assert self.effect(w, g, approaching_only=True) < -0.01

    def test_raises_for_receding_neurons(self):
        for seed in SEEDS:
            w = unit(condensed(seed))
            assert self.effect(w, -w) > 0.01
            assert self.effect(w, -w, approaching_only=True) == 0

    def test_either_sign_for_the_paper_s_rule(self):
        """Eq. 7 does not ask whether neurons approach: random gradients go either way."""
        effects = [self.effect(unit(condensed(s)), normal(s + 7, 10, 20)) for s in range(40)]
        assert 5 < sum(effect > 0 for effect in effects) < 35

    def test_scattering_has_no_effect_on_average(self):
        """n is uncorrelated with w: to first order it pushes either way, with mean zero."""
        w = unit(condensed(0))
        drift = self.effect(w, w)
        scattering = np.array(
            [self.effect(w, w, key, restitution=1.0) - drift for key in range(400)]
        )
        assert abs(scattering.mean()) < 4 * scattering.std(ddof=1) / np.sqrt(len(scattering))
        assert scattering.min() < -0.01 < 0.01 < scattering.max()
