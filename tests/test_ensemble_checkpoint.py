"""A killed ensemble goes on: every write that a kill may come before, and real kills."""

import inspect
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kinopt import _checkpoint, _engine, ensemble
from tests.kills import KilledError, write_often

ROOT = pathlib.Path(__file__).parent.parent
run = inspect.unwrap(ensemble.run)  # as users call it, without the type checker of these tests
KEYS = jax.random.split(jax.random.key(5), 30)
START = {"w": [jnp.zeros(2, jnp.bfloat16), jnp.array(1.0)]}


def loss(params, key):
    """Of unlike types; random, so that seeds take 1 to 40 steps."""
    w, b = params["w"]
    return jnp.sum((w - 1) ** 2).astype(jnp.float32) + (b - jax.random.normal(key)) ** 2


def draw(key, step):
    return jax.random.fold_in(key, step)


def stop(params, value):
    return jnp.where(value < 0.2, 1, 0)


ADAM = optax.adam(0.1)
GIVEN = {
    "loss_fn": loss,
    "optimizer": ADAM,
    "params": START,
    "keys": KEYS,
    "num_steps": 40,
    "stop": stop,
    "batches": draw,
    "lanes": 3,
    "chunk": 4,
}


def call(folder, **change):
    return run(**{**GIVEN, "checkpoint": folder, **change})


def assert_same(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


often = pytest.fixture(autouse=True)(write_often)


@pytest.fixture(scope="module")
def reference():
    return run(**GIVEN)


@pytest.mark.slow
def test_a_kill_before_any_write_changes_nothing(reference, tmp_path, monkeypatch):
    """The process ends before its third write, the next before its sixth, its ninth, and so on."""
    real, kills = os.replace, 0
    while True:
        left = [3 + 3 * (kills % 3)]

        def replace(source, target, left=left):
            left[0] -= 1
            if left[0] <= 0:
                raise KilledError
            real(source, target)

        monkeypatch.setattr(_checkpoint.os, "replace", replace)
        try:
            result = call(tmp_path)
            break
        except KilledError:
            kills += 1
        monkeypatch.setattr(_checkpoint.os, "replace", real)
        if (tmp_path / "problem.json").exists():
            seen = ensemble.read(tmp_path)
            assert_same(seen.value, reference.value[seen.seed])
        assert kills < 200
    assert kills > 5
    assert_same(result, reference)
    assert_same(ensemble.read(tmp_path), reference)


def test_what_has_ended_is_not_done_again(reference, tmp_path, monkeypatch):
    assert_same(call(tmp_path), reference)
    names = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(_checkpoint, "_write", None)  # nobody calls it
    assert_same(call(tmp_path), reference)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    monkeypatch.setattr(_engine, "devices_of", lambda mesh, keys: jax.devices()[:1] * 7)
    assert_same(call(tmp_path, lanes=None), reference)  # on a machine with other cores


def test_containers_come_back_as_dictionaries_and_lists(reference, tmp_path):
    call(tmp_path)
    seen = ensemble.read(tmp_path)
    assert isinstance(seen.params["w"], list)
    assert seen.params["w"][0].dtype == jnp.bfloat16
    assert_same(seen.opt_state[0]["mu"]["w"][1], reference.opt_state[0].mu["w"][1])
    assert (seen.aux, seen.summary) == (None, None)


@pytest.mark.slow
def test_another_call_is_refused_with_what_differs(tmp_path):
    call(tmp_path)
    ones = {"w": [jnp.ones(2, jnp.bfloat16), jnp.array(1.0)]}
    three = "num_steps .41 there, 40 here.*lanes .3 there, 4 here.*functions or keep"
    for message, change in {
        three: {"num_steps": 39, "lanes": 4, "optimizer": optax.adam(0.2)},
        "in values of keys [^,]*there, [^,]*here.. The": {"keys": KEYS[::-1]},
        "in params": {"params": ones},
    }.items():
        with pytest.raises(ValueError, match=f"another ensemble: it differs .*{message}"):
            call(tmp_path, **change)


def test_what_is_no_folder_of_an_ensemble_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"or an empty or new one; .* holds notes.txt"):
        call(tmp_path)
    with pytest.raises(ValueError, match=r"notes.txt is a file"):
        call(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"has no problem.json"):
        ensemble.read(tmp_path)
    for function in (call, inspect.unwrap(ensemble.read)):
        with pytest.raises(TypeError, match="path of a folder, or None; got 3"):
            function(3)


SCRIPT = """
import sys, time
import jax, numpy as np
from kinopt import _checkpoint, _engine, ensemble
from tests.kills import KilledError, write_often
from tests.test_ensemble_checkpoint import GIVEN

out, folder, paced = (*sys.argv[1:], None, None)[:3]
if paced:  # much is written, and slowly: however fast the machine is, it is killed before its end
    _checkpoint.SECONDS, _checkpoint.SHARE = 0.0, 0
    _engine.SECONDS_PER_CALL, _engine.FIRST_ROUNDS = 0.0, 1
    replace = _checkpoint.os.replace
    _checkpoint.os.replace = lambda *names: (replace(*names), time.sleep(0.005))
keys = jax.random.split(jax.random.key(1), 3000)
result = ensemble.run(**{**GIVEN, "keys": keys, "checkpoint": folder})
np.savez(out, *[np.asarray(x, np.float64) for x in jax.tree.leaves(result)])
"""


@pytest.mark.slow
def test_real_kills_at_random_moments(tmp_path):
    """Ten SIGKILLs; the result is that of a run that nobody killed."""
    whole, part, folder = tmp_path / "whole.npz", tmp_path / "part.npz", tmp_path / "folder"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def started(*arguments):
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)

    def written():
        return len(list(folder.glob("*.npz")))

    rng = random.Random(0)
    ended = []
    for _ in range(10):
        process, before = started(part, folder, "paced"), written()
        while process.poll() is None and written() <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        ended.append(len(ensemble.read(folder).seed))
    assert ended == sorted(ended)  # nothing is lost
    assert 0 < ended[-1] < 3000
    for arguments in ((part, folder), (whole,)):
        assert started(*arguments).wait() == 0
    with np.load(whole) as one, np.load(part) as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
