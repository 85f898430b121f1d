"""The Hessian at a minimum: its lowest eigenvalue, its determinant, its flat directions.

Up to `EXACT` parameters, from all eigenvalues. Above, from products with the Hessian alone: M steps
of Lanczos' method from a vector of random signs z give a tridiagonal matrix, whose eigenvalues
lambda_k and first components tau_k are a Gauss quadrature for z (stochastic Lanczos quadrature),

$$
tr f(H) = n E[sum_k tau_k^2 f(lambda_k)]
$$

and one from the gradient g tells how far the stationary point of the quadratic model is,

$$
|H^(-1) g|^2 = |g|^2 sum_k tau_k^2 / lambda_k^2
$$

Eigenvalues of a size up to eps^(2/3) times the largest are flat directions (zero modes), as a
symmetry makes them: they are counted, and left out of the determinant.

References: Golub, Meurant, "Matrices, moments and quadrature" (2010); Ubaru, Chen, Saad, "Fast
estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal. Appl. 38 (2017).
"""

from collections.abc import Callable
from typing import NamedTuple, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kinopt._programs import Programs

__all__ = ["EXACT", "Curvature", "at", "from_products", "minima"]

EXACT = 300
"""Parameters up to which all eigenvalues are found."""

NUM_PROBES = 16
"""Random vectors of the quadrature."""

NUM_PRODUCTS = 200
"""Products with the Hessian for each of them."""

NUM_NEWTON = 3
"""Steps that take a point from where L-BFGS cannot lower the loss to rounding of the gradient."""

NEAR = 1e-2
"""Steps longer than this times 1 + max |x_i| are not made: they lead elsewhere."""

CHUNK = 32
"""Points that are looked at together."""


class Curvature(NamedTuple):
    """What is known of the Hessian at a point."""

    x: jax.Array  # float [n]: the point, or the stationary point next to it
    lowest: jax.Array  # float []: lowest eigenvalue; from products, an upper bound of it
    flat: jax.Array  # float []: size up to which an eigenvalue counts as zero
    distance: jax.Array  # float []: |H^(-1) g|, how far the stationary point is
    log_det: jax.Array  # float []: sum of the logarithms of the eigenvalues above `flat`
    log_det_error: jax.Array  # float []: its standard error; 0 where it is exact
    num_zero_modes: jax.Array  # float []: eigenvalues of a size up to `flat`
    hessian: jax.Array | None  # float [n, n]; None from products


def minima(
    loss: Callable[[jax.Array], jax.Array],
    points: ArrayLike,
    gradients: ArrayLike,
    tolerance: SupportsFloat,
    key: jax.Array,
    programs: Programs | None = None,
) -> tuple[np.ndarray, Curvature]:
    """Which of these points are minima, and the curvature at those, with a leading axis of them.

    A minimum has no negative eigenvalue, and the stationary point of the quadratic model is within
    `tolerance` (1 + max_i |x_i|) of the point. The arrays are NumPy's. `programs` are those of this
    loss; None: they are made anew.

    >>> points = jnp.array([[0.0], [0.5], [1.0]])
    >>> slopes = 4 * points**3 - 4 * points
    >>> is_minimum, bend = minima(
    ...     lambda x: jnp.sum(x**4 - 2 * x**2), points, slopes, 1e-3, jax.random.key(0))
    >>> is_minimum.tolist(), bend.hessian.tolist()
    ([False, False, True], [[[8.0]]])
    """
    programs = Programs() if programs is None else programs
    points, gradients = np.asarray(points), np.asarray(gradients)
    size = 1 + np.max(np.abs(points), axis=1)
    kept, parts = np.zeros(len(points), bool), []
    for first in range(0, max(1, len(points)), CHUNK):
        # All chunks have one shape; of the last, some rows are left out.
        rows = slice(first, first + CHUNK)
        number = len(points[rows])
        chunk = (_padded(points[rows]), _padded(gradients[rows]))
        counts = np.array([first, number], np.int32)
        found = programs.call(_look, (loss,), *chunk, key, counts)
        found = jax.tree.map(lambda x, n=number: np.asarray(x)[:n], found)
        near = found.distance <= float(tolerance) * size[rows]
        kept[rows] = (found.lowest >= -found.flat) & near
        parts.append(jax.tree.map(lambda x, rows=rows: x[kept[rows]], found))
    return kept, jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _padded(rows: np.ndarray) -> np.ndarray:
    """With zeros, up to `CHUNK`."""
    return np.concatenate([rows, np.zeros((CHUNK - len(rows), *rows.shape[1:]), rows.dtype)])


def _look(loss, points: jax.Array, gradients: jax.Array, key: jax.Array, counts: jax.Array):
    """The curvature at the first of these points, one after the other; 0 at those left out.

    `counts` has the place of the first among all, and how many there are, int32 [2].
    """

    def look(k) -> Curvature:
        return at(loss, points[k], gradients[k], jax.random.fold_in(key, counts[0] + k))

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, counts[0]))
    return jax.lax.map(
        lambda k: jax.lax.cond(k < counts[1], look, lambda _: nothing, k), jnp.arange(CHUNK)
    )


def at(
    loss: Callable[[jax.Array], jax.Array], x: jax.Array, gradient: jax.Array, key: jax.Array
) -> Curvature:
    """The curvature of a loss at x [n]: exact up to `EXACT` parameters.

    >>> x = jnp.zeros(3)
    >>> bend = at(lambda x: x[0] ** 2 + 2 * x[1] ** 2, x, x, jax.random.key(0))
    >>> float(bend.log_det), float(bend.num_zero_modes)  # log(2 * 4)
    (2.0794415..., 1.0)
    """
    return (from_products if x.size > EXACT else exact)(loss, x, gradient, key)


def exact(
    loss: Callable[[jax.Array], jax.Array], x: jax.Array, gradient: jax.Array, key: jax.Array
) -> Curvature:
    """The same from all eigenvalues, after some of Newton's steps across the flat directions.

    What is left of a gradient bends the directions of a symmetry: a rotation A, for which
    H A x = -A g, has an eigenvalue of the order of |g|/|x|. The steps take it away. They are short
    next to a minimum, and none is made elsewhere.
    """
    del gradient, key

    def look(x):
        hessian = jax.hessian(loss)(x)
        hessian = (hessian + hessian.T) / 2
        sizes, modes = jnp.linalg.eigh(hessian)
        parts = (modes.T @ jax.grad(loss)(x)) / jnp.maximum(jnp.abs(sizes), _flat(sizes))
        return hessian, sizes, modes, parts

    def polish(k, carry):
        x, start, *_ = carry
        hessian, sizes, modes, parts = look(x)
        distance = jnp.linalg.norm(parts)
        start = jnp.where(k == 0, distance, start)
        step = modes @ jnp.where(sizes > _flat(sizes), parts, 0)
        go = (k < NUM_NEWTON) & (distance <= NEAR * (1 + jnp.max(jnp.abs(x))))
        return jnp.where(go, x - step, x), start, hessian, sizes

    n = x.size
    empty = (x, jnp.zeros((), x.dtype), jnp.zeros((n, n), x.dtype), jnp.zeros(n, x.dtype))
    x, distance, hessian, sizes = jax.lax.fori_loop(0, NUM_NEWTON + 1, polish, empty)
    flat = _flat(sizes)
    firm = sizes > flat
    return Curvature(
        x=x,
        lowest=sizes[0],
        flat=flat,
        distance=distance,
        log_det=jnp.sum(jnp.log(jnp.where(firm, sizes, 1))),
        log_det_error=jnp.zeros_like(flat),
        num_zero_modes=jnp.sum(jnp.abs(sizes) <= flat).astype(x.dtype),
        hessian=hessian,
    )


def from_products(
    loss: Callable[[jax.Array], jax.Array], x: jax.Array, gradient: jax.Array, key: jax.Array
) -> Curvature:
    """The same from products with the Hessian: H v is the derivative of the gradient along v.

    No step is made from x. The error is that between probes: it does not know of what
    `NUM_PRODUCTS` steps cannot resolve, a zero mode next to small eigenvalues above all. Of k zero
    modes the number is known to about sqrt(2 k / 16). A negative eigenvalue next to zero can be
    overlooked, and what is left of a gradient can hide a zero mode.

    >>> x = jnp.zeros(400)
    >>> scales = jnp.linspace(1, 2, 400)
    >>> bend = from_products(lambda x: scales @ x**2 / 2, x, x, jax.random.key(0))
    >>> bool(abs(bend.log_det - jnp.log(scales).sum()) < 4 * bend.log_det_error + 1e-2)
    True
    """
    n = x.size
    num_products = min(NUM_PRODUCTS, n)

    def product(v):
        return jax.jvp(jax.grad(loss), (x,), (v,))[1]

    probes = jax.random.rademacher(key, (NUM_PROBES, n), x.dtype)
    starts = jnp.concatenate([gradient[None], probes])
    ritz, weights = jax.lax.map(lambda start: _lanczos(product, start, num_products), starts)
    flat = _flat(ritz)
    slope = jnp.linalg.norm(gradient)
    distance = slope * jnp.sqrt(jnp.sum(weights[0] / jnp.maximum(jnp.abs(ritz[0]), flat) ** 2))
    ritz, weights = ritz[1:], weights[1:]
    logs = jnp.where(ritz > flat, jnp.log(jnp.where(ritz > flat, ritz, 1)), 0)
    log_dets = n * jnp.sum(weights * logs, axis=1)
    return Curvature(
        x=x,
        lowest=jnp.min(ritz),
        flat=flat,
        distance=distance,
        log_det=jnp.mean(log_dets),
        log_det_error=jnp.std(log_dets, ddof=1) / jnp.sqrt(NUM_PROBES),
        num_zero_modes=jnp.round(n * jnp.mean(jnp.sum(weights * (jnp.abs(ritz) <= flat), axis=1))),
        hessian=None,
    )


def _flat(sizes: jax.Array) -> jax.Array:
    """Where rounding drowns an eigenvalue: of what derivatives and sums leave of it, eps^(2/3)."""
    return jnp.finfo(sizes.dtype).eps ** (2 / 3) * jnp.max(jnp.abs(sizes))


def _lanczos(product, start: jax.Array, num_products: int) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues of the tridiagonal matrix, and the squares of their first components.

    Each new vector is made orthogonal to all before, twice: no eigenvalue appears again. Where the
    vectors have run out, what follows has no weight.
    """
    length = jnp.linalg.norm(start)
    tiny = jnp.finfo(start.dtype).tiny
    first = start / jnp.maximum(length, tiny)
    basis = jnp.zeros((num_products, start.size), start.dtype).at[0].set(first)

    def step(k, carry):
        basis, diagonal, beside = carry
        v = product(basis[k])
        diagonal = diagonal.at[k].set(v @ basis[k])
        scale = jnp.linalg.norm(v)
        for _ in range(2):
            v = v - basis.T @ (basis @ v)
        norm = jnp.linalg.norm(v)
        there = norm > 10 * jnp.finfo(v.dtype).eps * scale
        beside = beside.at[k].set(jnp.where(there, norm, 0))
        following = jnp.where(there, v / jnp.maximum(norm, tiny), 0)
        return basis.at[k + 1].set(following, mode="drop"), diagonal, beside

    zeros = jnp.zeros(num_products, start.dtype)
    _, diagonal, beside = jax.lax.fori_loop(0, num_products, step, (basis, zeros, zeros))
    matrix = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    sizes, modes = jnp.linalg.eigh(matrix)
    return sizes, modes[0] ** 2
