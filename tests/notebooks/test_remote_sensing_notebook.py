"""The remote-sensing notebook runs from top to bottom on a small budget."""

from __future__ import annotations

import pytest
from notebooks import outputs_of

pytest.importorskip("rasterio")
pytest.importorskip("pyarrow")


def test_the_notebook_fine_tunes_maps_and_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = outputs_of("remote_sensing", monkeypatch, timeout=240, epochs=4, scenes=8)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("iou" in text and "water" in text for text in tables)
    assert any("longitude" in text and "vector" in text for text in tables)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "lora_a" in printed
    assert "mean of what is seen" not in printed, "pre-training was told to leave its test out"
    assert "COG EPSG:" in printed
