"""Wrong arguments of the descents: what is refused, and in which words."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import kinopt
from kinopt import bounces, hamiltonians


@pytest.fixture(autouse=True)
def _as_users_call():
    """The tests' own type checker would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


NUMBERS = {
    "learning_rate": ([1, 0.1, np.float32(0.1), np.array(0.1), jnp.float32(0.1), lambda n: 0.1], 0),
    "f_min": ([0, -1.0, np.float32(-1), np.int64(0), jnp.array(2)], None),
    "extra_energy": ([0, np.float32(1), np.int64(2)], -1e-3),
    "eps1": ([0, np.float64(1e-10)], -1.0),
    "eps2": ([0, np.float64(1e-40)], np.float32(-1)),
}
NOT_NUMBERS = ["1e-3", None, True, 1j, [0.1], np.ones(2), {}, float]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    good, out_of_range = NUMBERS[name]
    for value in good:
        kinopt.bbi(**{"learning_rate": 0.1, name: value}).init(jnp.ones(2))
    for value in NOT_NUMBERS:
        with pytest.raises(TypeError, match=rf"{name} must be a number.*; got "):
            kinopt.bbi(**{"learning_rate": 0.1, name: value})
    wrong = [np.nan, np.inf, -np.inf, jnp.nan, np.float32("nan")]
    for value in wrong if out_of_range is None else [*wrong, out_of_range]:
        with pytest.raises(ValueError, match=rf"{name} must be a number.*; got "):
            kinopt.bbi(**{"learning_rate": 0.1, name: value})


@pytest.mark.parametrize("name", ["f_min", "extra_energy", "eps1"])
def test_schedules_only_where_one_is_read(name):
    with pytest.raises(TypeError, match=rf"{name} must be a number.*; got <function"):
        kinopt.bbi(0.1, **{name: optax.constant_schedule(0.1)})


@pytest.mark.parametrize(
    ("name", "words", "least"),
    [
        ("fixed_bounce_every", "every (T0)", 1),
        ("num_fixed_bounces", "times (Nb)", 0),
        ("patience", "steps (T1)", 1),
    ],
)
def test_counts(name, words, least):
    for value in (least, np.int64(3), np.array(3), jnp.int32(3), None):
        kinopt.bbi(0.1, **{name: value}).init(jnp.ones(2))
    for value in (2.5, "3", True, np.float32(3), [3], 1j):
        with pytest.raises(TypeError, match="must be a whole number") as error:
            kinopt.bbi(0.1, **{name: value})
        assert str(error.value).startswith(words)
    for value in (least - 1, np.int64(-5), jnp.int32(-1)):
        with pytest.raises(ValueError, match=f"at least {least}.*; got") as error:
            kinopt.bbi(0.1, **{name: value})
        assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"integrator": "verlet"},
            ValueError,
            "integrator must be one of 'paper', 'leapfrog'; got",
        ),
        ({"integrator": None}, ValueError, "integrator must be one of"),
        ({"initial_direction": "up"}, ValueError, "initial_direction must be one of 'gradient'"),
        ({"initial_direction": 1}, ValueError, "initial_direction must be one of"),
        ({"conserve_energy": "no"}, TypeError, "conserve_energy must be True or False; got 'no'"),
        ({"adapt_f_min": 1}, TypeError, "adapt_f_min must be True or False; got 1"),
        ({"stay": None}, TypeError, "stay must be True or False; got None"),
        ({"key": 0.5}, TypeError, "key must be an int, one jax.random.key.*; got 0.5"),
        ({"key": "a"}, TypeError, "key must be"),
        ({"key": None}, TypeError, "key must be"),
        ({"key": True}, TypeError, "key must be"),
        ({"key": jax.random.split(jax.random.key(0))}, TypeError, "key must be.*many seeds, vmap"),
        ({"key": np.ones(2)}, TypeError, "key must be"),
        ({"mu_dtype": "float31"}, TypeError, "mu_dtype must be a real floating type.*'float31'"),
        ({"mu_dtype": int}, TypeError, "mu_dtype must be a real floating type.*the class int"),
        ({"mu_dtype": jnp.complex64}, TypeError, "mu_dtype must be a real floating type"),
        ({"mu_dtype": 3}, TypeError, "mu_dtype must be"),
    ],
)
def test_choices_flags_keys_and_types(arguments, error, message):
    with pytest.raises(error, match=message):
        kinopt.bbi(0.1, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hamiltonian": hamiltonians.born_infeld}, "hamiltonian must be .*with the brackets"),
        ({"hamiltonian": "massive"}, "hamiltonian must be .*got 'massive'"),
        ({"bounces": bounces.periodic}, "bounces must be .*with the brackets"),
        ({"bounces": 3}, "bounces must be .*got 3"),
        ({"bounces": 0}, "bounces must be .*got 0"),
        ({"bounces": "often"}, "bounces must be .*got 'o'"),
        ({"bounces": [bounces.rotation(0.1), 3]}, "bounces must be .*got 3"),
    ],
)
def test_hamiltonians_and_bounces(arguments, message):
    with pytest.raises(TypeError, match=message):
        kinopt.ecd(0.1, **arguments)


def test_numbers_of_ecdsep_and_of_rules():
    for name in ("eta", "nu", "s"):
        kinopt.ecdsep(0.1, **{name: np.float32(0.5)})
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            kinopt.ecdsep(0.1, **{name: "1"})
        with pytest.raises(ValueError, match=f"{name} must be a number"):
            kinopt.ecdsep(0.1, **{name: -1.0})
    with pytest.raises(ValueError, match="objective_power must be a number above 0"):
        kinopt.ecd(0.1, objective_power=0)
    with pytest.raises(ValueError, match=r"nu must be a number at least 0; got -1\.0"):
        bounces.rotation(-1.0)
    with pytest.raises(TypeError, match=r"every \(T0\) must be a whole number.*got 2.5"):
        bounces.periodic(2.5, 1)
    with pytest.raises(ValueError, match=r"times \(Nb\) must be a whole number of at least 0.*-1"):
        bounces.periodic(10, -1)
    with pytest.raises(TypeError, match=r"steps \(T1\) must be a whole number.*got None"):
        bounces.patience(None)


def test_a_start_that_could_never_move():
    for hamiltonian in (
        hamiltonians.massive(),
        hamiltonians.logarithmic(),
        hamiltonians.separable(np.float32(0)),
    ):
        for nothing in (0, 0.0, np.float32(0), jnp.zeros(())):
            with pytest.raises(ValueError, match="extra_energy > 0; got"):
                kinopt.ecd(0.1, hamiltonian, extra_energy=nothing)


def test_hamiltonians_are_made_of_functions():
    with pytest.raises(TypeError, match="energy must be a function"):
        hamiltonians.Hamiltonian(1.0, lambda v, e: e)
    with pytest.raises(ValueError, match="drift must be one of 'shell', 'kicked'; got 'both'"):
        hamiltonians.Hamiltonian(lambda v, q: v + q, lambda v, e: e - v, drift="both")


X = jnp.array([1.0, -2.0])


def test_complex_parameters_are_refused_with_a_way_out():
    for factory in (kinopt.bbi, kinopt.ecd, kinopt.ecdsep):
        with pytest.raises(TypeError, match=r"\['w'\] is complex.*conjugate.*'re'"):
            factory(0.1).init({"w": X + 1j, "b": X})
    tx = kinopt.bbi(0.1)
    with pytest.raises(TypeError, match="gradient is complex"):
        tx.update(X + 1j, tx.init(X), value=1.0)
    with pytest.raises(TypeError, match="real loss"):
        tx.update(X, tx.init(X), value=1.0 + 1j)


def test_the_ways_out_for_complex_parameters():
    """Both descend, and in step: real and imaginary parts, and Optax's wrapper with the value."""
    target = jnp.array([1 + 2j, -1j])
    loss = lambda z: jnp.sum(jnp.abs(z - target) ** 2)  # noqa: E731
    parts = lambda p: loss(p["re"] + 1j * p["im"])  # noqa: E731
    tx = kinopt.bbi(0.1)

    @jax.jit
    def both(z, wrapped, p, state):
        value, gradient = jax.value_and_grad(loss)(z)
        with_value = optax.GradientTransformation(
            tx.init, lambda g, s, params: tx.update(g, s, params, value=value)
        )
        split = optax.contrib.split_real_and_imaginary(with_value)
        update, wrapped = split.update(jnp.conj(gradient), wrapped, z)
        value, gradient = jax.value_and_grad(parts)(p)
        moved, state = tx.update(gradient, state, p, value=value)
        return z + update, wrapped, optax.apply_updates(p, moved), state

    z, p = 0 * target, {"re": jnp.zeros(2), "im": jnp.zeros(2)}
    wrapped, state = optax.contrib.split_real_and_imaginary(tx).init(z), tx.init(p)
    for _ in range(100):
        z, wrapped, p, state = both(z, wrapped, p, state)
    np.testing.assert_allclose(z, p["re"] + 1j * p["im"], atol=1e-4)
    assert float(loss(z)) < 1e-3


def test_a_missing_value_names_what_works():
    tx = kinopt.bbi(0.1)
    with pytest.raises(ValueError, match=r"value=loss.*nnx.*linen TrainState.*apply_gradients"):
        tx.update(X, tx.init(X), X)


def test_an_integer_loss_is_a_loss():
    tx = kinopt.bbi(0.1)
    update, _ = tx.update(X, tx.init(X), value=4)
    expected, _ = tx.update(X, tx.init(X), value=4.0)
    np.testing.assert_array_equal(update, expected)
