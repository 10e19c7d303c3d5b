"""Synthetic series of trends, seasons, kernels, noise, shifts, events; a pure function of (seed, index).

The recipe follows the idea of mixing simple kernels (KernelSynth, arXiv 2403.07815, appendix A) and of
composing trend, season and noise (ForecastPFN, arXiv 2311.01933); the ranges are this project's own. Every
series draws:

1. a sampling rate, which brings its natural seasons (`RATES`);
2. a level and a trend: none, a line, a line with one or two kinks, a logistic rise or a damped exponential;
3. one to three seasons: natural ones, sometimes a free period, each a Fourier series with falling
   coefficients, a slowly changing strength, and on working-day rates a weekly pattern through the natural
   periods;
4. a smooth part, drawn from a Gaussian process with a squared-exponential kernel through random Fourier
   features;
5. noise: white, autoregressive (order 1 or 2), or with a variance that follows the season;
6. level shifts, events (pulses with a decay) and outliers, each rare;
7. one of: added up, multiplied (positive series such as sales), or intermittent (zero but for bursts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.data.randomness import key
from core.errors import UserError

__all__ = ["RATES", "SyntheticSeries", "frames", "generate"]

RATES: dict[str, tuple[int, ...]] = {
    "h": (24, 168),
    "15min": (96, 672),
    "10min": (144,),
    "30min": (48, 336),
    "D": (7, 30, 365),
    "W": (52,),
    "MS": (12,),
    "QS": (4,),
}
"""Sampling rates drawn, with their natural seasonal periods in rows."""

_ODDS = (0.3, 0.1, 0.05, 0.05, 0.2, 0.1, 0.15, 0.05)


@dataclass(frozen=True)
class SyntheticSeries:
    """One generated series.

    Attributes:
        values: `(T,)` float64, of order 1 to 1000.
        frequency: Its sampling rate.
        periods: The seasonal periods in it, in rows.
    """

    values: np.ndarray
    frequency: str
    periods: tuple[int, ...]


def generate(seed: int, index: int, length: int = 1024) -> SyntheticSeries:
    """Return series number `index` of the collection `seed`, `length` rows; nothing else decides what it is.

    Raises:
        UserError: If `length` is below 8.
    """
    if length < 8:
        raise UserError(f"a synthetic series of {length} rows is too short; give at least 8")
    rng = np.random.default_rng(key(seed, 0, index, "synthetic series"))
    rate = list(RATES)[rng.choice(len(RATES), p=_ODDS)]
    steps = np.arange(length)
    periods, season = _seasons(rng, steps, RATES[rate])
    trend = _trend(rng, steps / length)
    smooth = _smooth(rng, steps / length) * rng.choice([0.0, 0.3, 1.0])
    noise = _noise(rng, length) * rng.choice([0.02, 0.1, 0.3])
    if rng.random() < 0.2:
        noise = noise * (1 + np.abs(season))
    shape = trend + season + smooth + noise
    shape = shape + _bounded(_shifts(rng, length) + _events(rng, length), shape)
    kind = rng.choice(["sum", "product", "intermittent"], p=[0.7, 0.22, 0.08])
    if kind == "product":
        shape = np.exp(0.5 * shape / max(1.0, np.ptp(shape) / 8))
        shape = np.median(shape) + _bounded(shape - np.median(shape), shape)
    elif kind == "intermittent":
        shape = np.where(
            rng.random(length) < rng.uniform(0.05, 0.4), np.exp(0.5 * np.clip(shape, -6, 6)), 0.0
        )
    size = 10 ** rng.uniform(0, 2.5)
    level = 0.0 if kind != "sum" else rng.normal() * 3
    return SyntheticSeries(size * (shape + level), rate, periods)


def frames(count: int, *, seed: int, length: int = 1024) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield `(label, frame)` for the first `count` series: one column, `value`, and `attrs["frequency"]`."""
    for index in range(count):
        made = generate(seed, index, length)
        frame = pd.DataFrame({"value": made.values})
        frame.attrs["frequency"] = made.frequency
        yield f"synthetic/{index}", frame


def _bounded(rare: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return what is rare, cut where a single point would rule a mean over the usual series."""
    limit = 10 * np.abs(usual - np.median(usual)).mean()
    return np.clip(rare, -limit, limit)


def _seasons(
    rng: np.random.Generator, steps: np.ndarray, natural: tuple[int, ...]
) -> tuple[tuple[int, ...], np.ndarray]:
    length = len(steps)
    usable = [p for p in natural if p <= length / 2]
    wanted = int(rng.choice([0, 1, 2, 3], p=[0.1, 0.45, 0.35, 0.1]))
    periods = list(usable[: max(1, wanted)]) if wanted and usable and rng.random() < 0.85 else []
    while len(periods) < wanted:
        periods.append(int(np.exp(rng.uniform(np.log(4), np.log(max(5, length / 3))))))
    total = np.zeros(length)
    for place, period in enumerate(periods):
        # a sharp daily profile needs many harmonics, a sine one; coefficients fall as 1/k or faster
        harmonics = int(min(period // 2, rng.choice([1, 2, 4, 8])))
        fall = rng.uniform(0.8, 2.0)
        order = np.arange(1, harmonics + 1)[:, None]
        angle = 2 * np.pi * order * (steps % period) / period
        weights = rng.normal(size=(2, harmonics, 1)) / order**fall
        wave = (weights[0] * np.sin(angle) + weights[1] * np.cos(angle)).sum(0)
        wave /= wave.std() or 1.0
        if rng.random() < 0.3:
            wave = wave * (1 + 0.5 * np.tanh(_smooth(rng, steps / length)))
        total += wave * rng.uniform(0.3, 1.0) / (1 + 0.5 * place)
    return tuple(periods), total


def _trend(rng: np.random.Generator, when: np.ndarray) -> np.ndarray:
    kind = rng.choice(["none", "line", "kinks", "logistic", "decay"], p=[0.3, 0.25, 0.25, 0.1, 0.1])
    slope = rng.normal() * 2
    if kind == "line":
        return slope * when
    if kind == "kinks":
        bends = [
            rng.normal() * 3 * np.clip(when - rng.uniform(0.1, 0.9), 0, None)
            for _ in range(rng.integers(1, 3))
        ]
        return slope * when + np.sum(bends, axis=0)
    if kind == "logistic":
        return slope / (1 + np.exp(-(when - rng.uniform(0.2, 0.8)) * rng.uniform(5, 30)))
    if kind == "decay":
        return slope * np.exp(-when * rng.uniform(1, 6))
    return np.zeros_like(when)


def _smooth(rng: np.random.Generator, when: np.ndarray, features: int = 24) -> np.ndarray:
    scale = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))  # length scale as a share of the series
    frequencies = rng.normal(size=(features, 1)) / scale
    phases = rng.uniform(0, 2 * np.pi, size=(features, 1))
    return np.sqrt(2 / features) * np.cos(frequencies * when + phases).sum(0)


def _noise(rng: np.random.Generator, length: int) -> np.ndarray:
    white = rng.standard_t(5, length) if rng.random() < 0.2 else rng.normal(size=length)
    kind = rng.choice(["white", "ar1", "ar2"], p=[0.5, 0.3, 0.2])
    if kind == "white":
        return white
    from scipy.signal import lfilter

    if kind == "ar1":
        weights = [1.0, -rng.uniform(0.3, 0.98)]
    else:  # complex poles inside the unit circle: a wandering cycle
        radius, angle = rng.uniform(0.6, 0.98), rng.uniform(0.1, 2.0)
        weights = [1.0, -2 * radius * np.cos(angle), radius**2]
    coloured = lfilter([1.0], weights, white)
    return coloured / (coloured.std() or 1.0)


def _shifts(rng: np.random.Generator, length: int) -> np.ndarray:
    total = np.zeros(length)
    for _ in range(rng.poisson(0.4)):
        total[rng.integers(length // 10, length) :] += rng.normal()
    return total


def _events(rng: np.random.Generator, length: int) -> np.ndarray:
    total = np.zeros(length)
    if rng.random() < 0.3:
        decay = np.exp(-np.arange(64) / rng.uniform(0.5, 12))
        size = abs(rng.normal()) * 2 * rng.choice([-1, 1])
        for place in rng.integers(0, length, size=rng.poisson(length / 256)):
            tail = min(64, length - place)
            total[place : place + tail] += size * rng.uniform(0.5, 1.5) * decay[:tail]
    if rng.random() < 0.2:
        outliers = rng.random(length) < 0.002
        total[outliers] += rng.normal(size=int(outliers.sum())) * 4
    return total
