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
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kinopt._typing import Neurons
from kinopt.collisions.blockwise import BLOCK_NUMBERS
from kinopt.collisions.crowd import WHOLE, Crowd
from kinopt.collisions.draws import CELL, HASH, ORDER, fold, normals, random_order, words
from kinopt.collisions.rows import in_rows
from kinopt.collisions.stats import join_cells

__all__ = ["Cells", "cell_order", "in_cells", "sizes_of_cells"]

Cells = Literal["random", "hash"]

EXTRA_BITS = 2
"""More bits than count the cells: codes are unevenly filled, and the list is cut evenly."""


def sizes_of_cells(neurons: int, cell_size: int) -> tuple[int, int, int]:
    """Number of cells, neurons in a smaller one, and how many cells have one neuron more.

    >>> sizes_of_cells(13, 4)
    (4, 3, 1)
    """
    num_cells = -(-neurons // cell_size)
    return num_cells, *divmod(neurons, num_cells)


def cell_order(
    w: Float[Array, "here features"],
    key: Array,
    cells: Cells,
    num_cells: int,
    crowd: Crowd = WHOLE,
) -> Int[Array, " neurons"]:
    """The neurons in the order in which the list is cut into cells.

    >>> w = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
    >>> sorted(cell_order(w, jax.random.key(0), "hash", 2).reshape(2, 2).sort().tolist())
    [[0, 2], [1, 3]]
    """
    neurons, features = crowd.sizes(w)
    if cells == "random":
        return random_order(key, neurons)
    bits = min(math.ceil(math.log2(num_cells)) + EXTRA_BITS, 31)
    directions = normals(key, 0, 0, features * bits, w.dtype, HASH).reshape(features, bits)
    if crowd.columns is not None:
        directions = directions[crowd.columns]
    positive = crowd.over_features(w @ directions) > 0
    powers = jnp.uint32(1) << jnp.arange(bits, dtype=jnp.uint32)
    codes = crowd.all_rows(jnp.sum(jnp.where(positive, powers[None], jnp.uint32(0)), axis=1))
    ties = words(key, 0, 0, neurons, ORDER)
    return jax.lax.sort((codes, ties, jnp.arange(neurons)), num_keys=2)[-1]


def in_cells(
    law: Callable[[Neurons, Neurons, Any, Crowd], tuple[Neurons, Any]],
    w: Neurons,
    g: Neurons,
    key: Array | None,
    cell_size: int | None,
    cells: Cells,
    crowd: Crowd = WHOLE,
    candidates: Callable[[int], int] = lambda neurons: neurons * (neurons - 1) // 2,
) -> tuple[Neurons, Any]:
    """A law in every cell, and its statistics over all of them.

    Args:
        law: (w, g, key, crowd) -> (G', statistics).
        w: the weights.
        g: the gradients.
        key: a typed key; None where neither cells nor the law draw anything.
        cell_size: the most neurons in a cell; None: one cell.
        cells: how neurons find their cells.
        crowd: the neurons of the layer, and how they meet.
        candidates: how many pairs the law looks at in a cell of so many neurons.
    """
    neurons, _ = crowd.sizes(w)
    if cell_size is None or cell_size >= neurons:
        return law(w, g, key, crowd)
    assert key is not None
    num_cells, size, larger = sizes_of_cells(neurons, cell_size)
    order = cell_order(w, key, cells, num_cells, crowd)
    keys = jax.vmap(lambda cell: fold(key, cell, CELL))(jnp.arange(num_cells))
    split = larger * (size + 1)
    groups = [
        (order[:split].reshape(larger, size + 1), keys[:larger]),
        (order[split:].reshape(-1, size), keys[larger:]),
    ]
    here = crowd.numbers(g)
    within = crowd._replace(neuron_axes=(), rows=None, by_rows=True)
    rows = in_rows(w, g)
    after, collected = g, []
    for members, group_keys in groups:
        if not len(members):
            continue
        mine, unique = crowd.share(len(members))
        cell_shape = len(mine), members.shape[1], w.shape[1]
        ours = in_rows(*crowd.fetch(rows, members[mine].ravel()))
        cell_w, cell_g = (x.reshape(cell_shape) for x in ours)
        moved, seen = jax.lax.map(
            lambda cell: law(cell[0], cell[1], cell[2], within),
            (cell_w, cell_g, group_keys[mine]),
            batch_size=max(BLOCK_NUMBERS // members.shape[1] ** 2, 1),
        )
        places = jnp.full(neurons, -1).at[members.ravel()].set(jnp.arange(members.size))
        place = places[here][:, None]
        (moved,) = in_rows(moved.reshape(-1, w.shape[1]))
        (home,) = in_rows(crowd.fetch_shared(moved, jnp.maximum(place[:, 0], 0)))
        after = jnp.where(place >= 0, home, after)
        weights = jnp.where(unique, float(candidates(members.shape[1])), 0).astype(g.dtype)
        collected.append((seen, weights))
    return after, join_cells(collected, crowd)
