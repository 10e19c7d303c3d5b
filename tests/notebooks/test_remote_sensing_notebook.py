"""The remote-sensing notebook runs from top to bottom on a small budget, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("rasterio")
pytest.importorskip("pyarrow")

NOTEBOOK = Path(__file__).parents[2] / "apps" / "remote_sensing" / "finetune.ipynb"


def test_the_notebook_fine_tunes_maps_and_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_NOTEBOOK_EPOCHS", "4")
    monkeypatch.setenv("DFM_NOTEBOOK_SCENES", "8")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[2]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3")
    client.execute(cwd=str(NOTEBOOK.parents[2]))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("iou" in text and "water" in text for text in tables)
    assert any("longitude" in text and "vector" in text for text in tables)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "lora_a" in printed
    assert "mean of what is seen" not in printed, "pre-training was told to leave its test out"
    assert "COG EPSG:" in printed


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
