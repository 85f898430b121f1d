"""The data sets and networks of the benchmarks."""

import dataclasses
import gzip
import io
import shutil
import struct
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from benchmarks import data, models
from benchmarks.data import formats
from benchmarks.experiments import UsageError


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The data folder, empty, where checksums of official files do not count."""
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(data, "MNIST_MD5", dict.fromkeys(data.MNIST_MD5))
    return tmp_path


def test_full_mnist_is_read_plain_and_gzipped(folder):
    with pytest.raises(FileNotFoundError, match="Download the four files of MNIST"):
        data.load("mnist-full")
    images = np.arange(2 * 28 * 28).astype(np.uint8).reshape(2, 28, 28)
    labels = np.array([3, 9], np.uint8)
    mnist = folder / "mnist"
    mnist.mkdir()
    (mnist / "train-images-idx3-ubyte").write_bytes(idx(images))
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), mtime=0))
    (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:1]), mtime=0))
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:1]))
    split = data.load("mnist-full")
    np.testing.assert_allclose(split.train_images, images / 255, rtol=1e-6)
    np.testing.assert_array_equal(split.train_labels, labels)
    assert split.test_images.shape == (1, 28, 28)
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(UsageError, match="do not fit"):
        data.load("mnist-full")
    (mnist / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([10], np.uint8)))
    with pytest.raises(UsageError, match="labels from 0 to 9"):
        data.load("mnist-full")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not an IDX file"),
        (idx(np.zeros(9, np.uint8))[:-1], "cut short"),
        (gzip.compress(idx(np.zeros(9, np.uint8)), mtime=0)[:-9], "cannot be unpacked"),
        (idx(np.zeros(9, np.uint8)), "MD5 checksum"),
    ],
)
def test_a_broken_idx_file_is_refused(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        formats.read_idx(path, md5="0")


def cifar_files(name: str) -> tuple[data.Cifar, dict[str, bytes], np.ndarray]:
    """A CIFAR data set of two images in each file: its layout, its files, its training images."""
    cifar = data.CIFAR[name]._replace(records=2, test_records=2, md5=None)
    random = np.random.default_rng(0)
    files, images = {}, []
    for file in [*cifar.train, cifar.test]:
        pixels = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
        planes = pixels.transpose(0, 3, 1, 2).reshape(2, -1)
        labels = np.array([[99], [cifar.num_classes - 1]], np.uint8)[-cifar.num_labels :].T
        files[file] = b"".join(bytes(row) for row in np.c_[labels.repeat(2, 0), planes])
        images.append(pixels)
    return cifar, files, np.concatenate(images[:-1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_is_read_in_its_binary_version(folder, monkeypatch, name, packed):
    cifar, files, images = cifar_files(name)
    monkeypatch.setitem(data.CIFAR, name, cifar)
    with pytest.raises(FileNotFoundError, match="the binary version"):
        data.load(name)
    inside = folder / cifar.folder / cifar.inside
    inside.mkdir(parents=True)
    for file, content in files.items():
        (inside / file).write_bytes(content)
    if packed:
        with tarfile.open(folder / cifar.folder / cifar.archive, "w:gz") as archive:
            archive.add(inside, cifar.inside)
        shutil.rmtree(inside)
    split = data.load(name)
    np.testing.assert_array_equal(split.train_images, images)
    assert split.test_images.shape == (2, 32, 32, 3)
    assert set(split.train_labels) == {cifar.num_classes - 1}
    if packed:
        monkeypatch.setitem(data.CIFAR, name, cifar._replace(md5="0"))
        with pytest.raises(UsageError, match="MD5 checksum"):
            data.load(name)
    else:
        (inside / cifar.train[0]).write_bytes(b"short")
        with pytest.raises(UsageError, match="2 records"):
            data.load(name)
        (inside / cifar.train[0]).unlink()
        with pytest.raises(FileNotFoundError, match="unpack again"):
            data.load(name)


def test_cifar_labels_are_checked():
    with pytest.raises(UsageError, match="labels from 0 to 9"):
        formats.read_cifar("file", bytes([10] * 3073), 1, 10, 1)


def test_an_archive_that_is_none_is_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="cannot be unpacked"):
        formats.read_members(path, ["data_batch_1.bin"])
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(UsageError, match=r"does not contain data_batch_1\.bin"):
        formats.read_members(path, ["data_batch_1.bin"])


def picture(side: tuple[int, int], color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", side, color)


def test_packed_jpegs_are_read(folder):
    packed, offsets = b"", [0]
    for color in ((250, 0, 0), (0, 0, 250)):
        file = io.BytesIO()
        picture((32, 32), color).save(file, "JPEG")
        packed += file.getvalue()
        offsets.append(len(packed))
    part = {
        "jpeg": np.frombuffer(packed, np.uint8),
        "offsets": np.array(offsets),
        "labels": np.array([3, 9], np.uint8),
    }
    path = folder / "cifar10" / "cifar10_jpeg.npz"
    path.parent.mkdir()
    np.savez(path, **{f"{name}_{key}": part[key] for name in ("train", "test") for key in part})
    split = data.load("cifar10-jpeg")
    assert split.train_images.shape == (2, 32, 32, 3)
    assert split.train_images[0, 0, 0, 0] > 240 > 10 > split.train_images[1, 0, 0, 0]
    np.testing.assert_array_equal(split.test_labels, [3, 9])
    assert len(formats.read_jpegs(path, "train", (32, 32), 10, most=1)[1]) == 1
    np.savez(path, train_jpeg=part["jpeg"])
    with pytest.raises(UsageError, match="not the archive"):
        data.load("cifar10-jpeg")


def test_an_object_array_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "bad.npz", train_jpeg=np.array([{}], object))
    with pytest.raises(UsageError, match="not the archive"):
        formats.read_jpegs(tmp_path / "bad.npz", "train", (32, 32), 10)


def test_texts_are_read(folder):
    with pytest.raises(FileNotFoundError, match="Coucke"):
        data.load_texts("snips")
    (folder / "snips").mkdir()
    rows = 'text\tintent\nplay "One"\tPlayMusic\nrain?\tGetWeather\n'
    for part in ("train", "validation"):
        (folder / "snips" / f"{part}.tsv").write_text(rows)
    split = data.load_texts("snips")
    assert split.train_texts == ['play "One"', "rain?"]
    assert split.classes == ["GetWeather", "PlayMusic"]
    np.testing.assert_array_equal(split.test_labels, [1, 0])
    with pytest.raises(FileNotFoundError, match="VADER"):
        data.load_texts("movies")
    (folder / "movie_sentences").mkdir()
    movies = "text\tpositive\n" + "good\t1\nbad\t0\n" * 8
    (folder / "movie_sentences" / "all.tsv").write_text(movies)
    split = data.load_texts("movies")
    assert (len(split.train_texts), len(split.test_texts)) == (12, 4)
    assert [split.classes[label] for label in split.train_labels] == [
        {"good": "positive", "bad": "negative"}[text] for text in split.train_texts
    ]
    (folder / "movie_sentences" / "all.tsv").write_text("text\tpositive\nso\tmaybe\n")
    with pytest.raises(UsageError, match="maybe"):
        data.load_texts("movies")


def test_the_manual_needs_no_download():
    split = data.load_texts("manual")
    assert len(split.classes) >= 3
    assert min(np.bincount(split.train_labels)) >= 5
    assert all(len(text.split()) > 4 for text in split.train_texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\tb\n", "begins with"), ("text\tintent\n", "no rows"), ("text\tintent\nx\n", "2 columns")],
)
def test_a_broken_tsv_is_refused(tmp_path, content, message):
    (tmp_path / "file.tsv").write_text(content)
    with pytest.raises(UsageError, match=message):
        formats.read_tsv(tmp_path / "file.tsv", ("text", "intent"))


def test_image_folders_give_their_names_as_classes(tmp_path):
    for label, color in (("cat", (255, 0, 0)), ("dog", (0, 255, 0))):
        (tmp_path / label).mkdir()
        picture((8, 12), color).save(tmp_path / label / "1.png")
    images, labels, classes = formats.read_folder(tmp_path, side=4)
    assert images.shape == (2, 4, 4, 3)
    assert (classes, labels.tolist()) == (["cat", "dog"], [0, 1])
    assert images[1, 0, 0].tolist() == [0, 255, 0]


def test_labels_may_stand_in_the_file_s_name(tmp_path):
    for name in ("cifar10_00_10", "cifar10_01_3", "cifar10_02_10"):
        picture((4, 4), (0, 0, 0)).save(tmp_path / f"{name}.png")
    _, labels, classes = formats.read_folder(tmp_path, 4, "cifar10_*")
    assert (classes, labels.tolist()) == (["3", "10"], [1, 0, 1])
    (tmp_path / "cat_1.png").write_bytes(b"<html>")
    with pytest.raises(UsageError, match=r"cat_1\.png is not an image"):
        formats.read_folder(tmp_path, 4, "cat_*")
    with pytest.raises(UsageError, match="no PNG or JPEG"):
        formats.read_folder(tmp_path, 4, "mouse_*")
    picture((4, 4), (0, 0, 0)).save(tmp_path / "mouse.png")
    with pytest.raises(UsageError, match="end in its label"):
        formats.read_folder(tmp_path, 4, "mouse*")


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


def test_missing_data_is_reported_before_anything_is_measured(tmp_path, monkeypatch):
    from benchmarks.evidence import when
    from benchmarks.ko import images, text

    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    for module, names in ((when, {"data": ("digits", "snips")}), (text, {"texts": ("snips",)})):
        settings = dataclasses.replace(module.PRESETS["laptop"], **names)
        with pytest.raises(FileNotFoundError, match=r"Download .* folder snips/.*--data-dir"):
            next(iter(module.run(settings)))
    settings = dataclasses.replace(images.PRESETS["laptop"], data=("digits", "cifar10"))
    with pytest.raises(FileNotFoundError, match="cifar10"):
        next(iter(images.run(settings)))
