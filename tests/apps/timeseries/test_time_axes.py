"""Time axes however they are written: read, named, and continued in the same writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from series_tables import read_collection, read_series

from apps.timeseries.data.module import Series
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.future import KnownFuture
from apps.timeseries.data.settings import SplitSettings
from apps.timeseries.predict.model import Forecaster
from apps.timeseries.predict.writers import predict_to
from core.errors import UserError

ROWS = 60


class LastValues(torch.nn.Module):
    """Forecasts the last `horizon` values of the context."""

    context, horizon = 24, 12
    channels_bound = False
    exogenous: tuple[int, ...] = ()

    def forward(self, past_values: torch.Tensor, **_: object) -> torch.Tensor:
        return past_values[:, -self.horizon :]


def dates(first: str, freq: str = "h", form: str = "", zone: str | None = None) -> pd.Index:
    times = pd.date_range(first, periods=ROWS, freq=freq, tz=zone)
    return times.strftime(form) if form else times


def days(first: str, freq: str, day: int) -> pd.DatetimeIndex:
    months = pd.date_range(first, periods=ROWS, freq=freq)
    return months + pd.to_timedelta(np.minimum(day, months.days_in_month) - 1, unit="D")


def opened(first: str, clock: list[str], zone: str | None = None) -> pd.DatetimeIndex:
    business = pd.bdate_range(first, periods=ROWS // len(clock))
    return pd.DatetimeIndex([f"{day:%Y-%m-%d} {hour}" for day in business for hour in clock]).tz_localize(
        zone
    )


def weeks(form: str) -> pd.Index:
    return pd.date_range("2019-01-07", periods=ROWS, freq="7D").strftime(form)


def iso(times: pd.DatetimeIndex) -> list[str]:
    return [time.isoformat() for time in times]


def until_midnight(form: str) -> list[str]:
    times = pd.date_range("2024-01-01 01:00", periods=ROWS, freq="h")
    before = (times - pd.Timedelta("1ns")).normalize()
    return [f"{d:{form}} {t.hour or 24:02d}:00" for d, t in zip(before, times, strict=True)]


def frame(**columns: object) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table.assign(y=np.sin(np.arange(len(table))) + 2)


AXES = {
    "the 15th": (days("2014-01-01", "MS", 15), "MS", "2019-01-15 00:00:00"),
    "the 30th": (days("2014-03-01", "MS", 30), "MS", "2019-03-30 00:00:00"),
    "month ends": (days("2014-02-01", "MS", 31), "ME", "2019-02-28 00:00:00"),
    "quarters on the 15th": (days("2005-02-01", "QS-FEB", 15), "QS-FEB", "2020-02-15 00:00:00"),
    "years on 6 April": (days("1960-04-01", "YS-APR", 6), "YS-APR", "2020-04-06 00:00:00"),
    "months at noon": (dates("2014-01-31 12:00", "ME"), "ME", "2019-01-31 12:00:00"),
    "business month ends": (dates("2014-01-31", "BME"), "BME", "2019-01-31 00:00:00"),
    "offsets that change, days": (iso(dates("2024-02-20", "D", "", "Europe/Berlin")), "D",
                                  "2024-04-20 00:00:00+02:00"),
    "offsets that change, hours": (iso(dates("2024-03-30", "h", "", "Europe/Berlin")), "h",
                                   "2024-04-01 13:00:00+02:00"),
    "one offset": (iso(dates("2024-06-01", "h", "", "America/Denver")), "h", "2024-06-03 12:00:00-06:00"),
    "zoned month ends": (iso(dates("2014-01-31", "ME", "", "Europe/Berlin")), "ME",
                         "2019-01-31 00:00:00+01:00"),
    "dots": (dates("2024-03-05", "min", "%d.%m.%Y %H:%M"), "min", "2024-03-05 01:00:00"),
    "slashes, months": (dates("2014-01-01", "MS", "%d/%m/%Y"), "MS", "2019-01-01 00:00:00"),
    "slashes, month first": (dates("2014-01-01", "D", "%m/%d/%Y"), "D", "2014-03-02 00:00:00"),
    "years of two digits": (dates("2024-01-01", "D", "%d.%m.%y"), "D", "2024-03-01 00:00:00"),
    "names of months": (dates("2024-01-01", "D", "%d-%b-%Y"), "D", "2024-03-01 00:00:00"),
    "month and year": (dates("2014-01-01", "MS", "%b-%y"), "MS", "Jan-19"),
    "2014M01": (dates("2014-01-01", "MS", "%YM%m"), "MS", "2019M01"),
    "201401": (dates("2014-01-01", "MS", "%Y%m").astype(int), "MS", "201901"),
    "201901 to 202009": (weeks("%G%V").astype(int), "W-MON", "202010"),
    "weeks": (weeks("%G-W%V"), "W-MON", "2020-W10"),
    "weeks of one digit": ([f"2024-W{n}" for n in range(1, 53)] + [f"2025-W{n}" for n in range(1, 9)],
                           "W-MON", "2025-W09"),
    "weeks with a day": (dates("2024-01-01", "D", "%G-W%V-%u"), "D", "2024-W09-5"),
    "quarters": ([f"{q.year}Q{q.quarter}" for q in pd.period_range("2005Q1", periods=ROWS, freq="Q")],
                 "QS-JAN", "2020Q1"),
    "20140101": (dates("2014-01-01", "D", "%Y%m%d").astype(int), "D", "20140302"),
    "2014010100": (dates("2014-01-01", "h", "%Y%m%d%H").astype(int), "h", "2014010312"),
    "years": (np.arange(1960, 1960 + ROWS), "YS-JAN", "2020"),
    "seconds since 1970": (1_700_000_000 + 3600 * np.arange(ROWS), "h", "1700216000"),
    "nanoseconds since 1970": (1_700_000_000_000_000_000 + 500 * np.arange(ROWS), "500ns",
                               "1700000000000030000"),
    "24:00": (until_midnight("%Y-%m-%d"), "h", "2024-01-03 13:00:00"),
    "24:00 with dots": (until_midnight("%d.%m.%Y"), "h", "2024-01-03 13:00:00"),
    "trading hours": (opened("2024-01-02", ["09:30", "10:30", "11:30", "12:30"]), "h-4B",
                      "2024-01-23 09:30:00"),
    "trading hours over a clock change": (iso(opened("2024-03-04", ["09:30", "10:30"], "America/New_York")),
                                          "h-2B", "2024-04-15 09:30:00-04:00"),
    "a lunch break": (opened("2024-01-02", ["11:00", "11:30", "13:00", "13:30", "14:00"]), "30min-5B",
                      "2024-01-18 11:00:00"),
    "30 frames a second": ([f"2024-01-01 00:00:{n / 30:09.6f}" for n in range(ROWS)], "33333333ns",
                           "2024-01-01 00:00:02"),
    "60 frames a second, cut off": ([f"2024-01-01 00:00:00.{int(n * 1000 / 60):03d}" for n in range(ROWS)],
                                    "16666667ns", "2024-01-01 00:00:01"),
    "a spreadsheet's rounding": (dates("2024-01-01", "15min") - pd.Timedelta("1ms") * (np.arange(ROWS) % 2),
                                 "15min", "2024-01-01 15:00:00"),
    "500 ns": ([f"2024-01-01 00:00:00.{500 * n:09d}" for n in range(ROWS)], "500ns",
               "2024-01-01 00:00:00.000030"),
    "durations": ([str(pd.Timedelta(seconds=n)) for n in range(ROWS)], "s", "0 days 00:01:00"),
}  # fmt: skip


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_read_named_and_continued_as_it_is_written(tmp_path: Path, name: str) -> None:
    stamps, rate, following = AXES[name]
    frame(when=stamps).to_csv(tmp_path / "my.csv", index=False)
    (series,) = read_series(tmp_path / "my.csv")
    assert (series.roles.time, series.roles.targets, len(series.values)) == (("when",), ("y",), ROWS)
    assert (series.frequency, str(series.clock.stamps(ROWS, 1)[0])) == (rate, following)


@pytest.mark.parametrize("name", ["ds", "time", "t", "step", "timestamp"])
@pytest.mark.parametrize(("first", "step"), [(1, 1), (100, 1), (0, 0.5)])
def test_counts_are_time_and_go_on(name: str, first: float, step: float) -> None:
    part = pd.DataFrame({name: first + step * np.arange(ROWS), "y": np.sin(np.arange(ROWS))})
    series = read_series(pd.concat([part.assign(unique_id=shop) for shop in "ab"]))
    assert [(one.roles.targets, one.frequency, one.clock.stamps(ROWS, 1)[0]) for one in series] == [
        (("y",), "", first + step * ROWS)
    ] * 2


@pytest.mark.parametrize(
    ("index", "following"),
    [(pd.period_range("2014-01", periods=ROWS, freq="M", name="month"), "2019-01"),
     (pd.timedelta_range("0s", periods=ROWS, freq="250ms", name="elapsed"), "0 days 00:00:15"),
     (pd.Index(np.arange(100, 100 + ROWS), name="step"), "160"),
     (pd.Index(dates("2014-01-31", "ME", "%Y-%m-%d"), name="day"), "2019-01-31 00:00:00"),
     (dates("2024-02-20", "D", "", "Europe/Berlin").rename("day"), "2024-04-20 00:00:00+02:00")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["index", "column", "parquet"])
def test_named_indexes_and_pandas_kinds_are_time(
    tmp_path: Path, index: pd.Index, following: str, kind: str
) -> None:
    table = frame(y=np.zeros(ROWS)).set_index(index)
    source = table if kind == "index" else table.reset_index()
    if kind == "parquet":
        source.to_parquet(tmp_path / "my.parquet")
        source = tmp_path / "my.parquet"
    (series,) = read_series(source)
    assert (series.roles.time, series.roles.targets) == ((index.name,), ("y",))
    assert str(series.clock.stamps(ROWS, 1)[0]) == following


@pytest.mark.parametrize("rows", [slice(None), np.random.default_rng(0).permutation(ROWS)])
def test_an_index_that_pandas_stored_is_left_out_and_said(tmp_path: Path, rows: slice | np.ndarray) -> None:
    frame(ds=dates("2024-01-01")).iloc[rows].reset_index(drop=True).iloc[::-1].to_parquet(
        tmp_path / "my.parquet"
    )
    found = read_collection(tmp_path / "my.parquet")
    assert found.series[0].roles.targets == ("y",)


HOURS = dates("2024-01-01")


@pytest.mark.parametrize(
    "columns",
    [{"Date": HOURS.strftime("%Y-%m-%d"), "Time": HOURS.strftime("%H:%M:%S")},
     {"Date": HOURS.strftime("%d.%m.%Y"), "Time": HOURS.strftime("%I:%M %p")},
     {"date": HOURS.strftime("%Y-%m-%d"), "hour": HOURS.hour},
     {"date": HOURS.normalize(), "hour": HOURS.hour, "minute": HOURS.minute},
     {"date": HOURS.strftime("%Y-%m-%d"), "time": HOURS.hour * 100},
     {"year": HOURS.year, "month": HOURS.month, "day": HOURS.day, "hour": HOURS.hour}],
)  # fmt: skip
@pytest.mark.parametrize("stated", [True, False])
def test_dates_and_times_of_day_in_several_columns_make_one(
    tmp_path: Path, columns: dict[str, pd.Index], stated: bool
) -> None:
    frame(**columns).to_csv(tmp_path / "my.csv", index=False)
    (series,) = read_series(tmp_path / "my.csv", Roles.of(time=list(columns)) if stated else None)
    assert (series.roles.time, series.roles.targets) == (tuple(columns), ("y",))
    assert (series.times == HOURS).all()


def test_hours_up_to_24_and_weeks_and_quarters_of_years_are_read() -> None:
    (series,) = read_series(frame(date=np.repeat(["2024-01-01", "2024-01-02"], 24), hour=[*range(1, 25)] * 2))
    assert (series.times[0], series.times[-1]) == (
        pd.Timestamp("2024-01-01 01:00"),
        pd.Timestamp("2024-01-03"),
    )
    (series,) = read_series(frame(year=weeks("%G").astype(int), week=weeks("%V").astype(int)))
    assert (series.frequency, series.times[-1]) == ("W-MON", pd.Timestamp("2020-02-24"))
    (series,) = read_series(frame(year=np.repeat(np.arange(2000, 2010), 4), quarter=[1, 2, 3, 4] * 10))
    assert series.frequency == "QS-JAN"
    names = pd.date_range("2000-01-01", periods=ROWS, freq="MS").strftime("%B")
    (series,) = read_series(frame(Year=np.repeat(np.arange(2000, 2005), 12), Month=names))
    assert (series.frequency, series.times[-1]) == ("MS", pd.Timestamp("2004-12-01"))


def test_an_hour_beside_full_stamps_is_no_time_and_further_times_are_left_out() -> None:
    found = read_collection(frame(at=HOURS, hour=HOURS.hour, elapsed=HOURS - HOURS[0]))
    assert (found.series[0].roles.time, found.series[0].roles.targets) == (("at",), ("hour", "y"))
    assert any("'elapsed' is left out, for times" in note for note in found.notes)


def test_whole_numbers_that_only_vary_are_no_time() -> None:
    random = np.random.default_rng(0)
    table = frame(t=random.integers(1, 30, ROWS), step=random.integers(0, 9000, ROWS))
    assert read_series(table)[0].roles.targets == ("t", "step", "y")


def test_a_folder_has_one_order_of_day_and_month(tmp_path: Path) -> None:
    for name, first in (("a", "2024-06-01"), ("b", "2024-06-10")):
        times = pd.date_range(first, periods=10, freq="D").strftime("%d/%m/%Y")
        frame(day=times).to_csv(tmp_path / f"{name}.csv", index=False)
    first, second = read_series(tmp_path)
    assert (first.times[0], second.times[0]) == (pd.Timestamp("2024-06-01"), pd.Timestamp("2024-06-10"))


def test_what_files_prove_counts_before_a_regular_grid(tmp_path: Path) -> None:
    for name, first in (("a", "2024-01-01"), ("b", "2024-01-20")):
        times = pd.date_range(first, periods=10, freq="D").strftime("%d/%m/%Y")
        frame(day=times).to_csv(tmp_path / f"{name}.csv", index=False)
    first, _ = read_series(tmp_path)
    assert first.times[-1] == pd.Timestamp("2024-01-10")


@pytest.mark.parametrize(
    ("history", "future"),
    [(dates("2024-01-01", "D", "%d/%m/%Y"), ["01/03/2024", "02/03/2024"]),
     (weeks("%G%V").astype(int), [202010, 202011]),
     (np.arange(1941, 1941 + ROWS), [2001, 2002]),
     (np.arange(1, 1 + ROWS), [61, 62]),
     (iso(dates("2024-02-20", "D", "", "Europe/Berlin")), ["2024-04-20T00:00+02:00",
                                                           "2024-04-21T00:00+02:00"]),
     (iso(dates("2024-03-30", "h", "", "Europe/Berlin")), ["2024-04-01T11:00Z", "2024-04-01T12:00Z"]),
     ([f"2024-01-01 00:00:{n / 30:06.3f}" for n in range(ROWS)],
      ["2024-01-01 00:00:02.000", "2024-01-01 00:00:02.033"])],
)  # fmt: skip
def test_known_future_is_read_as_its_series(tmp_path: Path, history: object, future: list) -> None:
    roles = Roles.of(time="ds", targets="y", observable="price")
    frame(ds=history, price=np.arange(ROWS)).to_csv(tmp_path / "my.csv", index=False)
    pd.DataFrame({"ds": future, "price": [1.0, 2.0]}).to_csv(tmp_path / "future.csv", index=False)
    (series,) = read_series(tmp_path / "my.csv", roles)
    known = KnownFuture(tmp_path / "future.csv", series.roles, series.clock.written.style)
    np.testing.assert_array_equal(known.of(series, 2)["price"], [1, 2])


@pytest.mark.parametrize("kind", ["zoned", "period", "201401", "count"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_forecasts_are_written_in_the_tables_own_stamps(tmp_path: Path, kind: str, suffix: str) -> None:
    stamps, following = {
        "zoned": (dates("2024-02-20", "D", "", "Europe/Berlin"), "2024-04-20 00:00:00+02:00"),
        "period": (pd.period_range("2014-01", periods=ROWS, freq="M"), "2019-01"),
        "201401": (dates("2014-01-01", "MS", "%Y%m").astype(int), "201901"),
        "count": (np.arange(1, 1 + ROWS), "61"),
    }[kind]
    out = tmp_path / f"forecast{suffix}"
    written = predict_to(out, Forecaster(LastValues()), frame(ds=stamps), horizon=3)
    table = pd.read_csv(out, dtype=str) if suffix == ".csv" else pd.read_parquet(out)
    assert (str(table["ds"].iloc[0]), set(table["target"])) == (following, {"y"})
    assert written[1].suffix == ".png"


def test_training_reads_the_same_axis(tmp_path: Path) -> None:
    frame(ds=weeks("%G-W%V")).to_csv(tmp_path / "my.csv", index=False)
    data = Series(path=str(tmp_path / "my.csv"), context=16, horizon=4)
    track = data.tracks[0]
    assert (data.facts.roles.targets, track.frequency) == (("y",), "W-MON")
    assert list(track.stamps(ROWS - 1, 2)) == ["2020-W09", "2020-W10"]


def test_borders_of_dates_are_refused_where_time_is_only_counted(tmp_path: Path) -> None:
    frame(ds=np.arange(1, 1 + ROWS)).to_csv(tmp_path / "my.csv", index=False)
    split = SplitSettings(borders=["2024-01-01", "2024-02-01"])
    with pytest.raises(UserError, match="'my' has no time stamps; give row numbers"):
        Series(path=str(tmp_path / "my.csv"), context=16, horizon=4, split=split).setup()


@pytest.mark.parametrize(
    ("stamps", "message"),
    [(dates("2024-01-01", "SMS"), "fit no regular frequency"),
     (dates("2024-10-26", "h", "", "Europe/Berlin").tz_localize(None), "2024-10-27 02:00:00 .*stands twice"),
     (["2024-W05"] * 3 + ["2024-W99"], "holds '2024-W99', which is not a time stamp"),
     (["13.01.2024", "14.01.2024", "32.01.2024"], "holds '32.01.2024', which is not a time stamp")],
)  # fmt: skip
def test_axes_without_a_grid_are_refused_truly(stamps: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_series(frame(when=stamps))


def test_irregular_steps_are_told_in_their_own_unit() -> None:
    stamps = pd.to_datetime(1_700_000_000_000_000_000 + np.arange(ROWS) ** 2 * 700, unit="ns")

    with pytest.raises(UserError, match=r"steps from 00:00:00\.000000700 to 00:00:00\.000081900\)"):
        read_series(pd.DataFrame({"time": stamps, "value": np.arange(ROWS, dtype=float)}))
