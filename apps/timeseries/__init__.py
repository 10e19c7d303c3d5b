"""Time series: forecasting with Tiny Time Mixers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREDICTOR = "apps.timeseries.predict.model:Forecaster"
"""What a checkpoint of this domain becomes in Python (`domainfm.load`)."""

PREDICT_EXAMPLE = "--data.path my.csv --out forecast.csv"
"""Options of `predict` that the end of a `fit` proposes."""

VERBS = {"predict": "apps.timeseries.predict.command:main"}
"""What `dfm timeseries` does in its own way: prediction is the Forecaster's, which needs no Lightning."""

INHERITED = ("context", "horizon")
"""Values of the data that a recipe takes over from its parent's run, because the network is bound to them."""

BINDING = ("channel_mixing", "decoder.channel_mixing", "forecast_mixing", "exogenous", "targets")
"""Settings that bind a network to the number, the order and the roles of its channels."""

_SOURCES = ("card", "mix", "windows.resolutions")
_LAYOUT = ("time", "ids", "frequency")
_ROLES = ("targets", "observable", "control", "conditional", "categorical", "static_categorical")

ROLES = ("time", "ids", *_ROLES)
"""What a column may be for; options of data and of prediction."""


def about_data(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values that a config says of its own data, which `--data.path` makes void.

    A network that is bound to its channels keeps their roles: other data must have the same ones.
    """
    model = config.get("model") or {}
    network = (model.get("init_args") or {}).get("network") or {}
    arguments = (network.get("init_args") or {}) if isinstance(network, Mapping) else {}
    bound = any(_setting(arguments, name) for name in BINDING)
    return (*_SOURCES, *_LAYOUT, *(() if bound else _ROLES))


def _setting(arguments: Mapping[str, Any], name: str) -> Any:
    """Return a network's argument of a config by its dotted name."""
    first, _, field = name.partition(".")
    value = arguments.get(first)
    if not field:
        return value
    return (value.get("init_args") or value).get(field) if isinstance(value, Mapping) else None
