"""Bounce rules as counting machines, against Algorithm 1's counters in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from kinopt import bounces


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


def test_rotation_is_never_due():
    rule = bounces.rotation(0.1)
    assert not bool(rule.due(rule.init()))


def test_none_is_for_ever():
    bounced = list(_play([bounces.periodic(3, None)], [False] * 40))
    assert bounced == [n % 4 == 3 for n in range(40)]
