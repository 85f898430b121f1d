"""What JAX, Optax and Flax ask of any transformation, asked of all of ours."""

import functools

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import kinopt
import tests.registry as registry
from kinopt._training import _needed
from tests.registry import CASES, Case, loss, parameters, step


def slow_if(case: Case):
    return [pytest.mark.slow] if case.is_variant else []


every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=slow_if(case)) for case in CASES]
)
every_kind = pytest.mark.parametrize(  # asks nothing of what differs between variants
    "case", [pytest.param(case, id=case.name) for case in CASES if not case.is_variant]
)
every_odd_leaf = pytest.mark.parametrize(  # variants of a collision are made for a kernel only
    "case",
    [
        pytest.param(case, id=case.name, marks=slow_if(case))
        for case in CASES
        if case.needs_value or not case.is_variant
    ],
)
every_state = pytest.mark.parametrize(  # asks of arguments and state only, whatever the law
    "case",
    [
        pytest.param(case, id=case.name)
        for case in CASES
        if not (case.is_variant or case.same_state)
    ],
)


def assert_equal(left, right, **tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), **{"rtol": 0, **tolerance}
        )


def types(tree):
    return jax.tree.map(lambda x: jax.typeof(x), tree)


def at(tree, path):
    """The leaf under a path such as "body/kernel"."""
    return functools.reduce(lambda node, name: node[name], path.split("/"), tree)


@functools.cache
def _compiled(name: str):
    (case,) = (case for case in CASES if case.name == name)
    tx = case.make()
    return tx, jax.jit(lambda params, state: step(tx, params, state))


def compiled(case: Case):
    """A transformation and its compiled step, which many tests here have in common."""
    return _compiled(case.name)


@functools.cache
def _compiled_lanes(name: str):
    (case,) = (case for case in CASES if case.name == name)
    tx = case.make()
    return tx, jax.jit(jax.vmap(lambda params, state: step(tx, params, state)))


def lanes():
    """Parameters of four members of a `vmap`, and one of them."""
    params = jax.tree.map(lambda x: jnp.stack([f * x for f in (1, 0.7, 1.4, 1.2)]), parameters())
    return params, lambda n: jax.tree.map(lambda x: x[n], params)


def run(tx, one, params, steps=3):
    """Parameters after a few compiled steps, and the last state."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = one(params, state)
        params = optax.apply_updates(params, updates)
    return params, state


TYPES = [("bfloat16", False), ("float32", True), ("float64", True)]  # the second: where they mix


@pytest.mark.parametrize(
    ("case", "dtype", "x64"),
    [
        pytest.param(
            case,
            *types,
            id=f"{case.name}-{types[0]}-{types[1]}",
            marks=slow_if(case) or ([pytest.mark.slow] if types == TYPES[-1] else []),
        )
        for case in CASES
        for types in (TYPES[1:2] if case.is_variant else TYPES)
    ],
)
def test_types_are_stable(case: Case, dtype, x64):
    """Of updates and state, from the first update on: as `scan` asks, and one trace suffices."""
    with jax.enable_x64(x64):
        tx, params = case.make(), parameters(dtype)
        state = tx.init(params)
        updates, after = jax.eval_shape(functools.partial(step, tx), params, state)
        assert types(after) == types(state)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(types(state)))
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (updates, params))
        assert shapes[0] == shapes[1]
        assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {dtype}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(
            case,
            dtype,
            id=f"{case.name}-{dtype}",
            marks=slow_if(case) or ([] if dtype == "bfloat16" else [pytest.mark.slow]),
        )
        for case in CASES
        for dtype in (["bfloat16"] if case.is_variant else ["bfloat16", "float16"])
    ],
)
def test_narrow_types_stay_finite_and_one_trace_suffices(case: Case, dtype):
    tx, params, traces = case.make(), parameters(dtype), 0

    @jax.jit
    def one(params, state):
        nonlocal traces
        traces += 1
        updates, state = step(tx, params, state)
        return optax.apply_updates(params, updates), updates, state

    state = tx.init(params)
    for _ in range(3):
        params, updates, state = one(params, state)
    assert traces == 1
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, state)))


@every_case
def test_it_does_something(case: Case):
    """The battery would be empty if these settings left the gradients as they are."""
    params = parameters()
    tx, one = compiled(case)
    updates, _ = one(params, tx.init(params))
    gradients = jax.grad(loss)(params)
    for path in case.leaves:
        assert not np.array_equal(at(updates, path), at(gradients, path))


@every_kind
def test_what_only_shows_is_never_looked_at(case: Case):
    """An ensemble that does not ask for the state leaves it out (`only_shown`)."""
    params, (tx, one) = parameters(), compiled(case)
    state = initial = tx.init(params)
    blind = state
    for _ in range(3):
        updates, state = one(params, state)
        same, blind = one(params, blind)
        blind = _needed(blind, initial)
        assert_equal(same, updates)
        params = optax.apply_updates(params, updates)
    assert not np.array_equal(*map(optax.tree.norm, (blind, state)))


@every_state
def test_extra_arguments_are_accepted(case: Case):
    """And change nothing: the program is the same."""
    params, tx = parameters(), case.make()

    def program(**extra):
        def update(grads, state, params, value):
            return tx.update(grads, state, params, value=value, **extra)

        return str(jax.make_jaxpr(update)(params, tx.init(params), params, 1.0))

    assert program(grad=params, unheard_of=1) == program()


@every_kind
def test_missing_arguments_are_explained(case: Case):
    params, tx = parameters(), case.make()
    grads, state = jax.grad(loss)(params), tx.init(params)
    if case.needs_params:
        with pytest.raises(ValueError, match="params"):
            tx.update(grads, state, value=loss(params))
        with pytest.raises(ValueError, match="structure"):
            tx.update(grads, state, {"other": jnp.zeros((2, 2))}, value=loss(params))
    if case.needs_value:
        with pytest.raises(ValueError, match="value"):
            tx.update(grads, state, params)


@every_kind
def test_eager_equals_jit(case: Case):
    params, (tx, one) = parameters(), compiled(case)
    eager, _ = step(tx, params, tx.init(params))
    assert_equal(eager, one(params, tx.init(params))[0], atol=case.rounding)


@every_case
def test_jit_of_init(case: Case):
    params, tx = parameters(), case.make()
    assert_equal(tx.init(params), jax.jit(tx.init)(params))
    assert types(tx.init(params)) == types(jax.jit(tx.init)(params))
    abstract = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(abstract) == jax.tree.structure(tx.init(params))


@every_state
def test_scan_equals_loop(case: Case):
    params, tx = parameters(), case.make()

    def body(carry, _):
        params, state = carry
        updates, state = step(tx, params, state)
        return (optax.apply_updates(params, updates), state), None

    (scanned, _), _ = jax.lax.scan(body, (params, tx.init(params)), length=3)
    looped, _ = run(*compiled(case), params)
    assert_equal(scanned, looped, atol=case.rounding)


@every_case
def test_vmap_equals_loop(case: Case):
    params, member = lanes()
    tx, together = _compiled_lanes(case.name)
    found, _ = run(optax.GradientTransformation(jax.vmap(tx.init), tx.update), together, params, 2)
    for n in range(4):
        alone, _ = run(*compiled(case), member(n), steps=2)
        assert_equal(jax.tree.map(lambda x, n=n: x[n], found), alone, atol=case.rounding)


@every_state
def test_donation(case: Case):
    """No buffer twice in a state, nor shared with the parameters or with the transformation."""
    params, tx = parameters(), case.make()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def one(params, state):
        updates, state = step(tx, params, state)
        return optax.apply_updates(params, updates), state

    expected, _ = run(*compiled(case), params, steps=2)
    for _ in range(2):  # the second run finds out whether the first destroyed the transformation
        mine = jax.tree.map(jnp.copy, params)
        donated, state = one(mine, tx.init(mine))
        donated, state = one(donated, state)
        assert_equal(donated, expected, atol=1e-6)


@every_state
def test_inject_hyperparams_equals_direct_and_changes_without_a_new_trace(case: Case):
    params, traces = parameters(), 0
    injected = optax.inject_hyperparams(case.factory, static_args=case.static)(**case.arguments)

    @jax.jit
    def one(params, state):
        nonlocal traces
        traces += 1
        return step(injected, params, state)

    direct, _ = run(*compiled(case), params, steps=2)
    through, _ = run(injected, one, params, steps=2)
    assert_equal(through, direct, atol=case.rounding)
    state = injected.init(params)
    before, _ = one(params, state)
    # At zero nothing collides, or moves: another update, whatever pairs the key has drawn.
    state.hyperparams[case.hyperparameter] *= 0
    after, _ = one(params, state)
    assert traces == 1
    for path in case.leaves:
        assert not np.array_equal(at(before, path), at(after, path))


@every_state
def test_multi_steps_sees_the_mean_gradient(case: Case):
    params = parameters()
    (tx, one), accumulated = compiled(case), optax.MultiSteps(case.make(), 2)
    value, grads = jax.value_and_grad(loss)(params)
    direct, _ = one(params, tx.init(params))
    update = jax.jit(lambda grads, state: accumulated.update(grads, state, params, value=value))
    state = accumulated.init(params)
    halves = [jax.tree.map(lambda x, f=f: f * x, grads) for f in (0.5, 1.5)]
    nothing, state = update(halves[0], state)
    together, state = update(halves[1], state)
    assert all(not bool(jnp.any(x)) for x in jax.tree.leaves(nothing))
    assert_equal(together, direct, atol=case.rounding)


@every_state
def test_masked_and_partition_leave_the_rest_alone(case: Case):
    params = parameters()
    grads = jax.grad(loss)(params)
    masked = optax.masked(case.make(), {"body": True, "frozen": None, "stack": False})
    labels = {"body": "ours", "frozen": None, "stack": "theirs"}
    partition = optax.partition({"ours": case.make(), "theirs": optax.identity()}, labels)
    results = []
    for tx in (masked, partition):
        updates, _ = step(tx, params, tx.init(params))
        assert_equal(updates["stack"], grads["stack"])
        assert not np.array_equal(updates["body"]["kernel"], grads["body"]["kernel"])
        results.append(updates)
    assert_equal(*results)


@every_case
def test_map_params(case: Case):
    params, tx = parameters(), case.make()
    chain = optax.chain(tx, optax.identity())
    state = chain.init(params)
    names = jax.tree.map(lambda _: "a leaf", params)
    same = optax.tree.map_params(chain, lambda leaf, name: leaf, state, names)
    assert_equal(same, state)


@every_case
def test_flax_serialization_resumes_bit_for_bit(case: Case):
    params, (tx, one) = parameters(), compiled(case)
    _, state = one(params, tx.init(params))
    restored = flax.serialization.from_bytes(tx.init(params), flax.serialization.to_bytes(state))
    assert_equal(one(params, restored), one(params, state))


@every_case
def test_sharded_equals_whole(case: Case):
    params, (tx, one) = parameters(), compiled(case)
    value, grads = jax.value_and_grad(loss)(params)
    expected, _ = one(params, tx.init(params))
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        specs = {
            "body": {"kernel": P("x", "y"), "bias": P("y")},
            "frozen": None,
            "stack": P(None, "x", "y"),
        }
        layout = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        params, grads = jax.device_put((params, grads), (layout, layout))
        state = jax.jit(tx.init)(params)
        update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v))
        updates, after = update(grads, state, params, value)
        assert_equal(updates, expected, atol=10 * case.rounding)
        assert types(updates) == types(params)
        assert types(after) == types(state)


@every_state
def test_sharded_init_with_out_shardings(case: Case):
    """The recipe for a state that lands where its parameters are."""
    params, tx = parameters(), case.make()
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    layout = jax.tree.map(lambda x: NamedSharding(mesh, P("x")), params)
    layout["stack"] = NamedSharding(mesh, P(None, "x"))
    params = jax.device_put(params, layout)
    everywhere = NamedSharding(mesh, P())
    shardings = optax.tree.map_params(
        tx,
        # Statistics have a small vector where the parameters have a leaf.
        lambda leaf, param, sharding: sharding if leaf.shape == param.shape else everywhere,
        jax.eval_shape(tx.init, params),
        params,
        layout,
        transform_non_params=lambda _: everywhere,
    )
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert_equal(state, case.make().init(parameters()))
    updates, _ = jax.jit(lambda p, s: step(tx, p, s))(params, state)
    tx, one = compiled(case)
    expected, _ = one(parameters(), tx.init(parameters()))
    assert_equal(updates, expected, atol=10 * case.rounding)


@every_odd_leaf
def test_odd_leaves_pass(case: Case):
    """Integers, 0-d, empty, single neurons: no NaN, and untouched where nothing can move them."""
    params = {
        "integer": jnp.arange(6).reshape(2, 3),
        "scalar": jnp.float32(2.0),
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "masked": optax.MaskedNode(),
        "one neuron": jnp.ones((4, 1)),
        "kernel": registry.parameters()["body"]["kernel"],
    }
    floating = {name: params[name] for name in ("scalar", "empty", "one neuron", "kernel")}
    grads = jax.tree.map(jnp.zeros_like, params) | jax.grad(loss)(floating)
    tx = case.make()
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, value=loss(floating))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(updates))
    assert_equal(updates["integer"], grads["integer"])
    if not case.needs_value:
        for name in ("scalar", "empty", "one neuron"):
            assert_equal(updates[name], grads[name])


@every_case
def test_lowers_for_accelerators(case: Case):
    """No operation that a GPU or a TPU lacks; nothing is run."""
    params, tx = parameters(jnp.bfloat16), case.make()

    def update(params, state):
        return step(tx, params, state)

    shapes = jax.eval_shape(lambda: (params, tx.init(params)))
    exported = jax.export.export(jax.jit(update), platforms=("cuda", "tpu"))(*shapes)
    assert exported.platforms == ("cuda", "tpu")


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(
            case, dtype, id=f"{case.name}-{dtype}", marks=[] if case.needs_value else slow_if(case)
        )
        for case in CASES
        for dtype in (["bfloat16"] if case.is_variant else ["bfloat16", "float32"])
    ],
)
def test_strict_promotion(case: Case, dtype):
    """With ranks and types that must agree, as some code bases ask: the same program."""
    params, tx = parameters(dtype), case.make()
    value, grads = jax.value_and_grad(loss)(params)

    def programs():
        state = tx.init(params)

        def update(grads, state, params, value):
            return tx.update(grads, state, params, value=value)

        first, (_, state) = jax.make_jaxpr(update, return_shape=True)(grads, state, params, value)
        return str(first), str(jax.make_jaxpr(update)(grads, state, params, value))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = programs()
    assert strict == programs()


@pytest.mark.slow
@every_state
def test_an_nnx_model_with_sharding_metadata(case: Case):
    """Flax copies a parameter's metadata onto whatever stands in its place in the state."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x", "y"))
    with jax.set_mesh(mesh):

        @nnx.jit
        def create():
            model = nnx.Linear(8, 4, kernel_init=init, rngs=nnx.Rngs(0))
            return model, nnx.Optimizer(model, case.make(), wrt=nnx.Param)

        @nnx.jit
        def one(model, optimizer):
            value, grads = nnx.value_and_grad(lambda m: jnp.mean((m(jnp.ones((6, 8))) - 1) ** 2))(
                model
            )
            optimizer.update(model, grads, value=value)
            return value

        model, optimizer = create()
        values = [float(one(model, optimizer)) for _ in range(3)]
    plain = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    reference = nnx.Optimizer(plain, case.make(), wrt=nnx.Param)
    expected = [float(one(plain, reference)) for _ in range(3)]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    if case.needs_params:
        assert list(kinopt.collision_stats(optimizer.opt_state)) == ["kernel"]


@every_state
def test_a_linen_train_state_with_boxed_parameters(case: Case):
    """The recipe of Flax: the sharding of a whole train state, from the boxes of its parameters."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "x"))
    net, x, tx = nn.Dense(4, kernel_init=boxed), jnp.ones((6, 8)), case.make()

    def create():
        params = net.init(jax.random.key(0), x)["params"]
        return TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    @jax.jit
    def one(state):
        def loss(params):
            return jnp.mean((net.apply({"params": params}, x) - 1) ** 2)

        value, grads = jax.value_and_grad(loss)(state.params)
        updates, opt_state = state.tx.update(grads, state.opt_state, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), value

    def losses(state):
        values = []
        for _ in range(3):
            state, value = one(state)
            values.append(float(value))
        return values

    whole = create()
    expected = losses(whole)
    shardings = nn.get_sharding(jax.eval_shape(create), mesh)
    with jax.set_mesh(mesh):
        parts = jax.device_put(whole, shardings)
        assert parts.params["kernel"].value.sharding.spec == P(None, "x")
        np.testing.assert_allclose(losses(parts), expected, rtol=1e-4)


@pytest.mark.slow
@every_state
def test_spmd_axis_name(case: Case):
    """Members of a `vmap` spread over a mesh axis, as a pipeline or an ensemble has them."""
    params, _ = lanes()
    tx, together = _compiled_lanes(case.name)
    state = jax.vmap(tx.init)(params)
    expected, _ = together(params, state)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        parts = jax.device_put((params, state), NamedSharding(mesh, P("x")))
        spread = jax.jit(jax.vmap(lambda p, s: step(tx, p, s)[0], spmd_axis_name="x"))
        assert_equal(spread(*parts), expected, atol=1e-5)
