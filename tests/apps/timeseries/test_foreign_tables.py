"""Tables as other people and tools write them: ids, headers, numbers and Python objects are read as meant."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from series_tables import read_collection, read_series

from apps.timeseries.data.readers.columns import Roles
from core.errors import UserError

DAYS = pd.date_range("2023-01-01", periods=12, freq="D", name="ds")
VALUES = 20 + np.arange(12) / 4


def text(folder: Path, header: str, line: Callable[[str, float, int], str], encoding: str = "utf-8") -> Path:
    """Write a CSV of twelve days; `line` gets the day, the value and the number of the row."""
    lines = [
        header,
        *(line(f"{d:%Y-%m-%d}", v, n) for n, (d, v) in enumerate(zip(DAYS, VALUES, strict=True))),
    ]
    path = folder / "my.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def long(*ids: Any, name: str = "unique_id") -> pd.DataFrame:
    return pd.concat([pd.DataFrame({name: i, "ds": DAYS, "y": VALUES}) for i in ids], ignore_index=True)


@pytest.mark.parametrize(
    "ids",
    [("00501", "01002"), ("07", "7"), ("1.10", "1.1"), ("NA", "NO"), ("12E3", "5E2"), ("null", "None"),
     ("12345678901234567891", "12345678901234567892"), ("1_000", "1000"), ("True", "true"), ("1,5", "15"),
     ("2023-01-01", "2023-01-02")],
)  # fmt: skip
def test_ids_of_a_csv_are_text_as_it_is_written(tmp_path: Path, ids: tuple[str, str]) -> None:
    long(*ids).to_csv(tmp_path / "my.csv", index=False)
    assert [one.id for one in read_series(tmp_path / "my.csv")] == list(ids)


@pytest.mark.parametrize(
    ("ids", "words"),
    [((1.0, 2.0), ["1", "2"]), ((b"A", b"B"), ["A", "B"]), ((7, 12), ["7", "12"]),
     ((2**53 + 1, 2**53), ["9007199254740993", "9007199254740992"])],
)  # fmt: skip
@pytest.mark.parametrize("stored", [False, True])
def test_ids_of_other_types_are_written_plainly(
    tmp_path: Path, ids: tuple, words: list[str], stored: bool
) -> None:
    source: Any = long(*ids)
    if stored:
        source.to_parquet(tmp_path / "x.parquet")
        source = tmp_path / "x.parquet"
    assert [one.id for one in read_series(source)] == words


def test_categories_are_words_whatever_gaps_a_column_has(tmp_path: Path) -> None:
    path = text(tmp_path, "ds,y,mode", lambda day, v, n: f"{day},{v},{'' if n == 3 else n % 2}")
    (series,) = read_series(path, Roles.of(targets="y", categorical="mode"))
    assert series.categories == {"mode": ["0", "1"]}


@pytest.mark.parametrize(
    ("header", "line", "channel"),
    [
        ('day,"Power, grid",z', lambda d, v, n: f"{d},{v},1", "Power, grid"),
        ('day,"a;b;c;d",z', lambda d, v, n: f"{d},{v},1", "a;b;c;d"),
        ("tag;wert", lambda d, v, n: f"{d};{v:g}".replace(".", ","), "wert"),
        ("tag;wert", lambda d, v, n: f"{d};{'' if n == 0 else f'{v:.2f}'.replace('.', ',')}", "wert"),
        ("tag;wert", lambda d, v, n: f'{d};"{v:.2f}"'.replace(".", ","), "wert"),
        ("tag,wert", lambda d, v, n: f'{d},"{v:.2f}"'.replace(".", ","), "wert"),
        ("tag;wert, neu", lambda d, v, n: f"{d};{v:.2f}".replace(".", ","), "wert, neu"),
        ("# made by hand\n# with care, twice\nday,y", lambda d, v, n: f"{d},{v}", "y"),
        ("sep=;\nday;y", lambda d, v, n: f"{d};{v}", "y"),
        ("+++123456789...\nday,y", lambda d, v, n: f"{d},{v}", "y"),
        ('day,"y\n(kW)"', lambda d, v, n: f"{d},{v}", "y (kW)"),
        ("#day,y", lambda d, v, n: f"{d},{v}", "y"),
        ("Station: 12\nUnit: kW\n\nday,y,z", lambda d, v, n: f"{d},{v},1", "y"),
        ("day,y", lambda d, v, n: f"{d},{v},", "y"),
        ("day,y,", lambda d, v, n: f"{d},{v},", "y"),
        ("day , y", lambda d, v, n: f"{d}, {v}", "y"),
    ],
)
def test_headers_and_decimal_signs_are_judged_by_many_rows(
    tmp_path: Path, header: str, line: Callable, channel: str
) -> None:
    (series,) = read_series(text(tmp_path, header, line))
    assert series.channels[0] == channel
    values = series.values[:, 0]
    np.testing.assert_allclose(values[1:], VALUES[1:])
    assert np.isnan(values[0]) or values[0] == VALUES[0]


@pytest.mark.parametrize(
    ("header", "cell"),
    [("day,y", '"{:,.2f}"'), ("day;y", "{:,.2f}"), ("day;y", "EU{:,.2f}"), ("day,y", '"{:,.0f}"'),
     ("day,y", "{:_.2f}"), ("day;y", "CH{:_.2f}")],
)  # fmt: skip
def test_separators_of_thousands_are_read_and_said(tmp_path: Path, header: str, cell: str) -> None:
    def line(day: str, value: float, _: int) -> str:
        number = cell.format(4000 * value).replace("_", "'" if "CH" in cell else " ")
        if "EU" in cell:
            number = number.translate(str.maketrans(",.", ".,"))
        return day + header[3] + number.replace("EU", "").replace("CH", "")

    collection = read_collection(text(tmp_path, header, line))
    np.testing.assert_allclose(collection.series[0].values[:, 0], 4000 * VALUES)
    assert any("is read as 80000" in note for note in collection.notes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_marked_encodings_are_read_and_others_refused(tmp_path: Path, encoding: str) -> None:
    path = text(tmp_path, "tag\tgröße", lambda d, v, n: f"{d}\t{v}", encoding)
    if encoding == "utf-16-le":  # without a mark
        with pytest.raises(UserError, match=r"my\.csv"):
            read_series(path)
        return
    assert read_series(path)[0].channels == ["größe"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (lambda d, v, n: f"{d},{v},1{',' * (n == 0)}", "more cells than its header"),
        (lambda d, v, n: f"{d},{v},1{',7' * (n == 5)}", r"line 7 of my\.csv has 4 cells"),
        (lambda d, v, n: f"{'day' if n == 5 else d},{v},1", r"line 7 of my\.csv, column 'day' holds 'day'"),
        (lambda d, v, n: f"{d},{v if n != 5 else '-'},1", r"line 7 of my\.csv, column 'y' holds '-'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_line(tmp_path: Path, line: Callable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_series(text(tmp_path, "day,y,z", line))


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    columns = pa.table([pa.array(DAYS), pa.array(VALUES), pa.array(VALUES)], names=["ds", "y", "y"])
    pq.write_table(columns, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="two columns called 'y'"):
        read_series(tmp_path / "x.parquet")


def test_complex_numbers_are_no_targets() -> None:
    collection = read_collection(FRAME.assign(z=VALUES + 1j))
    assert collection.series[0].channels == ["y"]
    assert any("'z' is left out" in note for note in collection.notes)


def test_columns_called_by_dates_make_one_series_a_row(tmp_path: Path) -> None:
    days = list(DAYS.strftime("%Y-%m-%d"))
    rows = [[1.0, town, *(VALUES * scale)] for scale, town in ((1, "Berlin"), (2, "Paris"))]
    pd.DataFrame(rows, columns=["SizeRank", "town", *days]).to_csv(tmp_path / "my.csv", index=False)
    collection = read_collection(tmp_path / "my.csv")
    assert {one.id: one.values[1, 0] for one in collection.series} == {"Berlin": 20.25, "Paris": 40.5}
    assert collection.series[0].times[-1] == DAYS[-1]
    assert any("'SizeRank' are left out" in note for note in collection.notes)


def test_interleaved_series_without_stamps_are_told_apart_by_their_names() -> None:
    frame = pd.DataFrame({"items": ["a", "b"] * 12, "values": np.arange(24.0)})
    assert {one.id: one.values[1, 0] for one in read_series(frame)} == {"a": 2.0, "b": 3.0}


def test_a_row_of_totals_is_refused_by_its_line(tmp_path: Path) -> None:
    path = text(tmp_path, "ds,y", lambda d, v, n: f"{d if n < 11 else 'Total'},{v}")
    with pytest.raises(UserError, match=r"line 13 of my\.csv, column 'ds' holds 'Total'"):
        read_series(path)


@pytest.mark.parametrize("cell", ["inf", "n.v."])
def test_one_bad_cell_leaves_out_its_series_alone(tmp_path: Path, cell: str) -> None:
    frame = long(*(f"shop {n}" for n in range(20))).astype({"y": object})
    frame.loc[30, "y"] = cell
    frame.to_csv(tmp_path / "my.csv", index=False)
    collection = read_collection(tmp_path / "my.csv")
    assert len(collection.series) == 19
    (left,) = collection.unreadable
    assert left.id == "shop 2"
    assert left.reason.startswith("line 32 of my.csv, column 'y' holds")


@pytest.mark.parametrize("stores", [("A", "B"), (3, 8)])
def test_a_column_of_stores_tells_series_apart(tmp_path: Path, stores: tuple) -> None:
    months = pd.date_range("2020-01-01", periods=12, freq="MS").strftime("%Y-%m")
    parts = [pd.DataFrame({"store": s, "month": months, "sales": VALUES}) for s in stores]
    pd.concat(parts).to_csv(tmp_path / "my.csv", index=False)
    collection = read_collection(tmp_path / "my.csv")
    assert [one.id for one in collection.series] == [str(s) for s in stores]
    assert collection.series[0].roles == Roles.of(time="month", ids="store", targets="sales")
    assert any("told apart by 'store'" in note for note in collection.notes)


@pytest.mark.parametrize("first", [5, "row-"])
def test_a_column_that_numbers_the_rows_is_no_id(first: Any) -> None:
    frame = pd.DataFrame({"id": [first * (n + 1) for n in range(12)], "ds": DAYS, "y": VALUES})
    collection = read_collection(frame)
    assert collection.series[0].channels == ["y"]
    assert any("'id' only counts the rows" in note for note in collection.notes)


def test_two_columns_tell_series_apart_where_one_does_not() -> None:
    parts = [long(1).assign(unique_id=i, region=r) for i in "ab" for r in "NS"]
    frame = pd.concat(parts).rename(columns={"unique_id": "product"})
    assert [one.id for one in read_series(frame)] == ["a/N", "a/S", "b/N", "b/S"]


def test_a_column_of_words_is_left_out_with_a_note(tmp_path: Path) -> None:
    path = text(tmp_path, "ds,y,sky", lambda d, v, n: f"{d},{v},{'sun' if n % 3 else 'rain'}")
    collection = read_collection(path)
    assert collection.series[0].channels == ["y"]
    assert any("'sky' is left out, being no numbers" in note for note in collection.notes)


def test_ids_that_a_separator_would_merge_are_refused() -> None:
    parts = [long(1).assign(a=a, b=b) for a, b in (("x/y", "z"), ("x", "y/z"))]
    with pytest.raises(UserError, match="'x/y/z'"):
        read_series(pd.concat(parts), Roles.of(ids=["a", "b"], targets="y"))


class Foreign:
    """A frame of another library: it offers `to_pandas` alone."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.to_pandas = frame.copy


FRAME = pd.DataFrame({"ds": DAYS, "y": VALUES})


@pytest.mark.parametrize(
    ("source", "count", "dated"),
    [
        (FRAME.set_index("ds")["y"], 1, True),
        (VALUES, 1, False),
        (VALUES.tolist(), 1, False),
        (np.ma.masked_greater(VALUES, 22), 1, False),
        (np.stack([VALUES, VALUES], 1), 1, False),
        ({"ds": DAYS, "y": VALUES}, 1, True),
        (FRAME.to_dict("records"), 1, True),
        ([FRAME.set_index("ds")["y"]] * 2, 2, True),
        ([VALUES, VALUES[:9]], 2, False),
        ({"A": FRAME, "B": FRAME}, 2, True),
        (Foreign(FRAME), 1, True),
        ([Foreign(FRAME)] * 2, 2, True),
        (long("A", "B").set_index("unique_id"), 2, True),
        (FRAME.assign(ds=FRAME.ds.astype(str)).set_index("ds"), 1, True),
        (FRAME.assign(ds=FRAME.ds.astype(str)).set_index("ds").rename_axis(None), 1, True),
        (FRAME.assign(ds=[datetime.date(2023, 1, d) for d in range(1, 13)]).set_index("ds"), 1, True),
        (FRAME.set_index(FRAME.index[::-1]), 1, True),
    ],
)
def test_python_objects_are_read_as_frames(source: Any, count: int, dated: bool) -> None:
    series = read_series(source)
    assert len(series) == count
    assert all((one.times is not None) == dated for one in series)
    np.testing.assert_allclose(series[0].values[:9, 0], VALUES[:9])


@pytest.mark.parametrize(
    "source", [None, 3.0, {}, [], np.zeros((2, 3, 4)), DAYS, ["no.csv"], {"a": [1], "b": [1, 2]}]
)
def test_other_objects_are_refused_in_one_sentence(source: Any) -> None:
    with pytest.raises(UserError, match=r"make it a DataFrame|no file"):
        read_series(source)
