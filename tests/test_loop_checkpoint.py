"""Folders that runs go on from: loops of any kind, and one run at a time."""

import inspect
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kinopt import _checkpoint, ensemble, lanes
from tests.kills import KilledError, write_often
from tests.test_lanes import KEYS, MOST, assert_same, begin, data, walk

ROOT = pathlib.Path(__file__).parent.parent
run = inspect.unwrap(lanes.run)  # as users call it, without the type checker of these tests


def call(folder, **change):
    given = {"step": walk, "init": begin, "keys": KEYS, "num_steps": MOST, "lanes": 3, "chunk": 4}
    return run(**{**given, "checkpoint": folder, **change})


often = pytest.fixture(autouse=True)(write_often)


@pytest.fixture(scope="module")
def reference():
    return call(None)


def kill_after(writes, monkeypatch):
    """The process ends before it has written so often."""
    real, left = _checkpoint._write, [writes]

    def write(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        real(*arguments)

    monkeypatch.setattr(_checkpoint, "_write", write)
    return real


def test_a_killed_loop_goes_on_and_can_be_read(reference, tmp_path, monkeypatch):
    real = kill_after(9, monkeypatch)
    with pytest.raises(KilledError):
        call(tmp_path)
    monkeypatch.setattr(_checkpoint, "_write", real)
    part = lanes.read(tmp_path)
    assert 0 < len(part.seed) < len(KEYS)
    some = jax.tree.map(lambda x: x[part.seed], data(reference))
    assert_same(part, some._replace(seed=part.seed))
    assert part.carry["key"].dtype == jnp.uint32  # data of a typed key
    result = call(tmp_path)
    assert result.carry["key"].dtype == KEYS.dtype
    assert_same(result, reference)
    assert_same(lanes.read(tmp_path), data(reference))


@pytest.mark.slow
def test_another_loop_is_refused_with_what_differs(tmp_path):
    call(tmp_path)
    for message, change in {
        "num_steps .20 there, 9 here": {"num_steps": 9},
        "in values of keys [^,]*there, [^,]*here.. The": {"keys": KEYS[::-1]},
        "in step or init [^,]*there, [^,]*here.. The": {"step": lambda carry: (carry, 1)},
    }.items():
        with pytest.raises(ValueError, match=f"another loop: it differs .*{message}"):
            call(tmp_path, **change)
    with pytest.raises(ValueError, match=r"run of this kind, ensemble, .* of another kind, loop"):
        ensemble.read(tmp_path)
    for function in (call, inspect.unwrap(lanes.read)):
        with pytest.raises(TypeError, match="path of a folder, or None; got 3"):
            function(3)


HOLDER = """
import pathlib, sys, time
from kinopt import _checkpoint
with _checkpoint.opened(pathlib.Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(_checkpoint.fcntl is None, reason="nothing is locked here")
def test_one_run_at_a_time_and_a_killed_one_blocks_nobody(reference, tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(RuntimeError, match=r"in use: another run .* choose another folder"):
                call(tmp_path)
        finally:
            process.kill()
    assert_same(call(tmp_path), reference)
    with _checkpoint.opened(tmp_path) as found:
        assert found["kind"] == "loop"
        with pytest.raises(RuntimeError, match="in this process or in another"):
            call(tmp_path)
        assert_same(lanes.read(tmp_path), data(reference))  # reading needs no lock


@pytest.mark.skipif(_checkpoint.fcntl is None, reason="nothing is locked here")
def test_without_locks_it_runs(reference, tmp_path, monkeypatch):
    def none_here(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(_checkpoint.fcntl, "flock", none_here)
    assert_same(call(tmp_path), reference)
    monkeypatch.setattr(_checkpoint, "fcntl", None)
    assert_same(call(tmp_path), reference)


def test_a_folder_that_is_refused_is_left_as_it_was(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt"):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_bar_says_what_runs(capsys):
    call(None, progress=True)
    assert "loop: 100%" in capsys.readouterr().err
    ensemble.run(
        lambda x: x**2, optax.sgd(0.1), np.float32(1), KEYS[:3], num_steps=2, progress=True
    )
    assert "ensemble: 100%" in capsys.readouterr().err
