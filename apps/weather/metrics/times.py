"""Times of forecasts, and hours and days of the calendar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DAYS", "calendar", "valid_times", "window_weights"]

DAYS = 366
"""Days of a leap year, which a climatology has."""


def calendar(times: Sequence[str] | NDArray[np.datetime64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return hour of day (0-23) and day of year (1-366) of times."""
    stamps = np.asarray(times, dtype="datetime64[s]")
    hours = (stamps - stamps.astype("datetime64[D]")) // np.timedelta64(3600, "s")
    days = stamps.astype("datetime64[D]") - stamps.astype("datetime64[Y]").astype("datetime64[D]")
    return hours.astype(np.int64), days.astype(np.int64) + 1


def valid_times(time: Tensor, leads: Sequence[float]) -> Tensor:
    """Return the times `(B, K)` in seconds that lie `leads` hours after the times `(B,)`."""
    seconds = torch.tensor([round(3600 * lead) for lead in leads])
    return time[:, None] + seconds.to(time.device, non_blocking=True)


def window_weights(days: int = 61) -> NDArray[np.float64]:
    """Return triangular weights `(days,)` with the mean 1: nothing at the ends, most in the middle."""
    middle = days // 2
    weights = 1 - np.abs(np.arange(days) - middle) / max(middle, 1)
    return weights / weights.mean()
