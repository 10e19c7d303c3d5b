"""Exponential smoothing (Holt 1957, Winters 1960): constants by statsmodels, many windows at once."""

from __future__ import annotations

import numpy as np

__all__ = ["Constants", "holt_winters", "smoothing_constants"]

Constants = tuple[float, float, float, float]
"""alpha (level), beta (trend), gamma (season) and phi (damping of the trend)."""


def smoothing_constants(values: np.ndarray, season: int) -> Constants:
    """Return alpha, beta, gamma and phi that statsmodels finds best for one series `(T,)` without gaps."""
    import warnings

    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    if len(values) < 10 or np.ptp(values) == 0:
        return (0.5, 0.0, 0.0, 1.0)
    season = _usable_season(season, len(values))
    level, trend, seasonal = _first_states(values[None], season)
    model = ExponentialSmoothing(
        values,
        trend="add",
        damped_trend=True,
        seasonal="add" if season else None,
        seasonal_periods=season or None,
        initialization_method="known",
        initial_level=level[0],
        initial_trend=trend[0],
        initial_seasonal=seasonal[0] if season else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a search that ends short of convergence is good enough here
        found = model.fit(use_brute=False).params
    names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
    alpha, beta, gamma, phi = (float(np.nan_to_num(found[name])) for name in names)
    return (alpha, beta, gamma if season else 0.0, phi)


def holt_winters(values: np.ndarray, constants: Constants, season: int, horizon: int) -> np.ndarray:
    """Run the additive damped recursion over windows `(N, L)` and return forecasts `(N, H)`."""
    alpha, beta, gamma, phi = constants
    season = _usable_season(season, values.shape[1])
    level, trend, seasonal = _first_states(values, season)
    length, cycle = values.shape[1], season or 1
    for step in range(length):
        now, before = step % cycle, level
        damped = phi * trend
        level = alpha * (values[:, step] - seasonal[:, now]) + (1 - alpha) * (before + damped)
        if season:  # corrected with the level before this step, as the recursion is defined
            seasonal[:, now] = gamma * (values[:, step] - before - damped) + (1 - gamma) * seasonal[:, now]
        trend = beta * (level - before) + (1 - beta) * damped
    steps = np.arange(1, horizon + 1)
    ahead = seasonal[:, (length + steps - 1) % cycle]
    return level[:, None] + np.cumsum(phi**steps) * trend[:, None] + ahead


def _first_states(values: np.ndarray, season: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level `(N,)`, trend `(N,)` and season `(N, season)` before the first step of windows `(N, L)`.

    The season is the mean profile of all whole seasons in the window, each less its own mean; trend starts
    at 0.
    """
    if not season:
        return values[:, 0].copy(), np.zeros(len(values)), np.zeros((len(values), 1))
    whole = values.shape[1] // season * season
    cycles = values[:, :whole].reshape(len(values), -1, season)
    seasonal = (cycles - cycles.mean(2, keepdims=True)).mean(1)
    return cycles[:, 0].mean(1), np.zeros(len(values)), seasonal


def _usable_season(season: int, length: int) -> int:
    """Return the season where the context holds two of it, else 0: no seasonal part."""
    return season if season > 1 and length >= 2 * season + 2 else 0
