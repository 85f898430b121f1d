"""What the experiments of the KO paper and the question of when a collision helps are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import kinopt
from benchmarks import checkpoint, data, statistics, vision
from benchmarks.choice import choose
from benchmarks.data import Split
from benchmarks.evidence import when
from benchmarks.experiments import UsageError
from benchmarks.ko import condensation, imagenet, images, text, theorem
from benchmarks.record import Done

# Condensation


def test_the_samples_are_those_of_the_paper():
    x, y = condensation.samples(jax.random.key(0))
    assert x.shape == (80, 6)
    assert bool(jnp.all(x[:, 5] == 1))
    assert x.min() >= -4
    assert x.max() <= 2
    expected = sum(3.5 * np.sin(5 * np.asarray(x[:, k]) + 1) for k in range(5))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    weights = jnp.concatenate(
        [leaf.ravel() for leaf in jax.tree.leaves(condensation.start(jax.random.key(1)))]
    )
    assert float(weights.std()) == pytest.approx(0.005, rel=0.15)


@pytest.mark.slow
def test_a_seed_of_a_network_does_not_depend_on_the_law():
    settings = condensation.Settings(num_seeds=2, num_steps=4, num_snapshots=2)
    keys = jax.random.split(jax.random.key(0), 2)
    plain, soft = (
        condensation.train(keys, 0.5, 1e-3, "tanh", condensation.LAWS[law], settings)
        for law in ("none", "soft")
    )
    np.testing.assert_array_equal(plain["neurons"][:, 0], soft["neurons"][:, 0])
    assert float(jnp.abs(plain["neurons"][:, 2] - soft["neurons"][:, 2]).max()) > 1e-5
    assert plain["loss"].shape == (2, 3)


def test_every_law_is_shown_at_a_coefficient_that_is_run():
    assert condensation.COEFFICIENTS.keys() == condensation.LAWS.keys()
    assert all(c in condensation.COEFFICIENTS[law] for law, c in condensation.SHOWN.items())
    with pytest.raises(UsageError, match="multiple of 5"):
        list(condensation.run(condensation.Settings(num_steps=10, num_snapshots=2, shown_step=3)))


# Theorem 3.3


@pytest.mark.slow
def test_the_effect_is_the_first_order_of_a_step():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        w, g = jnp.asarray(random.normal(size=(2, 6, 4)))
        collided = theorem.LAWS["soft"](w, g, jax.random.key(0))
        slope = [
            float(
                kinopt.metrics.weight_correlation(w - eta * collided)
                - kinopt.metrics.weight_correlation(w - eta * g)
            )
            / eta
            for eta in (1e-6, -1e-6)
        ]
        found = theorem.effect(theorem.LAWS["soft"], w, g, jax.random.key(0))
        scale = float(jnp.linalg.norm(w) / jnp.linalg.norm(g))
        assert float(found) == pytest.approx(scale * np.mean(slope), rel=1e-5)


@pytest.mark.slow
def test_drawn_layers_are_as_aligned_as_asked():
    keys = jax.random.split(jax.random.key(0), 50)
    w, g = jax.vmap(lambda key: theorem.draw(key, 0.5, -0.75))(keys)
    cosine = jnp.sum(w * g, -1) / jnp.linalg.norm(w, axis=-1) / jnp.linalg.norm(g, axis=-1)
    assert float(cosine.mean()) == pytest.approx(-0.75, abs=0.03)


# Text


@pytest.mark.parametrize("method", text.METHODS)
def test_every_text_method_is_adamw_after_a_collision(method):
    params = {"head": {"kernel": jnp.eye(4, 3), "bias": jnp.zeros(3)}}
    optimizer = text.BUILDS[method](0.1, jax.random.key(0))
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    if method != "adamw":
        assert list(kinopt.collision_stats(state)) == ["head/kernel"]


def test_a_rate_that_was_tuned_before_an_interruption_is_kept():
    identity = {"texts": "snips", "stage": "frozen, tuning"}
    row = {**identity, "rate": 0.3, "chosen": True}

    def tried():
        return [(0.1, np.array([0.5, 0.9])), (0.2, np.array([0.8, 0.8]))]

    record = Done([{**row, "rate": 0.5, "chosen": False}, row])
    assert choose(identity, "rate", tried, record) == (0.3, [])
    best, rows = choose({**identity, "texts": "movies"}, "rate", tried, record)
    assert best == 0.2
    assert [(row["rate"], row["chosen"]) for row in rows] == [(0.1, False), (0.2, True)]


# Images


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet-18", {}, 11_173_962),
        ("resnet-34", {}, 21_282_122),
        ("resnet-50", {}, 23_520_842),
        ("resnet-50", {"num_classes": 1000, "small_images": False}, 25_557_032),
        ("convnext-tiny", {}, 28_589_128),
        ("convnext-small", {}, 50_223_688),
    ],
)
def test_the_networks_have_as_many_parameters_as_published(name, options, count):
    model = vision.MODELS[name](**options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    assert "head" in shapes["params"]


def test_images_are_cropped_and_mirrored():
    batch = jnp.arange(2 * 4 * 4, dtype=jnp.float32).reshape(2, 4, 4, 1) + 1
    unchanged = vision.crop_and_flip(jax.random.key(0), batch, padding=0, flip=False)
    np.testing.assert_array_equal(unchanged, batch)
    seen = set()
    for seed in range(8):
        found = vision.crop_and_flip(jax.random.key(seed), batch, padding=0)
        for image, original in zip(found, batch, strict=True):
            mirrored = bool((image == original[:, ::-1]).all())
            assert mirrored or bool((image == original).all())
            seen.add(mirrored)
    assert seen == {True, False}
    cropped = vision.crop_and_flip(jax.random.key(1), batch, padding=2, flip=False)
    assert cropped.shape == batch.shape
    assert set(np.unique(cropped)) <= {0, *np.unique(batch).tolist()}


class Small(vision.ResNet):
    """Small enough to compile in a second."""


def small_trainer(count=24):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 8, 8, 1), np.uint8)
    labels = random.integers(0, 3, count).astype(np.int32)
    builds = {"soft 0.1": images.build("soft 0.1", 1e-4)}
    model = Small((1,), width=2, num_classes=3)
    return vision.Trainer(model, pixels, builds, 8, padding=1), Split(
        pixels, labels, pixels, labels
    )


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path):
    trainer, split = small_trainer()
    arguments = ("soft 0.1", split, images.cosine(0.1), 3, 5)
    _, whole = trainer.fit(*arguments)
    path = tmp_path / "folder" / "network"

    def dies():
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(None)

    calls = []
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*arguments, path, dies)
    seen = []
    _, resumed = trainer.fit(*arguments, path, lambda: seen.append(None))
    assert seen == []  # all three epochs were done before the third call
    calls = [None]
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(*arguments, path, dies)
    _, resumed = trainer.fit(*arguments, path)
    assert resumed.test_accuracy == whole.test_accuracy
    assert resumed.max_abs_cosine == whole.max_abs_cosine
    assert len(resumed.seconds) == 3
    checkpoint.remove(path)
    assert not path.parent.exists()
    checkpoint.remove(None)


def test_the_rate_falls_along_a_cosine():
    schedule = images.cosine(0.2)
    assert [schedule(share) for share in (0, 0.5, 1)] == pytest.approx([0.2, 0.1, 0])


def test_imagenet_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"1000 folders .* image-net\.org"):
        imagenet.find("imagenet")


def test_a_training_image_is_a_random_part(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    parts = [imagenet.read(tmp_path / "1.png", 16, np.random.default_rng(n)) for n in range(3)]
    assert all(part.shape == (16, 16, 3) for part in parts)
    assert (parts[0] != parts[1]).any()
    np.testing.assert_array_equal(imagenet.read(tmp_path / "1.png", 40), pixels[:, 10:50])
    (tmp_path / "2.png").write_bytes(b"<html>")
    with pytest.raises(UsageError, match="not an image"):
        imagenet.read(tmp_path / "2.png", 16)


# When does it help?


def test_noise_replaces_exactly_its_share_by_another_class():
    labels = np.arange(1000, dtype=np.int32) % 7
    changed = when.noisy(labels, 0.2, 7, seed=0)
    assert (changed != labels).sum() == 200
    assert set(changed) == set(range(7))
    np.testing.assert_array_equal(when.noisy(labels, 0, 7, seed=0), labels)


def test_coarse_images_are_means_of_blocks():
    pixels = np.arange(2 * 4 * 4).reshape(2, 4, 4)
    small = when.coarse(pixels, 2)
    assert small.shape == (2, 2, 2)
    assert small[0, 0, 0] == pixels[0, :2, :2].mean()
    assert when.coarse(pixels[..., None], 4).shape == (2, 1, 1, 1)


def test_all_methods_of_a_base_try_the_same_rates():
    settings = when.Settings(num_trials=5)
    plain, soft = (when.trials("sgd", name, settings) for name in ("plain", "soft, head"))
    np.testing.assert_array_equal(plain["rate"], soft["rate"])
    np.testing.assert_array_equal(plain["decay"], soft["decay"])
    assert len(set(soft["coll_coef"])) == 5
    low, high = when.BASES["sgd"][1].rate
    assert low <= min(plain["rate"])
    assert max(plain["rate"]) <= high


@pytest.mark.slow
def test_each_case_is_trained_from_its_seed_and_its_checkpoint_goes_with_the_row(tmp_path):
    trainer, split = small_trainer()
    cases = [
        {"data": "noise", "model": "small", "method": "soft 0.1", "network": n} for n in (0, 2)
    ]
    trained = trainer.fit_each(cases, split, lambda _: images.cosine(0.1), 1, 3, tmp_path / "kept")
    case, history = next(trained)
    assert case == cases[0]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    ((case, second),) = trained
    assert case == cases[1]
    assert not (tmp_path / "kept").exists()
    for network, found in ((0, history), (2, second)):
        _, alone = trainer.fit("soft 0.1", split, images.cosine(0.1), 1, 3000 + network)
        assert found.train_loss == alone.train_loss
    assert history.train_loss != second.train_loss


def test_holm_rejects_in_order_until_one_stands():
    assert statistics.holm([0.001, 0.03, 0.02, 0.9]) == [True, False, False, False]
    assert statistics.holm([0.001, 0.01, 0.02, 0.9]) == [True, True, True, False]


def test_the_paired_p_value_is_that_of_scipy():
    difference = np.random.default_rng(0).normal(0.2, 1, 12)
    assert statistics.paired_p(difference) == pytest.approx(stats.ttest_1samp(difference, 0)[1])
    assert statistics.paired_p(np.zeros(3)) == 1
    assert statistics.paired_p(np.ones(3)) == 0


@pytest.mark.slow
def test_lanes_with_their_own_settings_are_those_of_single_trainings():
    split = data.load("digits")
    settings = when.Settings(num_steps=5)
    hyperparameters = {"rate": [0.1, 0.01], "decay": [1e-4, 1e-3], "coll_coef": [0.3, 0.1]}
    lanes = {name: np.array(values) for name, values in hyperparameters.items()}
    method = ("sgd", "soft, head")
    together = when.train(split, 10, method, lanes, [3, 3], 100, settings)
    for lane in range(2):
        alone = {name: values[lane] for name, values in hyperparameters.items()}
        single = when.train(split, 10, method, alone, [3], 100, settings)
        np.testing.assert_allclose(together.heads[0][lane], single.heads[0][0], atol=1e-6)
    assert np.abs(together.heads[0][0] - together.heads[0][1]).max() > 1e-3


@pytest.mark.slow
def test_a_training_set_may_be_the_first_images_only():
    split = data.load("digits")
    few = when.train(split, 10, ("sgd", "plain"), HYPER, [0], 64, when.Settings(num_steps=2))
    assert few._order.max() == 63
    assert set(few._order[0, 0]) == set(range(64))


HYPER = {"rate": 0.1, "decay": 0.0, "coll_coef": 1.0}


def test_comparisons_are_paired():
    row = {"stage": "test", "data": "digits", "few": True, "noise": 0.2, "date": "now"}
    row |= {"base": "sgd", "head_cosine": 0.1, "hidden_cosine": 0.2, "seconds": 1.0}
    row |= {"rate": 0.1, "decay": 0.0, "accepted_fraction": None}
    row |= {"settings": {"num_seeds": 2, "num_trials": 1, "trial_seeds": 1}}
    plain = {**row, "collision": "plain", "test_accuracy": [0.5, 0.7]}
    soft = {**row, "collision": "soft, head", "test_accuracy": [0.51, 0.73]}
    (found,) = when.comparisons([plain, soft])
    assert (found.task, round(found.mean, 6), round(found.error, 6)) == ("digits, few, noisy", 2, 1)
    assert "+2.00 ± 1.00" in when.table([plain, soft])
    assert when.headline([plain, soft]).startswith("of 1 tuned comparisons 0 gain")


@pytest.mark.slow
def test_the_same_optimizer_serves_all_rates():
    """The rate is an argument of the program, so that tuning compiles nothing anew."""
    trainer, split = small_trainer()
    for rate in (0.1, 0.2):
        trainer.fit("soft 0.1", split, images.cosine(rate), 1, 0)
    assert trainer.steps["soft 0.1"]._cache_size() == 1


def test_a_step_passes_the_loss_on():
    def polyak(rate, key):
        return optax.polyak_sgd(max_learning_rate=0.1)  # fails without value=

    trainer, split = small_trainer()
    model = Small((1,), width=2, num_classes=3)
    trainer = vision.Trainer(model, split.train_images, {"polyak": polyak}, 8)
    _, history = trainer.fit("polyak", split, images.cosine(0.1), 1, 0)
    assert np.isfinite(history.train_loss[0])
