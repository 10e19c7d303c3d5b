"""Tasks of weather: forecasting, roll-out training, light decoding, two-stage training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazy

if TYPE_CHECKING:
    from apps.weather.tasks.forecasting import WeatherForecasting
    from apps.weather.tasks.latents import KeptLatents
    from apps.weather.tasks.light_decoding import LightDecoding
    from apps.weather.tasks.objective import WeightedAbsolute
    from apps.weather.tasks.rollout import RollOut
    from apps.weather.tasks.two_stage import TwoStage

__all__ = [
    "KeptLatents",
    "LightDecoding",
    "RollOut",
    "TwoStage",
    "WeatherForecasting",
    "WeightedAbsolute",
]

__getattr__ = lazy(
    __name__,
    KeptLatents="latents",
    LightDecoding="light_decoding",
    RollOut="rollout",
    TwoStage="two_stage",
    WeatherForecasting="forecasting",
    WeightedAbsolute="objective",
)
