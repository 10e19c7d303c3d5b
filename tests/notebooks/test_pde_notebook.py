"""The PDE domain's notebook runs from top to bottom on a small budget."""

from __future__ import annotations

import pytest
from notebooks import outputs_of

pytest.importorskip("xarray")


def test_the_notebook_trains_rolls_out_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of("pde", monkeypatch, timeout=120, steps=4, resolution=16)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert any("xarray.Dataset" in text and "velocity_x" in text for text in texts)
