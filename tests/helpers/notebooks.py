"""Notebooks run as a user runs them, on a small budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

__all__ = ["ROOT", "outputs_of"]

ROOT = Path(__file__).parents[2]


def outputs_of(
    domain: str, monkeypatch: pytest.MonkeyPatch, *, timeout: int, **settings: object
) -> list[dict[str, Any]]:
    """Run a domain's notebook from top to bottom and return the outputs of its cells.

    `settings` are its `DFM_NOTEBOOK_` variables, without that beginning.
    """
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in settings.items():
        monkeypatch.setenv(f"DFM_NOTEBOOK_{name.upper()}", str(value))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "apps" / domain / "finetune.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=timeout, kernel_name="python3").execute(cwd=str(ROOT))
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
