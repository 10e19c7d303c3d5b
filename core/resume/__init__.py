"""Stopping at any time and going on bit by bit: random streams, signals, checkpoints, loop state."""

from core.resume.keeping import KeepBest, KeepNewest, RestoreBest, checkpoint_callbacks
from core.resume.loops import BeginEpoch, check_averaging, repair_loops
from core.resume.nonfinite import NonFiniteGuard
from core.resume.stopping import StopGracefully, resume_command
from core.resume.streams import IsolateValidation, RandomState

__all__ = [
    "BeginEpoch",
    "IsolateValidation",
    "KeepBest",
    "KeepNewest",
    "NonFiniteGuard",
    "RandomState",
    "RestoreBest",
    "StopGracefully",
    "check_averaging",
    "checkpoint_callbacks",
    "repair_loops",
    "resume_command",
]
