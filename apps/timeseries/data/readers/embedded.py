"""Real series that ship inside statsmodels (public domain), for demos that download nothing."""

from __future__ import annotations

import importlib

import pandas as pd

from core.errors import UserError, did_you_mean

__all__ = ["LICENCE", "NAMES", "UNSEEN", "frame", "resolve"]

LICENCE = "public domain"
NAMES = ("co2", "sunspots", "nile", "elnino", "elec_equip", "macrodata", "danish_data")
"""Weekly CO2 at Mauna Loa (59 gaps), yearly sunspots and Nile flow, monthly sea temperature and turnover of
electrical equipment, quarterly macro-economy of the USA (12 channels) and Denmark (5)."""

_YEARLY = {"sunspots": ("YEAR", "SUNACTIVITY", "sunspots"), "nile": ("year", "volume", "flow")}

UNSEEN = ("elec_equip", "elnino")
"""Series that the demo holds out of training."""


def resolve(names: str) -> list[str]:
    """Return the names in `"co2+nile"`; `""` and `"all"` mean all, `"train"` and `"unseen"` the demo's parts.

    Raises:
        UserError: For a name that does not exist.
    """
    if names in ("", "all"):
        return list(NAMES)
    if names == "unseen":
        return list(UNSEEN)
    if names == "train":
        return [name for name in NAMES if name not in UNSEEN]
    wanted = names.split("+")
    for name in wanted:
        if name not in NAMES:
            raise UserError(
                f"there is no embedded series '{name}'; known are {', '.join(NAMES)}"
                f"{did_you_mean(name, NAMES)}"
            )
    return wanted


def frame(name: str) -> pd.DataFrame:
    """Return an embedded series as a frame: `time`, then one column a channel.

    Raises:
        UserError: If statsmodels, which holds it, is not installed.
    """
    (name,) = resolve(name)
    try:
        module = importlib.import_module(f"statsmodels.datasets.{name}")
    except ImportError as error:
        raise UserError(
            "the embedded series ship with statsmodels; type pip install 'domainfm[timeseries]'"
        ) from error
    data = module.load_pandas().data
    time: pd.Index | pd.Series = data.index
    columns = {name: data[name].to_numpy() for name in data.columns}
    if name in ("sunspots", "nile"):
        year, value, channel = _YEARLY[name]
        time = pd.DatetimeIndex([pd.Timestamp(int(y), 1, 1) for y in data[year]])
        columns = {channel: data[value].to_numpy()}
    elif name == "elnino":  # a row a year, a column a month
        values = data.drop(columns="YEAR").to_numpy().ravel()
        time = pd.date_range(pd.Timestamp(int(data["YEAR"].iloc[0]), 1, 1), periods=len(values), freq="MS")
        columns = {"temperature": values}
    elif name == "elec_equip":
        columns = {"turnover": data.iloc[:, 0].to_numpy()}
    elif name == "macrodata":
        dates = {"year": data["year"], "month": data["quarter"] * 3 - 2, "day": 1}
        time = pd.to_datetime(pd.DataFrame(dates).astype(int))
        columns = {name: columns[name] for name in data.columns[2:]}
    return pd.DataFrame({"time": time, **columns})
