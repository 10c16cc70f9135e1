"""The notebook runs from top to bottom in an empty folder, and prints what is committed with it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "weightopt.ipynb"
# Bytes: it is read in a browser, and every change of an output is in the history for ever.
LARGEST = 100_000


def printed(cell):
    """What a cell prints, without warnings of other libraries."""
    return "".join(each["text"] for each in cell.outputs if each.get("name") == "stdout")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def committed():
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient of the extra dev")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def test_it_is_small_and_has_its_outputs(committed):
    assert NOTEBOOK.stat().st_size < LARGEST
    cells = code_cells(committed)
    assert all(cell.outputs for cell in cells)
    assert not any(each.output_type == "error" for cell in cells for each in cell.outputs)
    assert any("image/png" in each.get("data", {}) for cell in cells for each in cell.outputs)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the client and its kernel
def test_it_runs_and_prints_what_is_committed(committed, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient of the extra dev")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.from_dict(committed)
    client = nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}})
    before = [printed(cell) for cell in code_cells(committed)]
    client.execute()
    for cell, text in zip(code_cells(notebook), before, strict=True):
        if "trl" not in cell.metadata.get("tags", []):
            assert printed(cell) == text
            continue
        # What is committed was trained in TRL; where that is missing the adapter alone is asked.
        assert text.count("reward") == 4
        assert printed(cell).count("reward") == 4 or printed(cell).startswith("TRL is not installed")
    assert (tmp_path / "table.json").exists()
