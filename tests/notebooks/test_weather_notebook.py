"""The weather domain's notebook runs from top to bottom on a small budget, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("xarray")

NOTEBOOK = Path(__file__).parents[2] / "apps" / "weather" / "finetune.ipynb"


def test_the_notebook_fine_tunes_forecasts_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_NOTEBOOK_STEPS", "4")
    monkeypatch.setenv("DFM_NOTEBOOK_DAYS", "50")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(NOTEBOOK.parents[2]))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum("xarray.Dataset" in text and "prediction_timedelta" in text for text in texts) == 2
    printed = "".join(output.get("text", "") for output in outputs)
    assert "fine-tuned" in printed and "RMSE" in printed


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
