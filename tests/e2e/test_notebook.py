"""The example notebook, in a real Jupyter kernel: it shows what it draws, and its cells can be run again."""

import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "finetune_digits.ipynb"
# What a cell shows, by the last name it calls.
SHOWN = {
    "describe_trainer": ("text/html", "<"),
    "summarize_model": ("text/html", "<table"),
    "param_group_table": ("text/html", "<table"),
    "plot_schedule": ("image/png", "iVBOR"),
    "plot_runs": ("image/png", "iVBOR"),
}


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_committed_notebook_has_no_outputs(notebook: Any) -> None:
    """Outputs would grow the repository and hide changes; it is valid, and no cell was run."""
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_its_cells_can_be_run_again_in_one_kernel(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice from top to bottom, then with the model kept: no error, no warning, every table and picture shown."""
    for variable in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = next(index for index, cell in enumerate(cells) if "optimizer = " in cell.source)
    executed = copy.deepcopy(notebook)
    executed.cells = [copy.deepcopy(cell) for cell in [*cells, *cells, *cells[kept:]]]
    NotebookClient(executed, resources={"metadata": {"path": str(tmp_path)}}, timeout=100).execute()

    for cell in executed.cells:
        assert [output.output_type for output in cell.outputs if output.get("name") == "stderr"] == [], cell
        name = next((name for name in SHOWN if f"tips.{name}(" in cell.source.splitlines()[-1]), None)
        shown = [output.data for output in cell.outputs if output.output_type == "execute_result"]
        assert len(shown) == (name is not None)
        if name is not None:
            kind, start = SHOWN[name]
            assert start in shown[0][kind]
    first, second, kept_on = [float(text.split()[1]) for text in _printed(executed)]
    assert first == second  # the earlier trainer changes nothing
    assert min(first, kept_on) > 0.8
    assert len(list((tmp_path / "runs" / "notebook").iterdir())) == 3


def _printed(notebook: Any) -> list[str]:
    return [output.text for cell in notebook.cells for output in cell.outputs if output.output_type == "stream"]
