"""A folder that a killed run goes on from.

    problem.json             what is run: numbers, and fingerprints of keys, starts, data, program
    lock                     empty; locked by the process that runs it
    00003-line.npz           the lanes of program 3, and how many of its seeds started and ended
    00003-000000000120.npz   seeds of program 3 that have ended, from the 120th on

Every file appears whole, under its name, or not at all. Seeds that have ended are written first and
the line that counts them then: what a line does not count is written once more after a kill at any
moment, and comes out the same, because a line holds all that becomes of it.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where nothing is locked
    fcntl = None

import jax
import jax.numpy as jnp
import numpy as np

from kinopt._checks import shown
from kinopt._line import Line, Row
from kinopt._typing import PyTree

__all__ = ["Checkpoint", "as_folder", "digest", "opened", "read_rows"]

SECONDS = 10.0
"""Between two looks at a program that are written down."""

SHARE = 10
"""Writing takes at most one part in so many of the time."""

PROBLEM, LOCK = "problem.json", "lock"


def digest(*things: Any) -> str:
    """A fingerprint of text and arrays, their shapes and types."""
    found = hashlib.sha256()
    for thing in things:
        leaves, structure = jax.tree.flatten(thing)
        found.update(str(structure).encode())
        for x in leaves:
            if isinstance(x, str):
                found.update(x.encode())
            else:
                array = np.asarray(x)
                found.update(f"{array.shape} {array.dtype}".encode())
                found.update(array.tobytes())
    return found.hexdigest()[:16]


def _write(path: pathlib.Path, write: Any) -> None:
    """Calls `write` with a file that gets its name when it is whole and on the disk."""
    unfinished = path.with_name(f"{path.name}.part")
    with open(unfinished, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _write_arrays(path: pathlib.Path, arrays: PyTree) -> None:
    """Leaves in their order; NumPy's format knows no bfloat16, so that bytes are written."""
    leaves = [np.asarray(x, order="C") for x in jax.tree.leaves(arrays)]
    raw = [x.reshape(*x.shape, 1).view(np.uint8) for x in leaves]
    _write(path, lambda file: np.savez(file, *raw))


def _read_arrays(path: pathlib.Path, dtypes: list[Any]) -> list[np.ndarray]:
    """The leaves again, of these types."""
    with np.load(path) as file:
        raw = [file[f"arr_{n}"] for n in range(len(dtypes))]
    return [x.view(dtype)[..., 0] for x, dtype in zip(raw, dtypes, strict=True)]


def _line_file(folder: pathlib.Path, share: int) -> pathlib.Path:
    return folder / f"{share:05}-line.npz"


def _rows_file(folder: pathlib.Path, share: int, first: int) -> pathlib.Path:
    return folder / f"{share:05}-{first:012}.npz"


def _ended(folder: pathlib.Path, share: int, number: int, dtypes: list[Any]) -> list[np.ndarray]:
    """The first seeds of a program that ended, so many: the leaves of `Row`."""
    parts, first = [], 0
    while first < number:
        parts.append(_read_arrays(_rows_file(folder, share, first), dtypes))
        first += len(parts[-1][0])
    return [np.concatenate(leaf) for leaf in zip(*parts, strict=True)]


def _dtypes(arrays: PyTree) -> list[Any]:
    return [x.dtype for x in jax.tree.leaves(arrays)]


def as_folder(name: str, path: Any) -> pathlib.Path | None:
    """An argument that is the path of a folder, or None."""
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be the path of a folder, or None; got {shown(path)}.")
    return None if path is None else pathlib.Path(path)


def _about(folder: pathlib.Path) -> dict[str, Any]:
    """What the folder says it is of; nothing yet where it is new."""
    path = folder / PROBLEM
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@contextlib.contextmanager
def opened(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """A folder, made if need be, that no other run may write to meanwhile; what it is of.

    The lock is the operating system's and goes with the process, however that ends.

    Raises:
      ValueError: if it holds something else.
      RuntimeError: if another run has it open.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"checkpoint must be a folder, or a new one; {folder} is a file.")
    folder.mkdir(parents=True, exist_ok=True)
    ours = (PROBLEM, LOCK)
    others = [x for x in folder.iterdir() if not (x.name in ours or x.suffix in (".npz", ".part"))]
    if others and not _about(folder):
        raise ValueError(
            f"checkpoint must be a folder that a run was given before, or an empty or new one; "
            f"{folder} holds {others[0].name}."
        )
    if fcntl is None or jax.process_index() != 0:  # several processes of one run share it
        yield _about(folder)
        return
    with open(folder / LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"checkpoint {folder} is in use: another run writes to it, in this process or in "
                f"another. Wait until it has ended, or end it; or choose another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield _about(folder)


class Checkpoint:
    """The folder of a run in progress."""

    def __init__(
        self, folder: pathlib.Path, found: dict[str, Any], about: dict[str, Any], row: Row
    ):
        """Begins to write, or goes on.

        Args:
          folder: where, opened.
          found: what it says it is of.
          about: what the run is of; its kind, numbers and fingerprints, by the names of arguments.
          row: seeds that have ended, or their shapes.

        Raises:
          ValueError: if the folder is of another run.
        """
        self.folder = folder
        self.written: dict[int, int] = {}  # ended seeds of each share
        self.due: dict[int, float] = {}
        differ = [name for name in about if found and about[name] != found.get(name)]
        if differ:
            was = [f"{name} ({found.get(name)} there, {about[name]} here)" for name in differ]
            raise ValueError(
                f"checkpoint {folder} is of another {about['kind']}: it differs in "
                f"{', '.join(was)}. The same call goes on with it; for another, choose another "
                f"folder."
            )
        if not found and jax.process_index() == 0:
            paths = jax.tree_util.tree_flatten_with_path(row)[0]
            leaves = [
                {"path": _plain(path), "dtype": str(x.dtype), "shape": x.shape[1:]}
                for path, x in paths
            ]
            text = json.dumps({**about, "leaves": leaves}, indent=1)
            _write(folder / PROBLEM, lambda file: file.write(text.encode()))

    def load(self, share: int, line: Line) -> Line:
        """The line of a program as it was written last; as it is, where it never was."""
        path = _line_file(self.folder, share)
        self.due[share] = time.monotonic() + SECONDS
        self.written[share] = 0
        if not path.exists():
            return line
        alive = line._replace(ended=())
        leaves = _read_arrays(path, _dtypes(alive))
        alive = jax.tree.unflatten(jax.tree.structure(alive), leaves)
        number = int(alive.num_ended)
        rows, structure = jax.tree.flatten(jax.tree.map(np.array, line.ended))
        if number:
            parts = _ended(self.folder, share, number, _dtypes(line.ended))
            for row, part in zip(rows, parts, strict=True):
                row[:number] = part
        self.written[share] = number
        device = next(iter(line.num_ended.devices()))
        return jax.device_put(alive._replace(ended=structure.unflatten(rows)), device)

    def save(self, share: int, line: Line, now: bool) -> None:
        """Writes down what has become of a line, if it is time to or must be."""
        began = time.monotonic()
        if not now and began < self.due[share]:
            return
        number, first = int(line.num_ended), self.written[share]
        if number > first:
            rows = jax.tree.map(lambda x: np.asarray(x)[first:number], line.ended)
            _write_arrays(_rows_file(self.folder, share, first), rows)
        _write_arrays(_line_file(self.folder, share), line._replace(ended=()))
        self.written[share] = number
        ended = time.monotonic()
        self.due[share] = ended + max(SECONDS, SHARE * (ended - began))


def _plain(path: Any) -> list[int | str]:
    """A path as JSON has it: steps into a list (by number) or a dictionary (by name)."""
    sequence = jax.tree_util.SequenceKey
    return [k.idx if isinstance(k, sequence) else _name(k) for k in path]


def _name(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _nested(items: list[tuple[list[Any], Any]]) -> PyTree:
    """Dictionaries and lists out of paths and leaves.

    >>> _nested([(["a", 0], 1), (["a", 1], 2), (["b"], 3)])
    {'a': [1, 2], 'b': 3}
    """
    if not items[0][0]:
        return items[0][1]
    made = {
        name: _nested([(path[1:], leaf) for path, leaf in group])
        for name, group in itertools.groupby(items, lambda item: item[0][0])
    }
    return list(made.values()) if list(made) == list(range(len(made))) else made


def read_rows(folder: Any, kind: str) -> Row:
    """The seeds that have ended, in the order of the keys, as far as they are written down.

    Args:
      folder: its path, as a user gave it.
      kind: what the folder must be of.

    Raises:
      TypeError: if it is no path.
      ValueError: if it is no folder of such a run.
    """
    folder = as_folder("folder", folder)
    if folder is None:
        raise TypeError("folder must be a path; got None.")
    about = _about(folder)
    if about.get("kind") != kind:
        holds = f"is of another kind, {about['kind']}" if about else f"has no {PROBLEM}"
        raise ValueError(
            f"folder must be one that a run of this kind, {kind}, was given as checkpoint; "
            f"{folder} {holds}."
        )
    described = about["leaves"]
    dtypes = [jnp.dtype(leaf["dtype"]) for leaf in described]
    size = -(-about["keys"] // about["programs"])
    shares = [
        [
            np.zeros((0, *leaf["shape"]), dtype)
            for leaf, dtype in zip(described, dtypes, strict=True)
        ]
    ]
    for share in range(about["programs"]):
        path = _line_file(folder, share)
        if path.exists():
            _, number = _read_arrays(path, [np.dtype(np.int32)] * 2)
            rows = _ended(folder, share, int(number), dtypes)
            if rows:
                rows[0] = rows[0] + np.int32(share * size)  # `Row.seed` comes first
                shares.append(rows)
    leaves = [np.concatenate(leaf) for leaf in zip(*shares, strict=True)]
    order = np.argsort(leaves[0])
    paths = [leaf["path"] for leaf in described]
    return Row(**_nested([(p, jnp.asarray(x[order])) for p, x in zip(paths, leaves, strict=True)]))
