"""Tasks of weather: forecasting, roll-out training, light decoding, two-stage training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.weather.tasks.forecasting import WeatherForecasting
    from apps.weather.tasks.objective import WeightedAbsolute
    from apps.weather.tasks.replay import Replay
    from apps.weather.tasks.rollout import RollOut

__all__ = ["Replay", "RollOut", "WeatherForecasting", "WeightedAbsolute"]

__getattr__ = lazy(
    __name__,
    Replay="replay",
    RollOut="rollout",
    WeatherForecasting="forecasting",
    WeightedAbsolute="objective",
)
