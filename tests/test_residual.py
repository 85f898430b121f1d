"""What `evidence.residual` compares: its spheres, its rates, its choice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from benchmarks.evidence import residual

PARAMS = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.zeros(9)}
ANNEALED = (1.0, 0.25)
GRADS = {"kernel": jnp.array([[1.0, 2.0], [0.5, -1.0]]), "bias": jnp.arange(9.0)}


def updates_of(method: str):
    """The updates of two steps on a constant gradient, at the peak and annealed; no decay."""
    norms = residual.lengths(PARAMS)

    def make(annealed):
        schedule = jnp.array([0.01, annealed])
        return residual.METHODS[method](schedule, jax.random.key(0), norms)

    state = make(1.0).init(PARAMS)
    for annealed in ANNEALED:
        updates, state = make(annealed).update(GRADS, state, PARAMS, value=jnp.array(2.0))
        yield jax.tree.map(lambda u, p, a=annealed: u + 1e-3 * a * p, updates, PARAMS)


def test_a_zero_bias_has_a_sphere():
    assert residual.lengths(PARAMS) == {"kernel": pytest.approx(5.0), "bias": pytest.approx(0.3)}


def test_each_tensor_goes_its_share_of_its_length():
    for a, moved in zip(ANNEALED, updates_of("isokinetic, per tensor"), strict=True):
        assert jnp.linalg.norm(moved["kernel"]) == pytest.approx(0.05 * a, rel=1e-4)
        assert jnp.linalg.norm(moved["bias"]) == pytest.approx(0.003 * a, rel=1e-4)


def test_one_sphere_has_the_length_of_all_and_the_schedule_anneals_the_drift_alone():
    rate = 0.01 * np.hypot(5.0, 0.3)
    given = kinopt.isokinetic(lambda count: rate * jnp.where(count == 0, 1.0, 0.25))
    state = given.init(PARAMS)
    for a, moved in zip(ANNEALED, updates_of("isokinetic"), strict=True):
        assert optax.tree.norm(moved) == pytest.approx(a * rate, rel=1e-4)
        expected, state = given.update(GRADS, state, PARAMS, value=jnp.array(2.0))
        for name in PARAMS:
            np.testing.assert_allclose(moved[name], expected[name], rtol=1e-3, atol=1e-6)


def row(method, rate, network, validation, test):
    return {
        "method": method,
        "rate": rate,
        "network": network,
        "validation_accuracy": validation,
        "test_accuracy": [0.1, test],
    }


def test_the_rate_is_chosen_on_images_held_out_and_seeds_are_paired():
    rows = [
        row("adamw", 1e-3, 0, 0.6, 0.5),
        row("adamw", 3e-3, 0, 0.7, 0.4),
        row("adamw", 3e-3, 1, 0.7, 0.6),
        row("sgd", 0.1, 1, 0.2, 0.9),
    ]
    chosen = residual._chosen(rows)
    assert [r["rate"] for r in chosen["adamw"]] == [3e-3, 3e-3]
    np.testing.assert_allclose(residual._paired(chosen["sgd"], chosen["adamw"]), [30.0])


def test_every_method_takes_the_same_trials():
    for settings in (
        residual.PRESETS["laptop"],
        residual.PRESETS["gpu"],
        residual.PRESETS["paper"],
    ):
        assert settings.rates.keys() == residual.METHODS.keys()
        assert len({len(rates) for rates in settings.rates.values()}) == 1
