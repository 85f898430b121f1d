"""The command line of the benchmarks, their records and reports, and what runs an experiment."""

import dataclasses
import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import (
    commands,
    experiments,
    markdown,
    papers,
    reading,
    record,
    report,
    runner,
)
from benchmarks.__main__ import main
from benchmarks.progress import counted, set_quiet


@dataclasses.dataclass(frozen=True)
class OneNumber:
    """Settings of the experiments made up here."""

    seed: int = 3


def made_up(run=None, **more):
    def table(rows):
        return f"found {[row.get('number') for row in rows]}"

    return SimpleNamespace(run=run, table=table, READING="How to read it", **more)


# Command line


def test_list_names_every_experiment_with_its_question(capsys):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    lines = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == experiments.names()
    assert "Takes:" in listed
    assert "Rows:       committed, preset laptop" in listed
    assert "Do collisions help a small network to read digits?" in lines[0]


def test_the_facts_are_the_last_lines_of_the_docstring():
    facts = experiments.facts("evidence.gas")
    assert list(facts) == ["Reproduces", "Needs", "Takes"]
    assert facts["Needs"] == "nothing."
    for name in experiments.names():
        if not name.startswith("bbi."):
            assert "Takes" in experiments.facts(name), name


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
    assert callable(module.table)
    assert name == "tuning" or callable(module.plot)  # its numbers are a list of rates


# Where rows go


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The committed results and the working folder, and an experiment that measures one number."""
    results, here = tmp_path / "results", tmp_path / "here"
    results.mkdir()
    here.mkdir()
    (results / "speed.steps.jsonl").write_text("")
    monkeypatch.setattr(commands, "RESULTS", results)
    monkeypatch.chdir(here)
    presets = {"smoke": OneNumber(), "laptop": OneNumber()}
    experiment = SimpleNamespace(
        PRESETS=presets, run=lambda settings: [{"number": 1}], table=lambda rows: "one number"
    )
    monkeypatch.setattr(experiments, "load", lambda name: experiment)
    return results, here


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("preset", ["smoke", "laptop"])
def test_a_run_leaves_the_committed_results_alone(folders, preset, capsys):
    results, here = folders
    assert main(["run", "speed.steps", "--preset", preset]) == 0
    assert contents(results) == {"speed.steps.jsonl": ""}
    rows, table = "benchmark-output/speed.steps.jsonl", "benchmark-output/speed.steps.md"
    assert set(contents(here)) == {rows, table}
    assert contents(here)[table] == "one number\n"
    assert rows in capsys.readouterr().out


def test_what_is_asked_to_is_committed(folders, capsys):
    results, here = folders
    assert main(["run", "speed.steps", "--commit"]) == 0
    assert list(contents(results)) == ["speed.steps.jsonl"]  # its table is a part of the report
    assert len(record.read(results / "speed.steps.jsonl")) == 1
    assert contents(here) == {}
    assert main(["run", "speed.steps", "--commit", "--preset", "smoke"]) == 2
    assert "take another preset" in capsys.readouterr().err
    assert len(record.read(results / "speed.steps.jsonl")) == 1


@pytest.mark.parametrize("options", [[], ["--tune"]])
def test_the_demo_leaves_the_committed_results_alone(options, folders, monkeypatch):
    settings = dataclasses.make_dataclass("Settings", [("data", str, "")], frozen=True)()
    monkeypatch.setattr(experiments.load(""), "PRESETS", {"laptop": settings})
    shown = []
    monkeypatch.setattr(commands, "show", shown.append)
    results, here = folders
    assert main(["demo", *options]) == 0
    assert shown == ([] if options else [commands.DEMO_OUTPUT])
    assert contents(results) == {"speed.steps.jsonl": ""}
    name = "tuning" if options else "demo"
    assert set(contents(here)) == {f"demo-output/{name}.jsonl", f"demo-output/{name}.md"}


# Running


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_an_experiment_may_return_a_list(tmp_path, capsys):
    experiment = made_up(lambda settings: [{"value": settings.seed}])
    path = tmp_path / "rows.jsonl"
    assert runner.perform("made_up", experiment, "smoke", OneNumber(), path) == 0
    assert json.loads(path.read_text())["value"] == 3
    assert str(path) in capsys.readouterr().out


def test_an_interruption_before_the_first_row_says_so(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    status = runner.perform("made_up", made_up(interrupted), "smoke", OneNumber(), path)
    assert status == runner.INTERRUPTED
    assert "Nothing was written" in capsys.readouterr().out
    assert not path.exists()


def test_an_interruption_while_the_table_is_made_keeps_the_rows(tmp_path, capsys):
    experiment = made_up(lambda settings: [{"number": 1}])
    experiment.table = interrupted
    path = tmp_path / "rows.jsonl"
    status = runner.perform("made_up", experiment, "smoke", OneNumber(), path)
    assert status == runner.INTERRUPTED
    assert len(record.read(path)) == 1
    output = capsys.readouterr().out
    assert "All rows are kept" in output
    assert str(path) in output


def test_an_interruption_while_jax_is_imported_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["list"]) == runner.INTERRUPTED
    assert "nothing more was written" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error():
    """As `python -m benchmarks list | head -1` does, but surely before the first line."""
    command = [sys.executable, "-m", "benchmarks", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_bar_is_right_whether_or_not_parts_are_counted(capsys):
    set_quiet(False)
    cases = [{"law": "soft"}, {"law": "hard"}]
    seen = []
    for case, advance in counted(cases, "laws", parts=3):
        seen.append(case)
        if case["law"] == "soft":
            advance()
    set_quiet(True)
    assert seen == cases
    drawn = capsys.readouterr().err
    assert "soft" in drawn
    assert "hard" in drawn
    assert list(counted([], "nothing")) == []


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, so nothing is tidied up."""


def in_pieces(after: int, done_argument: bool):
    """An experiment that dies when it has measured `after` numbers, and what it measured so far."""
    measured = []

    def measure(number):
        if len(measured) == after:
            raise Killed
        measured.append(number)
        return {"number": number, "pair": [number, number / 3]}

    def run(settings):
        return (measure(number) for number in range(4))

    def run_remaining(settings, done):
        return (measure(number) for number in range(4) if not done(number=number))

    return made_up(run_remaining if done_argument else run), measured


@pytest.mark.parametrize("done_argument", [True, False])
@pytest.mark.parametrize("torn", ["", '{"number": 2, "pa'])
def test_a_killed_run_goes_on_without_losing_or_repeating_a_row(
    tmp_path, capsys, done_argument, torn
):
    path = tmp_path / "rows.jsonl"
    dying, _ = in_pieces(2, done_argument)
    with pytest.raises(Killed):
        runner.perform("made_up", dying, "smoke", OneNumber(), path)
    with path.open("a") as file:
        file.write(torn)
    living, measured = in_pieces(99, done_argument)
    runner.perform("made_up", living, "smoke", OneNumber(), path, resume=True)
    output = capsys.readouterr().out
    assert ("torn line (17 bytes)" in output) == bool(torn)
    assert "which has 2 rows" in output
    rows = record.read(path)
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert len({row["date"] for row in rows}) == 1
    assert measured == ([2, 3] if done_argument else [0, 1, 2, 3])


WAITING_RUN = """
import pathlib, sys, time
from benchmarks import runner
from tests.test_benchmarks import OneNumber, made_up

rows, measures = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def run(settings, done):
    for count, number in enumerate(n for n in range(4) if not done(number=n)):
        if count == measures:
            print("waiting", flush=True)
            time.sleep(600)
        yield {"number": number}

sys.exit(runner.perform("made_up", made_up(run), "smoke", OneNumber(), rows, resume=True))
"""
"""Measures so many numbers that are not on record yet, then waits to be ended."""


@pytest.mark.slow
def test_a_run_survives_ctrl_c_and_sigkill(tmp_path):
    """The real thing: a process is ended after its first row, another one after its second."""
    path = tmp_path / "rows.jsonl"

    def ended(end: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
        command = [sys.executable, "-c", WAITING_RUN, str(path), "1"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout
            assert "waiting\n" in process.stdout
            end(process)
            return process.wait(), process.stdout.read()

    status, output = ended(lambda process: process.send_signal(signal.SIGINT))
    assert status == runner.INTERRUPTED
    assert "Interrupted. Measured until then: 1 rows" in output
    assert "Traceback" not in output
    assert ended(subprocess.Popen.kill)[0] == -signal.SIGKILL
    assert len(record.read(path)) == 2
    subprocess.run([sys.executable, "-c", WAITING_RUN, str(path), "99"], check=True)
    rows = record.read(path)
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert len({row["date"] for row in rows}) == 1


def test_only_a_run_with_the_same_settings_is_resumed(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    experiment, _ = in_pieces(99, done_argument=True)
    runner.perform("made_up", experiment, "smoke", OneNumber(), path)
    other, measured = in_pieces(99, done_argument=True)
    runner.perform("made_up", other, "smoke", OneNumber(seed=4), path, resume=True)
    assert "begins anew" in capsys.readouterr().out
    assert len(measured) == 4
    again, measured = in_pieces(99, done_argument=True)
    runner.perform("made_up", again, "smoke", OneNumber(), path, resume=True)
    assert measured == []
    assert len(record.read(path)) == 8


def test_seeds_and_resume_reach_the_experiment(tmp_path, capsys):
    out = str(tmp_path / "rows.jsonl")
    assert main(["run", "speed.steps", "--seeds", "3", "--out", out]) == 2
    assert "no setting num_seeds" in capsys.readouterr().err
    assert main(["run", "demo", "--seeds", "0", "--out", out]) == 2
    assert "at least 1" in capsys.readouterr().err


# Records


def test_a_row_says_where_it_comes_from(tmp_path):
    origin = record.provenance("speed.made_up", "smoke", OneNumber())
    assert set(origin) == set(record.PROVENANCE)
    path = tmp_path / "rows" / "made_up.jsonl"
    measured = {"array": np.arange(2), "scalar": jnp.float32(0.5), "unknown": float("nan")}
    record.append(path, measured, origin)
    record.append(path, {"array": [], "scalar": 1.0, "unknown": None}, origin)
    first, _ = record.read(path)
    assert (first["array"], first["scalar"], first["unknown"]) == ([0, 1], 0.5, None)
    assert (first["experiment"], first["preset"]) == ("speed.made_up", "smoke")
    assert (first["settings"], first["seed"]) == ({"seed": 3}, 3)
    assert first["device"]["count"] == jax.device_count()
    assert first["versions"]["jax"] == jax.__version__
    assert {"kinopt", "jaxlib", "optax", "flax", "numpy", "python"} < first["versions"].keys()


def test_a_run_is_superseded_by_the_next_of_its_preset_and_data_set():
    def row(date, preset="laptop", **settings):
        return {"date": date, "preset": preset, "settings": settings}

    old, new, other = row(1, data="digits"), row(4, data="digits"), row(2, data="mnist")
    more, plain = row(3, preset="paper", data="digits"), row(5)
    assert record.current([old, old, other, more, new, new]) == [[new, new], [more], [other]]
    assert record.current([plain, row(6), row(6)]) == [[row(6), row(6)]]
    assert record.current([]) == []


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
    for date in ("before", "now"):
        row = {**origin, "date": date, "preset": "laptop"}
        record.append(tmp_path / "tuning.jsonl", {"number": len(date)}, row)
    record.append(tmp_path / "tuning.jsonl", {"number": 7}, origin)
    text = report.build(tmp_path, tmp_path / "RESULTS.md").read_text()
    assert "## tuning: Which learning rate" in text
    assert "found [7]\n\nfound [3]\n\nHow to read it" in text
    assert "[6]" not in text  # superseded
    assert "## demo" not in text


def test_the_committed_report_is_what_the_committed_rows_give(tmp_path):
    """Deleting RESULTS.md and running `report` brings it back, byte for byte."""
    built = report.build(target=tmp_path / "RESULTS.md").read_bytes()
    assert built == (report.FOLDER / "RESULTS.md").read_bytes()


def test_the_report_lists_every_item_of_both_papers_with_its_state():
    text = (report.FOLDER / "RESULTS.md").read_text()
    anchors = [report._anchor(name) for name in experiments.names()]
    for item in papers.ITEMS:
        (line,) = [line for line in text.splitlines() if item.claim in line]
        state = line.split("|")[-2].strip()
        assert state
        for anchor in re.findall(r"\(#(.*?)\)", state):
            assert anchor in anchors


def test_the_report_draws_pictures_where_it_is_asked_to(tmp_path, monkeypatch):
    experiment = made_up(plot=lambda rows: Figure(), headline=lambda rows: "found")
    monkeypatch.setattr(experiments, "load", lambda name: experiment)
    origin = record.provenance("tuning", "smoke", OneNumber())
    record.append(tmp_path / "tuning.jsonl", {"value": 1}, origin)
    assert "![" not in report.build(tmp_path, tmp_path / "RESULTS.md").read_text()
    drawn = report.build(tmp_path, tmp_path / "RESULTS.md", draw=True).read_text()
    assert (tmp_path / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert "![tuning](results/tuning.png)" in drawn
    assert report.build(tmp_path, tmp_path / "RESULTS.md").read_text() == drawn


@pytest.mark.parametrize("name", experiments.names())
def test_the_committed_rows_make_a_picture_and_a_headline(name):
    module = experiments.load(name)
    results = report.FOLDER / "results"
    rows = record.read(results / f"{name}.jsonl")
    drawn = hasattr(module, "plot") and bool(rows)
    assert reading.picture_file(name, results).exists() == drawn
    if drawn:
        assert module.plot(record.current(rows)[0]).axes
    if rows and hasattr(module, "headline"):
        assert reading.headline(module, rows)


def test_a_table_has_columns_of_one_width():
    lines = markdown.table_of(["a", "long name"], [["value", "1"]]).splitlines()
    assert lines == ["| a     | long name |", "| ----- | --------- |", "| value | 1         |"]


def test_a_bar_in_a_cell_does_not_end_it():
    assert markdown.table_of(["a"], [["|cos|"]]).splitlines()[2] == r"| \|cos\| |"
