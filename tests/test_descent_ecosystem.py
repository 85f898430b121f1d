"""The recipes: energy-conserving descent inside Flax, Optax, Orbax and Optimistix."""

from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import orbax.checkpoint
from flax import nnx
from flax.training import train_state

import kinopt

INPUTS = jax.random.normal(jax.random.key(1), (8, 3))
TARGETS = jnp.sum(INPUTS, axis=1, keepdims=True)
SETTINGS = {"learning_rate": 0.03, "fixed_bounce_every": 3, "extra_energy": 0.1}


class TrainState(train_state.TrainState):
    """Flax's TrainState, whose `apply_gradients` hands the loss on: the recipe for linen."""

    def apply_gradients(self, *, grads: Any, value: jax.Array, **changes):
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, value=value)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **changes)


def _linen_run(tx, steps):
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), INPUTS)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean((state.apply_fn({"params": params}, INPUTS) - TARGETS) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads, value=value), value

    values = []
    for _ in range(steps):
        state, value = step(state)
        values.append(float(value))
    return state, values


def test_linen_train_state_and_collisions_before_it():
    tx = optax.chain(kinopt.soft_collision(0.01), kinopt.bbi(0.05))
    state, values = _linen_run(tx, 150)
    assert values[-1] < 0.01 * values[0]
    assert int(state.step) == 150
    assert float(kinopt.ecd_stats(state.opt_state).energy) == np.float32(values[0])


def test_nnx_optimizer():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, kinopt.bbi(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(INPUTS) - TARGETS) ** 2))(model)
        optimizer.update(model, grads, value=value)
        return value

    values = [float(step(model, optimizer)) for _ in range(150)]
    assert values[-1] < 0.01 * values[0]
    stats = kinopt.ecd_stats(optimizer.opt_state)
    assert isinstance(stats.energy, jax.Array)
    assert float(stats.energy) == np.float32(values[0])


def test_nnx_vmap():
    """Several models, each with an energy of its own."""

    @nnx.vmap
    def create(key):
        model = nnx.Linear(3, 1, rngs=nnx.Rngs(key))
        return model, nnx.Optimizer(model, kinopt.bbi(**SETTINGS), wrt=nnx.Param)

    @nnx.jit
    @nnx.vmap(in_axes=(0, 0), out_axes=0)
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(INPUTS) - TARGETS) ** 2))(model)
        optimizer.update(model, grads, value=value)
        return value

    model, optimizer = create(jax.random.split(jax.random.key(0), 3))
    values = [step(model, optimizer) for _ in range(5)]
    stats = kinopt.ecd_stats(optimizer.opt_state)
    np.testing.assert_allclose(stats.energy, values[0] + np.float32(0.1), rtol=1e-6)
    np.testing.assert_array_equal(stats.num_bounces, [1, 1, 1])
    assert len({float(v) for v in values[-1]}) == 3


def _losses():
    """A loss over data, its start, and the same loss on half of the data."""
    loss = lambda w, x, y: jnp.mean((x @ w - y[:, 0]) ** 2)  # noqa: E731
    return loss, jnp.array([0.2, -0.4, 1.0])


def test_multi_steps_with_the_mean_value_is_one_big_step():
    loss, w = _losses()
    big, small = kinopt.bbi(**SETTINGS), optax.MultiSteps(kinopt.bbi(**SETTINGS), 2)
    value, gradient = jax.value_and_grad(loss)(w, INPUTS, TARGETS)
    expected, _ = big.update(gradient, big.init(w), value=value)
    state = small.init(w)
    parts = [jax.value_and_grad(loss)(w, INPUTS[i::2], TARGETS[i::2]) for i in range(2)]
    mean = (parts[0][0] + parts[1][0]) / 2
    for _, gradient in parts:
        updates, state = small.update(gradient, state, w, value=mean)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)
    np.testing.assert_allclose(kinopt.ecd_stats(state).energy, value + 0.1, rtol=1e-5)


def test_microbatching_gives_the_mean_value():
    loss, w = _losses()
    value, gradient = jax.value_and_grad(loss)(w, INPUTS, TARGETS)
    mean = optax.microbatching.AccumulationType.MEAN
    micro = optax.microbatching.microbatch(
        jax.value_and_grad(loss), argnums=(1, 2), microbatch_size=4, accumulator=mean
    )
    micro_value, micro_gradient = micro(w, INPUTS, TARGETS)
    tx = kinopt.bbi(**SETTINGS)
    expected, _ = tx.update(gradient, tx.init(w), value=value)
    updates, _ = tx.update(micro_gradient, tx.init(w), value=micro_value)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


def test_inject_hyperparams():
    """Numbers become hyperparameters, with a schedule for the step too; counters may be static."""
    loss, w = _losses()
    value, gradient = jax.value_and_grad(loss)(w, INPUTS, TARGETS)
    schedule = optax.linear_schedule(0.03, 0.0, 10)
    direct = kinopt.bbi(**{**SETTINGS, "learning_rate": schedule})
    for static in ((), ("key", "fixed_bounce_every", "num_fixed_bounces", "patience")):
        injected = optax.inject_hyperparams(kinopt.bbi, static_args=static)(
            **{**SETTINGS, "learning_rate": schedule}
        )
        step = jax.jit(lambda s, tx=injected: tx.update(gradient, s, w, value=value))
        state, direct_state = injected.init(w), direct.init(w)
        for _ in range(5):
            updates, state = step(state)
            expected, direct_state = direct.update(gradient, direct_state, w, value=value)
            np.testing.assert_allclose(updates, expected, rtol=1e-6)
        assert int(kinopt.ecd_stats(state).num_bounces) == 1


def test_masked_and_partition_have_the_energy_of_their_own_leaves():
    """V is that of the whole loss; the momentum counts only the leaves that descend."""
    params = {"descends": jnp.ones(2), "adam": jnp.ones(3)}
    loss = lambda p: jnp.sum(p["descends"] ** 2) + jnp.sum(p["adam"] ** 2)  # noqa: E731
    value, grads = jax.value_and_grad(loss)(params)
    alone = kinopt.bbi(0.1, extra_energy=1.0)
    expected, _ = alone.update(grads["descends"], alone.init(params["descends"]), value=value)
    masked = optax.masked(kinopt.bbi(0.1, extra_energy=1.0), {"descends": True, "adam": False})
    partition = optax.partition(
        {"descends": kinopt.bbi(0.1, extra_energy=1.0), "adam": optax.adam(0.1)},
        {"descends": "descends", "adam": "adam"},
    )
    for tx in (masked, partition):
        updates, state = tx.update(grads, tx.init(params), params, value=value)
        np.testing.assert_allclose(updates["descends"], expected, rtol=1e-6)
        assert float(kinopt.ecd_stats(state).energy) == 6.0


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """Orbax and flax.serialization, saved before a bounce, bit for bit."""
    loss, w = _losses()
    tx = kinopt.bbi(**SETTINGS, key=jax.random.key(5))

    @jax.jit
    def step(w, state):
        value, gradient = jax.value_and_grad(loss)(w, INPUTS, TARGETS)
        updates, state = tx.update(gradient, state, value=value)
        return optax.apply_updates(w, updates), state

    state = tx.init(w)
    for _ in range(2):
        w, state = step(w, state)
    checkpointer = orbax.checkpoint.StandardCheckpointer()
    checkpointer.save(tmp_path / "checkpoint", (w, state))
    checkpointer.wait_until_finished()
    serialised = flax.serialization.to_bytes((w, state))
    like = jax.tree.map(jnp.zeros_like, (w, state))
    resumed = [
        checkpointer.restore(tmp_path / "checkpoint", like),
        flax.serialization.from_bytes(like, serialised),
    ]
    for _ in range(4):
        w, state = step(w, state)
        resumed = [step(*one) for one in resumed]
    assert int(state.num_bounces) == 1
    for one in resumed:
        jax.tree.map(np.testing.assert_array_equal, one, (w, state))


def test_optimistix():
    """OptaxMinimiser hands on the value."""
    solver = optimistix.OptaxMinimiser(kinopt.bbi(0.05), rtol=1e-6, atol=1e-6)
    curvature = jnp.array([1.0, 4.0, 9.0])
    solution = optimistix.minimise(
        lambda x, args: jnp.sum(args * x**2),
        solver,
        jnp.array([1.0, -1.0, 0.5]),
        args=curvature,
        max_steps=2000,
        throw=False,
    )
    assert float(jnp.sum(curvature * solution.value**2)) < 1e-3
