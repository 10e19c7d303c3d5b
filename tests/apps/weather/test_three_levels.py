"""Our world of three levels: transforms, waves, conservation, and the stores that it is written to."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import xarray

from apps.weather.data.readers import open_archive
from apps.weather.simulation import generate
from apps.weather.simulation.flow import DAY, RADIUS, SPEED, ThreeLevelFlow
from apps.weather.simulation.store import write_netcdf
from apps.weather.simulation.transforms import GaussGrid, HarmonicBasis
from core.cli import main
from core.errors import UserError

OFF = float("inf")
SETTINGS = {"days": 9, "step": 6, "grid": (33, 64), "progress": False}
WORDS = ["data", "generate", "weather/three_levels", "--days", "9", "--grid", "33x64", "--quiet"]


@pytest.fixture(scope="module")
def grid():
    return GaussGrid(dtype=np.float64)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a store of two members, made by the command."""
    out = tmp_path_factory.mktemp("world") / "world.zarr"
    assert main([*WORDS, "--members", "2", "--out", str(out)]) == 0
    return out


def coefficients(grid, fields, *, seed=0, members=2):
    """Return random coefficients that a triangle of degrees has."""
    orders, degrees, _ = grid.values.shape
    values = np.random.default_rng(seed).standard_normal((members, orders, 2, fields, degrees))
    values *= (np.arange(degrees) >= np.arange(orders)[:, None])[:, None, None]
    values[:, 0, 1] = 0
    return values


def test_transforms_return_the_coefficients(grid):
    values = coefficients(grid, 3)

    fields = grid.fields(values)

    assert np.abs(grid.coefficients(fields) - values).max() < 1e-12
    assert np.allclose((fields**2).mean(1) @ grid.weights, (values**2).sum((1, 2, 4)), rtol=1e-12)


def test_derivatives_are_those_of_known_functions():
    latitude, longitude = np.array([50.0, 10.0, -30.0]), np.array([0.0, 40.0, 200.0])
    basis = HarmonicBasis(latitude, longitude, dtype=np.float64)
    stream = np.zeros((1, 22, 2, 1, 22))
    stream[0, 1, 0, 0, 1] = 1  # proportional to cos(latitude) cos(longitude)
    size = basis.fields(stream)[0, 0, 0, 0] / np.cos(np.radians(50))

    east, north = basis.wind(stream)

    row, column = np.radians(latitude), np.radians(longitude)[:, None]
    assert np.allclose(north[0, :, 0], -size * np.cos(row) * np.sin(column))
    assert np.allclose(east[0, :, 0], size * np.cos(row) * np.sin(row) * np.cos(column))


def test_rossby_haurwitz_wave_keeps_its_form_and_speed(grid):
    flow = ThreeLevelFlow(grid, relaxation=OFF, drag=OFF, diffusion=(OFF, OFF))
    order, degree, hours = 4, 5, 24
    state = np.zeros((1, 22, 2, 3, 22))
    state[0, order, 0, :, degree] = 0.05
    later = state

    for _ in range(hours):
        later = flow.step(later, DAY / 24)

    turn = -DAY * order / (degree * (degree + 1))  # 2 Omega m / (n (n + 1)), westward
    expected = np.zeros_like(state)
    expected[0, order, 0, :, degree] = 0.05 * np.cos(turn)
    expected[0, order, 1, :, degree] = -0.05 * np.sin(turn)
    assert np.abs(later - expected).max() < 1e-6


def test_energy_and_tracers_are_kept_without_forcing_and_friction(grid):
    mountains = np.random.default_rng(1).random(grid.shape)
    flow = ThreeLevelFlow(grid, orography=mountains, relaxation=OFF, drag=OFF, diffusion=(OFF, OFF))
    state = 0.003 * coefficients(grid, 6)
    state[:, 0, :, :3, 0] = 0

    def energy(now):
        return -(flow.stream(now) * now[..., :3, :]).sum((1, 2, 3, 4)) / 2

    change = flow.tendency(state)
    later = state
    for _ in range(24):
        later = flow.step(later, DAY / 24)

    work = flow.stream(state) * change[..., :3, :]
    assert abs(work.sum()) < 1e-13 * np.abs(work).sum()
    spread = (state * change)[..., 3:, :]
    assert abs(spread.sum()) < 1e-13 * np.abs(spread).sum()
    assert np.allclose(energy(later), energy(state), rtol=1e-5)


def test_store_has_the_names_and_units_of_weatherbench(world):
    data = xarray.open_zarr(world, chunks=None)

    assert data.sizes == {"number": 2, "time": 36, "level": 3, "latitude": 33, "longitude": 64}
    assert data["geopotential"].dims == ("number", "time", "level", "latitude", "longitude")
    units = {name: data[name].units for name in ("temperature", "total_precipitation_6hr", "level")}
    assert units == {"temperature": "K", "total_precipitation_6hr": "m", "level": "hPa"}
    assert data.latitude[[0, -1]].values.tolist() == [90, -90]
    assert data.time.values[1] - data.time.values[0] == np.timedelta64(6, "h")
    assert all(np.isfinite(data[name]).all() for name in data)


def test_store_and_netcdf_are_read_as_the_same_archive(world, tmp_path):
    write_netcdf(world, tmp_path / "files")
    write_netcdf(world, tmp_path / "files")  # which replaces the former output

    stored, files = open_archive(str(world)), open_archive(str(tmp_path / "files"))

    assert stored.variables == files.variables and stored.members == files.members == 2
    assert stored.accumulated == files.accumulated == {"tp": 6.0} and set(stored.static) == {
        "lsm",
        "z",
        "slt",
    }
    where = (slice(None), slice(None))
    read = [
        archive.read(archive.times[3:5], stored.variables, *where, member=1) for archive in (stored, files)
    ]
    assert all((one == other).all() for one, other in zip(*read, strict=True))


def test_fields_are_of_an_atmosphere(world):
    data = xarray.open_zarr(world, chunks=None)

    bounds = {
        "geopotential": (5e3, 130e3), "2m_temperature": (210, 320), "mean_sea_level_pressure": (89e3, 113e3),
        "specific_humidity": (1e-8, 0.03), "total_precipitation_6hr": (0, 0.2), "land_sea_mask": (0, 1),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        assert data[name].min() >= least and data[name].max() <= most, name
    wind = data["u_component_of_wind"].mean(("number", "time", "longitude")).interp(latitude=45)
    assert 20 < wind.sel(level=200) < 45 and 2 < wind.sel(level=800) < 15
    rain = data["total_precipitation_6hr"].mean(("number", "time", "longitude"))
    share = np.cos(np.radians(rain.latitude))
    assert 1.5e-3 < 4 * float((rain * share).sum() / share.sum()) < 4e-3


def test_thickness_follows_from_temperature_and_wind_from_height(world):
    data = xarray.open_zarr(world, chunks=None).isel(number=0, time=slice(None, None, 8))
    z, t = data["geopotential"], data["temperature"]

    for top, bottom in ((200, 500), (500, 800)):
        layer = (z.sel(level=top) - z.sel(level=bottom)) / (287.05 * np.log(bottom / top))
        assert abs(layer - (t.sel(level=top) + t.sel(level=bottom)) / 2).max() < 10
    slope = z.differentiate("longitude") / (np.radians(1) * RADIUS * np.cos(np.radians(z.latitude)))
    balanced = slope / (SPEED / RADIUS * np.sin(np.radians(z.latitude)))
    inner = {"latitude": slice(70, 35), "level": 500}
    pair = [
        field.sel(inner).isel(longitude=slice(1, -1)).values.ravel()
        for field in (balanced, data["v_component_of_wind"])
    ]
    assert np.corrcoef(*pair)[0, 1] > 0.95


def test_killed_run_goes_on_to_the_same_bits_and_more_members_are_added(world, tmp_path):
    out = tmp_path / "w.zarr"
    words = [*WORDS, "--out", str(out)]
    state = tmp_path / "w.zarr.unfinished.tmp" / "state.safetensors"
    process = subprocess.Popen([sys.executable, "-m", "core.cli", *words])
    end = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert state.exists() and not out.exists()

    assert main(words) == 0
    single = xarray.open_zarr(out, chunks=None).load()
    grown = xarray.open_zarr(generate(out, members=2, **SETTINGS), chunks=None)

    unbroken = xarray.open_zarr(world, chunks=None)
    assert single.equals(unbroken.isel(number=0, drop=True))
    assert grown.equals(unbroken)
    assert not state.exists() and generate(out, members=1, **SETTINGS) == out


def test_seeds_and_members_differ(world, tmp_path):
    data = xarray.open_zarr(world, chunks=None)["geopotential"]
    how = {**SETTINGS, "days": 1, "grid": (33, 64)}
    other = xarray.open_zarr(generate(tmp_path / "w.zarr", seed=1, **how), chunks=None)["geopotential"]

    assert abs(data[0, 0] - data[1, 0]).mean() > 100
    assert abs(data[0, 0] - other[0]).mean() > 100
    with pytest.raises(UserError, match="holds a world with seed 0, not 1"):
        generate(world, seed=1, **SETTINGS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["weather/four_levels"], "not 'weather/four_levels'; did you mean 'three_levels'?"),
        (["weather"], "say what to generate: weather/three_levels"),
        (["weather/three_levels", "--grid", "32"], "--grid is 32; write rows and columns"),
        (["weather/three_levels", "--step", "5"], "it must be 2, 4, 6, 8, 12 or 24"),
        (["weather/three_levels", "--days", "0"], "days is 0; it must be at least 1"),
        (["weather/three_levels", "--out", "a.nc"], "a.nc must end in .zarr"),
        (["weather/three_levels", "--out", "a.nc", "--format", "netcdf"], "must name a folder"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(words, told, capsys):
    assert main(["data", "generate", *words]) == 2

    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "w.zarr").mkdir()

    with pytest.raises(UserError, match="is no store of"):
        generate(tmp_path / "w.zarr", days=1)
    assert main(["data", "generate", "weather", "--list"]) == 0
