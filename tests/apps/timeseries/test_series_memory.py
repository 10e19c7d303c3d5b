"""A long Parquet series needs at most half of its frame's memory beyond the frame."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ten_million_rows_need_at_most_half_the_frame_again(repository: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "series_memory", repository / "tests/benchmarks/series_memory.py"
    )
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    figures = benchmark.compare(10_000_000)
    assert figures["parquet"]["share of the frame"] < 1.5
    assert figures["frame"]["share of the frame"] < 0.5
