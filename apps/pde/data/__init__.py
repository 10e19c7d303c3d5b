"""Field data: files, cards and solvers to batches of scaled windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.pde.data.module import Fields
    from apps.pde.data.settings import (
        DrivenSeries,
        EvaluationSet,
        Generation,
        Histories,
        Pairs,
        Preparation,
        SourceMixture,
        Steady,
    )

__all__ = [
    "DrivenSeries",
    "EvaluationSet",
    "Fields",
    "Generation",
    "Histories",
    "Pairs",
    "Preparation",
    "SourceMixture",
    "Steady",
]

__getattr__ = lazy(__name__, Fields="module", **dict.fromkeys({*__all__} - {"Fields"}, "settings"))
