"""Which leaves collide, and which axes of a leaf are its neurons.

A collision law sees a matrix `[neurons, features]`. Parameters come as trees of arrays with any
number of axes, so two things must be said about them:

* **which leaves**: `"head"`, or `layer_mask("head")`, picks leaves by a regular expression on their
  path;
* **which axes**: `NeuronAxes` names the axes that count neurons and those that make up a neuron.
  Axes that are in neither are batch axes: each slice is a gas of its own.

The usual Flax kernels, and the axes to give for them:

| parameter                    | shape             | axes                                   |
|------------------------------|-------------------|----------------------------------------|
| Dense kernel                 | (in, out)         | the default                            |
| Conv kernel                  | (h, w, in, out)   | the default                            |
| attention query, key, value  | (in, heads, dim)  | `NeuronAxes(2, 0)`, head by head, or   |
|                              |                   | `NeuronAxes((1, 2), 0)`, all together  |
| attention out                | (heads, dim, out) | the default                            |
| DenseGeneral((2, 3))         | (in, 2, 3)        | `NeuronAxes((1, 2), 0)`                |
| any of them under `nn.scan`  | (layers, ...)     | the same, reduction axes named, and    |
|                              |                   | one axis to the right                  |
| Embed                        | (vocabulary, out) | opt in: `NeuronAxes(0)`, tokens        |
"""

from kinopt.layers.axes import NeuronAxes, axis_order, from_neurons, to_neurons
from kinopt.layers.leaves import Leaf, along_leaves, collidable_leaves
from kinopt.layers.masks import as_mask, layer_mask, leaf_paths

__all__ = [
    "Leaf",
    "NeuronAxes",
    "along_leaves",
    "as_mask",
    "axis_order",
    "collidable_leaves",
    "from_neurons",
    "layer_mask",
    "leaf_paths",
    "to_neurons",
]
