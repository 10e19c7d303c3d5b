"""Files and frames of every layout, clean and dirty."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from series_tables import read_collection, read_series

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.future import KnownFuture
from apps.timeseries.data.readers.series import read_rows
from core.errors import UserError


def frame(rows: int = 48, freq: str = "h") -> pd.DataFrame:
    steps = np.arange(rows)
    times = pd.date_range("2021-03-01", periods=rows, freq=freq)
    return pd.DataFrame({"date": times, "a": steps * 0.5, "b": np.sin(steps)})  # fmt: skip


def write(folder: Path, text: str | bytes, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet", "x.tsv"])
def test_every_kind_of_file_gives_the_same_series(tmp_path: Path, name: str) -> None:
    path, table = tmp_path / name, frame()
    if name.endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    (series,) = read_series(path)
    assert (series.id, series.channels, series.frequency) == ("x", ["a", "b"], "h")
    assert series.values.shape == (48, 2)
    np.testing.assert_allclose(series.values, table[["a", "b"]].to_numpy())
    assert series.times[0] == pd.Timestamp("2021-03-01")
    assert series.times[-1] == pd.Timestamp("2021-03-02 23:00")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_stamps_of_every_unit_are_read(unit: str) -> None:
    table = frame()
    table["date"] = table["date"].astype(f"datetime64[{unit}]")
    (series,) = read_series(table)
    assert (series.frequency, str(series.times.unit)) == ("h", "us")


def test_a_time_index_is_the_time_column() -> None:
    (series,) = read_series(frame().set_index("date"))
    assert (series.frequency, series.channels) == ("h", ["a", "b"])


def test_several_id_columns_tell_series_apart(tmp_path: Path) -> None:
    parts = [
        frame(20).assign(shop=s, item=i, size="big" if s == "N" else "small") for s in "NS" for i in (1, 2)
    ]
    table = pd.concat(parts).sample(frac=1, random_state=0)
    path = tmp_path / "long.csv"
    table.to_csv(path, index=False)
    found = read_series(path, Roles.of(ids=["shop", "item"], static_categorical="size"))
    by_id = {one.id: one for one in found}
    assert sorted(by_id) == ["N/1", "N/2", "S/1", "S/2"]
    np.testing.assert_allclose(by_id["S/2"].values[:, 0], np.arange(20) * 0.5)
    assert by_id["N/1"].static == {"size": "big"}
    assert any("sorted" in note for note in by_id["N/1"].notes)


def test_a_folder_is_read_with_a_report_of_what_could_not_be(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "one.csv", index=False)
    (tmp_path / "sub").mkdir()
    frame().to_parquet(tmp_path / "sub" / "two.parquet")
    write(tmp_path, "", "void.csv")
    write(tmp_path, "date,a\n2020-01-01,x\n", "word.csv")
    found = read_collection(tmp_path)
    assert [one.id for one in found.series] == ["one", "sub/two"]
    assert {one.id for one in found.unreadable} == {"void", "word"}
    assert all("\n" not in one.reason for one in found.unreadable)


def test_the_benchmark_layout_is_read(shared: Path) -> None:
    (series,) = read_series(shared / "data/timeseries/ETT-small/ETTh1.csv")
    assert series.values.shape == (17420, 7)
    assert (series.channels[0], series.channels[-1], series.frequency) == ("HUFL", "OT", "h")
    train = series.values[:8640]
    np.testing.assert_allclose(train.mean(0)[[0, 6]], [7.937742, 17.128262], atol=1e-6)
    np.testing.assert_allclose(train.std(0)[[0, 6]], [5.812749, 9.176491], atol=1e-6)


def test_m4_has_one_series_a_row(shared: Path) -> None:
    folder = shared / "data/timeseries/m4"
    table = read_rows(folder / "Hourly-train.csv.gz", folder / "Hourly-test.csv")
    series = read_series(table, Roles.of(ids="id", targets="value"), frequency="h")
    assert len(series) == 414
    assert {len(one.values) for one in series} == {748, 1008}
    assert not any(np.isnan(one.values).any() for one in series)
    future = np.stack([one.values[-48:, 0] for one in series])
    naive = np.stack([np.tile(one.values[-72:-48, 0], 2) for one in series])
    assert 100 * np.mean(2 * abs(future - naive) / (abs(future) + abs(naive))) == pytest.approx(
        13.912, abs=5e-4
    )


def test_beijing_has_composed_time_gaps_and_categories(shared: Path) -> None:
    path = shared / "data/timeseries/beijing_pm25/PRSA_data.csv.gz"
    (series,) = read_series(path, Roles.of(targets="pm2.5", observable=["TEMP", "PRES"], categorical="cbwd"))
    assert series.times[0] == pd.Timestamp("2010-01-01 00:00")
    assert series.channels == ["pm2.5", "TEMP", "PRES", "cbwd"]
    assert int(np.isnan(series.values[:, 0]).sum()) == 2067
    assert series.categories["cbwd"] == ["NE", "NW", "SE", "cv"]
    assert set(np.unique(series.values[:, 3])) == {0.0, 1.0, 2.0, 3.0}


def test_a_series_a_row_is_found_by_its_header(tmp_path: Path) -> None:
    path = write(tmp_path, "V1,V2,V3,V4\nA,1,2,\nB,3,4,5\n")
    found = read_collection(path)
    assert {one.id: one.values[:, 0].tolist() for one in found.series} == {"A": [1, 2], "B": [3, 4, 5]}
    assert any("one series a row" in note for note in found.notes)


def test_ids_of_several_files_do_not_collide(tmp_path: Path) -> None:
    for name in ("a", "b"):
        frame().assign(id="1").to_csv(tmp_path / f"{name}.csv", index=False)
    assert [one.id for one in read_series(tmp_path)] == ["a/1", "b/1"]


def test_missing_stamps_become_gaps() -> None:
    (series,) = read_series(frame().drop(index=[5, 6, 20]))
    assert len(series.values) == 48
    assert np.flatnonzero(np.isnan(series.values[:, 0])).tolist() == [5, 6, 20]
    assert any("3 stamps missing" in note for note in series.notes)


def test_unsorted_stamps_are_sorted() -> None:
    (series,) = read_series(frame().iloc[::-1])
    np.testing.assert_allclose(series.values[:, 0], np.arange(48) * 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "my.csv is empty"),
        ("\n\n", "my.csv is empty"),
        ("date,a\n", "header but no rows"),
        (
            "date,a\n2020-01-01,1\n2020-01-02,x\n2020-01-03,2\n2020-01-04,3\n",
            "line 3 of my.csv, column 'a' holds 'x'",
        ),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n", "line 3 of my.csv, column 'a' holds an infinite"),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n2020-01-02,2\n", "stands twice: line 2 of my.csv and line 3"),
        (
            "date,a\n2020-01-01,1\n2020-13-45,2\n2020-01-03,2\n",
            "line 3 of my.csv, column 'date'.*not a time stamp",
        ),
        ("date,a\n2020-01-01,1\n,2\n2020-01-03,2\n", "line 3 of my.csv has no time stamp"),
        ("date,a\n2020-01-01,1\n2020-01-02,1,5\n", "line 3 of my.csv has 3 cells, but the header has 2"),
        ("2020-01-01,1\n2020-01-02,2\n", "my.csv has no header"),
        ("1.5,2.5\n3,4\n", "my.csv has no header"),
        ("date,shop\n2020-01-01,N\n2020-01-02,S\n", "column 'shop' of my.csv holds text"),
        ("date\n2020-01-01\n2020-01-02\n", "no numeric column"),
        (b"date,a\n2020-01-01,1\n2020-01-02,\xff\xfe\n", "line 3 of my.csv is not UTF-8"),
        ("date,gr\u00f6\u00dfe\n2020-01-01,1\n".encode("latin-1"), "line 1 of my.csv is not UTF-8"),
        (
            "date,a\n2020-01-01,1\n2020-01-02,2\n2020-01-09 03:00,2\n2021-01-09 07:31,2\n",
            "fit no regular frequency",
        ),
    ],
)
def test_a_dirty_csv_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_series(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "sales.csv", index=False)
    with pytest.raises(UserError, match=r"there is no file .*did you mean 'sales.csv'"):
        read_series(tmp_path / "sale.csv")


def test_a_broken_gzip_and_a_false_parquet_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_series(write(tmp_path, gzip.compress(b"date,a\n" * 500)[:40], "cut.csv.gz"))
    with pytest.raises(UserError, match="not a Parquet file"):
        read_series(write(tmp_path, "date,a", "x.parquet"))


def test_an_unreadable_kind_of_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the kinds of file"):
        read_series(write(tmp_path, "x", "a.xlsx"))
    (tmp_path / "void").mkdir()
    with pytest.raises(UserError, match=r"holds no \.csv"):
        read_series(tmp_path / "void")


def test_semicolons_and_decimal_commas_are_read_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, "date;a;b\n2020-01-01;1,5;2\n2020-01-02;2,5;3\n2020-01-03;3,5;4\n")
    found = read_collection(path)
    np.testing.assert_allclose(found.series[0].values, [[1.5, 2], [2.5, 3], [3.5, 4]])
    assert any("separated by ';'" in note and "decimal sign" in note for note in found.notes)


def test_days_before_months_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path, "date,a\n" + "".join(f"{d:02d}/03/2020,{d}\n" for d in range(10, 21)))
    (series,) = read_series(path)
    assert series.times[0] == pd.Timestamp("2020-03-10")


def test_seconds_since_1970_and_whole_years_are_times(tmp_path: Path) -> None:
    (series,) = read_series(
        pd.DataFrame({"timestamp": 1.6e9 + 3600 * np.arange(9), "a": range(3, 12)}),
        Roles.of(time="timestamp"),
    )
    assert series.frequency == "h"
    (series,) = read_series(pd.DataFrame({"YEAR": range(1700, 1720), "spots": np.arange(20.0)}))
    assert (series.frequency, series.times[0].year) == ("YS-JAN", 1700)


@pytest.mark.parametrize(
    "numbers", [1.6e9 + 3600 * np.arange(9), 1.6e12 + 3.6e6 * np.arange(9), 20240126 + np.arange(6)]
)
def test_numbers_in_a_column_called_date_are_read_as_stamps(numbers: np.ndarray) -> None:
    (series,) = read_series(pd.DataFrame({"date": numbers, "a": numbers % 7}))
    assert series.channels == ["a"]
    assert series.frequency in ("h", "D")


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two columns called 'a'"):
        read_series(frame().rename(columns={"b": "a"}))


def test_rows_without_stamps_are_equally_spaced() -> None:
    found = read_collection(pd.DataFrame({"a": [1.0, 3, 2]}))
    assert found.series[0].times is None
    assert any("equally spaced" in note for note in found.notes)


def test_the_users_frame_is_not_changed() -> None:
    table = frame().iloc[::-1]
    before = table.copy()
    read_series(table)[0].values[:] = 0
    pd.testing.assert_frame_equal(table, before)


def test_known_future_is_matched_by_stamp() -> None:
    series = read_series(frame(), Roles.of(targets="a", observable="b"))
    later = pd.DataFrame(
        {"date": pd.date_range("2021-03-03 01:00", periods=4, freq="h"), "b": [1.0, 2, 3, 4]}
    )
    future = KnownFuture(later, series[0].roles).of(series[0], 4)
    np.testing.assert_allclose(future["b"], [np.nan, 1, 2, 3])
    assert list(future) == ["b"]


def test_a_future_without_the_wanted_stamps_is_refused() -> None:
    series = read_series(frame(), Roles.of(targets="a", observable="b"))
    with pytest.raises(UserError, match="no row for the 4 steps"):
        KnownFuture(frame(), series[0].roles).of(series[0], 4)
    with pytest.raises(UserError, match="no column of known future"):
        KnownFuture(frame()[["date", "a"]], series[0].roles)


def test_thousands_of_series_in_one_table_are_read_at_once() -> None:
    table = pd.concat([frame(12).assign(id=i) for i in range(1000)])
    series = read_series(table, Roles.of(ids="id", time="date"))
    assert len(series) == 1000
    assert all(one.frequency == "h" for one in series)
