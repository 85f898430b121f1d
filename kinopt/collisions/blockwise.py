"""The laws in bounded memory: N x N quantities made and used one block of rows at a time.

Both laws are sums over partners, so the rows of their N x N matrices can be formed in turn and
forgotten. A law is written once, for a block of rows; a layer that is small enough is one block.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["BLOCK_ROWS", "DENSE_NEURONS", "rows_per_block", "scan_row_blocks"]

DENSE_NEURONS = 4096
"""Layers of up to this many neurons are one block: N x N float32 numbers take 64 MiB at most."""

BLOCK_ROWS = 512
"""Rows in a block of a larger layer: enough for matrix products at full speed."""


def rows_per_block(neurons: int, block_size: int | None) -> int:
    """The block size in use: what was asked for, else dense up to `DENSE_NEURONS`.

    >>> rows_per_block(1000, None), rows_per_block(50_000, None), rows_per_block(1000, 64)
    (1000, 512, 64)
    """
    if block_size is None:
        block_size = neurons if neurons <= DENSE_NEURONS else BLOCK_ROWS
    indexable = (2**31 - 1) // neurons  # pairs of a block are numbered in int32
    return min(block_size, neurons, indexable)


def scan_row_blocks(
    f: Callable[..., tuple[Any, Any]], carry: Any, arrays: Sequence[Array], block: int
) -> tuple[Any, Any]:
    """`carry, outputs = f(carry, rows, *[x[rows] for x in arrays])`, block after block.

    `rows` are the indices of the block's rows. Outputs are joined along their first axis. A last
    block that is not full has rows of zeros at indices N and above: they must not change `carry`.

    >>> double = lambda total, rows, x: (total + x.sum(), 2 * x)
    >>> scan_row_blocks(double, 0.0, [jnp.arange(5.0)], block=2)
    (Array(10., dtype=float32...), Array([0., 2., 4., 6., 8.], dtype=float32))
    """
    neurons = len(arrays[0])
    if block >= neurons:
        return f(carry, jnp.arange(neurons), *arrays)

    blocks = -(-neurons // block)

    def split(x: Array) -> Array:
        padding = [(0, blocks * block - neurons)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, block, *x.shape[1:])

    carry, outputs = jax.lax.scan(
        lambda carry, inputs: f(carry, *inputs),
        carry,
        [jnp.arange(blocks * block).reshape(blocks, block), *map(split, arrays)],
    )
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:neurons], outputs)
