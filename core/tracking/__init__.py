"""Following a run: loggers, figures, throughput, progress and the report.

Names are imported when they are first used: drawing a figure, for example, must not load Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.tracking.flops import count_flops
    from core.tracking.follow import FollowRun
    from core.tracking.loggers import build_loggers, finish, log_figure, log_movie
    from core.tracking.metrics_csv import MetricsCSV, read_metrics
    from core.tracking.peaks import peak_flops
    from core.tracking.profiler import Profile, ProfileSteps
    from core.tracking.progress import LineProgress, progress_callbacks, quiet
    from core.tracking.report import write_report
    from core.tracking.settings import Tracking
    from core.tracking.throughput import Throughput
    from core.tracking.wandb_logger import WandbLogger

_HOMES = {
    "FollowRun": "follow",
    "LineProgress": "progress",
    "MetricsCSV": "metrics_csv",
    "Profile": "profiler",
    "ProfileSteps": "profiler",
    "Throughput": "throughput",
    "Tracking": "settings",
    "WandbLogger": "wandb_logger",
    "build_loggers": "loggers",
    "count_flops": "flops",
    "finish": "loggers",
    "log_figure": "loggers",
    "log_movie": "loggers",
    "peak_flops": "peaks",
    "progress_callbacks": "progress",
    "quiet": "progress",
    "read_metrics": "metrics_csv",
    "write_report": "report",
}

__all__ = [
    "FollowRun",
    "LineProgress",
    "MetricsCSV",
    "Profile",
    "ProfileSteps",
    "Throughput",
    "Tracking",
    "WandbLogger",
    "build_loggers",
    "count_flops",
    "finish",
    "log_figure",
    "log_movie",
    "peak_flops",
    "progress_callbacks",
    "quiet",
    "read_metrics",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"core.tracking.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'core.tracking' has no attribute '{name}'")
