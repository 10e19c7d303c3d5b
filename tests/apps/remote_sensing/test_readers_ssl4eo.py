"""SSL4EO-S12 with its labels: dates that are drawn, labels of all dates, layouts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from apps.remote_sensing.batch import Coordinates
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.ssl4eo import SSL4EO
from core.errors import UserError

DAYS = ("20200611T102031", "20200904T102031", "20201210T102031", "20210310T102031")
TAGS = {"0000001": [["0"], ["4"], ["0", "4"], []], "0000002": [["1"], ["1", "8"]], "0000003": [[]]}


def write(path: Path, bands: int, value: int, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=side, width=side, dtype="uint16", crs="EPSG:32633",
        transform=from_origin(500_000, 5e6, 120 / side, 120 / side),
    ) as file:  # fmt: skip
        file.write(np.full((bands, side, side), value, np.uint16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for location, dates in TAGS.items():
        for number in range(len(dates)):
            write(tmp_path / "s2c" / location / DAYS[number] / "all.tif", 13, 100 * int(location) + number)
    table = {name: dict(zip(DAYS, dates, strict=False)) for name, dates in TAGS.items()}
    (tmp_path / "labels.json").write_text(json.dumps(table))
    return tmp_path


def scenes(folder: Path, *, source: dict[str, Any] | None = None, **options: Any) -> Scenes:
    reader = SSL4EO(str(folder), **{"fractions": (1.0, 0.0, 0.0), **(source or {})})
    return Scenes(
        reader,
        **{"normalise": "none", "coordinates": Coordinates(location=False), "batch_size": 2, **options},
    )


def test_dates_without_labels_are_left_out_and_labels_of_the_dates_are_joined(folder):
    batch = next(iter(scenes(folder).in_order("train")))

    assert batch.names == ("0000001", "0000002")
    assert batch.image.shape == (2, 13, 2, 12, 12)
    assert batch.image[:, 0, :, 0, 0].tolist() == [[100, 101], [200, 201]]
    assert [row.nonzero().flatten().tolist() for row in batch.label] == [[0, 4], [1, 8]]
    assert batch.time[0].tolist() == [[2020, 163], [2020, 248]]


def test_training_draws_other_dates_with_their_labels_and_days(folder):
    drawn = scenes(folder).train_set()

    batches = [drawn.__getitems__([(epoch, 0)]) for epoch in range(20)]

    pairs = {tuple(batch.image[0, 0, :, 0, 0].int().tolist()) for batch in batches}
    assert pairs == {(a, b) for a in (100, 101, 102) for b in (100, 101, 102) if a != b}
    for batch in batches:
        dates = [int(value) - 100 for value in batch.image[0, 0, :, 0, 0]]
        tags = {int(tag) for number in dates for tag in TAGS["0000001"][number]}
        assert set(batch.label[0].nonzero().flatten().tolist()) == tags
        assert batch.time[0, :, 1].tolist() == [(163, 248, 345)[number] for number in dates]
    assert torch.equal(drawn.__getitems__([(3, 0)]).image, drawn.__getitems__([(3, 0)]).image)


def test_a_location_of_fewer_dates_repeats_them_and_unlabelled_ones_may_stay(folder):
    data = scenes(folder, source={"seasons": 3, "unlabelled": "keep"}, batch_size=3)
    batch = next(iter(data.in_order("train")))

    assert batch.image[:, 0, :, 0, 0].tolist() == [[100, 101, 102], [200, 201, 200], [300, 300, 300]]
    assert batch.label.sum(1).tolist() == [2, 2, 0]


def test_a_file_for_each_band_and_no_labels(tmp_path):
    for number, side in {"VV": 12, "VH": 12}.items():
        write(tmp_path / "0000001" / "S1A_20200611T1" / f"{number}.tif", 1, ord(number[1]), side)
    data = scenes(tmp_path, source={"images": "s1", "labels": None, "seasons": 1})

    batch = next(iter(data.in_order("train")))

    assert data.facts.bands == ("vv", "vh")
    assert batch.image[0, :, 0, 0, 0].tolist() == [ord("V"), ord("H")]
    assert batch.label is None


def test_coarser_bands_are_brought_to_the_finest(tmp_path):
    for number in range(1, 13):
        names = ["B8", "B8A"] if number == 8 else [f"B{number}"]
        for name in names:
            write(tmp_path / "0000001" / DAYS[0] / f"{name}.tif", 1, number, 12 if number in (2, 3, 4) else 6)
    data = scenes(tmp_path, source={"labels": None, "seasons": 1})

    image = next(iter(data.in_order("train"))).image

    assert image.shape == (1, 13, 1, 12, 12)
    assert image[0, :, 0, 5, 5].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("spoil", "source", "said"),
    [
        (lambda root: (root / "labels.json").write_text("[]"), {}, "is not of the form"),
        (lambda root: (root / "labels.json").write_text("{"), {}, "cannot be read"),
        (lambda root: (root / "labels.json").write_text("{}"), {}, "has no labels of 0000001/20200611"),
        (
            lambda root: (root / "labels.json").write_text('{"0000001": {"20200611T102031": ["9"]}}'),
            {},
            "the class '9', and classes are 0 to 8",
        ),
        (lambda root: (root / "s2c" / "0000000").mkdir(), {}, "has no folder of a date"),
        (lambda root: (root / "s2c" / "0000000" / DAYS[0]).mkdir(parents=True), {}, "has no raster of B01"),
        (
            lambda root: write(root / "s2c" / "0000000" / DAYS[0] / "all.tif", 4, 1),
            {},
            "has 4 bands, and s2c",
        ),
        (lambda root: None, {"images": "s2"}, "must be one of s2c, s2a, s1"),
        (lambda root: None, {"seasons": 0}, "seasons is 0"),
    ],
)
def test_mistakes_are_one_sentence(spoil, source, said, folder):
    spoil(folder)
    with pytest.raises(UserError, match=said):
        next(iter(scenes(folder, source=source).in_order("train")))


def test_a_location_that_cannot_be_listed_is_left_out_if_asked(folder, capsys):
    (folder / "s2c" / "0000000").mkdir()

    data = scenes(folder, bad_files="skip")

    assert len(data.in_order("train").dataset) == 2
    assert "0000000 has no folder of a date" in capsys.readouterr().err
