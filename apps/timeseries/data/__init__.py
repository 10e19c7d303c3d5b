"""Time series data: files, cards and generators to batches of scaled windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.timeseries.data.module import Series

__all__ = ["Series"]

__getattr__ = lazy(__name__, Series="module")
