"""The state of a training that is longer than a row, so that a kill costs an epoch and not a day.

MessagePack, as Flax writes it (no pickle), and moved into place in one piece.
"""

from pathlib import Path

from flax import serialization

from kinopt._typing import PyTree

__all__ = ["load", "remove", "save"]


def save(path: Path | None, tree: PyTree) -> None:
    """Writes a tree of arrays, numbers and lists of them; nothing where there is no path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(serialization.msgpack_serialize(serialization.to_state_dict(tree)))
    partial.replace(path)


def load(path: Path | None, like: PyTree) -> PyTree | None:
    """The tree that was saved, with the structure of `like`; None where there is none.

    Lists have the length they were saved with.
    """
    if path is None or not path.exists():
        return None
    return _restore(like, serialization.msgpack_restore(path.read_bytes()))


def _restore(like: PyTree, saved: PyTree) -> PyTree:
    if isinstance(like, list):
        return [saved[str(n)] for n in range(len(saved))]
    if type(like) is dict:
        return {key: _restore(value, saved[key]) for key, value in like.items()}
    return serialization.from_state_dict(like, saved)


def remove(path: Path | None) -> None:
    """Once the row is written; the folder goes with its last file."""
    if path is not None:
        path.unlink(missing_ok=True)
        if path.parent.exists() and not any(path.parent.iterdir()):
            path.parent.rmdir()
