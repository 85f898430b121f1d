"""Small Flax networks; the classifier layer is always called `head`."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen, nnx

__all__ = ["MLP", "ConvNet", "NnxMLP", "ResNet", "Transformer"]


class MLP(linen.Module):
    """Images are flattened, pass the hidden layers with ReLU, and end in `head`."""

    hidden: Sequence[int] = (128, 128)
    num_classes: int = 10

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Class logits of a batch of images."""
        x = images.reshape(images.shape[0], -1)
        for width in self.hidden:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.num_classes, name="head")(x)


class NnxMLP(nnx.Module):
    """The same network as `MLP`, written in Flax's newer interface."""

    def __init__(
        self,
        num_pixels: int,
        hidden: Sequence[int] = (128, 128),
        num_classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ):
        widths = (num_pixels, *hidden)
        self.hidden = nnx.List(
            nnx.Linear(before, after, rngs=rngs) for before, after in itertools.pairwise(widths)
        )
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Class logits of a batch of images."""
        x = images.reshape(images.shape[0], -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)


class ConvNet(linen.Module):
    """Three convolutions with stride 2, a global mean, and `head`: a cheap but honest network."""

    channels: Sequence[int] = (32, 64, 128)
    num_classes: int = 10

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Class logits of a batch of images, [batch, height, width] or with channels last."""
        x = images[..., None] if images.ndim == 3 else images
        for width in self.channels:
            x = linen.relu(linen.Conv(width, (3, 3), strides=(2, 2))(x))
        x = jnp.mean(x, axis=(1, 2))
        return linen.Dense(self.num_classes, name="head")(x)


class ResNet(linen.Module):
    """ResNet-18 for small images: four stages of two blocks, each twice as wide as the one before.

    Group normalization stands for batch normalization, which would bring a state of its own.
    """

    width: int = 64
    num_classes: int = 10
    num_stages: int = 4

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Class logits of a batch of images."""

        def convolve(x: jax.Array, channels: int, kernel: int = 3, stride: int = 1) -> jax.Array:
            x = linen.Conv(channels, (kernel, kernel), stride, use_bias=False)(x)
            return linen.GroupNorm(num_groups=8)(x)

        x = linen.relu(convolve(images, self.width))
        for stage in range(self.num_stages):
            channels = self.width * 2**stage
            for stride in (1 if stage == 0 else 2, 1):
                change = convolve(linen.relu(convolve(x, channels, 3, stride)), channels)
                x = x if x.shape == change.shape else convolve(x, channels, 1, stride)
                x = linen.relu(x + change)
        return linen.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))


class Transformer(linen.Module):
    """What comes next in a text: a decoder with normalized inputs of its blocks (pre-norm)."""

    num_tokens: int
    width: int = 32
    num_layers: int = 2
    num_heads: int = 4

    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next token after each one, int [batch, length] -> [batch, length, all]."""
        length = tokens.shape[1]
        seen = jnp.tril(jnp.ones((length, length), bool))
        x = linen.Embed(self.num_tokens, self.width, name="tokens")(tokens)
        x = x + linen.Embed(length, self.width, name="positions")(jnp.arange(length))
        for _ in range(self.num_layers):
            attended = linen.MultiHeadDotProductAttention(self.num_heads)(
                linen.LayerNorm()(x), mask=seen
            )
            x = x + attended
            inner = linen.gelu(linen.Dense(4 * self.width)(linen.LayerNorm()(x)))
            x = x + linen.Dense(self.width)(inner)
        return linen.Dense(self.num_tokens, name="head")(linen.LayerNorm()(x))
