"""Every notebook is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebooks import ROOT

nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("apps/*/finetune.ipynb")), ids=lambda path: path.parent.name
)
def test_the_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
