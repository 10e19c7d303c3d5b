"""The fine-tuning notebook runs from top to bottom on a small budget."""

from __future__ import annotations

import pytest
from notebooks import outputs_of


def test_the_finetuning_notebook_trains_compares_and_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of("timeseries", monkeypatch, timeout=240, steps=30)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(pictures) == 3
    assert any("seasonal naive" in text and "TTM" in text for text in tables)
    assert any("quantiles_from" in text for text in tables)
