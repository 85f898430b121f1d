"""Small arrays as numbers: the same results, and no arrays left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kinopt._scalars import Apart

MATRIX = np.array([[2.0, -1.0], [0.5, 3.0]], np.float32)

FUNCTIONS = {
    "sums": lambda x: {"all": x.sum(), "rows": x.sum(0), "columns": x.sum(1), "mean": x.mean()},
    "extremes": lambda x: (x.max(0), x.min(1), x.argmax(), x[0].argmax(), x[:, 1].argmin()),
    "products": lambda x: (x @ MATRIX, MATRIX @ x @ x.T, jnp.vdot(x[0], x[1]), x.prod(0)),
    "batches": lambda x: jnp.einsum("bi,bij->bj", x, jnp.stack([MATRIX, MATRIX.T])),
    "shapes": lambda x: (x.T, x.reshape(4), x[::-1], x[:, None, :], jnp.flip(x, 1), x.ravel()[1:3]),
    "joined": lambda x: (jnp.stack([x, 2 * x]), jnp.concatenate([x, x], 1), jnp.pad(x, 1)),
    "split": lambda x: jnp.split(x, 2, axis=1),
    "choices": lambda x: (
        jnp.where(x > 0, x, -x),
        jnp.clip(x, -1, 1),
        jnp.where(x[0, 0] > 0, x, 1),
    ),
    "truths": lambda x: ((x > 0).all(1), (x > 0).any(), jnp.isnan(x)),
    "functions": lambda x: (jnp.exp(x), jnp.log1p(x * x), x**3, jnp.tanh(x), jnp.hypot(x, 1.0)),
    "gradient": jax.grad(lambda x: jnp.sum(jnp.sin(x) ** 2) * jnp.linalg.norm(x)),
    "hessian": jax.hessian(lambda x: jnp.logaddexp(x[0] @ x[1], x[0, 0])),
    "indices": lambda x: (x[jnp.argmax(x[:, 0])], x.at[0, 1].set(7.0), jnp.sort(x, axis=1)),
    "branch": lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: (y * 2, y[0]), lambda y: (y, y[1]), x),
    "constants": lambda x: jax.lax.cond(x[0, 0] > 0, lambda: jnp.eye(2), lambda: jnp.ones((2, 2))),
    "loop": lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 30, lambda y: y * y + 1, x),
    "scan": lambda x: jax.lax.scan(lambda sum_, row: (sum_ + row, sum_ * row), x[0], x),
    "jitted": lambda x: jax.jit(lambda y: jax.nn.softmax(y, axis=-1))(x),
    "wide": lambda x: jnp.outer(jnp.tile(x.ravel(), 5), x.ravel()),
    "whole numbers": lambda x: (x.round().astype(jnp.int32).sum(), jnp.arange(3) % 2, x.shape[0]),
    "scalars": lambda x: (jnp.sum(x[0, 0]), jnp.full(3, x[1, 1]), x[0, 1].reshape(1, 1).T[0, 0]),
    "random": lambda x: jax.random.normal(jax.random.fold_in(key_of(x), 7), (2,)) + x[0],
    "keys": lambda x: [jax.random.key_data(key) for key in jax.random.split(key_of(x))],
    "draws": lambda x: jax.random.randint(jax.random.split(key_of(x), 3)[1], (3,), 0, 100),
    "many draws": lambda x: jax.random.uniform(key_of(x), (17,)),
    "a key in a branch": lambda x: jax.lax.cond(
        x[0, 0] > 0,
        lambda key: jax.random.bits(key),
        lambda key: jax.random.key_data(key)[0],
        jax.random.fold_in(key_of(x), 1),
    ),
}


def key_of(x):
    """A key that depends on x."""
    return jax.random.wrap_key_data(jnp.abs(10 * x[0]).astype(jnp.uint32))


LANES = jax.random.normal(jax.random.key(0), (5, 2, 2))
WHOLE = ("indices", "loop", "scan", "wide", "draws", "many draws", "a key in a branch")
"""What is done on whole arrays in part."""


def as_step(function):
    """x and what was found -> x and what is found, a tree like the old one."""
    return lambda both: (both[0], jax.tree.map(jnp.asarray, function(both[0])))


def taken_apart(function, x):
    """How x and what is found are taken apart; the numbers of the lanes; and a step on them."""
    like = jax.eval_shape(as_step(function), (x[0], None))
    apart = Apart.of(like)
    both = x, jax.tree.map(lambda y: jnp.zeros((len(x), *y.shape), y.dtype), like[1])
    step = jax.vmap(lambda numbers: apart.evaluate(as_step(function), numbers))
    return apart, apart.numbers(both, lead=1), step


@pytest.mark.parametrize("name", FUNCTIONS)
def test_number_by_number_the_results_are_the_same(name):
    function = FUNCTIONS[name]
    apart, numbers, step = taken_apart(function, LANES)
    expected = jax.jit(jax.vmap(as_step(function)))((LANES, None))
    found = apart.tree(jax.jit(step)(numbers), lead=1)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in WHOLE])
def test_no_array_is_left_in_a_lane(name):
    _, numbers, step = taken_apart(FUNCTIONS[name], LANES)
    text = str(jax.make_jaxpr(step)(numbers))
    assert "[5]" in text
    assert "[5,2" not in text
    assert "[2" not in text


def test_what_is_large_stays_whole():
    large = jnp.ones((3, 17))
    apart = Apart.of({"large": large[0], "small": jnp.ones(2), "key": jax.random.key(0)})
    keys = jax.random.split(jax.random.key(1), 3)
    tree = {"large": large, "small": jnp.ones((3, 2)), "key": keys}
    numbers = apart.numbers(tree, lead=1)
    assert sorted(x.shape for x in numbers) == [(3,), (3,), (3,), (3, 17)]
    again = apart.tree(numbers, lead=1)
    assert again["key"].dtype == keys.dtype
    np.testing.assert_array_equal(again["small"], tree["small"])


def test_nan_is_found_where_numpy_finds_it():
    x = jnp.array([[[1.0, jnp.nan], [jnp.nan, 3.0]], [[2.0, 2.0], [5.0, -jnp.inf]]])
    function = FUNCTIONS["extremes"]
    apart, numbers, step = taken_apart(function, x)
    found = apart.tree(step(numbers), lead=1)[1]
    for one, other in zip(found, jax.vmap(function)(x), strict=True):
        np.testing.assert_array_equal(one, other)
