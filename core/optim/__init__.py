"""Schedules, parameter groups and the learning-rate finder."""

from core.optim.groups import parameter_groups
from core.optim.lr_finder import LRFinder, LRFinderResult
from core.optim.scheduler import ScheduleLR
from core.optim.schedules import (
    WSD,
    WSDS,
    Constant,
    Cosine,
    FlooredCosine,
    FreezeOut,
    Infinite,
    LinearRamp,
    OneCycle,
    Polynomial,
    RewarmCosine,
    Schedule,
    Staircase,
)

__all__ = [
    "WSD",
    "WSDS",
    "Constant",
    "Cosine",
    "FlooredCosine",
    "FreezeOut",
    "Infinite",
    "LRFinder",
    "LRFinderResult",
    "LinearRamp",
    "OneCycle",
    "Polynomial",
    "RewarmCosine",
    "Schedule",
    "ScheduleLR",
    "Staircase",
    "parameter_groups",
]
