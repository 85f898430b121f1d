"""Which leaves collide, and which axes are neurons."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import kinopt
from kinopt.layers import NeuronAxes, collidable_leaves, from_neurons, leaf_paths, to_neurons


@settings(max_examples=8)
@given(st.data())
def test_a_leaf_survives_the_way_to_neurons_and_back(data):
    ndim = data.draw(st.integers(2, 4))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=ndim, max_size=ndim)))
    roles = data.draw(st.lists(st.sampled_from("bnf"), min_size=ndim, max_size=ndim))
    axes = {role: tuple(i for i, r in enumerate(roles) if r == role) for role in "bnf"}
    leaf = jnp.arange(float(np.prod(shape))).reshape(shape)
    neuron_axes = NeuronAxes(axes["n"], axes["f"])
    rows = to_neurons(leaf, neuron_axes)
    sizes = [int(np.prod([shape[i] for i in axes[role]])) for role in "bnf"]
    assert rows.shape == tuple(sizes)
    np.testing.assert_array_equal(from_neurons(rows, shape, neuron_axes), leaf)


def test_a_conv_neuron_is_one_output_channel():
    kernel = jnp.arange(3 * 3 * 2 * 5.0).reshape(3, 3, 2, 5)
    rows = to_neurons(kernel, NeuronAxes())
    np.testing.assert_array_equal(rows[0, 4], kernel[..., 4].ravel())


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (NeuronAxes(3), "does not have"),
        (NeuronAxes(0, 0), "twice"),
        (NeuronAxes((1, -1)), "twice"),
    ],
)
def test_axes_that_do_not_fit_name_the_leaf(axes, message):
    with pytest.raises(ValueError, match=message) as error:
        collidable_leaves({"head": {"kernel": jnp.zeros((2, 3))}}, None, axes)
    assert "head/kernel" in str(error.value)


def test_only_floating_matrices_with_partners_collide():
    params = {
        "bias": jnp.zeros(4),
        "kernel": jnp.zeros((3, 4)),
        "integers": jnp.zeros((3, 4), jnp.int32),
        "one neuron": jnp.zeros((3, 1)),
        "no features": jnp.zeros((0, 4)),
    }
    leaves = collidable_leaves(params, None, None)
    assert [leaf.path for leaf in leaves if leaf.axes] == ["kernel"]


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(5)(x)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(4, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.body(x)))


def test_linen_and_nnx_have_the_same_paths():
    linen = LinenNet().init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    state = nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param)
    assert "head/kernel" in leaf_paths(linen)
    assert "head/kernel" in leaf_paths(state)
    assert leaf_paths(state) == leaf_paths(nnx.as_pure(state))


def test_a_field_called_value_keeps_its_name():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Attention:
        query: jax.Array
        value: jax.Array

    assert leaf_paths(Attention(jnp.zeros(1), jnp.zeros(1))) == ["query", "value"]


def test_layer_mask_finds_lists_and_refuses():
    params = {"body": [{"kernel": jnp.zeros((2, 2))}, {"kernel": jnp.zeros((2, 2))}], "none": None}
    mask = kinopt.layer_mask("body/1", "nothing")(params)
    assert mask == {"body": [{"kernel": False}, {"kernel": True}], "none": None}
    with pytest.raises(ValueError, match=r"layer_mask\('haed'\).*body/0/kernel, body/1/kernel"):
        kinopt.layer_mask("haed")(params)
    with pytest.raises(ValueError, match="regular expressions"):
        kinopt.layer_mask()
    assert kinopt.layer_mask("haed")({}) == {}
    assert kinopt.layer_mask("haed")(optax.MaskedNode()) == optax.MaskedNode()


def test_masks_as_trees_prefixes_and_functions_agree():
    params = {"a": {"k": jnp.zeros((2, 3))}, "b": [jnp.zeros((2, 3)), None]}
    expected = [True, False]
    for mask in (
        {"a": {"k": True}, "b": [False, None]},
        {"a": True, "b": False},
        lambda params: {"a": True, "b": False},
        kinopt.layer_mask("a/"),
    ):
        leaves = collidable_leaves(params, mask, None)
        assert [leaf.axes is not None for leaf in leaves] == expected
    with pytest.raises(ValueError, match="mask must be a tree"):
        collidable_leaves(params, {"c": True}, None)


def test_neuron_axes_as_prefixes_with_defaults_and_muon_numbers():
    params = {"a": jnp.zeros((4, 2, 3)), "b": jnp.zeros((4, 3))}
    (a, b) = collidable_leaves(params, None, {"a": NeuronAxes(2, 0), "b": None})
    assert (a.sizes, b.sizes) == ((2, 3, 4), (1, 3, 4))
    muon = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=2)
    (a, _) = collidable_leaves(params, None, {"a": muon, "b": None})
    assert a.sizes == (2, 3, 4)
    (a, b) = collidable_leaves(params, None, lambda params: NeuronAxes(0))
    assert (a.sizes, b.sizes) == ((1, 4, 6), (1, 4, 3))
