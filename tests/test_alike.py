"""Committees with units that are alike, the rule of three numbers, and how their rows are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import demo
from benchmarks.evidence import _committee, _expected_problems, alike, expected
from benchmarks.evidence._alike_reading import comparisons
from benchmarks.evidence._committee import METHODS, Size, teacher_units, train
from benchmarks.evidence._rule import COMMON, COS_G, COS_W, advice

SIZE = Size(units=3, inputs=8, batch=16, looks=2)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
def test_the_teacher_has_its_cosine(cosine):
    b = np.asarray(teacher_units(jax.random.key(1), 4, 9, cosine))
    expected_products = np.where(np.eye(4), 1, cosine)
    np.testing.assert_allclose(b.T @ b, expected_products, atol=1e-5)


def looks_of(name, strength, seeds=(3, 4)):
    lanes = np.full(len(seeds), 0.05), np.full(len(seeds), strength)
    return train(("adam", name), SIZE, "tanh", 0.7, 20, True, *lanes, np.array(seeds))


@pytest.mark.slow
def test_a_seed_fixes_all_but_the_method():
    """A collision of strength 0 is the plain optimizer; neighbours of a seed do not matter."""
    plain = looks_of("plain", 1.0)
    for name in ("soft", "soft, gradients"):
        np.testing.assert_allclose(looks_of(name, 0.0).error, plain.error, rtol=1e-4)
        assert np.abs(looks_of(name, 0.5).error / plain.error - 1).min() > 1e-3
    np.testing.assert_allclose(looks_of("plain", 1.0, (4, 5)).error[0], plain.error[1], rtol=1e-4)


def test_batches_are_drawn_for_so_many_steps_and_no_more():
    lanes = np.full(1, 0.05), np.ones(1), np.zeros(1)
    with pytest.raises(ValueError, match="at most 2000"):
        train(("adam", "plain"), SIZE, "tanh", 0.7, 2010, True, *lanes)


def test_what_is_looked_at_is_what_numpy_finds():
    looks = looks_of("plain", 1.0)
    fresh = np.asarray(_committee._samples(SIZE.inputs)[1], float)
    for lane, seed in enumerate((3, 4)):
        key = jax.random.split(jax.random.key(np.uint32(seed)), 4)[0]
        teacher = np.asarray(teacher_units(key, SIZE.units, SIZE.inputs, 0.7), float)
        w = looks.units[lane, -1]
        said, wanted = np.tanh(fresh @ w.T), np.tanh(fresh @ teacher)
        rest = (said - wanted).sum(axis=1)
        np.testing.assert_allclose(looks.error[lane, -1], np.mean(rest**2) / 2, rtol=1e-4)
        g = ((rest[:, None] * (1 - said**2)).T @ fresh) / len(fresh)
        common = 3 * np.sum(g.mean(axis=0) ** 2) / np.sum(g**2)
        np.testing.assert_allclose(looks.common[lane, -1], common, rtol=1e-3)
        for found, x in ((looks.cos_g, g), (looks.cos_w, w)):
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            cosines = np.abs(unit @ unit.T)[np.triu_indices(3, 1)]
            np.testing.assert_allclose(found[lane, -1], cosines.mean(), rtol=1e-3)


def test_all_methods_get_as_many_trials_and_the_same_rates_where_they_can():
    settings = alike.Settings(num_trials=7)
    plain = alike.trials("adam", "plain", settings)["rate"]
    for base, name in METHODS:
        tried = alike.trials(base, name, settings)
        ranges = METHODS[base, name].rates, METHODS[base, name].strengths
        for values, (low, high) in zip(tried.values(), ranges, strict=True):
            assert len(values) == 7
            assert low * 0.99 <= values.min() <= values.max() <= high * 1.01
        if base == "adam" and ranges[0] == METHODS["adam", "plain"].rates:
            np.testing.assert_array_equal(tried["rate"], plain)


def test_a_training_that_diverged_is_worse_than_any():
    looks = alike.Looks(*[np.array([[1e-3], [np.nan], [1e-14]])] * 5)
    assert alike.log_error(looks).tolist() == [-3, 3, -10]


def test_the_rule_asks_all_three():
    both = {"soft", "soft, gradients"}
    assert advice(COMMON, COS_G, COS_W) == both
    assert advice(COMMON, COS_G, COS_W - 0.01) == {"soft, gradients"}
    assert advice(COMMON - 0.01, 1, 1) == advice(1, COS_G - 0.01, 1) == set()


def made(method, errors, cosine=0.7, cos_w=0.7):
    row = {"base": "adam", "schedule": "decayed", "steps": 9, "units": 3, "activation": "erf"}
    row |= {"cosine": cosine, "method": method, "log_error": errors}
    row |= {"common": [0.9], "cos_g": [0.9], "cos_w": [cos_w]}
    return row | {"settings": {"num_seeds": 4, "num_trials": 1, "trial_seeds": 1}}


ROWS = [
    made("plain", [-3.0, -3.2, -3.1, -2.9]),
    made("soft", [-4.0, -4.21, -4.1, -3.9]),
    made("plain", [-3.0, -3.2, -3.1, -2.9], cosine=0.0, cos_w=0.0),
    made("soft", [-2.0, -2.21, -2.1, -1.9], cosine=0.0, cos_w=0.0),
    made("soft, gradients", [-3.0, -3.4, -3.0, -2.8], cosine=0.0, cos_w=0.0),
]


def test_differences_are_paired_and_errors_of_the_rule_are_counted():
    gain, loss, none = comparisons(ROWS)
    assert (gain.gains, gain.loses, gain.is_named) == (True, False, True)
    assert (loss.gains, loss.loses, loss.is_named) == (False, True, False)
    assert (none.gains, none.loses, none.is_named) == (False, False, True)
    np.testing.assert_allclose(gain.difference, [-1, -1.01, -1, -1], atol=1e-9)
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in alike.table(ROWS).splitlines()
    ]
    adam = ["adam, decayed", "3"]
    assert [*adam, "soft", "1 of 2", "1", "0", "0", "0", "1"] in lines
    assert [*adam, "soft, gradients", "1 of 1", "0", "0", "0", "1", "1"] in lines
    assert ["adam", "3", "soft", "+1.00 (0 gain, 1 lose)", "-1.00 (1 gain, 0 lose)"] in lines
    assert [*adam, "0 ahead, 1 behind, of 1"] in lines, "soft against gradients only, at 0"
    assert "soft: alike 1 gain and 0 lose of 1, orthogonal 0 gain and 1 lose of 1" in (
        alike.headline(ROWS)
    )


def test_each_base_and_each_number_of_units_has_verdicts_of_its_own():
    """The thresholds were chosen on one of these sets, and the others are there to test them."""
    more = [row | {"base": "sgd", "schedule": "constant", "units": 7} for row in ROWS[:2]]
    table = alike.table(ROWS + more)
    for place in (("adam, decayed", "3"), ("sgd, constant", "7")):
        cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()]
        assert cells.count([*place, "soft"]) == 1
    assert alike.headline(ROWS + more) == alike.headline(ROWS), "of Adam"


# Where help would be expected


def test_top_keeps_the_largest():
    code = jnp.array([[3.0, -1.0, 2.0, 5.0], [-1.0, -2.0, -3.0, 4.0]])
    kept = _expected_problems._top(code, 2)
    np.testing.assert_array_equal(kept, [[3, 0, 0, 5], [0, 0, 0, 4]])


@pytest.mark.slow
def test_dead_codes_are_reset_every_fifty_steps():
    problem = _expected_problems.CODEBOOK
    world = problem.world(jax.random.key(0))
    codes = jnp.concatenate([world[:, :8], jnp.full((8, 24), 1e3)], axis=1)  # 24 are far from all
    after = [
        problem.after({"units": codes}, world, jax.random.key(1), jnp.int32(step))["units"]
        for step in (48, 49)
    ]
    np.testing.assert_array_equal(after[0], codes)
    np.testing.assert_array_equal(after[1][:, :8], codes[:, :8])
    assert float(jnp.abs(after[1]).max()) < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", _expected_problems.PROBLEMS)
def test_a_problem_is_learned_a_little_by_every_method(name):
    """A step of descent along each problem's gradient lowers its loss."""
    problem = _expected_problems.PROBLEMS[name]
    keys = jax.random.split(jax.random.key(0), 3)
    world, params = problem.world(keys[0]), problem.init(keys[1])
    assert "units" in params
    value, g = jax.value_and_grad(problem.loss)(params, world, keys[2], None)
    rate = 1e-3 / max(float(jnp.abs(x).max()) for x in jax.tree.leaves(g))
    after = jax.tree.map(lambda x, slope: x - rate * slope, params, g)
    assert problem.loss(after, world, keys[2], None) < value
    assert jnp.isfinite(problem.score(params, world))


def test_an_ensemble_that_says_nothing_loses_log_10():
    params = {"units": jnp.zeros((16 * 74, 8))}
    score = _expected_problems.ENSEMBLE.score(params, jnp.zeros(()))
    np.testing.assert_allclose(score, np.log(10), rtol=1e-5)


def test_the_table_of_the_expected_says_what_the_rule_says():
    row = {"problem": "codebook", "trick": "reset", "common": 0.1, "cos_g": 0.9, "cos_w": 0.9}
    row |= {"settings": {"num_seeds": 3, "num_trials": 1, "trial_seeds": 1}}
    rows = [row | {"method": "plain", "score": [1.0, 1.1, 1.2]}]
    rows.append(row | {"method": "soft", "score": [0.9, 1.0, 1.11]})
    assert "| none " in expected.table(rows)
    assert "-0.097 ± 0.003" in expected.table(rows)
    assert expected.headline(rows).endswith("codebook -0.097 ± 0.003")


# The demo


def test_the_demo_says_in_one_line_what_collisions_change():
    row = {"data": "digits", "base": "sgd", "steps": [1]}
    rows = [row | {"method": "sgd", "test_accuracy": [[0.5], [0.6]]}]
    assert demo.headline(rows) == "plain optimizers alone"
    rows.append(row | {"method": "sgd + soft", "test_accuracy": [[0.51], [0.63]]})
    rows.append(row | {"method": "sgd + hard", "test_accuracy": [[0.5], [0.59]]})
    line = demo.headline(rows)
    assert "-0.50 ± 0.50 (sgd + hard) to +2.00 ± 1.00 (sgd + soft)" in line
