"""Programs of an ensemble: compiled once, and let go with the functions they are made of."""

import dataclasses
import functools
import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kinopt import _programs, ensemble

KEYS = jax.random.split(jax.random.key(7), 3)
SGD = optax.sgd(0.1)


class Data:
    """What a loss closes over; NumPy arrays cannot be watched."""

    def __init__(self):
        self.x = np.full(3, 2.0, np.float32)


def squares(data, x):
    return jnp.mean((x - data.x) ** 2)


class Loss:
    def __init__(self, data):
        self.data = data

    def __call__(self, x):
        return squares(self.data, x)

    method = __call__


class Cycle(Loss):
    """It refers to itself, so that only the garbage collector lets it go."""

    def __init__(self, data):
        super().__init__(data)
        self.bound = self.method


class Slots:
    """No weak reference to it can be made."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data

    def __call__(self, x):
        return squares(self.data, x)


@dataclasses.dataclass
class Changeable:
    """It has no hash."""

    data: Data

    def __call__(self, x):
        return squares(self.data, x)


def with_own_derivative(data):
    @jax.custom_jvp
    def loss(x):
        return squares(data, x)

    loss.defjvps(lambda slope, value, x: slope * jnp.mean(2 * (x - data.x)))
    return loss


def with_own_vjp(data):
    @jax.custom_vjp
    def loss(x):
        return squares(data, x)

    loss.defvjp(lambda x: (loss(x), x), lambda x, g: (g * jnp.mean(2 * (x - data.x)),))
    return loss


def plain(x):
    return x**2


KINDS = {
    "lambda": lambda data: {"loss_fn": lambda x: squares(data, x)},
    "jitted": lambda data: {"loss_fn": jax.jit(lambda x: squares(data, x))},
    "rematerialized": lambda data: {"loss_fn": jax.checkpoint(lambda x: squares(data, x))},
    "own derivative": lambda data: {"loss_fn": with_own_derivative(data)},
    "own vjp": lambda data: {"loss_fn": with_own_vjp(data)},
    "partial": lambda data: {"loss_fn": functools.partial(squares, data)},
    "instance": lambda data: {"loss_fn": Loss(data)},
    "cycle, bound method": lambda data: {"loss_fn": Cycle(data).bound},
    "slots": lambda data: {"loss_fn": Slots(data)},
    "no hash": lambda data: {"loss_fn": Changeable(data)},
    "schedule": lambda data: {"optimizer": optax.sgd(lambda count: 0.01 * data.x[0])},
    "factory, stop": lambda data: {
        "optimizer": lambda key: optax.sgd(0.1 * data.x[0]),
        "stop": lambda x, value: jnp.where(value < data.x[0], 1, 0),
    },
}


def call(function=ensemble.run, **arguments):
    given = {"loss_fn": plain, "optimizer": SGD, "params": jnp.array(1.0), "keys": KEYS}
    return function(**{**given, "num_steps": 2, **arguments})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_functions_and_their_data_are_let_go(kind):
    """Also by the programs that are made of them, which the next call would use again."""
    gc.collect()  # what other tests left behind
    before = len(_programs._kept)
    data = Data()
    arguments = KINDS[kind](data)
    call(**arguments)
    if kind == "lambda":
        call(ensemble.trajectories, **arguments)
    # A record keeps other things than a run: its programs are others.
    kept = 0 if kind in ("slots", "no hash") else 1 + (kind == "lambda")
    assert len(_programs._kept) == before + kept
    alive = weakref.ref(data)
    del data, arguments
    gc.collect()
    assert alive() is None
    assert len(_programs._kept) == before


@pytest.mark.slow
def test_a_program_that_must_keep_its_loss_alive_is_dropped_when_there_are_many(monkeypatch):
    """A compiled program calls back into Python: no weak reference helps."""
    monkeypatch.setattr(_programs, "MOST_PROBLEMS", 1)
    monkeypatch.setattr(_programs, "_kept", type(_programs._kept)())

    class Logged(Loss):
        def __call__(self, x):
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            number = jax.pure_callback(self.number, shape, vmap_method="broadcast_all")
            return (x - number) ** 2

        def number(self):
            return self.data.x[0]

    loss, other = Logged(Data()), lambda x: x**2
    call(loss_fn=loss)
    [(programs, _)] = _programs._kept.values()
    assert call(loss_fn=loss).value.shape == (3,)
    assert [p for p, _ in _programs._kept.values()] == [programs]
    call(loss_fn=other)
    assert len(_programs._kept) == 1
    assert next(iter(_programs._kept.values()))[0] is not programs


def compiled(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (ensemble.run, "function"),
        (ensemble.run, "bound method"),
        (ensemble.run, "factory"),
        (ensemble.trajectories, "factory"),
    ],
)
def test_the_second_call_traces_and_compiles_nothing(function, kind, caplog):
    traced = []

    class Counting(Loss):
        def method(self, x):
            traced.append("loss")
            return squares(self.data, x)

    loss = Counting(Data())
    same = loss.method

    def factory(key):
        traced.append("optimizer")
        return optax.sgd(0.1 * jax.random.uniform(key))

    def again(start):
        return call(
            function,
            # A bound method is a new object each time it is looked up.
            loss_fn=loss.method if kind == "bound method" else same,
            optimizer=factory if kind == "factory" else SGD,
            params=jnp.array(start),
        )

    first = again(1.0)
    number = len(traced)
    assert number
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG, "jax"):
        second = again(2.0)
        assert len(traced) == number
        assert not compiled(caplog)
        call(function, loss_fn=lambda x: squares(loss.data, x))
        assert compiled(caplog), "the log shows what is compiled"
    assert not np.array_equal(first.params, second.params)


@pytest.mark.slow
def test_other_objects_are_other_problems():
    """Same code, other data; and a changed instance that has no hash."""
    for target in (1.0, 2.0):
        result = call(loss_fn=lambda x, target=target: (x - target) ** 2, num_steps=200)
        np.testing.assert_allclose(result.params, target, rtol=1e-4)
    loss = Changeable(Data())
    for target in (1.0, 2.0):
        loss.data.x = np.full(3, target, np.float32)
        np.testing.assert_allclose(call(loss_fn=loss, num_steps=200).params, target, rtol=1e-4)
    for steps in (1, 3):
        assert call(num_steps=steps).num_steps.tolist() == [steps] * 3
    for stop, outcome in ((None, 0), (lambda x, value: jnp.where(value < 0.9, 4, 0), 4)):
        assert call(stop=stop).outcome.tolist() == [outcome] * 3


@pytest.mark.slow
def test_settings_of_jax_are_part_of_a_program():
    def loss(x):
        return jnp.sum(x * jnp.asarray(np.ones(2)))  # of the default type

    assert call(loss_fn=loss, params=jnp.ones(2, jnp.float32)).value.dtype == jnp.float32
    with jax.enable_x64(True):
        result = call(loss_fn=loss, params=jnp.ones(2, jnp.float32))
    assert result.value.dtype == jnp.float64
