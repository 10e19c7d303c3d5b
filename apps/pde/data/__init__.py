"""Field data: files, cards and solvers to batches of scaled windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.pde.data.module import Fields
    from apps.pde.data.settings import FieldPreparation, Generation, SourceMixture
    from apps.pde.data.window_settings import DrivenSeries, EvaluationSet, Histories, Pairs, Steady

_SETTINGS = ("Generation", "FieldPreparation", "SourceMixture")
_WINDOWS = ("DrivenSeries", "EvaluationSet", "Histories", "Pairs", "Steady")
__all__ = [
    "DrivenSeries",
    "EvaluationSet",
    "FieldPreparation",
    "Fields",
    "Generation",
    "Histories",
    "Pairs",
    "SourceMixture",
    "Steady",
]

__getattr__ = lazy(
    __name__,
    Fields="module",
    **dict.fromkeys(_SETTINGS, "settings"),
    **dict.fromkeys(_WINDOWS, "window_settings"),
)
