"""The command for an accelerator: its parts' order, limits and failures."""

import signal
import sys

import pytest

from benchmarks import INTERRUPTED, commands, experiments, gpu
from benchmarks.__main__ import main
from benchmarks.gpu import TESTS, Part

ROW = "open(sys.argv[1], 'a').write('{}\\n')"


@pytest.fixture
def scripts(monkeypatch):
    """Parts that run these lines; `sys.argv[1]` is where rows go."""
    found = {}

    def command_of(name, preset, folder):
        lines = f"import signal, sys, time\n{found[name]}"
        return [sys.executable, "-c", lines, str(gpu.rows_of(name, folder))]

    monkeypatch.setattr(gpu, "command_of", command_of)
    return found


def performed(scripts, folder, minutes=1.0, shares=None):
    parts = [Part(name, (shares or {}).get(name, 1.0)) for name in scripts]
    status = gpu.perform_parts(minutes, "smoke", folder, parts=parts)
    lines = (folder / "gpu.md").read_text().splitlines()[2:]
    return status, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_every_part_is_an_experiment_that_has_both_presets():
    names = [part.name for part in gpu.PARTS]
    assert names[0] == TESTS  # wrong numbers are worth nothing, however fast
    assert len(set(names)) == len(names)
    for name in names[1:]:
        assert {"gpu", "smoke"} <= experiments.load(name).PRESETS.keys()


def test_parts_run_in_order_and_a_failure_ends_alone(scripts, tmp_path):
    scripts |= {"a": ROW, "b": "sys.exit(3)", "c": f"{ROW}; {ROW}"}
    status, lines = performed(scripts, tmp_path)
    assert status == 1
    assert [(name, how, rows) for name, how, _, rows in lines] == [
        ("a", "all of it", "1"),
        ("b", "status 3", "0"),
        ("c", "all of it", "2"),
    ]


@pytest.mark.slow
def test_at_its_limit_a_part_is_interrupted_and_keeps_its_rows(scripts, tmp_path):
    neat = f"{ROW}\ntry: time.sleep(60)\nexcept KeyboardInterrupt: {ROW}"
    scripts |= {"neat": neat, "after": ROW}
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        status, lines = performed(scripts, tmp_path, minutes=2, shares={"neat": 1, "after": 19})
    finally:
        signal.signal(signal.SIGINT, heard)
    assert status == 0
    assert [line[1] for line in lines] == ["at its limit", "all of it"]
    assert lines[0][3] == "2"
    assert float(lines[0][2]) < 30


def test_a_part_that_does_not_listen_is_killed(scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    scripts["deaf"] = "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    status, lines = performed(scripts, tmp_path, minutes=0.02)
    assert status == 1  # and it has no row to show
    assert lines[0][1] == "at its limit"


def test_minutes_that_are_left_over_go_to_those_after(scripts, tmp_path, capsys):
    scripts |= {"a": "", "b": ""}
    performed(scripts, tmp_path, minutes=10)
    first, second = (
        float(line.split("at most ")[1].removesuffix(" s"))
        for line in capsys.readouterr().out.splitlines()
        if "at most" in line
    )
    assert first == 300
    assert second > 500


def test_ctrl_c_ends_it_with_a_summary(scripts, tmp_path, monkeypatch):
    def interrupted(process, limit):
        process.send_signal(signal.SIGINT)
        process.wait()
        raise KeyboardInterrupt

    scripts |= {"a": "time.sleep(60)", "b": ROW}
    waited = gpu._waited
    calls = iter([interrupted, waited])
    monkeypatch.setattr(gpu, "_waited", lambda *arguments: next(calls)(*arguments))
    status, lines = performed(scripts, tmp_path)
    assert (status, lines) == (INTERRUPTED, [])


def test_the_command_line_hands_on_what_it_was_given(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(commands.gpu, "perform_parts", lambda *given: calls.append(given) or 0)
    assert main(["gpu", "--preset", "smoke", "--minutes", "2", "--out", str(tmp_path)]) == 0
    assert main(["gpu", "--commit", "--parts", "bbi.pde", TESTS]) == 0
    parts = {part.name: part for part in gpu.PARTS}
    assert calls == [
        (2.0, "smoke", tmp_path, False, list(gpu.PARTS)),
        (9.0, "gpu", commands.GPU_OUTPUT, True, [parts["bbi.pde"], parts[TESTS]]),
    ]
    with pytest.raises(SystemExit):
        main(["gpu", "--parts", "no.such"])
    assert main(["gpu", "--minutes", "-1"]) == 2
    assert main(["gpu", "--commit", "--preset", "smoke"]) == 2
    assert "--minutes must be above 0, got -1" in capsys.readouterr().err


def test_committed_rows_go_through_the_run_command(tmp_path):
    assert gpu.command_of("speed.steps", "gpu", None)[-1] == "--commit"
    assert str(tmp_path / "speed.steps.jsonl") in gpu.command_of("speed.steps", "gpu", tmp_path)
