"""Cells: neurons are sorted into small groups at every step, and collide inside them.

DSMC divides the domain into cells, and particles collide only within a cell (KO paper, section
3.2): work N * cell_size * D instead of N^2 * D. Weights have far too many dimensions for a grid.
Cells are random here, a new draw at every step, so that in the mean over steps every pair meets
equally often; or made with a locality-sensitive hash, so that neurons that are alike meet: the
signs of their products with a few random directions, one code for each neuron. Neurons are sorted
by code, in random order where codes are equal, and the list is cut.

Cells are equally large but for one neuron, so none has phantoms to fill it up: N neurons make
ceil(N / cell_size) cells. Each is a layer of its own: M has one block for each cell, and max g_r
of Eq. 7, degrees, matchings and norms are those of the cell, as in DSMC.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kinopt._typing import Neurons
from kinopt.collisions.blockwise import BLOCK_NUMBERS
from kinopt.collisions.devices import WHOLE, Spread
from kinopt.collisions.draws import ORDER, derived_key, normals, random_order, words
from kinopt.collisions.rows import energy_ratio, in_rows

__all__ = ["MAXIMA", "Cells", "cell_order", "in_cells"]

Stats = TypeVar("Stats", bound=tuple)

Cells = Literal["random", "hash"]

EXTRA_BITS = 2
"""More bits than count the cells: codes are unevenly filled, and the list is cut evenly."""

MAXIMA = ("gain", "max_abs_cosine")
"""Statistics of a layer that are the largest of its parts; the others are their mean."""


def cell_order(
    w: Float[Array, "here features"],
    key: Array,
    cells: Cells,
    num_cells: int,
    spread: Spread = WHOLE,
) -> Int[Array, " neurons"]:
    """The neurons in the order in which the list is cut into cells.

    >>> w = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
    >>> sorted(cell_order(w, jax.random.key(0), "hash", 2).reshape(2, 2).sort().tolist())
    [[0, 2], [1, 3]]
    """
    neurons, features = spread.sizes(w)
    if cells == "random":
        return random_order(key, neurons)
    bits = min(math.ceil(math.log2(num_cells)) + EXTRA_BITS, 31)
    directions = normals(key, ORDER, 1, features * bits, w.dtype).reshape(features, bits)
    if spread.columns is not None:
        directions = directions[spread.columns]
    positive = spread.over_features(w @ directions) > 0
    codes = spread.all_rows(jnp.sum(positive * 2 ** jnp.arange(bits, dtype=jnp.uint32), axis=1))
    ties = words(key, ORDER, 0, neurons)
    return jax.lax.sort((codes, ties, jnp.arange(neurons)), num_keys=2)[-1]


def in_cells(
    law: Callable[[Neurons, Neurons, Any, Spread], tuple[Neurons, Stats]],
    w: Neurons,
    g: Neurons,
    key: Array | None,
    cell_size: int | None,
    cells: Cells,
    spread: Spread = WHOLE,
    matching: bool = False,
) -> tuple[Neurons, Stats]:
    """A law in every cell, and its statistics over all of them.

    Args:
        law: (w, g, key, spread) -> (G', statistics).
        w: the weights.
        g: the gradients.
        key: a typed key; None where neither cells nor the law draw anything.
        cell_size: the most neurons in a cell; None: one cell.
        cells: how neurons find their cells.
        spread: which part of the layer is on this device.
        matching: whether the candidates of a cell, over which it takes its statistics, are
            disjoint pairs; else all pairs.
    """
    neurons, _ = spread.sizes(w)
    if cell_size is None or cell_size >= neurons:
        return law(w, g, key, spread)
    assert key is not None
    num_cells = -(-neurons // cell_size)
    size, larger = divmod(neurons, num_cells)
    order = cell_order(w, key, cells, num_cells, spread)
    keys = jax.vmap(lambda cell: derived_key(key, 0, cell))(jnp.arange(1, num_cells + 1))
    split = larger * (size + 1)
    groups = [
        (order[:split].reshape(larger, size + 1), keys[:larger]),
        (order[split:].reshape(-1, size), keys[larger:]),
    ]
    here = spread.neurons_here(g)
    within = spread._replace(neuron_axes=(), rows=None)
    rows = in_rows(w, g)
    after, collected = g, []
    for members, group_keys in groups:
        if not len(members):
            continue
        mine, unique = spread.share(len(members))
        cell_shape = len(mine), members.shape[1], w.shape[1]
        ours = in_rows(*spread.fetch(rows, members[mine].ravel()))
        cell_w, cell_g = (x.reshape(cell_shape) for x in ours)
        moved, seen = jax.lax.map(
            lambda cell: law(cell[0], cell[1], cell[2], within),
            (cell_w, cell_g, group_keys[mine]),
            batch_size=max(BLOCK_NUMBERS // members.shape[1] ** 2, 1),
        )
        size = members.shape[1]
        candidates = size // 2 if matching else size * (size - 1) // 2
        places = jnp.full(neurons, -1).at[members.ravel()].set(jnp.arange(members.size))
        place = places[here][:, None]
        (moved,) = in_rows(moved.reshape(-1, w.shape[1]))
        (home,) = in_rows(spread.fetch_shared(moved, jnp.maximum(place[:, 0], 0)))
        after = jnp.where(place >= 0, home, after)
        collected.append((seen, unique, candidates))
    return after, _together(collected, after, g, spread)


def _together(collected: list, after: Neurons, g: Neurons, spread: Spread) -> Any:
    """Statistics of the layer from those of its cells."""

    def maximum(name: str) -> Array:
        parts = [jnp.max(getattr(seen, name)) for seen, _, _ in collected]
        return spread.over_neurons(jnp.max(jnp.stack(parts)), jax.lax.pmax)

    def mean(name: str) -> Array:
        terms = [
            (jnp.sum(getattr(seen, name) * unique) * weight, jnp.sum(unique) * weight)
            for seen, unique, weight in collected
        ]
        total, weight = (
            spread.over_neurons(jnp.sum(jnp.stack(column))) for column in zip(*terms, strict=True)
        )
        return total / jnp.maximum(weight, 1)

    stats = type(collected[0][0])
    of_cells = {name: maximum(name) if name in MAXIMA else mean(name) for name in stats._fields}
    return stats(**of_cells | {"energy_ratio": energy_ratio(after, g, spread)})
