"""One module of checks: what counts as a number, and what an error says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from kinopt._checks import check_choice, check_count, check_flag, check_number

NUMBERS = [1, 1.0, np.int64(1), np.float32(1), np.array(1.0), jnp.float32(1), jnp.int32(1)]
NOT_NUMBERS = ["1e-3", None, True, np.bool_(True), 1j, [1.0], np.ones(1), jnp.ones(2), int, {}]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers(value):
    check_number("x", value, above=0, most=1)
    with pytest.raises(ValueError, match="x must be a number above 1; got"):
        check_number("x", value, above=1)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_no_numbers(value):
    with pytest.raises(TypeError, match="x must be a number at least 0; got"):
        check_number("x", value, least=0)
    with pytest.raises(TypeError, match="x must be a whole number of at least 1; got"):
        check_count("x", value, optional=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan"), jnp.nan])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match="x must be a number; got"):
        check_number("x", value)


def test_schedules_and_none_only_where_they_are_taken():
    check_number("x", optax.constant_schedule(0.1), schedule=True)
    check_number("x", None, optional=True)
    with pytest.raises(TypeError, match="must be a number; got <function"):
        check_number("x", optax.constant_schedule(0.1))
    with pytest.raises(TypeError, match="got the class float"):
        check_number("x", float, schedule=True)


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), jnp.int32(3)], ids=repr)
def test_counts_become_int(value):
    number = check_count("x", value)
    assert (type(number), number) == (int, 3)


@pytest.mark.parametrize("value", [2.5, np.float64(3.0), jnp.float32(3), np.nan])
def test_counts_are_whole(value):
    with pytest.raises(TypeError, match="whole number of at least 1, or None; got"):
        check_count("x", value)


@pytest.mark.parametrize("value", [0, -1, np.int64(0), jnp.int32(-3)])
def test_counts_have_a_least_value(value):
    with pytest.raises(ValueError, match="at least 1, or None; got"):
        check_count("x", value)


def test_traced_numbers_pass_where_no_shape_depends_on_them():
    def traced(x):
        check_number("x", x, least=10)
        assert check_count("x", x.astype(int), traced=True) is not None
        with pytest.raises(TypeError, match=r"static_args=kinopt\.static_args"):
            check_count("x", x.astype(int))
        return x

    jax.jit(traced)(1.0)


def test_choices_and_flags():
    check_choice("x", "a", ("a", "b"))
    check_flag("x", np.bool_(False))
    for value in ("c", None, 3, ["a"]):
        with pytest.raises(ValueError, match="x must be one of 'a', 'b'; got"):
            check_choice("x", value, ("a", "b"))
        with pytest.raises(TypeError, match="x must be True or False; got"):
            check_flag("x", value)


@pytest.mark.parametrize("factory", [kinopt.soft_collision, kinopt.hard_collision])
def test_static_arguments_of_collisions(factory):
    names = kinopt.static_args(factory)
    assert {"key", "mask", "neuron_axes", "cell_size", "every"} <= set(names)
    assert "coll_coef" not in names


@pytest.mark.parametrize("factory", [kinopt.bbi, kinopt.ecd, kinopt.ecdsep])
def test_static_arguments_of_descents(factory):
    tx = optax.inject_hyperparams(factory, static_args=kinopt.static_args(factory))(0.1)
    state = tx.init(jnp.ones(3))
    assert {"learning_rate", "f_min", "extra_energy"} <= set(state.hyperparams)
    updates, _ = tx.update(jnp.ones(3), state, jnp.ones(3), value=1.0)
    assert jnp.all(updates < 0)
