"""Field data: files, cards and solvers to batches of scaled windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.pde.data.module import Fields

__all__ = ["Fields"]

__getattr__ = lazy(__name__, Fields="module")
