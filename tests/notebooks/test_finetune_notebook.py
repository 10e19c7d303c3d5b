"""The fine-tuning notebook runs from top to bottom on a small budget, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "apps" / "timeseries" / "finetune.ipynb"


def test_the_finetuning_notebook_trains_compares_and_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_NOTEBOOK_STEPS", "30")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3")
    client.execute(cwd=str(NOTEBOOK.parents[2]))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(pictures) == 3
    assert any("seasonal naive" in text and "TTM" in text for text in tables)
    assert any("quantiles_from" in text for text in tables)


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
