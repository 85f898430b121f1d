"""The demo from end to end, its paired training and its tuning."""

import dataclasses

import numpy as np
import optax
import pytest

from benchmarks import data, demo, models, record, runner, tuning
from benchmarks.__main__ import main
from benchmarks.methods import METHODS, Settings, bases
from benchmarks.train import Training, batch_order

# Training


def test_every_epoch_sees_every_image_once():
    order = batch_order(num_images=10, num_steps=5, batch_size=4, seed=0)
    assert order.shape == (5, 4)
    for epoch in order.reshape(2, 10):
        assert sorted(epoch) == list(range(10))


@pytest.mark.slow
def test_a_seed_does_not_depend_on_the_others_or_on_the_chunks():
    arguments = (models.MLP(()), data.load("digits"), lambda rate, key: optax.sgd(rate), 0.1, 6, 16)
    together, alone = Training(*arguments, seeds=[4, 7]), Training(*arguments, seeds=[7])
    assert together.advance(6) == 6
    assert [alone.advance(4), alone.advance(4)] == [4, 2]
    assert together.finished
    assert alone.finished
    np.testing.assert_allclose(together.heads[-1][1], alone.heads[-1][0], rtol=1e-4, atol=1e-6)


def test_the_loss_reaches_the_optimizer():
    def polyak(rate, key):
        return optax.polyak_sgd(max_learning_rate=0.1)  # fails without value=

    training = Training(models.MLP(()), data.load("digits"), polyak, 0.1, 2, 16, seeds=[0])
    training.advance(2)
    assert training.finished


def test_every_base_meets_soft_and_hard_collisions():
    for base in bases():
        partners = [method for method in METHODS if method.base == base.name]
        assert [method.name.removeprefix(base.name) for method in partners] == [
            "",
            " + soft",
            " + hard",
        ]
        assert not any(method.rates for method in partners[1:])


@pytest.mark.parametrize("name", ["bbi", "bbi + soft"])
@pytest.mark.slow
def test_bbi_learns_from_minibatches(name):
    method = next(method for method in METHODS if method.name == name)
    data_set = data.load("digits")
    training = Training(models.MLP((32,)), data_set, method.build, 0.4, 60, 64, seeds=[0, 1])
    training.advance(60)
    assert training.accuracy[-1].min() > 0.8


# Tuning


def test_every_base_has_a_tuned_rate_inside_its_grid():
    for data_set in ("digits", "mnist"):
        for base in bases():
            rate = tuning.tuned_rate(base.name, data_set)
            assert min(base.rates) < rate < max(base.rates)
    with pytest.raises(ValueError, match="demo --tune"):
        tuning.tuned_rate("sgd", "letters")


def test_tuning_marks_one_rate_of_each_base(monkeypatch):
    few = [dataclasses.replace(base, rates=base.rates[:2]) for base in bases()[:1]]
    monkeypatch.setattr(tuning, "bases", lambda: few)
    rows = list(tuning.run(Settings(num_seeds=2, num_steps=4, hidden=(), seed=99)))
    assert len(rows) == 2
    assert sum(row["chosen"] for row in rows) == 1
    assert "**" in tuning.table(rows)


# The demo


ROW = {
    "data": "digits",
    "method": "sgd",
    "base": "sgd",
    "learning_rate": 0.2,
    "steps": [25, 50],
    "test_accuracy": [[0.5, 0.75], [0.5, 0.25]],
    "mean_abs_cosine": 0.1,
    "accepted_fraction": None,
    "step_time_ratio": [1.0, 1.0, 1.0],
    "date": "early",
}


def test_the_table_is_paired_and_says_what_was_accepted():
    hard = {
        "method": "sgd + hard",
        "accepted_fraction": 0.125,
        "test_accuracy": [[0.5, 0.76], [0.5, 0.28]],
    }
    cut_short = {**ROW, "steps": [25], "test_accuracy": [[0.5], [0.5]]}
    text = demo.table([cut_short, ROW, {**ROW, **hard}])
    assert text.startswith("digits, 2 paired seeds, after 50 steps")
    assert "+2.00 ± 1.00" in text
    assert "12.50%" in text
    assert "Plain, seed by seed" not in text


def test_the_table_compares_the_plain_optimizers():
    accuracy = [[0.5, 0.74], [0.5, 0.22]]
    bbi = {**ROW, "method": "bbi", "base": "bbi", "test_accuracy": accuracy}
    assert "bbi less sgd -2.00 ± 1.00 points" in demo.table([ROW, bbi])
    assert "less sgd" not in demo.table([ROW, {**bbi, "steps": [25, 75]}])


@pytest.mark.slow
def test_the_demo_ends_with_rows_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "METHODS", METHODS[:3])  # the first optimizer alone, and with both
    folder = tmp_path / "output"
    assert main(["demo", "--preset", "smoke", "--quiet", "--out", str(folder)]) == 0
    rows = record.read(folder / "demo.jsonl")
    assert [row["method"] for row in rows] == ["sgd", "sgd + soft", "sgd + hard"]
    for row in rows:
        assert row["finished"]
        assert row["experiment"] == "demo"
        assert np.shape(row["test_accuracy"]) == (2, len(row["steps"]))
        assert 0 < row["mean_abs_cosine"] < 1
        assert (row["accepted_fraction"] is not None) == ("hard" in row["method"])
        assert row["step_time_ratio"][0] > 0
    output = capsys.readouterr()
    assert (folder / "demo.md").read_text() in output.out
    assert str(folder / "demo.png") in output.out
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert output.err == ""


@pytest.mark.slow
def test_an_interrupted_demo_keeps_what_was_done(tmp_path, capsys, monkeypatch):
    """Ctrl-C in the second turn: both methods of the first base have done one chunk."""
    advance, calls = Training.advance, []
    monkeypatch.setattr(demo, "METHODS", METHODS[:2])

    def interrupted(self, num_steps):
        calls.append(num_steps)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self, num_steps)

    monkeypatch.setattr(Training, "advance", interrupted)
    arguments = ["demo", "--preset", "smoke", "--seeds", "1", "--quiet", "--out", str(tmp_path)]
    assert main(arguments) == runner.INTERRUPTED
    rows = record.read(tmp_path / "demo.jsonl")
    assert [row["method"] for row in rows] == ["sgd", "sgd + soft"]
    assert not any(row["finished"] for row in rows)
    assert all(row["steps"] == [25] for row in rows)
    assert "Interrupted" in capsys.readouterr().out
    assert (tmp_path / "demo.md").exists()
    assert (tmp_path / "demo.png").exists()
    monkeypatch.setattr(Training, "advance", advance)
    assert main([*arguments, "--resume"]) == 0
    rows = record.read(tmp_path / "demo.jsonl")
    assert [row["finished"] for row in rows] == [False, False, True, True]
    assert len({row["date"] for row in rows}) == 1


def test_a_demo_without_seeds_is_refused(capsys):
    assert main(["demo", "--seeds", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
