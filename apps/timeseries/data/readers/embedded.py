"""Real series that ship inside statsmodels (public domain), for demos that download nothing."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from core.errors import UserError, did_you_mean

__all__ = ["LICENCE", "NAMES", "UNSEEN", "frame", "frequency_of", "resolve"]

LICENCE = "public domain"
NAMES: dict[str, str] = {
    "co2": "W",
    "sunspots": "YS",
    "nile": "YS",
    "elnino": "MS",
    "elec_equip": "MS",
    "macrodata": "QS",
    "danish_data": "QS",
}
"""Series and their sampling rates: weekly CO2 at Mauna Loa (59 gaps), yearly sunspots and Nile flow, monthly
sea temperature and turnover of electrical equipment, quarterly macro-economy of the USA (12 channels) and
Denmark (5)."""

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


def frequency_of(name: str) -> str:
    """Return the sampling rate's pandas alias."""
    return NAMES[name]


def frame(name: str) -> pd.DataFrame:
    """Return an embedded series as a frame: `time`, then one column a channel."""
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "co2": _co2, "sunspots": _sunspots, "nile": _nile, "elnino": _elnino, "elec_equip": _elec_equip,
        "macrodata": _macrodata, "danish_data": _danish,
    }  # fmt: skip
    return makers[resolve(name)[0]]()


def _load(name: str) -> pd.DataFrame:
    import importlib

    try:
        module = importlib.import_module(f"statsmodels.datasets.{name}")
    except ImportError as error:
        raise UserError(
            "the embedded series ship with statsmodels; type pip install 'domainfm[timeseries]'"
        ) from error
    return module.load_pandas().data


def _co2() -> pd.DataFrame:
    data = _load("co2")
    return pd.DataFrame({"time": data.index, "co2": data["co2"].to_numpy()})


def _sunspots() -> pd.DataFrame:
    data = _load("sunspots")
    return pd.DataFrame({"time": _years(data["YEAR"]), "sunspots": data["SUNACTIVITY"].to_numpy()})


def _nile() -> pd.DataFrame:
    data = _load("nile")
    return pd.DataFrame({"time": _years(data["year"]), "flow": data["volume"].to_numpy()})


def _elnino() -> pd.DataFrame:
    data = _load("elnino")
    values = data.drop(columns="YEAR").to_numpy().ravel()
    start = pd.Timestamp(int(data["YEAR"].iloc[0]), 1, 1)
    return pd.DataFrame({"time": pd.date_range(start, periods=len(values), freq="MS"), "temperature": values})


def _elec_equip() -> pd.DataFrame:
    data = _load("elec_equip")
    return pd.DataFrame({"time": data.index, "turnover": data.iloc[:, 0].to_numpy()})


def _macrodata() -> pd.DataFrame:
    data = _load("macrodata")
    time = pd.to_datetime(
        pd.DataFrame({"year": data["year"], "month": data["quarter"] * 3 - 2, "day": 1}).astype(int)
    )
    return pd.DataFrame({"time": time, **{c: data[c].to_numpy() for c in data.columns[2:]}})


def _danish() -> pd.DataFrame:
    data = _load("danish_data")
    return pd.DataFrame({"time": data.index, **{c: data[c].to_numpy() for c in data.columns}})


def _years(column: pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([pd.Timestamp(int(year), 1, 1) for year in column])
