"""Bounce rules as counting machines, against Algorithm 1's counters in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest

import kinopt
from kinopt import bounces
from tests.descents import run


def _algorithm_1(progress, every, times, waits):
    """c0, c1 and nb of Algorithm 1; yields whether each step is a bounce."""
    c0 = c1 = nb = 0
    for progressed in progress:
        if c0 != every and c1 != waits:
            yield False
            c0, c1 = c0 + 1, c1 + 1
            if progressed:
                c1 = 0
        else:
            yield True
            if c0 == every:
                nb += 1
                c0 = 0 if nb < times else c0 + 1
            c1 = 0


def _play(rules, progress):
    counters = [rule.init() for rule in rules]
    for progressed in progress:
        due = [rule.due(c) for rule, c in zip(rules, counters, strict=True)]
        bounced = jnp.asarray(any(bool(d) for d in due))
        yield bool(bounced)
        counters = [
            rule.advance(c, d, bounced, jnp.asarray(bool(progressed)) & ~bounced)
            for rule, c, d in zip(rules, counters, due, strict=True)
        ]


@pytest.mark.parametrize(("every", "times", "waits"), [(5, 1, 3), (4, 3, 6), (7, 2, 7), (1, 1, 2)])
def test_periodic_and_patience_together_count_like_algorithm_1(every, times, waits):
    progress = np.random.default_rng(every).random(80) < 0.3
    rules = [bounces.periodic(every, times), bounces.patience(waits)]
    expected = list(_algorithm_1(progress, every, times, waits))
    assert sum(expected) > times
    assert list(_play(rules, progress)) == expected


def test_no_fixed_bounce_when_times_is_zero():
    assert not any(_play([bounces.periodic(2, 0)], [False] * 10))


def test_rotation_is_a_partial_bounce_at_every_step():
    rule = bounces.rotation(0.1)
    assert bool(rule.due(rule.init()))
    assert (rule.is_whole, bounces.periodic(3, 1).is_whole) == (False, True)


def test_a_partial_refresh_needs_no_step_of_its_own():
    """Every 4 steps the momentum turns by nu, its length kept; the parameters always move."""
    n, nu, every = 400, 1e-2, 4
    tx = kinopt.ecd(
        0.01, f_min=-1.0, extra_energy=1.0, bounces=bounces.periodic(every, None, nu=nu)
    )
    _, (momenta, updates, states) = run(
        tx,
        lambda x: 0 * jnp.sum(x),
        jnp.zeros(n),
        101,
        lambda x, value, update, state: (state.momentum, update, state),
    )
    lengths = np.linalg.norm(momenta, axis=-1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
    assert (np.linalg.norm(updates, axis=-1) > 0).all()
    cosines = np.sum(momenta[1:] * momenta[:-1], -1) / lengths[0] ** 2
    turned = np.flatnonzero(cosines < 1 - 1e-4) + 1
    np.testing.assert_array_equal(turned, np.arange(every, 101, every))
    # angle^2 = nu^2 chi^2(n - 1): mean nu sqrt(n), spread nu/sqrt(2); five errors of 25 angles
    angles = np.arccos(cosines[turned - 1])
    np.testing.assert_allclose(angles.mean(), nu * np.sqrt(n), rtol=5 / np.sqrt(2 * n * 25) + 0.03)
    assert int(states.num_bounces[-1]) == 0
    assert int(states.counters[0].num_fixed[-1]) == 25


def test_none_is_for_ever():
    bounced = list(_play([bounces.periodic(3, None)], [False] * 40))
    assert bounced == [n % 4 == 3 for n in range(40)]


def test_an_equal_loss_is_no_progress():
    """On a plain only the first loss is a lowest one: from then on every fourth step bounces."""
    tx = kinopt.ecd(0.1, f_min=-1.0, extra_energy=1.0, bounces=bounces.patience(3))
    _, counts = run(
        tx, lambda x: 0 * jnp.sum(x), jnp.ones(3), 30, lambda *seen: seen[3].num_bounces
    )
    assert int(counts[-1]) == 7
