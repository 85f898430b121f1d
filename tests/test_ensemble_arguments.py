"""Arguments of an ensemble that make no sense: errors say what was given, and what would work."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import kinopt
from kinopt import ensemble

# As users call them, without the type checker of these tests.
run, trajectories = inspect.unwrap(ensemble.run), inspect.unwrap(ensemble.trajectories)
KEYS = jax.random.split(jax.random.key(7), 3)
SGD = optax.sgd(0.1)


def loss(x):
    return jnp.sum(x**2)


def call(function=run, **arguments):
    given = {"loss_fn": loss, "optimizer": SGD, "params": jnp.ones(2), "keys": KEYS, "num_steps": 2}
    return function(**{**given, **arguments})


@pytest.mark.parametrize("number", [np.int64(3), np.int32(3), jnp.int32(3), np.array(3)], ids=repr)
def test_whole_numbers_of_any_kind(number):
    expected = call(num_steps=3, lanes=3, chunk=3)
    result = call(num_steps=number, lanes=number, chunk=number)
    jax.tree.map(np.testing.assert_array_equal, result, expected)
    path = call(trajectories, num_steps=number, every=number)
    assert path.num_steps.tolist() == [[0, 3]] * 3


NO_COUNTS = [2.5, "3", True, np.nan, 0, -1, np.float64(3), [3], jnp.ones(2, int)]


@pytest.mark.parametrize("value", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["num_steps", "lanes", "chunk", "every"])
def test_what_is_no_count_is_refused(name, value):
    if name == "num_steps" and isinstance(value, int) and value == 0 and value is not True:
        value = -2
    function = trajectories if name == "every" else run
    least = 0 if name == "num_steps" else 1
    with pytest.raises((TypeError, ValueError), match=f"{name} must be a whole .* least {least}.*"):
        call(function, **{name: value})


def test_none_is_a_default_for_lanes_and_chunk_only():
    assert call(lanes=None, chunk=None).num_steps.tolist() == [2, 2, 2]
    with pytest.raises(TypeError, match="num_steps must be a whole number"):
        call(num_steps=None)
    with pytest.raises(TypeError, match="every must be a whole number"):
        call(trajectories, every=None)


class NoTransformation:
    """A class, and one whose instances do not update."""

    def __init__(self, key):
        self.key = key


def needs_two(key, rate):
    return optax.sgd(rate)


OPTIMIZERS = {
    "class": (NoTransformation, "got the class NoTransformation, not an instance"),
    "optax's class": (optax.GradientTransformation, "not an instance"),
    "factory of optax": (optax.adam, "the function optax.adam itself"),
    "factory of kinopt": (kinopt.bbi, "the function kinopt.bbi itself"),
    "name": ("adam", "got 'adam'"),
    "number": (0.1, "got 0.1"),
    "None": (None, "got None"),
    "dict": ({}, "got {}"),
    "makes nothing": (lambda key: None, "made a NoneType"),
    "makes an instance": (lambda key: NoTransformation(key), "made a NoTransformation"),
    "makes a factory": (lambda key: optax.sgd, "made a function"),
    "takes two": (needs_two, "missing a required argument: 'rate'"),
    "partial that takes no key": (functools.partial(kinopt.bbi, 0.1), "too many positional"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_no_optimizer_is_refused(name):
    optimizer, message = OPTIMIZERS[name]
    for function in (run, trajectories):
        with pytest.raises(TypeError, match=r"optimizer must be an Optax tr.*lambda key") as info:
            call(function, optimizer=optimizer)
        assert message in str(info.value)


@pytest.mark.slow
def test_optimizers_of_any_kind_are_taken():
    class Mine:
        def init(self, params):
            return ()

        def update(self, grads, state, params=None):
            return jax.tree.map(lambda g: -0.1 * g, grads), state

    expected = call().params
    for optimizer in (
        Mine(),
        lambda key: Mine(),
        functools.partial(lambda lr, k: optax.sgd(lr), 0.1),
    ):
        np.testing.assert_allclose(call(optimizer=optimizer).params, expected)


LOSSES = {
    "number": (lambda x: 0.5, "a float"),
    "whole number": (lambda x: 1, "a int"),
    "NumPy's": (lambda x: np.float32(1), "a float32"),
    "vector": (lambda x: x, r"float32\[2\]"),
    "integer": (lambda x: jnp.sum(x).astype(int), r"int32"),
    "tuple": (lambda x: (jnp.sum(x), x), "a tuple"),
    "complex": (lambda x: jnp.sum(x) * 1j, "complex64"),
    "nothing": (lambda x: None, "a NoneType"),
    "float()": (lambda x: float(jnp.sum(x)), "asked for the value"),
    "NumPy": (lambda x: np.sum(np.sin(x)), "asked for the value"),
    "if": (lambda x: jnp.sum(x) if x[0] > 0 else -jnp.sum(x), "asked for the value"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_returns_no_loss_is_refused(name):
    loss_fn, message = LOSSES[name]
    with pytest.raises(TypeError, match=f"loss_fn must be a function.*{message}"):
        call(loss_fn=loss_fn)
    with pytest.raises(TypeError, match=r"loss_fn must be a function, params -> loss.*got"):
        call(loss_fn=jnp.ones(2))


STOPS = {
    "number": (lambda x, value: 0.5, "a float"),
    "array": (lambda x, value: value, "float32"),
    "vector": (lambda x, value: x > 0, r"bool\[2\]"),
    "tuple": (lambda x, value: (1, 2), "a tuple"),
    "if": (lambda x, value: 1 if value < 1 else 0, "asked for the value"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_is_no_stop_rule_is_refused(name):
    stop, message = STOPS[name]
    with pytest.raises(TypeError, match=f"stop must be a function.*{message}"):
        call(stop=stop)
    with pytest.raises(TypeError, match=r"stop must be a function, params, value -> .*got 3"):
        call(stop=3)


@pytest.mark.slow
def test_stop_rules_may_say_whole_numbers_and_truths():
    for stop in (lambda x, v: 1, lambda x, v: v < 10, lambda x, v: jnp.uint8(1)):
        assert call(stop=stop).outcome.tolist() == [1, 1, 1]


@pytest.mark.slow
def test_what_is_not_kept_does_not_come_back():
    whole = call()
    for keep in ((), ("params",), ["best_params", "opt_state"], {"opt_state"}):
        result = call(keep=keep)
        for name in ("params", "best_params", "opt_state"):
            expected = getattr(whole, name) if name in keep else None
            jax.tree.map(np.testing.assert_array_equal, getattr(result, name), expected)
        np.testing.assert_array_equal(result.best_value, whole.best_value)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ("params", TypeError, "such as .'params',.; got 'params'"),
        (None, TypeError, "got None"),
        (("weights",), ValueError, "got 'weights'. Values, outcomes"),
    ],
)
def test_what_names_nothing_to_keep_is_refused(keep, error, message):
    with pytest.raises(error, match=f"keep must be some of the names 'params', .*{message}"):
        call(keep=keep)


STARTS = {
    "function": (lambda key: jnp.ones(2), TypeError, "not a function of the key"),
    "integers": ({"w": jnp.ones(2, int)}, TypeError, "int32 in int32.2. at 'w'"),
    "whole number": (1, TypeError, "got int32 in 1"),
    "name": ({"w": {"b": "x"}}, TypeError, "got 'x' at 'w/b'"),
    "keys": (KEYS, TypeError, "floating or complex"),
    "nothing": ({}, ValueError, "no leaves"),
    "module": (eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0)), TypeError, "belongs into loss_fn"),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_is_no_start_is_refused(name):
    start, error, message = STARTS[name]
    with pytest.raises(error, match=f"params .*{message}"):
        call(params=start)


@pytest.mark.parametrize(
    "keys",
    [0, [1, 2, 3], list(KEYS), np.arange(3), np.ones((3, 2)), jnp.ones((3, 2), jnp.int32), None],
    ids=str,
)
def test_what_is_no_keys_is_refused(keys):
    with pytest.raises(TypeError, match=r"keys must be one key for each seed, such as jax"):
        call(keys=keys)


def test_keys_of_the_wrong_shape_are_refused():
    for keys in (KEYS[0], KEYS[None], jnp.zeros(2, jnp.uint32)):
        with pytest.raises(ValueError, match="keys must be one key for each seed"):
            call(keys=keys)
    with pytest.raises(ValueError, match=r"keys is empty.*at least one seed"):
        call(keys=KEYS[:0])


def test_meshes_and_flags():
    for mesh in (jax.devices(), np.array(jax.devices()), "seeds", jax.devices()[0]):
        with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh.*Mesh\(devices"):
            call(mesh=mesh)
    for name, value in {"progress": "yes", "stacked": "yes"}.items():
        with pytest.raises(TypeError, match=f"{name} must be True or False; got 'yes'"):
            call(**{name: value})
    with pytest.raises(TypeError, match="stacked must be True or False; got 1"):
        call(stacked=1)


@pytest.mark.parametrize(
    "transform",
    [jax.jit, jax.vmap, jax.grad, jax.checkpoint],
    ids=["jit", "vmap", "grad", "checkpoint"],
)
def test_under_a_transformation_it_says_so(transform):
    scale = jnp.ones(3) if transform is jax.vmap else 1.0
    for function in (run, trajectories):
        with pytest.raises(TypeError, match=r"cannot run under jax.jit, vmap, .*Call it outside"):
            transform(lambda x, f=function: call(f, params=x * jnp.ones(2)).value.sum())(scale)
    keys = jnp.stack([KEYS, KEYS])
    with pytest.raises(TypeError, match="cannot run under"):
        jax.vmap(lambda keys: call(keys=keys))(keys)
    with pytest.raises(TypeError, match="cannot run under"):
        jax.jit(lambda: call())()


class TestForgottenStacked:
    """A start for each seed, and nothing said."""

    starts = jnp.arange(6.0).reshape(3, 2)

    def test_doubt_is_an_error(self):
        for function in (run, trajectories):
            with pytest.raises(ValueError, match=r"leading axis of 3, as .*stacked=True.*False"):
                call(function, params=self.starts)
            with pytest.raises(ValueError, match="leading axis of 3"):
                call(function, params={"w": self.starts, "b": jnp.ones(3)}, loss_fn=two)

    def test_a_loss_that_takes_rows_only_needs_stacked(self):
        with pytest.raises(ValueError, match=r"one row, and not all.*stacked=True"):
            call(params=jnp.ones(3), loss_fn=lambda x: x**2)

    @pytest.mark.slow
    def test_both_answers_are_taken(self):
        each = call(params=self.starts, stacked=True, num_steps=0)
        assert each.value.tolist() == [1.0, 13.0, 41.0]
        np.testing.assert_array_equal(each.params, self.starts)
        whole = call(params=self.starts, stacked=False, num_steps=0)
        assert whole.value.tolist() == [55.0] * 3
        assert whole.params.shape == (3, 3, 2)

    @pytest.mark.slow
    def test_no_false_alarm(self):
        """Some leaves alone, one seed, and a loss that takes no rows."""
        some = call(params={"w": self.starts, "b": jnp.ones(2)}, loss_fn=two)
        assert some.params["w"].shape == (3, 3, 2)
        number = call(params={"w": self.starts, "b": jnp.ones(())}, loss_fn=two)
        assert number.params["w"].shape == (3, 3, 2)
        assert call(params=jnp.ones((1, 2)), keys=KEYS[:1]).params.shape == (1, 1, 2)
        matrix = call(params=self.starts, loss_fn=lambda x: jnp.sum((jnp.ones((4, 3)) @ x) ** 2))
        assert matrix.params.shape == (3, 3, 2)


def two(params):
    return jnp.sum(params["w"] ** 2) + jnp.sum(params["b"] ** 2)


def test_stacked_needs_the_axis_in_all_leaves():
    for b in (jnp.ones(2), jnp.ones(())):
        with pytest.raises(ValueError, match="leading axis of 3 seeds"):
            call(params={"w": jnp.ones((3, 2)), "b": b}, loss_fn=two, stacked=True)


def test_a_mesh_of_one_device_is_no_special_case():
    mesh = Mesh(np.array(jax.devices()[:1]), ("seeds",))
    jax.tree.map(np.testing.assert_array_equal, call(mesh=mesh), call())
