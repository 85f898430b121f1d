"""The laws in bounded memory: N x N quantities made and used one block of rows at a time.

Both laws are sums over partners, so the rows of their N x N matrices can be formed in turn and
forgotten. A law is written once, for a block of rows; a layer that is small enough is one block.

There is no hand-written (Pallas) kernel beside it. What one could save is not memory, which is
bounded here, but the traffic of a block: the soft law writes and reads three N x N matrices, 24
bytes a pair in float32, for the 6 D operations of its products, D / 4 operations a byte. An
accelerator that does 20 operations in the time of a byte waits for arithmetic from D = 80 on. A
kernel could pay for narrow layers and for shorter types; none is here, because there was no
accelerator to measure it on.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["BLOCK_NUMBERS", "rows_per_block", "scan_row_blocks", "varying_like"]

Tree = TypeVar("Tree")

BLOCK_NUMBERS = 2**22
"""Numbers in a block of an N x N matrix: 16 MiB of float32, and a law has about four such at once.

Measured on two cores with 32 MiB of shared cache, soft and hard alike: one block of all rows is
1.1 to 1.5 times as fast as several at N = 1000, and 1.2 to 1.4 times as slow at N = 4096, where it
no longer fits the cache; between 64 and 2,048 rows a block the time of a larger layer does not
change by more than it varies."""


def rows_per_block(neurons: int, block_size: int | None, parts: int = 1) -> int:
    """The block size in use: what was asked for, else all rows up to 2,048 neurons, fewer above.

    Devices that share the features of the neurons, `parts` of them, all hold the same block: it is
    made so much smaller, that memory falls with their number.

    >>> [rows_per_block(n, None) for n in (1000, 4096, 50_000)], rows_per_block(1000, 64)
    ([1000, 1024, 83], 64)
    """
    if block_size is None:
        block_size = max(BLOCK_NUMBERS // (neurons * parts), 1)
    indexable = (2**31 - 1) // neurons  # pairs of a block are numbered in int32
    return min(block_size, neurons, indexable)


def scan_row_blocks(
    f: Callable[..., tuple[Any, Any]], carry: Any, arrays: Sequence[Array], block: int
) -> tuple[Any, Any]:
    """`carry, outputs = f(carry, rows, fresh, *[x[rows] for x in arrays])`, block after block.

    `rows` are the indices of the block's rows; outputs are joined along their first axis. Blocks
    are cut from the arrays where they lie, so a last block that would not be full begins earlier,
    and `fresh` is False for the rows that it has in common with the one before: they must not
    change `carry` again.

    >>> total = lambda total, rows, fresh, x: (total + jnp.where(fresh, x, 0).sum(), 2 * x)
    >>> scan_row_blocks(total, 0.0, [jnp.arange(5.0)], block=2)
    (Array(10., dtype=float32...), Array([0., 2., 4., 6., 8.], dtype=float32))
    """
    neurons = len(arrays[0])
    if block >= neurons:
        return f(carry, jnp.arange(neurons), jnp.ones(neurons, bool), *arrays)

    def step(carry, first):
        carry, joined = carry
        start = jnp.minimum(first, neurons - block)
        rows = start + jnp.arange(block)
        slices = [jax.lax.dynamic_slice_in_dim(x, start, block) for x in arrays]
        carry, outputs = f(carry, rows, rows >= first, *slices)

        def put(whole, part):
            return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=0)

        return (carry, jax.tree.map(put, joined, outputs)), None

    one_block = [jax.ShapeDtypeStruct((block, *x.shape[1:]), x.dtype) for x in arrays]
    indices = jax.ShapeDtypeStruct((block,), jnp.int32)
    fresh = jax.ShapeDtypeStruct((block,), jnp.bool_)
    _, outputs = jax.eval_shape(f, carry, indices, fresh, *one_block)
    empty = jax.tree.map(lambda x: jnp.zeros((neurons, *x.shape[1:]), x.dtype), outputs)
    empty = varying_like(empty, *arrays)
    return jax.lax.scan(step, (carry, empty), jnp.arange(0, neurons, block))[0]


def varying_like(tree: Tree, *examples: Array) -> Tree:
    """The same, as something that may differ from device to device where one of the examples does.

    Inside `jax.shard_map` JAX keeps account of it, and a loop's carry must not change in this.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return tree
    # Names of types that say so differ between versions of JAX; data flow does not.
    nothing = sum((x.reshape(-1)[0] > 0 for x in examples), jnp.zeros((), jnp.int32)) * 0
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), tree)
