"""Static fields out of the pickles that Aurora's makers publish."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray

from apps.weather.data.readers import open_archive
from core.errors import UserError

LATITUDE, LONGITUDE = np.linspace(-90, 90, 7), np.arange(0, 360, 45.0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    times = np.arange("2022-01-01", "2022-01-02", 6, dtype="datetime64[h]").astype("datetime64[ns]")
    values = np.random.default_rng(0).normal(280, 5, (4, 7, 8)).astype(np.float32)
    data = {"2m_temperature": (("time", "latitude", "longitude"), values, {"units": "K"})}
    position = {"time": times, "latitude": LATITUDE, "longitude": LONGITUDE}
    xarray.Dataset(data, position).to_netcdf(tmp_path / "states.nc")
    return tmp_path / "states.nc"


def pickled(path: Path, **fields: np.ndarray) -> Path:
    path.write_bytes(pickle.dumps(fields))
    return path


def test_static_fields_join_states_from_north_to_south(store: Path, tmp_path: Path) -> None:
    names = ("lsm", "z", "slt", "static_co_log")
    fields = {name: np.random.default_rng(1).random((7, 8), dtype=np.float32) for name in names}
    static = pickled(tmp_path / "static.pickle", **fields)

    archive = open_archive([store, static])

    assert archive.variables.surface == ("2t",) and archive.variables.static == names
    for name in names:
        np.testing.assert_array_equal(archive.static[name], fields[name])


def test_a_pickle_of_another_grid_is_refused(store: Path, tmp_path: Path) -> None:
    static = pickled(tmp_path / "static.pickle", lsm=np.zeros((5, 8), np.float32))

    with pytest.raises(UserError, match=r"static.pickle: lsm has Grid\(5 x 8.*an archive has one grid"):
        open_archive([store, static])


def test_a_pickle_of_other_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no static fields of latitude and longitude alone"):
        open_archive(pickled(tmp_path / "static.pickle", lsm=np.zeros(8)))
