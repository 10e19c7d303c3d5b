"""Tables and figures of evaluations: nothing is lost, cut or read as mathematics, whatever the names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apps.remote_sensing.batch import SceneFacts
from apps.remote_sensing.figures import class_colours, composite, examples_figure, reconstruction_figure
from core.figures.classes import (
    bars_figure,
    calibration_figure,
    confusion_figure,
    precision_figure,
    share_figure,
)
from core.figures.lettering import named, unlike
from core.figures.style import save_figure
from core.labelled_task import confusion_rows

ODD = ("dry", r"b $\q$ c", "label", "label", "_hidden\nbelow")
LONG = tuple(f"transitional woodland, shrub and ground of kind {number} of thirty" for number in range(30))
TITLE = r"softcon with $\q$, a linear probe and standardised features"
GREY = (216, 216, 216)
SIZE = 8


def facts(
    target: str, classes: Sequence[str] = (), bands: Sequence[str] = ("blue", "green", "red")
) -> SceneFacts:
    """Return what a data module says of scenes whose numbers are not normalised."""
    count = len(bands)
    plain = {"mean": (0.0,) * count, "std": (1.0,) * count}
    return SceneFacts(target=target, classes=tuple(classes), bands=tuple(bands), **plain)


def example(*, bands: int = 3, dates: int = 1, **more: Any) -> dict[str, Any]:
    """Return a scene without data in its two upper rows."""
    valid = torch.ones(dates, SIZE, SIZE, dtype=torch.bool)
    valid[:, :2] = False
    image = torch.rand(bands, dates, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return {"image": image, "valid": valid, "label": None, "name": "T32_$x$_" + "scene" * 9, **more}


def drawn(figure: Any, folder: Path) -> np.ndarray:
    """Write a figure, check that it holds all its text, and return its pixels `(H, W, 3)`."""
    from matplotlib.image import imread

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = imread(save_figure(figure, folder, "figure", 0))
    holds_all(figure)
    return np.round(255 * pixels[..., :3]).astype(int)


def holds_all(figure: Any) -> None:
    """Check that nothing that is drawn lies outside the canvas."""
    box, edge = figure.get_tightbbox(), figure.get_size_inches()
    slack = 0.01  # inches
    assert min(box.x0, box.y0) >= -slack, f"{box} begins outside the canvas"
    assert box.x1 <= edge[0] + slack, f"{box} is wider than the canvas, {edge}"
    assert box.y1 <= edge[1] + slack, f"{box} is higher than the canvas, {edge}"


def colour_at(pixels: np.ndarray, axis: Any, row: int, column: int) -> tuple[int, ...]:
    """Return the colour in the middle of an image's pixel."""
    x, y = axis.transData.transform((column, row))
    return tuple(int(part) for part in pixels[len(pixels) - 1 - int(y), int(x)])


def texts(figure: Any) -> list[str]:
    """Return what stands below the panels."""
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def overlap(boxes: list[Any]) -> bool:
    """Say whether any two boxes share some area."""
    return any(
        min(one.x1, two.x1) - max(one.x0, two.x0) > 1 and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
        for place, one in enumerate(boxes)
        for two in boxes[:place]
    )


def test_no_class_takes_a_column_of_the_confusion_table() -> None:
    names = ["label", "water", "water", "predicted label", "water (2)"]
    counts = [[10 * row + column for column in range(5)] for row in range(5)]
    rows = confusion_rows(counts, names)
    assert [row["label"] for row in rows] == ["label", "water", "water (3)", "predicted label", "water (2)"]
    assert [list(row.values())[1:] for row in rows] == counts
    assert list(rows[0])[:3] == ["label", "predicted label", "predicted water"]


def test_names_stay_apart_when_they_are_shortened() -> None:
    assert len(set(named(LONG))) == 30
    assert unlike(["a", "a", "a"]) == ["a", "a (2)", "a (3)"]
    assert named(ODD)[1] == ODD[1]


def test_classes_have_colours_of_custom_and_none_twice() -> None:
    assert class_colours(["Water"]) == [(0x2C, 0x7F, 0xB8)]
    colours = class_colours(["crops", "cropland", "water", "water", *LONG, *LONG])
    assert len(set(colours)) == len(colours)


def test_true_colour_is_taken_by_name_and_grey_where_there_are_no_data() -> None:
    image = np.zeros((4, 2, 2), np.float32)
    image[2, 0, 1] = 1.0
    valid = np.array([[True, True], [True, False]])
    limits = (np.zeros(3), np.ones(3))
    picture = composite(image, ("nir", "blue", "red", "green"), valid=valid, limits=limits)
    assert picture[0, 1].tolist() == [1.0, 0.0, 0.0]
    assert picture[1, 1].tolist() == pytest.approx([0.85] * 3)
    grey = composite(image[:2], ("VV", "VH"))
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_maps_show_the_colours_of_classes_and_grey_without_data(tmp_path: Path) -> None:
    label = torch.zeros(SIZE, SIZE, dtype=torch.long)
    label[4], label[5] = 4, -1
    scene = example(label=label, prediction=(label + 1).clamp(max=4), uncertainty=torch.ones(SIZE, SIZE))
    figure = examples_figure([scene], facts("segmentation", ODD), title=TITLE)
    pixels, colours = drawn(figure, tmp_path), class_colours(ODD)
    _, true, made, doubt = figure.axes[:4]
    assert [colour_at(pixels, true, row, 3) for row in (0, 4, 5)] == [colours[0], colours[4], GREY]
    assert [colour_at(pixels, made, row, 3) for row in (0, 4, 6)] == [GREY, colours[4], colours[1]]
    assert colour_at(pixels, doubt, 0, 3) == GREY
    assert [text.get_text() for text in figure.legends[0].get_texts()][-2:] == ["_hidden below", "unknown"]


def test_a_legend_of_thirty_long_names_stays_clear_of_the_maps(tmp_path: Path) -> None:
    label = torch.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 30
    scene = example(bands=1, label=label, prediction=label)
    figure = examples_figure([scene], facts("segmentation", LONG, ("VV",)), title=TITLE)
    drawn(figure, tmp_path)
    assert len(figure.legends[0].get_texts()) == 31
    assert figure.legends[0].get_window_extent().y1 < min(text.get_window_extent().y0
                                                          for text in figure.axes[0].texts)  # fmt: skip
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height, abs=2)
    assert box.width > 200


def test_numbers_that_are_unknown_are_grey(tmp_path: Path) -> None:
    label = torch.arange(float(SIZE * SIZE)).reshape(SIZE, SIZE)
    label[6] = float("nan")
    scene = example(label=label, prediction=label + 1.0)
    figure = examples_figure([scene], facts("regression"), title=TITLE)
    pixels = drawn(figure, tmp_path)
    _, true, made, error = figure.axes[:4]
    assert colour_at(pixels, true, 6, 3) == colour_at(pixels, error, 6, 3) == GREY
    assert colour_at(pixels, made, 0, 3) == colour_at(pixels, error, 0, 3) == GREY
    assert GREY not in (colour_at(pixels, true, 5, 3), colour_at(pixels, error, 5, 3))


def test_a_scene_of_unknown_numbers_is_drawn_without_limits_of_its_own() -> None:
    scene = example(label=torch.full((SIZE, SIZE), float("nan")), prediction=torch.ones(SIZE, SIZE))
    figure = examples_figure([scene], facts("regression"), title=TITLE)
    images = [axis.images[0] for axis in figure.axes[1:4]]
    assert [bool(image.get_array().mask.all()) for image in images] == [True, False, True]
    assert all(np.isfinite(image.get_clim()).all() for image in images)


def test_scenes_of_several_labels_stand_side_by_side_with_their_labels_below(tmp_path: Path) -> None:
    held, shares = torch.ones(30, dtype=torch.long), torch.linspace(0, 1, 30)
    figure = examples_figure(
        [example(label=held, prediction=shares) for _ in range(3)], facts("multilabel", LONG), title=TITLE
    )
    drawn(figure, tmp_path)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (1, 3)
    below = [text for axis in figure.axes for text in axis.texts]
    assert len(below) == 3
    assert "and 24 more" in " ".join(below[0].get_text().split())
    panels = [axis.get_window_extent() for axis in figure.axes[:3]]
    assert not overlap([*panels, *(text.get_window_extent() for text in below)])


@pytest.mark.parametrize(
    ("target", "label", "prediction", "said"),
    [
        ("multilabel", torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0.1, 0.2, 0.9, 0.1, 0.1]),
         "b $\\q$ c, label\npredicted label"),
        ("multilabel", torch.zeros(5).long(), torch.zeros(5), "none\npredicted none"),
        ("classification", torch.tensor(1), torch.eye(5)[3], "b $\\q$ c\npredicted label (2) (100 %)"),
        ("classification", torch.tensor(-1), torch.eye(5)[0], "unknown\npredicted dry (100 %)"),
        ("regression", torch.tensor(2.5), torch.tensor(3.0), "2.5, predicted 3"),
        ("regression", torch.tensor(float("nan")), torch.tensor(3.0), "unknown, predicted 3"),
    ],
)  # fmt: skip
def test_one_scene_says_what_it_is_and_was_taken_for(
    target: str, label: torch.Tensor, prediction: torch.Tensor, said: str
) -> None:
    scene = example(label=label, prediction=prediction, name="one")
    figure = examples_figure([scene], facts(target, ODD), title=TITLE)
    assert texts(figure) == [f"one\n{said}"]
    figure.draw_without_rendering()
    holds_all(figure)


def test_what_was_removed_is_grey_and_put_back_from_the_prediction(tmp_path: Path) -> None:
    removed = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    removed[1, 4] = True
    scene = example(dates=2, prediction=torch.full((3, 2, SIZE, SIZE), 9.0), removed=removed)
    figure = reconstruction_figure([scene], facts("none"), title=TITLE)
    pixels = drawn(figure, tmp_path)
    whole, seen, _, joined = figure.axes[4:8]
    assert colour_at(pixels, seen, 4, 3) == GREY
    assert colour_at(pixels, joined, 4, 3) == (255, 255, 255)
    assert colour_at(pixels, joined, 5, 3) == colour_at(pixels, whole, 5, 3)
    assert texts(figure)[1].endswith("date 2")


@pytest.mark.parametrize("names", [ODD, LONG, LONG[:2], ("x",)], ids=["odd", "thirty", "two", "one"])
def test_charts_of_classes_hold_all_their_text(names: tuple[str, ...]) -> None:
    counts = np.diag(np.arange(1, len(names) + 1))
    scores = [float("nan"), *[1.0] * (len(names) - 1)]
    rows = [{"class": name, "samples": 3, "map": 0.5} for name in names]
    for figure in (
        confusion_figure(counts.tolist(), names, title=TITLE),
        bars_figure(scores, names, what="intersection over union", title=TITLE),
        precision_figure(rows, scenes=20, title=TITLE),
    ):
        figure.draw_without_rendering()
        holds_all(figure)
        assert figure.axes[0].get_window_extent().width > 200, "names leave room for what they name"


def test_confusion_shows_shares_of_each_label() -> None:
    figure = confusion_figure([[4, 0], [1, 3]], ["dry", "water"], title=TITLE)
    assert texts(figure) == ["1.00", "0.00", "0.25", "0.75"]


def test_other_charts_hold_all_their_text() -> None:
    row = {"probabilities": "plain", "confidence": 0.5, "accuracy": 0.6, "share": 1.0}
    calibration = calibration_figure([row], {"plain": 0.1}, title=TITLE)
    rows = [{"method": "knn", "features": "raw", "share": share, "samples": int(100 * share), "accuracy": 0.5}
            for share in (0.1, 1.0)]  # fmt: skip
    for figure in (calibration, share_figure(rows, metric="accuracy", title=TITLE)):
        figure.draw_without_rendering()
        holds_all(figure)
