"""The pretrained encoder in Flax, against the same equations in NumPy and float64."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from benchmarks import data, encoder

SENTENCES = ["Add another song to my playlist.", "It will rain", "A film, as long as it is dull!"]


def reference(weights: dict[str, np.ndarray], words: list[int], num_layers: int) -> np.ndarray:
    """One sentence without padding, written from the BERT paper; weights named as published."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(axis=1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-12)
        return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][words]
    x = x + w["embeddings.position_embeddings.weight"][: len(words)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for n in range(num_layers):
        layer = f"encoder.layer.{n}"
        q, k, v = (dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for head in range(12):
            part = slice(32 * head, 32 * head + 32)
            scores = q[:, part] @ k[:, part].T / np.sqrt(32)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(shares / shares.sum(axis=1, keepdims=True) @ v[:, part])
        attended = dense(np.concatenate(heads, axis=1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x.mean(axis=0)


def drawn_weights() -> dict[str, np.ndarray]:
    """Weights with the published names and shapes, random; few words."""
    random = np.random.default_rng(0)

    def dense(name, out, into):
        return {
            f"{name}.weight": random.normal(size=(out, into)) / np.sqrt(into),
            f"{name}.bias": random.normal(size=out) / 10,
        }

    def norm(name):
        return {f"{name}.weight": 1 + random.normal(size=384) / 10, f"{name}.bias": np.zeros(384)}

    weights = norm("embeddings.LayerNorm")
    for kind, count in (("word", 50), ("position", 512), ("token_type", 2)):
        weights[f"embeddings.{kind}_embeddings.weight"] = random.normal(size=(count, 384))
    for n in range(6):
        layer = f"encoder.layer.{n}"
        for part in ("query", "key", "value"):
            weights |= dense(f"{layer}.attention.self.{part}", 384, 384)
        weights |= dense(f"{layer}.attention.output.dense", 384, 384)
        weights |= dense(f"{layer}.intermediate.dense", 1536, 384)
        weights |= dense(f"{layer}.output.dense", 384, 1536)
        weights |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
    return {name: value.astype(np.float32) for name, value in weights.items()}


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.slow
def test_the_encoder_is_bert(tmp_path, monkeypatch, drawn):
    """Random weights need no download; the pretrained ones are checked where they are installed."""
    safetensors = pytest.importorskip("safetensors.numpy")
    if drawn:
        weights, folder = drawn_weights(), tmp_path
        safetensors.save_file(weights, tmp_path / "model.safetensors")
        words = np.array([[1, 7, 9, 2, 0, 0], [1, 30, 31, 32, 33, 2]])
        tokens = encoder.Tokens(words.astype(np.int32), words > 0)
        monkeypatch.setattr(encoder, "WORDS", 50)
    else:
        try:
            folder = encoder.model_folder()
        except ModuleNotFoundError as error:
            pytest.skip(str(error))
        weights = safetensors.load_file(folder / "model.safetensors")
        tokens = encoder.tokenize(SENTENCES, folder)
    found = encoder._embed(tokens, encoder.load_params(folder))
    for vector, words, mask in zip(found, *tokens, strict=True):
        np.testing.assert_allclose(vector, reference(weights, words[mask], 6), atol=2e-5)


def test_the_parameters_are_those_of_the_network(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(drawn_weights(), tmp_path / "model.safetensors")
    loaded = encoder.load_params(tmp_path)
    words = np.zeros((1, 3), np.int32)
    own = jax.eval_shape(encoder.Encoder().init, jax.random.key(0), words, words == 0)["params"]
    assert jax.tree.structure(own) == jax.tree.structure(loaded)
    shapes = [leaf.shape for leaf in jax.tree.leaves(own)]
    assert (50, 384) in [leaf.shape for leaf in jax.tree.leaves(loaded)]
    assert (
        sum(a == b.shape for a, b in zip(shapes, jax.tree.leaves(loaded), strict=True))
        == len(shapes) - 1
    )  # all but the words


def test_vectors_are_kept_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(encoder, "model_folder", lambda: tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(encoder, "tokenize", lambda texts, folder: texts)
    monkeypatch.setattr(encoder, "load_params", lambda folder: None)
    calls = []

    def compute(tokens, params):
        calls.append(tokens)
        return np.ones((len(tokens), 384), np.float32)

    monkeypatch.setattr(encoder, "_embed", compute)
    np.testing.assert_array_equal(encoder.embed(["a", "b"]), encoder.embed(["a", "b"]))
    encoder.embed(["a", "c"])
    assert calls == [["a", "b"], ["a", "c"]]


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(ModuleNotFoundError, match="pip install it"):
        data.package_folder("no_such_package", "The words", "pip install it")
