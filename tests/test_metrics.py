"""The measures of condensation against loops, closed forms and extreme scales."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.oracle as oracle
from kinopt import metrics
from kinopt.layers import NeuronAxes, layer_mask

MEASURES = [
    metrics.neuron_similarity,
    metrics.weight_correlation,
    metrics.entropy,
    metrics.effective_rank,
]


def stacked(w):
    """All four numbers of a layer, in the order of `MEASURES`."""
    return jnp.stack([measure(w) for measure in MEASURES])


measure_all = jax.jit(stacked, compiler_options={"xla_backend_optimization_level": 0})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def off_diagonal_cosines(w):
    """|cos| of all ordered pairs, by the oracle's loop."""
    return np.array(
        [abs(oracle.cosine(w[i], w[j])) for i in range(len(w)) for j in range(len(w)) if i != j]
    )


def test_agree_with_loops():
    w = normal(7, 5)
    w[3] = 0
    expected = np.array([[oracle.cosine(a, b) for b in w] for a in w])
    pairs = off_diagonal_cosines(w)
    with jax.enable_x64(True):
        w = jnp.asarray(w)
        np.testing.assert_allclose(metrics.cosine_similarity(w), expected, atol=1e-15)
        similarity, correlation, *_ = measure_all(w)
        assert abs(similarity - pairs.max()) < 1e-14
        assert abs(correlation - pairs.mean()) < 1e-14


def test_entropy_is_that_of_the_singular_values():
    w = normal(6, 4)
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    p = np.linalg.svd(unit, compute_uv=False)
    p /= p.sum()
    with jax.enable_x64(True):
        _, _, entropy, effective_rank = measure_all(jnp.asarray(w))
        assert abs(entropy + (p * np.log(p)).sum()) < 1e-13
        assert abs(effective_rank - np.prod(p**-p)) < 1e-12


def test_order_and_disorder():
    """Section 3.5: entropy 0 when all neurons are alike, its maximum when they are random."""
    neurons = 16
    alike = np.outer(normal(neurons), normal(2000, seed=1))  # parallel and antiparallel
    orthogonal = np.linalg.qr(normal(2000, neurons))[0].T
    random = normal(neurons, 2000)
    clusters = orthogonal[np.arange(neurons) % 4]
    alike, orthogonal, random, clusters = map(jnp.asarray, (alike, orthogonal, random, clusters))
    _, alike_correlation, alike_entropy, _ = measure_all(alike)
    assert alike_entropy < 1e-4
    assert abs(alike_correlation - 1) < 1e-5
    _, orthogonal_correlation, orthogonal_entropy, _ = measure_all(orthogonal)
    assert abs(orthogonal_entropy - np.log(neurons)) < 1e-5
    assert orthogonal_correlation < 1e-6
    _, random_correlation, random_entropy, _ = measure_all(random)
    assert np.log(neurons) - 0.01 < random_entropy < np.log(neurons)
    assert abs(measure_all(clusters)[3] - 4) < 1e-3
    # mean |cos| of independent Gaussian neurons: sqrt(2 / (pi D)), give or take 5 standard errors
    expected = np.sqrt(2 / (np.pi * 2000))
    error = expected * np.sqrt((np.pi / 2 - 1) / (neurons * (neurons - 1) / 2))
    assert abs(random_correlation - expected) < 5 * error


def test_rounding_makes_no_cosine_above_one():
    """The products of 500 unit vectors with themselves: many are 1 and a digit."""
    w = np.float32(normal(500, 7))
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    assert np.any(np.sum(unit * unit, axis=1) > 1)
    assert np.max(np.abs(metrics.cosine_similarity(jnp.asarray(w)))) == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25, 1e30])
def test_rows_of_any_norm(scale):
    w = jnp.asarray(normal(6, 8), jnp.float32)
    scaled = w.at[::2].multiply(scale)
    np.testing.assert_allclose(
        metrics.cosine_similarity(scaled), metrics.cosine_similarity(w), atol=1e-6
    )
    np.testing.assert_allclose(measure_all(scaled), measure_all(w), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5), (6, 8), (0, 5), (3, 0)])
def test_zeros_and_degenerate_shapes(shape):
    assert measure_all(jnp.zeros(shape)).tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(
        metrics.cosine_similarity(jnp.zeros(shape)), np.zeros((shape[0], shape[0]))
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("measure", [metrics.cosine_similarity, measure_all])
def test_accumulates_in_float32(measure, dtype):
    w = jnp.asarray(normal(6, 300), dtype)
    result = measure(w)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, measure(w.astype(jnp.float32)))


@pytest.mark.parametrize("measure", [metrics.cosine_similarity, stacked])
def test_jit_and_vmap(measure):
    batch = jnp.asarray(normal(3, 6, 8), jnp.float32)
    one = jax.jit(measure)
    expected = np.stack([one(w) for w in batch])
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(batch), expected, rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.sampled_from([-1e3, -1.0, 1e-3, 1.0, 7.0]), min_size=5, max_size=5),
)
def test_invariant_to_order_length_and_sign_of_neurons(seed, lengths):
    w = np.float32(normal(5, 4, seed=seed))
    order = np.random.default_rng(seed).permutation(5)
    other = (np.float32(lengths)[:, None] * w)[order]
    similarity, correlation, entropy, rank = measure_all(w)
    np.testing.assert_allclose(
        measure_all(other), [similarity, correlation, entropy, rank], atol=3e-5
    )
    assert 0 <= correlation <= similarity <= 1
    assert -1e-6 <= entropy <= np.log(4) + 1e-6


class TestReport:
    """`report`: which layers, which numbers, how they print."""

    params = {  # noqa: RUF012
        "body": {"kernel": np.float32(normal(8, 5)), "bias": np.zeros(5, np.float32)},
        "head": {"kernel": np.float32(normal(5, 3)), "steps": np.ones((3, 3), int)},
    }

    def test_one_row_for_each_layer(self):
        table = metrics.report(self.params)
        assert list(table) == ["body/kernel", "head/kernel"]
        w = jnp.asarray(self.params["body"]["kernel"].T)
        row = table["body/kernel"]
        assert row[:2] == w.shape
        np.testing.assert_allclose(
            [row.neuron_similarity, row.weight_correlation, row.entropy, row.effective_rank],
            measure_all(w),
            rtol=1e-5,
        )

    def test_mask(self):
        assert list(metrics.report(self.params, layer_mask("head"))) == ["head/kernel"]
        mask = {"body": True, "head": False}
        assert list(metrics.report(self.params, mask)) == ["body/kernel"]

    def test_batch_axes_are_averaged_and_the_largest_similarity_kept(self):
        stack = {"heads": np.float32(normal(4, 6, 3))}  # 4 heads of 3 neurons
        row = metrics.report(stack, neuron_axes=NeuronAxes(2, 1))["heads"]
        slices = [metrics.report({"head": head})["head"] for head in stack["heads"]]
        assert (row.neurons, row.features) == (3, 6)
        for name, combine in [
            ("weight_correlation", np.mean),
            ("neuron_similarity", np.max),
            ("effective_rank", np.mean),
            ("entropy", np.mean),
        ]:
            expected = combine([getattr(part, name) for part in slices])
            assert abs(getattr(row, name) - expected) < 1e-5, name

    def test_text_is_aligned_and_complete(self):
        table = metrics.report(self.params)
        lines = str(table).split("\n")
        assert len(lines) == 3
        assert len({len(line) for line in lines}) == 1
        assert lines[2].startswith("head/kernel")
        assert f"{table['head/kernel'].entropy:.3f}" in lines[2]

    def test_html(self):
        page = metrics.report({"<layer>": self.params["head"]["kernel"]})._repr_html_()
        assert page.count("<tr>") == 2
        assert "&lt;layer&gt;" in page

    def test_near_copies_are_neurons_with_a_twin(self):
        """Of six neurons two are alike, one is the opposite of another, two stand at cos .899."""
        tilted = [0, 0, 0.899, np.sqrt(1 - 0.899**2)]
        w = np.array([[1, 0, 0, 0], [5, 0.1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], tilted])
        row = metrics.report({"w": np.float32(w).T})["w"]
        assert abs(row.near_copies - 2 / 5) < 1e-6
        w[4] = [0, 0, 0.901, np.sqrt(1 - 0.901**2)]
        assert abs(metrics.report({"w": np.float32(w).T})["w"].near_copies - 4 / 5) < 1e-6

    def test_gradients_are_told_apart(self):
        g = np.zeros((8, 5), np.float32)
        table = metrics.report(self.params, grads=jax.tree.map(np.zeros_like, self.params))
        assert table["body/kernel"][-2:] == (1.0, 0.0)
        g[:, 1:3] = np.float32(normal(8, 1, seed=3))  # two of five neurons, alike
        grads = {"body": {"kernel": g, "bias": None}, "head": {"kernel": None, "steps": None}}
        table = metrics.report(self.params, grads=grads)
        np.testing.assert_allclose(table["body/kernel"][-2:], (3 / 5, 2 / 5), rtol=1e-6)
        assert table["head/kernel"][-2:] == (1.0, 0.0)
        assert str(table).split("\n")[0].endswith("copies  no grad  common g")
        g[1:, 3] = 2  # but for one entry: a gradient
        table = metrics.report(self.params, grads={"body": {"kernel": g}, "head": None})
        np.testing.assert_allclose(table["body/kernel"].without_gradient, 2 / 5, rtol=1e-6)
        w = np.float32(normal(8, 5, seed=4))
        expected = 5 * np.sum(w.mean(axis=1) ** 2) / np.sum(w**2)
        for scale in (1, 1e-30, 1e30):
            row = metrics.report({"w": w}, grads={"w": w * np.float32(scale)})["w"]
            np.testing.assert_allclose(row.common_mode, expected, rtol=1e-5)
        half = metrics.report({"w": w}, grads={"w": jnp.asarray(60000 + 0 * w, jnp.float16)})["w"]
        np.testing.assert_allclose(half.common_mode, 1, rtol=1e-3)
        with pytest.raises(ValueError, match="grads must be a tree like params; at 'w'"):
            metrics.report({"w": w}, grads={"w": w.T})

    @pytest.mark.slow
    def test_a_whole_equinox_model(self):
        model = eqx.nn.MLP(3, 4, 6, 1, key=jax.random.key(0))
        grads = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(3))))(model)
        table = metrics.report(model, neuron_axes=NeuronAxes(0), grads=grads)
        assert list(table) == ["layers/0/weight", "layers/1/weight"]
        assert table["layers/0/weight"][:2] == (6, 3)
        alone = metrics.report({"w": model.layers[0].weight}, neuron_axes=NeuronAxes(0))["w"]
        assert table["layers/0/weight"][:7] == alone[:7]
        assert table["layers/1/weight"].common_mode > 0.99  # every output is pushed alike
        assert metrics.report({"w": jnp.eye(3), "f": jnp.tanh, "n": None, "s": "x"}).keys() == {"w"}

    def test_nothing_to_report(self):
        assert metrics.report({}) == {}
        assert len(str(metrics.report({})).split("\n")) == 1


@pytest.mark.slow
def test_derivative_of_neurons_computed_in_the_same_program():
    """The scale of a neuron takes no part: that of a maximum is NaN where rounding finds none."""

    def slope(key):
        common, own = jax.random.split(key)
        w = jax.random.normal(common, (1, 8)) + 0.3 * jax.random.normal(own, (16, 8))
        return w, jax.jvp(metrics.weight_correlation, (w,), (w[::-1],))[1]

    w, slopes = jax.jit(jax.vmap(slope))(jax.random.split(jax.random.key(0), 8))
    w, step = np.asarray(w, np.float64), 1e-5
    with jax.enable_x64():
        ends = [jax.vmap(metrics.weight_correlation)(w + h * w[:, ::-1]) for h in (-step, step)]
        expected = (ends[1] - ends[0]) / (2 * step)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)


@pytest.mark.slow
def test_complex_neurons_have_a_hermitian_product():
    """A phase is no difference; the real and imaginary parts alone say something else."""
    a, b = normal(2, 4) + 1j * normal(2, 4, seed=1)
    w = jnp.asarray([a, 3j * a, b], jnp.complex64)
    cosines = metrics.cosine_similarity(w)
    inner = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(cosines[0, 2], inner, atol=1e-6)
    np.testing.assert_allclose(cosines[0, 1], 1j, atol=1e-6)
    np.testing.assert_allclose(cosines, cosines.conj().T, atol=1e-6)
    np.testing.assert_allclose(metrics.neuron_similarity(w), 1, atol=1e-6)
    expected = (1 + 2 * abs(inner)) / 3
    np.testing.assert_allclose(metrics.weight_correlation(w), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.effective_rank(w[:2]), 1, atol=1e-3)
    assert metrics.entropy(w).dtype == jnp.float32
    assert metrics.cosine_similarity(jnp.zeros((2, 3), jnp.complex64)).tolist() == [[0, 0], [0, 0]]


def test_under_strict_promotion():
    w = jnp.asarray(normal(4, 6), jnp.float32)
    z = jax.lax.complex(w, w)

    def programs():
        return [
            str(jax.make_jaxpr(lambda w: stacked(w))(w)),
            str(jax.make_jaxpr(lambda z: metrics.cosine_similarity(z))(z)),
        ]

    with jax.numpy_dtype_promotion("strict"):
        metrics.report({"w": w}, grads={"w": w})
    expected = programs()
    with jax.numpy_dtype_promotion("strict"):
        assert programs() == expected
