"""Weather data: archives of gridded fields, and windows over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.weather.data.module import Fields
    from apps.weather.data.settings import (
        ArchiveMixture,
        ArchiveSource,
        ForecastTest,
        MemberGeneration,
        TimeSplit,
        VariableChoice,
    )

_SETTINGS = "ArchiveMixture ArchiveSource ForecastTest MemberGeneration TimeSplit VariableChoice"
__all__ = [
    "ArchiveMixture", "ArchiveSource", "Fields", "ForecastTest", "MemberGeneration", "TimeSplit",
    "VariableChoice",
]  # fmt: skip

__getattr__ = lazy(__name__, Fields="module", **dict.fromkeys(_SETTINGS.split(), "settings"))
