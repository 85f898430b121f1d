"""Parameters that mean the same function, brought to one form: `symmetry` of `discover`.

A symmetry is a function from parameters to a pytree of arrays that is the same for all parameters
of equal meaning: either one of them, chosen by a rule (`sign_flips`, `permuted_neurons`), or
numbers that the symmetry leaves alone (`rigid_motions`). The rules project on fixed generic
directions, because a rule that looks at one entry fails where that entry is zero at a minimum.
Several act one after the other: `lambda params: second(first(params))`, for the layers of a network
from the input on.
"""

from collections.abc import Callable
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kinopt._checks import check_count, check_flag
from kinopt._typing import PyTree
from kinopt.layers import layer_mask

__all__ = ["permuted_neurons", "rigid_motions", "sign_flips"]


def _generic(n: int, which: int) -> np.ndarray:
    """A direction without meaning, the same every time: no simple vector is orthogonal to it."""
    return np.random.default_rng([n, which]).uniform(1, 2, n) * (-1.0) ** np.arange(n)


def sign_flips(each: bool = False) -> Callable[[PyTree], PyTree]:
    """The symmetry theta ~ -theta, of all parameters together or of each by itself.

    $$
    c(theta) = theta sign(r·theta)
    $$

    for a fixed direction r.

    Args:
      each: whether the sign of every parameter is free: c(theta) = |theta|.

    Returns:
      params -> the same of them for all signs.

    Raises:
      TypeError: if `each` is not True or False.

    >>> form = sign_flips()
    >>> bool(jnp.all(form(jnp.array([1.0, -2.0])) == form(jnp.array([-1.0, 2.0]))))
    True
    >>> sign_flips(each=True)({"a": jnp.array([-1.0, 2.0])})
    {'a': Array([1., 2.], dtype=float32)}
    """
    check_flag("each", each)

    def form(params):
        if each:
            return jax.tree.map(jnp.abs, params)
        theta, unravel = ravel_pytree(params)
        projection = jnp.asarray(_generic(theta.size, 0), theta.dtype) @ theta
        return unravel(jnp.where(projection < 0, -theta, theta))

    return form


def permuted_neurons(incoming: str, outgoing: str, *, odd: bool = False) -> Callable:
    """The symmetry of a hidden layer: neurons in any order, and of either sign where phi is odd.

    $$
    sum_j a_j phi(w_j·x + b_j) = sum_j (s_j a_j) phi(s_j w_j·x + s_j b_j),    s_j = -+1
    $$

    Neuron j is the vector u_j = (w_j, b_j, a_j); the signs make r·u_j positive, and the neurons
    are sorted by q·u_j, for fixed directions r and q.

    Args:
      incoming: regular expression, found in the paths of the layer's leaves, as in
        `kinopt.layer_mask`: `"Dense_0/"`. Their last axis counts its neurons: kernels [in, hidden],
        biases [hidden].
      outgoing: likewise for the kernel after it, whose first axis counts them: [hidden, out].
      odd: whether phi(-z) = -phi(z), as for tanh.

    Returns:
      params -> the same of them for all permutations (and signs). Values that depend on the layer
      in another way are not seen: a leaf that is not named stays as it is.

    Raises:
      TypeError: if `incoming` or `outgoing` is no regular expression, or `odd` no flag.
      ValueError: of the returned function, if nothing matches or the numbers of neurons differ.

    >>> form = permuted_neurons("^w|^b", "^a", odd=True)
    >>> one = {"w": jnp.array([[1.0, 2.0]]), "b": jnp.array([0.5, 0.0]), "a": jnp.ones((2, 1))}
    >>> two = {"w": jnp.array([[-2.0, 1.0]]), "b": jnp.array([0.0, 0.5]),
    ...        "a": jnp.array([[-1.0], [1.0]])}
    >>> jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), form(one), form(two)))
    True
    """
    check_flag("odd", odd)
    before, after = layer_mask(incoming), layer_mask(outgoing)

    def form(params):
        leaves, structure = jax.tree.flatten(params)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        last, first = (jax.tree.leaves(chosen(params)) for chosen in (before, after))
        axes = {k: -1 for k, is_in in enumerate(last) if is_in}
        axes |= {k: 0 for k, is_out in enumerate(first) if is_out}
        rows = {k: jnp.moveaxis(leaves[k], axis, 0) for k, axis in axes.items()}
        if len({len(x) for x in rows.values()}) != 1:
            raise ValueError(
                f"the last axis of {incoming!r} and the first of {outgoing!r} must count the same "
                f"neurons; they have the shapes {[leaves[k].shape for k in axes]}."
            )
        neurons = jnp.concatenate([x.reshape(len(x), -1) for x in rows.values()], axis=1)
        signs = jnp.ones(len(neurons), neurons.dtype)
        if odd:
            signs = jnp.where(neurons @ _generic(neurons.shape[1], 0) < 0, -signs, signs)
        order = jnp.argsort((signs[:, None] * neurons) @ _generic(neurons.shape[1], 1))
        for k, axis in axes.items():
            x = rows[k] * signs.reshape(-1, *[1] * (rows[k].ndim - 1)).astype(rows[k].dtype)
            leaves[k] = jnp.moveaxis(x[order], 0, axis)
        return structure.unflatten(leaves)

    return form


def rigid_motions(
    dimension: SupportsIndex = 3, *, permutations: bool = True
) -> Callable[[PyTree], jax.Array]:
    """The symmetry of particles that are moved, turned, mirrored and, if alike, exchanged.

    $$
    c(x) = sort |x_i - x_j|,    i < j
    $$

    Sorted distances of pairs do not tell mirror images apart. They tell all other configurations
    apart, but for constructed exceptions (Boutin, Kemper, "On reconstructing n-point configurations
    from the distribution of distances or areas", Advances in Applied Mathematics 32 (2004)).

    Args:
      dimension: coordinates of a particle.
      permutations: whether the particles are alike. If not, distances are not sorted.

    Returns:
      params -> distances [pairs]. Params ravel to the coordinates of one particle after the other.

    Raises:
      TypeError: if an argument is of the wrong kind.
      ValueError: if `dimension` is below 1; of the returned function, if it does not divide the
        number of parameters.

    >>> rigid_motions()(jnp.array([0.0, 0, 0, 3, 0, 0, 0, 4, 0]))
    Array([3., 4., 5.], dtype=float32)
    """
    size = check_count("dimension", dimension, optional=False)
    check_flag("permutations", permutations)

    def form(params):
        x, _ = ravel_pytree(params)
        if x.size % size:
            raise ValueError(
                f"rigid_motions takes particles of {size} coordinates; {x.size} parameters are no "
                f"whole number of them."
            )
        points = x.reshape(-1, size)
        first, second = np.triu_indices(len(points), 1)
        distances = jnp.linalg.norm(points[first] - points[second], axis=1)
        return jnp.sort(distances) if permutations else distances

    return form
