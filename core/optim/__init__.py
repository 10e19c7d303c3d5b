"""Schedules, parameter groups and the learning-rate finder."""

from core.optim.floored import FlooredCosine
from core.optim.groups import parameter_groups
from core.optim.lr_finder import LRFinder, LRFinderResult, find_learning_rate
from core.optim.polynomial import Polynomial
from core.optim.scheduler import ScheduleLR
from core.optim.schedules import (
    WSD,
    WSDS,
    Constant,
    Cosine,
    FreezeOut,
    Infinite,
    Linear,
    OneCycle,
    RewarmCosine,
    Schedule,
)
from core.optim.staircase import Staircase

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
    "Linear",
    "OneCycle",
    "Polynomial",
    "RewarmCosine",
    "Schedule",
    "ScheduleLR",
    "Staircase",
    "find_learning_rate",
    "parameter_groups",
]
