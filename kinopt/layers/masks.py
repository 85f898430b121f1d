"""Which leaves of a tree: by a regular expression on their path."""

import re
from collections.abc import Callable
from typing import Any

import jax

from kinopt._checks import shown
from kinopt._typing import PyTree

__all__ = ["as_mask", "layer_mask", "leaf_paths"]


def layer_mask(*patterns: str) -> Callable[[PyTree], PyTree]:
    """A mask that picks leaves by their path, for `mask=` and for `optax.masked`.

    The path of a leaf joins the names of its branches with "/": `"Dense_1/kernel"`,
    `"params/blocks/0/attention/query/kernel"`. Linen dicts, nnx states and any other tree give the
    same paths for the same names.

    Args:
        *patterns: regular expressions; a leaf is picked when any of them is found in its path.

    Returns:
        A function from parameters to a tree of bool of the same structure. A tree without leaves
        gives itself back.

    Raises:
        ValueError: nothing, or something else than strings, is given. The function raises it, and
            lists the paths, when no leaf is picked: a misspelt name must not switch a method off
            in silence.

    >>> import jax.numpy as jnp
    >>> params = {"body": {"kernel": jnp.zeros((4, 3))}, "head": {"kernel": jnp.zeros((3, 2))}}
    >>> layer_mask("head/kernel$")(params)
    {'body': {'kernel': False}, 'head': {'kernel': True}}
    """
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        given = ", ".join(map(shown, patterns)) or "nothing"
        raise ValueError(
            'layer_mask takes regular expressions, layer_mask("head", "Dense_1/kernel$"), and '
            f"returns the mask; got {given}."
        )
    search = [_compiled(pattern) for pattern in patterns]

    def mask(params: PyTree) -> PyTree:
        paths = leaf_paths(params)
        picked = [any(find(path) for find in search) for path in paths]
        if paths and not any(picked):
            given = ", ".join(map(repr, patterns))
            raise ValueError(
                f"layer_mask({given}) matches no parameter. The patterns are regular expressions "
                "searched in these paths: " + ", ".join(paths)
            )
        return jax.tree.unflatten(jax.tree.structure(params), picked)

    return mask


def _compiled(pattern: str) -> Callable[[str], Any]:
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is no regular expression: {error}. Put a backslash before characters "
            "that stand for themselves."
        ) from None


def as_mask(mask: Any) -> Any:
    """A mask as Optax knows it: patterns become functions; a function that makes them is refused.

    >>> import jax.numpy as jnp
    >>> as_mask("head")({"body": jnp.zeros((2, 2)), "head": jnp.zeros((2, 2))})
    {'body': False, 'head': True}
    """
    if mask is layer_mask:
        raise TypeError('mask=layer_mask is not called yet: write mask=layer_mask("head").')
    if isinstance(mask, str):
        return layer_mask(mask)
    if isinstance(mask, tuple | list) and mask and all(isinstance(x, str) for x in mask):
        return layer_mask(*mask)
    return mask


def leaf_paths(tree: PyTree, is_leaf: Callable[[object], bool] | None = None) -> list[str]:
    """The "/"-joined path of each leaf, in the order of `jax.tree.leaves`.

    An nnx state holds arrays inside variables before `nnx.Optimizer` unwraps them, and bare arrays
    after: a last `.value` that is its parent's only child is therefore left out.

    >>> import jax.numpy as jnp
    >>> leaf_paths({"head": [jnp.zeros(2), jnp.zeros(2)]})
    ['head/0', 'head/1']
    """
    keys = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]]
    siblings: dict[tuple, int] = {}
    for path in keys:
        siblings[path[:-1]] = siblings.get(path[:-1], 0) + 1

    def is_wrapper(path: tuple) -> bool:
        if not path or not isinstance(path[-1], jax.tree_util.GetAttrKey):
            return False
        return path[-1].name == "value" and siblings[path[:-1]] == 1

    trimmed = [path[:-1] if is_wrapper(path) else path for path in keys]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in trimmed]
