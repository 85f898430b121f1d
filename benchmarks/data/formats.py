"""Readers of public file formats: IDX, the CIFAR binary version, packed JPEG, TSV, image folders.

Every reader checks what it can: sizes, the range of labels, and a checksum where the official one
is known. What fails is a `UsageError` that says what to do. Nothing is ever unpickled.
"""

import csv
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.experiments import UsageError

__all__ = [
    "check_labels",
    "check_md5",
    "read_cifar",
    "read_folder",
    "read_idx",
    "read_jpegs",
    "read_members",
    "read_tsv",
]

CIFAR_SIDE = 32
IDX_BYTES = b"\x00\x00\x08"
GZIP = b"\x1f\x8b"
AGAIN = "The file is damaged or another one: download it again."


def check_md5(name: str, content: bytes, expected: str | None) -> None:
    """Compares with the official checksum, where there is one.

    Raises:
        UsageError: The file is not the official one.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected is not None and found != expected:
        raise UsageError(f"{name} has the MD5 checksum {found}, not {expected}. {AGAIN}")


def check_labels(name: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels as int32.

    Raises:
        UsageError: One of them is no class, or there is none.
    """
    if labels.size == 0 or labels.max() >= num_classes or labels.min() < 0:
        raise UsageError(f"{name} should hold labels from 0 to {num_classes - 1}. {AGAIN}")
    return labels.astype(np.int32)


def read_idx(path: Path, md5: str | None = None) -> np.ndarray:
    """The array in an IDX file of unsigned bytes, plain or gzipped.

    Two zero bytes, the type (8: unsigned byte), the number of axes, their lengths as big-endian
    32-bit integers, then the values.

    Args:
        path: The file.
        md5: The checksum of the plain file: gzip's own bytes differ from one copy to the next.

    Raises:
        UsageError: The file is something else, is cut short, or fails its checksum.
    """
    content = path.read_bytes()
    if content[:2] == GZIP:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{path.name} cannot be unpacked ({error}). {AGAIN}") from None
    if content[:3] != IDX_BYTES:
        raise UsageError(f"{path.name} is not an IDX file of unsigned bytes. {AGAIN}")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">i4")
    values = np.frombuffer(content[start:], dtype=np.uint8)
    if values.size != shape.prod():
        raise UsageError(
            f"{path.name} should hold {shape.prod()} bytes of data and holds {values.size}: "
            "the download was cut short, try again."
        )
    check_md5(path.name, content, md5)
    return values.reshape(shape)


def read_cifar(
    name: str, content: bytes, num_labels: int, num_classes: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 32, 32, 3] and labels [count] of one file of the CIFAR binary version.

    A record is one label (CIFAR-10) or two (CIFAR-100: coarse, then fine; the last one is used),
    then the red, the green and the blue pixels, row by row.

    Raises:
        UsageError: The file does not hold `count` records, or a label is no class.
    """
    record = num_labels + 3 * CIFAR_SIDE**2
    if len(content) != count * record:
        raise UsageError(
            f"{name} should hold {count} records of {record} bytes and has {len(content)} bytes. "
            f"{AGAIN}"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, record)
    labels = check_labels(name, records[:, num_labels - 1], num_classes)
    pixels = records[:, num_labels:].reshape(count, 3, CIFAR_SIDE, CIFAR_SIDE)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels


def read_members(path: Path, names: Iterable[str], md5: str | None = None) -> dict[str, bytes]:
    """The named files of a tar archive (in whichever folder), compressed or not.

    Raises:
        UsageError: It is no archive, fails its checksum, or a file is not in it.
    """
    content = path.read_bytes()
    check_md5(path.name, content, md5)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    found[Path(member.name).name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path.name} cannot be unpacked ({error}). {AGAIN}") from None
    if missing := [name for name in names if name not in found]:
        raise UsageError(f"{path.name} does not contain {', '.join(missing)}. {AGAIN}")
    return {name: found[name] for name in names}


def read_jpegs(
    path: Path, part: str, shape: tuple[int, int], num_classes: int, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, *shape, 3] and labels [n] of one part of an npz of JPEG files back to back.

    `{part}_jpeg` holds all files as bytes, `{part}_offsets` [n + 1] where each begins,
    `{part}_labels` [n] the classes. `most` ends after so many images.

    Raises:
        UsageError: The file is no such archive, or an image has another size.
    """
    from PIL import Image

    try:
        with np.load(path, allow_pickle=False) as archive:
            packed, offsets, labels = (
                archive[f"{part}_{name}"] for name in ("jpeg", "offsets", "labels")
            )
        if len(offsets) != len(labels) + 1 or offsets[-1] != len(packed):
            raise ValueError("offsets and labels do not fit")
        labels = labels[:most]
        images = np.empty((len(labels), *shape, 3), np.uint8)
        for n in range(len(labels)):
            jpeg = packed[offsets[n] : offsets[n + 1]].tobytes()
            images[n] = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    except (ValueError, KeyError, OSError, zlib.error) as error:
        raise UsageError(
            f"{path.name} is not the archive it should be ({error}). {AGAIN}"
        ) from None
    return images, check_labels(path.name, labels, num_classes)


def read_tsv(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of a tab-separated file whose first line is `columns`. Quotes are plain characters.

    Raises:
        UsageError: The header or a row is another one, or there are no rows.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) or [[]]
    if header != list(columns):
        raise UsageError(f"{path.name} begins with {header}, not with {list(columns)}. {AGAIN}")
    if not rows or any(len(row) != len(columns) or not all(row) for row in rows):
        raise UsageError(
            f"{path.name} has no rows, or rows without {len(columns)} columns. {AGAIN}"
        )
    return [tuple(row) for row in rows]


def read_folder(
    folder: Path, side: int, pattern: str = "*/*"
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images [n, side, side, 3], labels [n] and class names of a folder of PNG or JPEG files.

    The class is the name of the file's folder (`dog/1.png`), the order alphabetical; files that lie
    in `folder` itself end in their label (`cifar10_00_3.png`, as foolbox ships them). The shorter
    edge is brought to `side`, then the middle is cut out.

    Args:
        folder: Where to look.
        side: Of the images returned.
        pattern: Which files; `*/*` for class folders.

    Raises:
        UsageError: There are no images, or a name without a label.
    """
    from PIL import Image, ImageOps

    paths = [p for p in sorted(folder.glob(pattern)) if p.suffix in (".png", ".jpg", ".jpeg")]
    if not paths:
        raise UsageError(f"There are no PNG or JPEG files {pattern} in {folder}.")
    names = [path.parent.name if path.parent != folder else _label(path) for path in paths]
    classes = sorted(
        set(names), key=lambda name: (len(name), name) if name.isdigit() else (0, name)
    )
    images = np.empty((len(paths), side, side, 3), np.uint8)
    for n, path in enumerate(paths):
        try:
            images[n] = np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (side, side)))
        except OSError as error:
            raise UsageError(f"{path.name} is not an image ({error}). {AGAIN}") from None
    return images, np.array([classes.index(name) for name in names], np.int32), classes


def _label(path: Path) -> str:
    found = re.search(r"_(\d+)$", path.stem)
    if found is None:
        raise UsageError(f"{path.name} should end in its label, like cat_07_3.png.")
    return found[1]
