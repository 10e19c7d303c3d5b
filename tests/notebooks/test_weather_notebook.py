"""The weather domain's notebook runs from top to bottom on a small budget."""

from __future__ import annotations

import pytest
from notebooks import outputs_of

pytest.importorskip("xarray")


def test_the_notebook_fine_tunes_forecasts_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of("weather", monkeypatch, timeout=120, steps=4, days=50)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum("xarray.Dataset" in text and "prediction_timedelta" in text for text in texts) == 2
    printed = "".join(output.get("text", "") for output in outputs)
    assert "fine-tuned" in printed and "RMSE" in printed
