"""What the speed experiments count, and where they go on."""

import jax
import jax.numpy as jnp
import pytest

import kinopt
from benchmarks.record import Done
from benchmarks.speed import collisions
from benchmarks.speed import compile as compilation
from benchmarks.speed._ratios import ratios_picture


def test_equations_inside_of_equations_count():
    inside = jax.jit(lambda x: jnp.sin(x) * 2)

    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda n, x: inside(x), x)

    jaxpr = jax.make_jaxpr(inside)(1.0).jaxpr
    assert len(jaxpr.eqns) == 1
    assert compilation._equations(jaxpr) == 3
    assert compilation._equations(jax.make_jaxpr(loop)(1.0).jaxpr) > 4


def test_a_collisions_task_on_record_is_not_measured_again():
    layer = collisions._Layer((4, 3), 0)
    names = [collisions.PRODUCTS, "soft"]
    task = {"task": "schemes", "neurons": 4, "features": 3, "density": None}
    rows = [task | {"candidate": name} for name in names]
    transformations = {"soft": kinopt.soft_collision(0.1)}
    assert not list(collisions._rows(Done(rows), "schemes", layer, transformations, 1))
    found = list(collisions._rows(Done(rows[:1]), "schemes", layer, transformations, 1))
    assert [row["candidate"] for row in found] == names
    assert {key: found[0][key] for key in task} == task


@pytest.mark.slow
def test_a_coefficient_accepts_the_share_of_pairs_asked_for():
    layer = collisions._Layer((40, 16), 0)
    tx = kinopt.hard_collision(layer.coefficient(0.1))
    _, state = tx.update(layer.gradients, tx.init(layer.weights), layer.weights)
    (stats,) = kinopt.collision_stats(state).values()
    assert abs(float(stats.accepted_fraction) - 0.1) < 0.01


def test_ratios_without_an_interval_are_drawn():
    ratios = {"one": [1.5, 1.2, 2.0], "other": [0.5, None, None]}
    (axes,) = ratios_picture(ratios, "ratio", aim=1.5).axes
    marks = 2  # at 1, and at the aim
    assert len(axes.lines) == len(ratios) + 1 + marks
