"""The command line of the benchmarks, their records and reports, and what runs an experiment."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import experiments, markdown, record, report, runner
from benchmarks.__main__ import main


@dataclasses.dataclass(frozen=True)
class OneNumber:
    """Settings of the experiments made up here."""

    seed: int = 3


def made_up(run=None):
    return SimpleNamespace(run=run)


# Command line


def test_list_names_every_experiment_with_its_question(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == experiments.names()
    assert "Do collisions help a small network to read digits?" in lines[0]


@pytest.mark.parametrize("command", [None, "list", "demo", "run", "report"])
def test_help_ends_in_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"] if command else ["--help"])
    assert stop.value.code == 0
    assert "example: python -m benchmarks" in capsys.readouterr().out


def test_a_wrong_name_lists_the_near_ones(capsys):
    assert main(["run", "tunning"]) == 2
    message = capsys.readouterr().err
    assert "'tunning'" in message
    assert "near it: tuning" in message
    with pytest.raises(ValueError, match="there are: demo, tuning"):
        experiments.load("zzz")


def test_a_missing_preset_lists_those_there_are(capsys):
    assert main(["run", "demo", "--preset", "gpu"]) == 2
    assert "it has smoke, laptop, paper" in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_has_the_same_shape(name):
    module = experiments.load(name)
    assert experiments.describe(name).partition("\n")[0]
    assert {"smoke", "laptop"} <= module.PRESETS.keys()
    for settings in module.PRESETS.values():
        assert isinstance(settings, module.Settings)
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.seed = 1
    assert callable(module.run)


# Running


def test_an_experiment_may_return_a_list(tmp_path, capsys):
    experiment = made_up(lambda settings: [{"value": settings.seed}])
    path = tmp_path / "rows.jsonl"
    assert runner.perform("made_up", experiment, "smoke", OneNumber(), path) == 0
    assert json.loads(path.read_text())["value"] == 3
    assert str(path) in capsys.readouterr().out


def test_an_interruption_before_the_first_row_says_so(tmp_path, capsys):
    def run(settings):
        raise KeyboardInterrupt

    path = tmp_path / "rows.jsonl"
    status = runner.perform("made_up", made_up(run), "smoke", OneNumber(), path)
    assert status == runner.INTERRUPTED
    assert "Nothing was written" in capsys.readouterr().out
    assert not path.exists()


# Records


def test_a_row_says_where_it_comes_from(tmp_path):
    origin = record.provenance("speed.made_up", "smoke", OneNumber())
    assert set(origin) == set(record.PROVENANCE)
    path = tmp_path / "rows" / "made_up.jsonl"
    measured = {"array": np.arange(2), "scalar": jnp.float32(0.5), "unknown": float("nan")}
    record.append(path, measured, origin)
    record.append(path, {"array": [], "scalar": 1.0, "unknown": None}, origin)
    first, second = record.read(path)
    assert (first["array"], first["scalar"], first["unknown"]) == ([0, 1], 0.5, None)
    assert (first["experiment"], first["preset"]) == ("speed.made_up", "smoke")
    assert (first["settings"], first["seed"]) == ({"seed": 3}, 3)
    assert first["device"]["count"] == jax.device_count()
    assert first["versions"]["jax"] == jax.__version__
    assert {"kinopt", "jaxlib", "optax", "flax", "numpy", "python"} < first["versions"].keys()
    assert record.latest([{"date": "before"}, first, second]) == [first, second]


def test_a_row_cannot_measure_its_origin(tmp_path):
    with pytest.raises(ValueError, match="commit"):
        record.append(tmp_path / "rows.jsonl", {"commit": 1}, {"commit": "abc"})


def test_a_broken_line_is_found(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"fine": 1}\n{"cut sh')
    with pytest.raises(ValueError, match=r"Line 2 .* is not JSON"):
        record.read(path)


def test_the_commit_is_unknown_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert record.commit() == "unknown"


# Reports


def test_the_report_has_a_section_for_each_experiment_with_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "load", lambda name: made_up())
    origin = record.provenance("tuning", "smoke", OneNumber())
    for value in (1.0, 0.123456):
        measured = {"ratio": value, "kind": "dense", "curve": [1, 2]}
        record.append(tmp_path / "tuning.jsonl", measured, origin)
    text = report.build(tmp_path, tmp_path / "RESULTS.md").read_text()
    assert "## tuning: Which learning rate" in text
    assert "0.1235" in text
    assert "curve" not in text
    assert "## demo" not in text


def test_the_committed_rows_make_a_report(tmp_path):
    text = report.build(target=tmp_path / "RESULTS.md").read_text()
    assert "## tuning" in text
    assert "## demo" in text


def test_a_table_has_columns_of_one_width():
    lines = markdown.table_of(["a", "long name"], [["value", "1"]]).splitlines()
    assert lines == ["| a     | long name |", "| ----- | --------- |", "| value | 1         |"]
