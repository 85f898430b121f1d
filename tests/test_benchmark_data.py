"""The data sets and networks of the benchmarks."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import data, models


@pytest.mark.parametrize(("name", "count", "side"), [("digits", 1797, 8), ("mnist", 5000, 28)])
def test_images_are_scaled_and_split_by_class(name, count, side):
    split = data.load(name)
    assert len(split.train_labels) + len(split.test_labels) == count
    for images, labels in (split[:2], split[2:]):
        assert images.shape == (len(labels), side, side)
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert (images.min(), images.max()) == (0, 1)
        np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.1, atol=0.005)
    np.testing.assert_array_equal(data.load(name).test_labels, split.test_labels)
    assert (data.load(name, seed=1).test_labels != split.test_labels).any()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_full_mnist_is_read_plain_and_gzipped(tmp_path, monkeypatch):
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="Download the four files of MNIST"):
        data.load("mnist-full")
    images = np.arange(2 * 28 * 28).astype(np.uint8).reshape(2, 28, 28)
    labels = np.array([3, 9], np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(images))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:1])))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:1]))
    split = data.load("mnist-full")
    np.testing.assert_allclose(split.train_images, images / 255, rtol=1e-6)
    np.testing.assert_array_equal(split.train_labels, labels)
    assert split.test_images.shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "not an IDX file"), (idx(np.zeros(9, np.uint8))[:-1], "cut short")],
)
def test_a_broken_idx_file_is_refused(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(path)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="digits, mnist, mnist-full"):
        data.load("letters")


def test_the_linen_and_the_nnx_network_are_the_same():
    images = jnp.ones((2, 8, 8))
    params = models.MLP((5,)).init(jax.random.key(0), images)["params"]
    model = models.NnxMLP(64, (5,), rngs=nnx.Rngs(0))
    for layer, name in ((model.hidden[0], "Dense_0"), (model.head, "head")):
        layer.kernel[...] = params[name]["kernel"]
    expected = models.MLP((5,)).apply({"params": params}, images)
    np.testing.assert_allclose(model(images), expected, rtol=1e-5)


def test_the_convolutional_network_ends_in_a_head():
    images = jnp.ones((2, 28, 28))
    params = jax.eval_shape(models.ConvNet().init, jax.random.key(0), images)["params"]
    assert params["head"]["kernel"].shape == (128, 10)
