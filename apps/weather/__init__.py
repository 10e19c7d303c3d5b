"""Weather: Aurora, light decoders and Met²Net on gridded fields; scores of any forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.lazy import lazy

__getattr__ = lazy(__name__, Forecaster="predict.model", WeatherForecaster="predict.model")

PREDICTOR = "apps.weather.predict.model:WeatherForecaster"
"""The class that a checkpoint of this domain becomes in Python (`domainfm.load`)."""

PREDICT_EXAMPLE = "--data.path fields.zarr --steps 40 --out forecast.zarr"
"""Options of `predict` that the end of a `fit` proposes."""

VERBS = {
    "predict": "apps.weather.predict.command:main",
    "score": "apps.weather.predict.score:main",
    "climatology": "apps.weather.predict.climatology:main",
}
"""Verbs of `dfm weather` of its own: states in and forecasts out; any forecast against the truth; the mean by
day of year and hour.
"""

INHERITED = ("variables", "history", "step", "patch")
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""

GENERATE = "apps.weather.simulation.command:main"
"""The command behind `dfm data generate weather/three_levels`."""

_ABOUT = ("card", "generate", "mixture", "split")


def about_data(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that a config says of its own data, which `--data.path` makes void.

    The split of a config that names no other data than a path, or none at all, is meant for it, and stays.
    """
    data = (config.get("data") or {}).get("init_args") or {}
    own = not any(data.get(name) for name in ("card", "generate", "mixture"))
    return tuple(name for name in _ABOUT if name in data and not (own and name == "split"))


def inherited_network(network: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parent's network as a recipe takes it: whole, or as the backbone under light decoders."""
    if str(own.get("class_path", "")).endswith(".LightlyDecoded"):
        return {"class_path": own["class_path"], "init_args": {"backbone": dict(network)}}
    return dict(network)
