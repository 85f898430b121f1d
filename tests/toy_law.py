"""A new collision law, as CONTRIBUTING says one is made: the batteries run over it."""

from typing import NamedTuple

import jax.numpy as jnp

from kinopt.collisions.crowd import WHOLE
from kinopt.collisions.per_leaf import Law, Leaves, Scheme, collide_leaves
from kinopt.collisions.stats import CollisionState, Measured


class Seen(NamedTuple):
    max_abs_cosine: jnp.ndarray


class Met(NamedTuple):
    wind: jnp.ndarray  # sum_j e^{-|w_i - w_j|^2 / D} (g_j - g_i)
    max_nearness: jnp.ndarray


def wind_law(w, g, c, crowd=WHOLE):
    """g_i' = g_i + c / N sum_j e^{-|w_i - w_j|^2 / D} (g_j - g_i): neurons that are near align."""
    neurons, features = crowd.sizes(w)

    def how(mine, other):
        far = crowd.dot(mine["w"] ** 2, jnp.ones_like(other["w"])) - 2 * crowd.dot(
            mine["w"], other["w"]
        )
        far += crowd.dot(jnp.ones_like(mine["w"]), other["w"] ** 2)
        near = jnp.exp(-far / features)
        wind = near @ other["g"] - jnp.sum(near, axis=1, keepdims=True) * mine["g"]
        return Met(wind, jnp.max(near, axis=1))

    met = crowd.meet(how, {"w": w, "g": g})
    return g + c / neurons * met.wind, Seen(crowd.largest(met.max_nearness))


class WindState(CollisionState):
    measured = Measured(Seen)


def wind_collision(coll_coef, *, mask=None, neuron_axes=None, sharding=None):
    law = Law(lambda w, g, key, c, crowd: wind_law(w, g, c, crowd), WindState)
    scheme = Scheme(block_size=None, cell_size=None, cells="random", every=1)
    return collide_leaves(law, scheme, coll_coef, 0, Leaves(mask, neuron_axes, sharding))
