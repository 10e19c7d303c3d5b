"""Forecasts of weather from a checkpoint alone: layout, members, starts, kills, the south pole's row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_globe import FACTS, LEVELS, STATISTICS, fields
from torch import nn

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.models.aurora import Aurora
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape
from apps.weather.models.light_decoder import LightlyDecoded
from apps.weather.predict.model import WeatherForecaster
from apps.weather.predict.writers import ForecastJob
from core.errors import UserError

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")


class Drift(nn.Module):
    """A stand-in: the next state from both states of the history, the static field and the step."""

    history, step, patch = 2, 6.0, 4

    def __init__(self, pull: float = 0.9) -> None:
        super().__init__()
        self.pull = nn.Parameter(torch.tensor(pull))

    def advance(self, batch: WeatherBatch) -> States:
        last, before = (batch.inputs.at(slice(n, n + 1 or None)) for n in (-1, -2))
        tilt = 0.1 * batch.static[:, None, :1] + 0.01 * batch.rollout_step
        groups = (
            torch.sin(self.pull * torch.roll(new, 1, -1) + 0.3 * old) * 2
            for new, old in ((last.surface, before.surface), (last.atmospheric, before.atmospheric))
        )
        surface, atmospheric = groups
        return States(surface + tilt, atmospheric + tilt[:, :, :, None])


class Several(Drift):
    """Three states at once."""

    def advance(self, batch: WeatherBatch) -> States:
        first = super().advance(batch)
        return first.then(first).then(States(first.surface * 0.5, first.atmospheric * 0.5))


@pytest.fixture(scope="module")
def data() -> xarray.Dataset:
    return fields()


@pytest.fixture
def forecaster() -> WeatherForecaster:
    return WeatherForecaster(Drift(), FACTS)


def job(forecaster: WeatherForecaster, data: xarray.Dataset, steps: int, *starts: str, **more) -> ForecastJob:
    windows, _ = forecaster.histories(data)
    return ForecastJob(forecaster, windows, forecaster.starts(windows, starts or None), steps, **more)


def test_a_forecast_is_laid_out_as_weatherbench_has_it(forecaster, data) -> None:
    forecast = forecaster.forecast(data, start=["2020-01-01T06", "2020-01-02"], steps=3)

    assert forecast["2m_temperature"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert forecast["geopotential"].dims[2] == "level" and forecast["geopotential"].shape == (2, 3, 2, 8, 16)
    assert forecast["time"].values[1] == np.datetime64("2020-01-02")
    assert (forecast["prediction_timedelta"].values / np.timedelta64(1, "h")).tolist() == [6, 12, 18]
    assert forecast["2m_temperature"].attrs == {
        "units": "K", "short_name": "2t", "standard_name": "air_temperature"
    }  # fmt: skip
    assert forecast.attrs["licences"] == "CC0-1.0" and forecast.attrs["Conventions"] == "CF-1.11"
    assert all(np.isfinite(forecast[name]).all() for name in forecast.data_vars)


def test_the_forecaster_is_found_under_its_short_names() -> None:
    import domainfm
    from apps.weather import Forecaster

    assert Forecaster is domainfm.WeatherForecaster is WeatherForecaster


def test_a_step_is_the_networks_own_fed_with_what_went_before(forecaster, data) -> None:
    made = forecaster.forecast(data, start="2020-01-01T06", steps=2)

    temperature = (data["2m_temperature"].values[:2, :8] - 280) / 10
    for step in range(2):
        tilt = 0.1 * data["land_sea_mask"].values[:8] + 0.01 * step
        new = 2 * np.sin(0.9 * np.roll(temperature[-1], 1, -1) + 0.3 * temperature[-2]) + tilt
        temperature = np.stack([temperature[-1], new])
        expected = made["2m_temperature"][0, step]
        np.testing.assert_allclose(280 + 10 * new, expected, atol=2e-3)


def test_bounded_variables_are_clipped_and_fed_back_as_they_were(forecaster, data) -> None:
    free = WeatherForecaster(Drift(), replace(FACTS, bounds={})).forecast(data, steps=3)
    bounded = forecaster.forecast(data, steps=3)

    assert free["total_cloud_cover"].min() < 0 and free["specific_humidity"].min() < 0
    np.testing.assert_array_equal(np.clip(free["total_cloud_cover"], 0, 1), bounded["total_cloud_cover"])
    np.testing.assert_array_equal(np.clip(free["specific_humidity"], 0, None), bounded["specific_humidity"])


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_hold_what_memory_does_for_several_members_and_starts(tmp_path, data, suffix) -> None:
    members = WeatherForecaster([Drift(), Drift(0.5)], [FACTS, FACTS], names=["a", "b"], batch_size=2)
    starts = ["2020-01-01T06", "2020-01-01T12", "2020-01-02"]

    held = members.forecast(data, start=starts, steps=2)
    path = job(members, data, 2, *starts).write(tmp_path / f"forecast{suffix}")

    with xarray.open_dataset(path, decode_timedelta=True) as written:
        assert written["geopotential"].dims[:3] == ("time", "number", "prediction_timedelta")
        xarray.testing.assert_equal(held, written.load())
    alone = WeatherForecaster(Drift(0.5), FACTS).forecast(data, start=starts[1], steps=2)
    np.testing.assert_allclose(held["2m_temperature"][1, 1], alone["2m_temperature"][0], rtol=1e-6)


def test_the_south_poles_row_is_appended_with_one_wind_there(data) -> None:
    data = data.copy()
    forecaster = WeatherForecaster(Drift(), FACTS)

    forecast = forecaster.forecast(data, steps=1, south_pole=True)

    last = forecast.isel(latitude=[-2, -1], time=0, prediction_timedelta=0)
    assert last["latitude"].values.tolist() == [-67.5, -90.0]
    pole = last["2m_temperature"][1]
    np.testing.assert_allclose(pole, np.full(16, last["2m_temperature"][0].mean()), rtol=1e-6)
    angle = np.radians(last["longitude"].values)
    u, v = last["10m_u_component_of_wind"][1].values, last["10m_v_component_of_wind"][1].values
    vector = np.stack([v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)])
    np.testing.assert_allclose(vector, np.broadcast_to(vector[:, :1], vector.shape), atol=1e-5)


def test_a_region_network_forecasts_its_region_of_wider_data(data) -> None:
    rows, columns = slice(2, 6), slice(4, 12)
    facts = replace(
        FACTS,
        latitude=FACTS.latitude[rows], longitude=FACTS.longitude[columns],
        static=FACTS.static[:, rows, columns],
    )  # fmt: skip

    forecast = WeatherForecaster(Drift(), facts).forecast(data, steps=1)

    assert forecast["latitude"].values.tolist() == list(facts.latitude)
    assert forecast["longitude"].values.tolist() == list(facts.longitude)


def test_static_fields_that_the_data_lack_are_the_checkpoints(forecaster, data) -> None:
    without = forecaster.forecast(data.drop_vars("land_sea_mask"), steps=2)

    xarray.testing.assert_equal(without, forecaster.forecast(data, steps=2))


def aurora() -> Aurora:
    """A tiny network with weights that are not drawn as identities."""
    swin = SwinShape(
        window=(2, 2, 4), encoder_depths=(2,), encoder_heads=(1,), decoder_depths=(2,), decoder_heads=(1,)
    )
    torch.manual_seed(0)
    network = Aurora(
        ("2t", "10u", "10v", "tcc"), ("lsm",), ("z", "q"),
        width=64, swin=swin, perceiver=PerceiverShape(heads=2), lora=RolloutLoRA(),
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "ln_modulation" in name or "lora_B" in name:
                tensor.normal_(std=0.05)
    return network


def test_variables_of_light_decoders_are_forecast_and_not_fed_back(data) -> None:
    network = aurora()
    facts = replace(
        FACTS,
        target_variables=Variables(("tp",)),
        statistics={**STATISTICS, "tp": (2.0, 2.0)},
        transforms={"tp": "log_amount"},
        bounds={**FACTS.bounds, "tp": (0.0, None)},
    )

    decoded = WeatherForecaster(LightlyDecoded(network, ["tp"], hidden=(8,)), facts).forecast(data, steps=3)

    plain = WeatherForecaster(network, FACTS).forecast(data, steps=3)
    for name in plain.data_vars:
        np.testing.assert_array_equal(decoded[name], plain[name])
    rain = decoded["total_precipitation_6hr"]
    assert rain.units == "m" and rain.min() >= 0 and not np.array_equal(rain[0, 0], rain[0, 2])
    assert float(rain.mean()) == pytest.approx(np.expm1(2.0) * 1e-5, rel=0.1)  # decoders begin near 0


def test_a_network_of_several_states_at_once_fills_every_step(data) -> None:
    forecast = WeatherForecaster(Several(), FACTS).forecast(data, steps=5)

    temperature = forecast["2m_temperature"][0]
    np.testing.assert_array_equal(temperature[0], temperature[1])
    assert np.isfinite(temperature).all() and not np.array_equal(temperature[2], temperature[3])


def test_published_weights_have_auroras_statistics(data) -> None:
    network = aurora()
    network.variables = replace(network.variables, surface=("2t", "10u", "10v"))  # tcc has no statistics
    with torch.no_grad():
        network.decoder.surf_heads["2t"].weight.zero_()
        network.decoder.surf_heads["2t"].bias.fill_(1.0)
    forecaster = WeatherForecaster(network, None)
    few = replace(forecaster.facts, variables=replace(forecaster.facts.variables, levels=LEVELS))

    assert forecaster.facts.variables.levels[-1] == 1000 and len(forecaster.facts.variables.levels) == 13
    with pytest.raises(UserError, match="lacks 50, 100"):
        forecaster.forecast(data)
    forecast = WeatherForecaster(network, few).forecast(data, steps=2)
    np.testing.assert_allclose(forecast["2m_temperature"], 278.514 + 21.22036, rtol=1e-5)
    assert np.isfinite(forecast["specific_humidity"]).all() and forecast["specific_humidity"].min() >= 0


class Killed(BaseException):
    """The process ends."""


@pytest.mark.parametrize(
    ("network", "kills"), [(Drift, (2, 4, 6)), (Several, (2, 2, 2)), (lambda *_: aurora(), (2, 3, 5))]
)
def test_three_kills_change_no_bit(tmp_path, data, monkeypatch, network, kills) -> None:
    def made(name: str, kills: tuple[int, ...] = ()) -> xarray.Dataset:
        members = WeatherForecaster([network(), network(0.5)], [FACTS, FACTS], names=["a", "b"])
        said: list[str] = []
        work = job(members, data, 4, "2020-01-01T06", "2020-01-02", say=said.append)
        assign, calls = ForecastJob._assign, 0

        def assigned(self, *args):
            nonlocal calls
            calls += 1
            assign(self, *args)
            if kills and calls == kills[0]:
                raise Killed

        monkeypatch.setattr(ForecastJob, "_assign", assigned)
        try:
            work.write(tmp_path / name)
        except Killed:
            assert not (tmp_path / name).exists()
            monkeypatch.setattr(ForecastJob, "_assign", assign)
            return made(name, kills[1:])
        monkeypatch.setattr(ForecastJob, "_assign", assign)
        assert kills == () and bool(said) == (name == "killed.zarr")
        return xarray.open_dataset(tmp_path / name, decode_timedelta=True).load()

    xarray.testing.assert_identical(made("whole.zarr"), made("killed.zarr", kills))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.zarr", "whole.zarr"]


def test_what_was_begun_from_another_file_is_thrown_away(tmp_path, forecaster, data, monkeypatch) -> None:
    out, assign, calls = tmp_path / "forecast.zarr", ForecastJob._assign, []

    def stopped(self, *args):
        assign(self, *args)
        calls.append(args)
        if len(calls) == 2:
            raise UserError("stop")

    monkeypatch.setattr(ForecastJob, "_assign", stopped)
    said: list[str] = []
    with pytest.raises(UserError, match="stop"):
        job(forecaster, data, 3).write(out, {"files": 0})
    job(forecaster, data, 3, say=said.append).write(out, {"files": 1})

    assert said == [] and len(calls) == 5
