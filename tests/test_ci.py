"""What `.ci/run` is made of can fail: a fault is planted for each piece, and found."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FUNCTIONS = ROOT / ".ci" / "functions.sh"


def status(script: str, folder: pathlib.Path) -> tuple[int, str]:
    """The exit status of a script as strict as `.ci/run`, and all that it printed."""
    strict = f"set -euo pipefail; logs={folder}; source {FUNCTIONS}\n{script}\necho went on"
    found = subprocess.run(("bash", "-c", strict), cwd=folder, capture_output=True, text=True)
    assert (found.returncode == 0) == found.stdout.endswith("went on\n"), "it stops where it fails"
    return found.returncode, found.stdout + found.stderr


def test_every_planted_fault_has_its_place():
    """A text to be replaced must occur once, or the list is not run at all."""
    found = subprocess.run(
        (sys.executable, ROOT / ".ci" / "mutants.py", "--list"), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("  ->  ") > 200


def test_a_readme_command_is_run_as_it_stands(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("python3 -m venv --help >x && echo the pages\npython3 -m venv --no-such\n")
    found, output = status("readme pages", tmp_path)
    assert found == 0
    assert "the pages" in output
    assert status("readme no-such", tmp_path)[0] != 0
    found, output = status("readme demo", tmp_path)
    assert found != 0
    assert "the README has no command with demo" in output


def test_cleaning_up_keeps_the_exit_status(tmp_path):
    folder = tmp_path / "checkout"
    begin = f"mkdir {folder}; checkout={folder}; trap clean_up EXIT; {{}}"
    for still_at_work in ("true", "sleep 60 &"):
        for last, expected in (("true", 0), ("exit 3", 3)):
            script = f"{begin.format(still_at_work)}\n{last}"
            assert status(script, tmp_path)[0] == expected
            assert not folder.exists()


@pytest.mark.parametrize("fault", ["false", "false; true", "false | cat", "echo $unset_name"])
def test_what_goes_on_beside_can_fail(fault, tmp_path):
    script = "job() {{ echo began; {}; echo ended; }}; beside job; joined job"
    found, output = status(script.format(fault), tmp_path)
    assert found != 0
    assert "began" in output
    assert "ended" not in output
    found, output = status(script.format("true"), tmp_path)
    assert found == 0
    assert "ended" in output


def test_one_of_many_can_fail(tmp_path):
    define = "one() { echo tried $1; [ $1 != bad ]; }; export -f one;"
    found, output = status(f"{define} printf 'a\\nb\\n' | two_at_a_time one", tmp_path)
    assert found == 0
    assert "b, 0 s" in output
    found, output = status(f"{define} printf 'a\\nbad\\nb\\n' | two_at_a_time one", tmp_path)
    assert found != 0
    assert "tried b" in output
    assert status(f"{define} printf '' | two_at_a_time one", tmp_path)[0] != 0


def test_a_notebook_that_warns_fails(tmp_path):
    quiet, warns = tmp_path / "quiet.ipynb", tmp_path / "warns.ipynb"
    quiet.write_text('"name": "stdout"')
    warns.write_text('"name": "stderr"')
    assert status(f"no_warnings {quiet}", tmp_path)[0] == 0
    assert status(f"no_warnings {quiet} {warns}", tmp_path)[0] != 0
    assert status("no_warnings no-such-file.ipynb", tmp_path)[0] != 0


def test_a_check_that_changes_files_fails(tmp_path):
    assert status("git init --quiet . && nothing_changed", tmp_path)[0] == 0
    assert status("touch left-behind && nothing_changed", tmp_path)[0] != 0
    assert status("rm -r .git && nothing_changed", tmp_path)[0] != 0


def test_a_wheel_with_more_or_less_than_the_package_is_found():
    spec = importlib.util.spec_from_file_location("wheel", ROOT / ".ci" / "wheel.py")
    assert spec
    assert spec.loader
    wheel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheel)
    files = ["kinopt/__init__.py", "kinopt/py.typed"]
    assert wheel.faults([*files, "kinopt-0.1.0.dist-info/METADATA"], files) == []
    assert wheel.faults([*files, "tests/test_x.py"], files) == ["it holds tests/test_x.py"]
    assert wheel.faults(files[:1], files) == ["it lacks kinopt/py.typed"]
