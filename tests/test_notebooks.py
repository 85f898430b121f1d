"""The committed notebooks: run from top to bottom, no errors, no traces of a machine, and small.

`.ci/run` executes them all in a fast mode. To renew the outputs of one, run it in full:

    jupyter nbconvert --to notebook --inplace --execute --ClearMetadataPreprocessor.enabled=True \
        --ExecutePreprocessor.record_timing=False notebooks/NAME.ipynb
"""

import json
import pathlib
import re

import pytest

from tests.links import dead_links

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a notebook with its pictures."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_six():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@each_notebook
def test_cells_were_run_once_in_order(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, 1 + len(counts)))


@each_notebook
def test_outputs_are_there_and_none_is_an_error_or_a_warning(path):
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(output["output_type"] == "stream" for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]


@each_notebook
def test_nothing_tells_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    words = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"/(home|tmp|root|work|Users|usr|opt)/|[A-Z]:\\\\|site-packages", words)
    notebook = json.loads(text)
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert set(notebook["metadata"].get("language_info", {})) <= {"name"}
    assert not any(cell["metadata"] for cell in notebook["cells"])


@each_notebook
def test_small(path):
    assert path.stat().st_size < LARGEST


@each_notebook
def test_links_lead_somewhere(path):
    text = "\n\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    assert dead_links(text, FOLDER) == []
