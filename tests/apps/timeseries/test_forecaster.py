"""From a checkpoint and a table to a forecast: stamps, units, gaps, any horizon, quantiles, many series."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from apps.timeseries.batch import SeriesBatch, SeriesFacts
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.scaling import ChannelScaler, fit_scaler
from apps.timeseries.metrics.evaluation import METRICS
from apps.timeseries.models.mixer.settings import DecoderSettings, ForecastMixing
from apps.timeseries.models.ttm import TTM
from apps.timeseries.predict.backtest import backtest
from apps.timeseries.predict.model import Forecaster
from apps.timeseries.predict.rolling import roll
from apps.timeseries.predict.writers import predict_to, summary, write_forecast
from core.checkpoints.files import write_checkpoint
from core.errors import UserError
from core.metrics.conformal import Conformal

SIZES = {"context": 96, "horizon": 24, "patch": 12, "width": 24, "levels": 2}
DECODER = DecoderSettings(width=16)


class Shift(torch.nn.Module):
    """Forecasts the last `horizon` values of the context: exact on a series with that period."""

    channels_bound = False
    exogenous: tuple[int, ...] = ()

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon

    def forward(self, past_values: torch.Tensor, **_: object) -> torch.Tensor:
        return past_values[:, -self.horizon :]


class FollowCovariate(torch.nn.Module):
    """Forecasts channel 0 as the known future of channel 1."""

    channels_bound = True
    exogenous = (1,)

    def forward(self, past_values: torch.Tensor, *, future_values: torch.Tensor, **_: object) -> torch.Tensor:
        return future_values[..., 1:2]


def daily(rows: int, *, level: float = 10.0, size: float = 3.0) -> np.ndarray:
    """Return an hourly series with a clean daily cycle."""
    return level + size * np.sin(np.arange(rows) * 2 * np.pi / 24)


def frame(rows: int = 300, names: tuple[str, ...] = ("a",), **columns: np.ndarray) -> pd.DataFrame:
    """Return a long frame of hourly series with ids."""
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    values = columns or {"y": daily(rows)}
    return pd.concat(
        [pd.DataFrame({"id": name, "date": stamps, **values}) for name in names], ignore_index=True
    )


@pytest.fixture
def shift() -> Forecaster:
    """A forecaster that is exact on daily cycles."""
    return Forecaster(Shift(48, 24))


@pytest.fixture(scope="module")
def network() -> TTM:
    torch.manual_seed(0)
    return TTM(**SIZES, decoder=DECODER)


@pytest.fixture(scope="module")
def checkpoint(network: TTM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a run writes it, with facts of one series and residuals of validation."""
    residuals = torch.randn(99, 24, 1, generator=torch.Generator().manual_seed(0))
    facts = SeriesFacts(
        context=96,
        horizon=24,
        roles=Roles.of(time="date", ids="id", targets="y"),
        series={"known": {"y": ChannelScaler(100.0, 5.0)}},
        conformal=Conformal.from_residuals(residuals, channels=("y",), by_window=True),
    )
    decoder = {
        "class_path": "apps.timeseries.models.mixer.settings.DecoderSettings",
        "init_args": {"width": 16},
    }
    described = {"class_path": "apps.timeseries.models.ttm.TTM", "init_args": {**SIZES, "decoder": decoder}}
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    write_checkpoint(
        {
            "state_dict": {
                **{f"network.{name}": value for name, value in network.state_dict().items()},
                "normaliser._extra_state": facts.plain(),
            },
            "global_step": 7,
            "domainfm": {
                "format": 1,
                "domain": "timeseries",
                "system": "ttm",
                "config": {"model": {"init_args": {"network": described}}},
                "key_map": "apps.timeseries.models.ttm",
            },
        },
        path,
    )
    return path


def test_a_forecast_has_future_stamps_physical_units_and_ordered_quantiles(shift: Forecaster) -> None:
    made = shift.forecast(frame(), quantiles=(0.9, 0.1, 0.5))
    assert list(made.columns) == ["id", "date", "target", "prediction", "0.1", "0.5", "0.9", "quantiles_from"]
    assert made["date"].iloc[0] == pd.Timestamp("2024-01-13 12:00")
    assert (made["date"].diff().dropna() == pd.Timedelta("1h")).all()
    assert made["prediction"].to_numpy() == pytest.approx(daily(324)[300:], abs=1e-4)
    assert (made["0.1"] <= made["0.9"]).all()


@pytest.mark.parametrize("horizon", [1, 7, 24, 25, 100])
def test_any_horizon_is_cut_or_rolled(shift: Forecaster, horizon: int) -> None:
    made = shift.forecast(frame(), horizon=horizon)
    assert made["prediction"].to_numpy() == pytest.approx(daily(300 + horizon)[300:], abs=1e-3)
    assert ("rolled in chunks of 24" in str(made.attrs["notes"])) == (horizon > 24)


def test_the_wide_form_has_a_row_per_step(shift: Forecaster) -> None:
    made = shift.forecast(frame(y=daily(300), z=2 * daily(300)), horizon=5, wide=True, quantiles=(0.1,))
    assert len(made) == 5
    assert {"y_prediction", "z_prediction", "y_prediction_q0.1", "z_prediction_q0.1"} <= set(made.columns)


def test_a_series_without_stamps_is_counted_in_steps(shift: Forecaster) -> None:
    made = shift.forecast(pd.DataFrame({"y": daily(300)}), horizon=3)
    assert made["step"].tolist() == [1, 2, 3]


def test_two_channels_of_one_network_are_forecast_in_their_own_units(shift: Forecaster) -> None:
    made = shift.forecast(frame(y=daily(300), z=1000 * daily(300)), horizon=24).set_index("target")
    assert made.loc["z", "prediction"].to_numpy() == pytest.approx(
        1000 * made.loc["y", "prediction"].to_numpy()
    )


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_result_does_not_depend_on_the_batch_size(network: TTM, batch_size: int) -> None:
    table = frame(names=tuple("abcde"), y=daily(300) + np.random.default_rng(0).normal(size=300))
    whole = Forecaster(network).forecast(table, horizon=60)
    parts = Forecaster(network, batch_size=batch_size).forecast(table, horizon=60)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4)


def test_a_series_forecast_alone_equals_the_same_among_many(network: TTM) -> None:
    forecaster = Forecaster(network)
    many = forecaster.forecast(frame(names=("a", "b", "c")))
    alone = forecaster.forecast(frame(names=("b",)))
    pd.testing.assert_frame_equal(many[many["id"] == "b"].reset_index(drop=True), alone, rtol=1e-4)


def test_gaps_and_missing_stamps_still_give_a_forecast(shift: Forecaster) -> None:
    table = frame(500)
    table.loc[100:110, "y"] = np.nan
    made = shift.forecast(table.drop(index=range(200, 230)), horizon=24)
    assert made["prediction"].to_numpy() == pytest.approx(daily(524)[500:], abs=0.2)
    assert "stamps missing" in str(made.attrs["notes"])


def test_what_cannot_be_forecast_is_reported_with_its_reason(shift: Forecaster) -> None:
    short = frame(5, names=("short",))
    late = frame(300, names=("late",))
    late.loc[200:, "y"] = np.nan
    made = shift.forecast(pd.concat([frame(), short, late], ignore_index=True))
    reasons = {one["id"]: one["reason"] for one in made.attrs["not_forecast"]}
    assert set(made["id"]) == {"a"}
    assert "has 5 observed values in 'y', at least 8 are needed" in reasons["short"]
    assert "no value of 'y' in its last 48 rows" in reasons["late"]


def test_nothing_to_forecast_is_one_sentence(shift: Forecaster) -> None:
    with pytest.raises(UserError, match="none of the 1 series can be forecast"):
        shift.forecast(frame(5))


def test_a_series_shorter_than_the_context_is_padded(shift: Forecaster) -> None:
    made = shift.forecast(frame(30), horizon=24)
    assert made["prediction"].to_numpy() == pytest.approx(daily(54)[30:], abs=1e-4)
    assert "1 series are shorter than the context of 48 and were padded" in made.attrs["notes"]


def test_a_constant_series_stays_constant(shift: Forecaster) -> None:
    made = shift.forecast(frame(y=np.full(300, 7.0)))
    assert (made[["prediction", "0.1", "0.9"]] == 7.0).all(axis=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon is 0; it must be at least 1"),
        ({"quantiles": (0.5, 1.5)}, "levels must lie between 0 and 1"),
        ({"targets": "x"}, "has no column 'x'"),
        ({"observabel": "x"}, "did you mean 'observable'"),
    ],
)
def test_mistakes_are_one_sentence(shift: Forecaster, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shift.forecast(frame(), **options)


def test_known_futures_reach_the_network_through_a_rolled_horizon() -> None:
    facts = SeriesFacts(context=48, horizon=10, roles=Roles.of(targets="y", observable="x"))
    forecaster = Forecaster(FollowCovariate(), facts)
    table = frame(y=daily(300), x=daily(300))
    future = pd.DataFrame(
        {"id": "a", "date": pd.date_range("2024-01-13 12:00", periods=25, freq="h"), "x": np.arange(25.0)}
    )
    made = forecaster.forecast(table, horizon=25, known_future=future, ids="id")
    assert made["prediction"].to_numpy() == pytest.approx(np.arange(25.0), abs=1e-4)
    with pytest.raises(UserError, match="needs the known future of x; give known_future"):
        forecaster.forecast(table, horizon=25, ids="id")


def test_a_known_future_that_lacks_a_series_or_steps_is_said() -> None:
    facts = SeriesFacts(context=48, horizon=10, roles=Roles.of(targets="y", observable="x"))
    forecaster = Forecaster(FollowCovariate(), facts)
    table = frame(names=("a", "b"), y=daily(300), x=daily(300))
    stamps = pd.date_range("2024-01-13 12:00", periods=10, freq="h")
    future = pd.DataFrame({"id": "a", "date": stamps, "x": np.arange(10.0)})
    made = forecaster.forecast(table, known_future=future.head(7), ids="id")
    assert set(made["id"]) == {"a"}
    assert (
        "has no row of series 'b', written so; it has rows of 'a'" in made.attrs["not_forecast"][0]["reason"]
    )
    assert "the known future of 'a' has 7 of 10 steps" in made.attrs["notes"]
    with pytest.raises(UserError, match="two rows for one step of series 'a'"):
        forecaster.forecast(table, known_future=pd.concat([future, future.tail(1)]), ids="id")


def test_known_futures_are_refused_or_said_series_by_series(tmp_path: Path) -> None:
    roles = Roles.of(targets="y", observable=["x", "z"])
    forecaster = Forecaster(FollowCovariate(), SeriesFacts(context=48, horizon=10, roles=roles))
    table = frame(names=("1", "2", "3", "4"), y=daily(300), x=daily(300), z=daily(300))
    stamps = pd.date_range("2024-01-13 12:00", periods=10, freq="h")
    rows = {"date": stamps, "x": np.arange(10.0)}
    parts = [pd.DataFrame({"id": name, **rows}) for name in ("1", "2.0", "3", "4")]
    parts[2] = pd.concat([parts[2], parts[2].tail(1)])
    parts[3] = parts[3].astype({"x": object}).replace({"x": {4.0: "warm"}})
    pd.concat(parts).to_csv(tmp_path / "known.csv", index=False)
    made = forecaster.forecast(table, known_future=tmp_path / "known.csv", ids="id")
    reasons = {one["id"]: one["reason"] for one in made.attrs["not_forecast"]}
    assert set(made["id"]) == {"1"}
    assert "has rows of '1', '2.0', '3', '4'" in reasons["2"]
    assert "two rows for one step of series '3'" in reasons["3"]
    assert "line 37 of known.csv, column 'x' holds 'warm'" in reasons["4"]
    assert "known.csv has no column 'z': its future is taken as unknown" in made.attrs["notes"]


def test_a_folder_has_a_folder_of_known_futures(tmp_path: Path) -> None:
    forecaster = Forecaster(
        FollowCovariate(), SeriesFacts(context=48, horizon=10, roles=Roles.of(targets="y", observable="x"))
    )
    stamps = pd.date_range("2024-01-13 12:00", periods=10, freq="h")
    for folder in ("past", "future"):
        (tmp_path / folder).mkdir()
    for level, name in enumerate("ab"):
        table = frame(y=daily(300), x=daily(300)).drop(columns="id")
        table.to_csv(tmp_path / "past" / f"{name}.csv", index=False)
        pd.DataFrame({"date": stamps, "x": 10.0 * level}).to_csv(
            tmp_path / "future" / f"{name}.csv", index=False
        )
    made = forecaster.forecast(tmp_path / "past", known_future=tmp_path / "future")
    assert made.groupby("id")["prediction"].mean().to_dict() == pytest.approx({"a": 0.0, "b": 10.0}, abs=1e-4)


def test_a_network_of_single_channels_says_that_it_uses_no_known_future(shift: Forecaster) -> None:
    made = shift.forecast(frame(), known_future=frame(2), horizon=2)
    assert "known_future is not used" in str(made.attrs["notes"])


def test_a_ttm_with_exogenous_channels_reads_the_known_future_of_them() -> None:
    torch.manual_seed(0)
    bound = TTM(**SIZES, decoder=DECODER, channels=2, exogenous=[1], forecast_mixing=ForecastMixing())
    facts = SeriesFacts(context=96, horizon=24, roles=Roles.of(targets="y", observable="x"))
    forecaster = Forecaster(bound, facts)
    table = frame(y=daily(300), x=daily(300, level=0.0))
    stamps = pd.date_range("2024-01-13 12:00", periods=40, freq="h")
    made = [
        forecaster.forecast(
            table, horizon=40, known_future=pd.DataFrame({"id": "a", "date": stamps, "x": value}), ids="id"
        )
        for value in (0.0, 0.0, 5.0)
    ]
    assert len(made[0]) == 40
    assert set(made[0]["target"]) == {"y"}
    pd.testing.assert_frame_equal(made[0], made[1])
    assert not np.allclose(made[0]["prediction"], made[2]["prediction"])


def test_only_the_end_of_a_long_history_decides_the_quantiles(network: TTM) -> None:
    values = daily(4000) + np.random.default_rng(3).normal(size=4000)
    facts = SeriesFacts(context=96, horizon=24, series={"a": {"y": ChannelScaler(10.0, 2.0)}})
    forecaster = Forecaster(network, facts)
    whole, end = frame(4000, y=values), frame(4000, y=values).tail(1200)
    columns = ["prediction", "0.1", "0.9"]
    first, second = forecaster.forecast(whole)[columns], forecaster.forecast(end)[columns]
    assert first.to_numpy() == pytest.approx(second.to_numpy(), rel=1e-5)


def test_rolling_marks_channels_of_unknown_future_as_missing() -> None:
    seen = []

    class Watch(torch.nn.Module):
        exogenous = ()

        def forward(self, past_values, *, past_observed, **_):
            seen.append(past_observed[:, -4:].clone())
            return past_values[:, -4:, :1]

    unknown = torch.zeros(2, 6, 3)
    batch = SeriesBatch(
        past_values=torch.ones(2, 8, 3),
        past_observed=torch.ones(2, 8, 3, dtype=torch.bool),
        future_values=unknown,
        future_observed=unknown.bool(),
        freq_token=None,
        static_categories=None,
        series=torch.zeros(2, dtype=torch.int64),
        start=torch.zeros(2, dtype=torch.int64),
    )
    assert roll(Watch(), batch, horizon=6, chunk=4).shape == (2, 6, 1)
    assert seen[1][0, 0].tolist() == [True, False, False]


def test_a_checkpoint_gives_the_same_forecast_as_its_network(checkpoint: Path, network: TTM) -> None:
    loaded = Forecaster.from_checkpoint(checkpoint)
    fresh = Forecaster(network)
    ours, theirs = loaded.forecast(frame()), fresh.forecast(frame())
    assert ours["prediction"].to_numpy() == pytest.approx(theirs["prediction"].to_numpy(), rel=1e-6)
    assert set(ours["quantiles_from"]) == {"validation"}
    assert set(theirs["quantiles_from"]) == {"backtest of the model on 20 windows of the history"}


def test_a_network_that_scales_its_windows_needs_no_statistics_of_a_name(checkpoint: Path) -> None:
    forecaster = Forecaster.from_checkpoint(checkpoint)
    statistics = forecaster.read(frame(names=("known", "new"))).statistics
    assert statistics["known"]["y"] == statistics["new"]["y"] == fit_scaler(daily(300)[-96:])


def test_statistics_of_a_name_are_used_where_they_fit_the_data_only() -> None:
    stored = {"known": {"y": ChannelScaler(11.0, 2.0)}, "other": {"y": ChannelScaler(0.011, 0.002)}}
    facts = SeriesFacts(context=48, horizon=24, univariate=True, series=stored)
    series = Forecaster(Shift(48, 24), facts).read(frame(names=("known", "other", "new")))
    assert series.statistics["known"]["y"] == ChannelScaler(11.0, 2.0)
    assert series.statistics["other"]["y"] == series.statistics["new"]["y"] == fit_scaler(daily(300))
    assert [note for note in series.report.notes if "'other' lies far from what training stored" in note]


def waves(*, at: int | None = None, value: float = 1e6, size: float = 1.0, level: float = 0.0) -> np.ndarray:
    """Return 400 hours of a clean daily cycle, with one wild value in row `at`."""
    values = daily(400, level=level, size=size)
    if at is not None:
        values[at] = value
    return values


@pytest.mark.parametrize("value", [999999.0, -1e6, 1e30, 1e160, 1e305])
@pytest.mark.parametrize("residuals", [True, False])
def test_what_lies_before_the_context_does_not_change_a_forecast(
    checkpoint: Path, network: TTM, value: float, residuals: bool
) -> None:
    forecaster = Forecaster.from_checkpoint(checkpoint) if residuals else Forecaster(network)
    clean = forecaster.forecast(frame(400, y=waves()))
    wild = forecaster.forecast(frame(400, y=waves(at=100, value=value)))
    assert wild["prediction"].to_numpy() == pytest.approx(clean["prediction"].to_numpy(), abs=1e-6)
    assert (wild["0.9"] - wild["0.1"]).mean() == pytest.approx((clean["0.9"] - clean["0.1"]).mean(), rel=1)


def test_a_ramp_before_the_context_does_not_widen_the_bands(checkpoint: Path) -> None:
    ramp = np.concatenate([np.linspace(0, 1e6, 200), 1e6 + waves()[200:]])
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=ramp))
    plain = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=waves()))
    assert made["prediction"].to_numpy() == pytest.approx(1e6 + plain["prediction"].to_numpy(), abs=0.01)
    assert made["0.9"].to_numpy() == pytest.approx(1e6 + plain["0.9"].to_numpy(), abs=0.01)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e-30, 1e-6, 1e6, 1e30, 1e160, 1e300])
def test_a_forecast_is_the_same_in_any_unit(checkpoint: Path, size: float) -> None:
    forecaster = Forecaster.from_checkpoint(checkpoint)
    plain, scaled = (forecaster.forecast(frame(400, y=waves(size=unit))) for unit in (1.0, size))
    for column in ("prediction", "0.1", "0.9"):
        assert scaled[column].to_numpy() / size == pytest.approx(plain[column].to_numpy(), rel=1e-3, abs=1e-3)


def test_a_forecast_beyond_all_numbers_is_left_out_with_a_reason() -> None:
    class Grow(Shift):
        def forward(self, past_values: torch.Tensor, **_: object) -> torch.Tensor:
            return 4 * past_values[:, -self.horizon :]

    table = frame(names=("good", "huge"))
    table.loc[300:, "y"] = 1.7e308 * np.sign(np.sin(np.arange(300)))
    made = Forecaster(Grow(48, 24)).forecast(table)
    assert np.isfinite(made[["prediction", "0.1", "0.9"]].to_numpy()).all()
    assert set(made["id"]) == {"good"}
    assert "'y' of 'huge' is no finite number; give another unit" in str(made.attrs["not_forecast"])
    wide = frame(y=table.loc[300:, "y"].to_numpy(), z=daily(300))
    assert set(Forecaster(Grow(48, 24)).forecast(wide)["target"]) == {"z"}


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e160, 1e307])
def test_values_of_any_size_are_drawn(shift: Forecaster, tmp_path: Path, size: float) -> None:
    written = predict_to(tmp_path / "out.csv", shift, frame(y=waves(size=size)[:300]), horizon=12)
    assert written[1].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 2e-6, 3e6, 1e200])
@pytest.mark.parametrize("residuals", [True, False])
def test_a_constant_series_gets_a_tiny_relative_band(
    checkpoint: Path, network: TTM, value: float, residuals: bool
) -> None:
    forecaster = Forecaster.from_checkpoint(checkpoint) if residuals else Forecaster(network)
    made = forecaster.forecast(frame(y=np.full(300, value)))
    assert made["prediction"].to_numpy() == pytest.approx(value, rel=1e-6, abs=1e-7)
    assert ((made["0.9"] - made["0.1"]) <= 1e-5 * (abs(value) or 1.0)).all()


@pytest.mark.parametrize("observed", [1, 96])
def test_a_constant_context_of_a_varying_series_has_bands_of_the_series_size(
    checkpoint: Path, observed: int
) -> None:
    values = waves(level=10.0)
    values[-96:] = np.nan
    values[-observed:] = 10.0
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=values))
    assert made["prediction"].to_numpy() == pytest.approx(10.0, abs=0.01)
    assert 0.3 < (made["0.9"] - made["0.1"]).mean() < 5


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ((0.1, 0.9), "validation"),
        ((0.001, 0.5), "validation, levels below 0.01 and above 0.99 as these"),
        ((0.9999,), "validation, levels below 0.01 and above 0.99 as these"),
    ],
)
def test_levels_beyond_what_the_residuals_tell_are_said(
    checkpoint: Path, levels: tuple[float, ...], said: str
) -> None:
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(), quantiles=levels)
    assert set(made["quantiles_from"]) == {said}


def test_an_outlier_within_the_context_is_named(checkpoint: Path) -> None:
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=waves(at=350)))
    assert "row 351 of 'a' holds 1e+06 in 'y', which rules the scale" in str(made.attrs["notes"])
    spike = np.where(np.arange(400) == 390, 1e5, 0.0)
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=spike))
    assert "row 391 of 'a' holds 100000 in 'y', which rules the scale" in str(made.attrs["notes"])
    bursts = np.where(np.arange(400) % 17 == 0, 3.0, 0.0)
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(400, y=bursts))
    assert "rules the scale" not in str(made.attrs["notes"])


@pytest.mark.parametrize("dead", ["died", "began", "empty"])
def test_a_dead_channel_does_not_stop_the_others(shift: Forecaster, dead: str) -> None:
    rows = {"died": slice(0, 200), "began": slice(296, 300), "empty": slice(0, 0)}[dead]
    lost = np.full(300, np.nan)
    lost[rows] = 1.0
    table = frame(y=daily(300), lost=lost, z=2 * daily(300))
    made = shift.forecast(table)
    alone = shift.forecast(table.drop(columns="lost"))
    assert "'lost'" in str(made.attrs)
    pd.testing.assert_frame_equal(made, alone)


def test_a_channel_that_began_too_late_does_not_stop_a_backtest_of_the_others(shift: Forecaster) -> None:
    late = np.where(np.arange(300) < 280, np.nan, 1.0)
    scores = backtest(shift, frame(y=daily(300), late=late), origins=3, baselines="naive")
    assert scores.by_channel().index.get_level_values("channel").unique().tolist() == ["y"]
    assert "too few values of 'late'" in scores.skipped[0].reason


def test_quantiles_beyond_the_stored_horizon_say_so(checkpoint: Path) -> None:
    made = Forecaster.from_checkpoint(checkpoint).forecast(frame(), horizon=48)
    assert set(made["quantiles_from"]) == {"validation, extrapolated beyond step 24"}


def test_an_exported_folder_is_a_forecaster_too(checkpoint: Path, tmp_path: Path) -> None:
    from core.checkpoints.exchange import export_weights

    folder = export_weights(checkpoint, tmp_path / "exported")
    ours, theirs = Forecaster.from_checkpoint(folder), Forecaster.from_checkpoint(checkpoint)
    assert (ours.context, ours.horizon) == (96, 24)
    first, second = ours.forecast(frame())["prediction"], theirs.forecast(frame())["prediction"]
    assert first.to_numpy() == pytest.approx(second.to_numpy(), rel=1e-5)


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.ckpt"):
        Forecaster.from_checkpoint(tmp_path / "none.ckpt")


def test_a_first_forecast_from_a_fresh_process_is_quick_and_loads_no_trainer(
    checkpoint: Path, tmp_path: Path
) -> None:
    csv = tmp_path / "my.csv"
    frame().to_csv(csv, index=False)
    code = (
        "import sys\n"
        "from apps.timeseries.predict.model import Forecaster\n"
        f"made = Forecaster.from_checkpoint({str(checkpoint)!r}).forecast({str(csv)!r}, horizon=96)\n"
        "assert len(made) == 96\n"
        "found = {'lightning', 'torchvision', 'torchaudio', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    assert (
        time.monotonic() - start < 15
    )  # about 3 s on an idle machine; the limit only catches a heavy import


def test_a_backtest_scores_the_model_and_the_baselines_on_the_same_windows(shift: Forecaster) -> None:
    noise = np.random.default_rng(1).normal(scale=0.3, size=(2, 800))
    tables = pd.concat(
        [frame(800, names=(f"s{i}",), y=daily(800) + noise[i]) for i in range(2)], ignore_index=True
    )
    made = backtest(shift, tables, origins=6, baselines="naive")
    table = made.table()
    assert list(table.columns) == [*METRICS, "windows"]
    assert set(table["windows"]) == {12}
    # the model repeats the last day, as the seasonal naive forecast does
    assert table.loc["model", "MSE"] == pytest.approx(table.loc["seasonal naive", "MSE"], rel=1e-4)
    assert table.loc["model", "MASE"] < table.loc["last value", "MASE"]
    assert table.loc["model", "WQL"] < table.loc["last value", "WQL"]
    assert len(made.by_step()) == 24 * len(table)
    assert made.by_series().loc[("model", "s0"), "windows"] == 6
    assert made.by_step().loc["model", "MSE"].mean() == pytest.approx(table.loc["model", "MSE"], rel=1e-6)


def test_a_backtest_fits_trained_baselines_before_its_first_origin_only(shift: Forecaster) -> None:
    values = daily(600)
    values[-72:] = 1e6  # what comes later must not reach anyone's statistics
    made = backtest(shift, frame(600, y=values), origins=3, baselines="all")
    assert {"ridge", "DLinear", "ETS"} <= set(made.table().index)
    assert (made.table()["MAE"] > 1e4).all()


def test_a_backtest_of_too_short_series_says_what_it_needs(shift: Forecaster) -> None:
    with pytest.raises(UserError, match="has 20 rows, a backtest needs 34"):
        backtest(shift, frame(20))


def test_predictions_are_written_with_a_picture_and_a_report(shift: Forecaster, tmp_path: Path) -> None:
    table = pd.concat([frame(), frame(5, names=("short",))], ignore_index=True)
    written = predict_to(tmp_path / "out.csv", shift, table, horizon=12)
    assert [path.name for path in written] == ["out.csv", "out.png", "out.skipped.csv"]
    assert len(pd.read_csv(written[0])) == 12
    assert written[1].read_bytes()[:4] == b"\x89PNG"
    assert pd.read_csv(written[2])["id"].tolist() == ["short"]
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".made_by"))
    assert left == ["out.csv", "out.png", "out.skipped.csv"]


@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "f.parquet"])
def test_every_format_keeps_the_numbers(shift: Forecaster, tmp_path: Path, name: str) -> None:
    made = shift.forecast(frame(), horizon=6)
    path = write_forecast(made, tmp_path / name)
    back = pd.read_parquet(path) if name.endswith("parquet") else pd.read_csv(path, parse_dates=["date"])
    assert back["prediction"].to_numpy() == pytest.approx(made["prediction"].to_numpy())
    assert (back["date"] == made["date"]).all()


def test_another_suffix_is_refused(shift: Forecaster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.csv"):
        predict_to(tmp_path / "out.xlsx", shift, frame())


def test_the_summary_counts_and_names_what_was_left_out(shift: Forecaster) -> None:
    result = shift.run(pd.concat([frame(), frame(5, names=("short",))], ignore_index=True))
    lines = summary(replace(result, notes=[]))
    assert lines[0].startswith("1 series forecast, 24 steps each; quantiles from: backtest of the model")
    assert "1 not forecast:" in lines


@pytest.mark.parametrize(
    ("renamed", "columns"),
    [
        ({"id": "target"}, ["id", "date"]),
        ({"id": "prediction"}, ["id", "date"]),
        ({"id": "0.1"}, ["id", "date"]),
        ({"date": "id", "id": "unique_id"}, ["unique_id", "id"]),
        ({"date": "target"}, ["id", "time"]),
        ({"date": "quantiles_from", "id": "target"}, ["id", "time"]),
    ],
)
def test_no_column_of_the_table_is_overwritten(shift: Forecaster, renamed: dict, columns: list[str]) -> None:
    names = {"id": "id", "date": "date"} | renamed
    table = frame(names=("oxygen", "nitrogen")).rename(columns=renamed)
    forecast = shift.forecast(table, ids=names["id"], time=names["date"], targets="y", horizon=2)
    assert list(forecast)[:4] == [*columns, "target", "prediction"]
    assert forecast[columns[0]].tolist() == ["oxygen"] * 2 + ["nitrogen"] * 2
    assert (forecast["target"] == "y").all()


def test_a_single_series_with_a_time_called_id_keeps_its_name(shift: Forecaster) -> None:
    forecast = shift.forecast(frame().drop(columns="id").rename(columns={"date": "id"}), horizon=2)
    assert list(forecast)[:3] == ["series", "id", "target"]


def test_a_forecast_holds_no_formulas(shift: Forecaster, tmp_path: Path) -> None:
    forecast = shift.forecast(frame(names=("=1+1", "-7")).rename(columns={"y": "@y"}), horizon=1, wide=True)
    write_forecast(forecast, tmp_path / "x.csv")
    head, *rows = (tmp_path / "x.csv").read_text().splitlines()
    assert head.startswith("id,date,'@y_prediction,")
    assert [row.split(",")[0] for row in rows] == ["'=1+1", "-7"]
