"""Figures of the PDE domain: what they show, in which colours, and that they can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.pde import figures
from core.figures import curves
from core.figures import pictures as fields
from core.figures.curves import shown_times
from core.figures.style import save_figure

TIMES = np.linspace(0, 1, 8)
CHANNELS = ("density", "velocity_x")


def a_rollout(space=(16, 16), frames=8):
    x = np.stack(np.meshgrid(*(np.arange(n) / n for n in space), indexing="ij")).sum(0)
    waves = np.stack([np.sin(2 * np.pi * (x - t)) for t in TIMES[:frames]])
    return np.stack([2 + waves, waves], axis=1)


def texts(figure) -> list[str]:
    import matplotlib.text

    return [one.get_text() for one in figure.findobj(matplotlib.text.Text) if one.get_text()]


def pictures(figure):
    return [axis.images[0] for axis in figure.axes if axis.images]


def test_rollout_shows_truth_prediction_and_difference_over_time():
    truth = a_rollout()

    figure = fields.rollout_figure(truth, truth * 0.9, channels=CHANNELS, times=TIMES, columns=4, title="toy")

    shown = pictures(figure)
    assert len(shown) == 2 * 3 * 4
    told = texts(figure)
    for words in (
        "toy",
        "truth",
        "prediction",
        "difference",
        "t = 0",
        "1",
        "density",
        "velocity x",
        "rel. L1 10 %",
    ):
        assert words in told, words


def test_truth_and_prediction_share_a_scale_that_the_prediction_cannot_change():
    truth = a_rollout()
    blown = truth.copy()
    blown[-1] = 1e6

    figure = fields.rollout_figure(truth, blown, channels=CHANNELS, times=TIMES, columns=2, shown=["density"])

    first, _, third = (pictures(figure)[k].get_clim() for k in (0, 2, 4))
    assert pictures(figure)[1].get_clim() == pictures(figure)[3].get_clim() == first
    assert first == (pytest.approx(truth[[0, -1], 0].min()), pytest.approx(truth[[0, -1], 0].max()))
    assert third[0] == -third[1]


def test_x_runs_to_the_right_and_y_upwards():
    field = np.zeros((1, 1, 4, 6))
    field[0, 0, 3, 0] = 1.0  # last x, first y

    figure = fields.rollout_figure(field, field, channels=["u"], times=[0.0])

    image = pictures(figure)[0]
    assert image.origin == "lower" and image.get_array()[0, 3] == 1.0 and image.get_array().shape == (6, 4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_diverging_scale_has_its_white_at_zero_and_every_scale_holds_its_values(values):
    scale = fields.colour_scale(np.array(values))

    assert scale["vmin"] <= min(values) and max(values) <= scale["vmax"] and scale["vmin"] < scale["vmax"]
    if scale["cmap"] == "RdBu_r":
        assert scale["vmin"] == -scale["vmax"]


def test_signed_fields_diverge_and_overshoots_of_positive_ones_do_not():
    assert fields.colour_scale([-1.0, 2.0])["cmap"] == "RdBu_r"
    assert fields.colour_scale([-0.01, 2.0])["cmap"] == "viridis"
    assert fields.colour_scale([float("nan"), 3.0, 3.0])["vmax"] == 4.0


@pytest.mark.parametrize("space", [(12,), (8, 12), (6, 6, 6)])
def test_rollouts_of_one_to_three_axes_are_drawn_from_tensors(tmp_path, space):
    truth = torch.from_numpy(a_rollout(space))

    figure = fields.rollout_figure(truth, truth + 0.1, channels=CHANNELS, times=TIMES, columns=3)

    assert save_figure(figure, tmp_path, "rollout", 1).stat().st_size > 5000


def test_predictions_that_are_not_finite_are_drawn_and_wrong_shapes_refused(tmp_path):
    truth = a_rollout()
    broken = truth.copy()
    broken[5:] = float("nan")

    save_figure(fields.rollout_figure(truth, broken, channels=CHANNELS, times=TIMES), tmp_path, "r", 1)
    with pytest.raises(ValueError, match="must be"):
        fields.rollout_figure(truth, truth[:-1], channels=CHANNELS, times=TIMES)


def test_spectra_show_the_wave_number_of_a_wave():
    x = np.arange(32) / 32
    wave = np.broadcast_to(np.sin(2 * np.pi * 5 * x)[:, None], (1, 1, 32, 32)) + 0.01

    figure = figures.spectra_figure(wave, {"scOT": 0.5 * wave}, times=[0.0])

    truth, model = figure.axes[0].lines[:2]
    assert list(truth.get_xdata()) == list(range(1, 17))
    assert truth.get_ydata()[4] == pytest.approx(0.25) and model.get_ydata()[4] == pytest.approx(0.0625)


@given(count=st.integers(1, 60), most=st.integers(2, 12))
def test_shown_times_are_in_order_with_both_ends(count, most):
    picked = shown_times(count, most)

    assert picked == sorted(set(picked)) and len(picked) <= most
    assert picked[0] == 0 and picked[-1] == count - 1


def test_efficiency_names_every_model_at_its_line_and_counts_on_the_axis():
    by_model = {"scOT": ([4, 16, 64], [9.0, 5.0, 3.0]), "FNO": ([4, 16], [30.0, 16.0])}

    figure = curves.efficiency_figure(by_model, metric="relative_l1", unit="%")

    axis = figure.axes[0]
    assert axis.get_xscale() == "log" and axis.get_yscale() == "log"
    assert {"scOT", "FNO", "relative L1 [%]"} <= set(texts(figure))
    figure.canvas.draw()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["4", "16", "64"]


def test_errors_that_are_close_together_have_numbers_on_the_axis():
    figure = curves.efficiency_figure({"scOT": ([1, 2], [103.0, 91.0]), "FNO": ([1, 2], [np.nan, np.inf])})

    figure.canvas.draw()
    axis = figure.axes[0]
    low, high = axis.get_ylim()
    told = [tick.label1.get_text() for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert sum(bool(text) for text in told) >= 3 and low > 85 and high < 110


def test_every_column_of_conserved_totals_has_a_time_axis():
    totals = {name: {"truth": [1] * 8, "scOT": TIMES} for name in ("mass", "x", "y", "energy", "tracer")}

    figure = figures.conserved_figure(totals, times=TIMES)

    figure.canvas.draw()
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "time", "time", "time", ""]
    assert any(label.get_visible() for label in figure.axes[2].get_xticklabels())


def test_spectra_leave_no_empty_decades_below_the_lines():
    rollout = a_rollout() + 1e-3 * np.random.default_rng(0).standard_normal((8, 2, 16, 16))

    figure = figures.spectra_figure(rollout, {"scOT": rollout}, times=TIMES)

    lowest = min(float(line.get_ydata().min()) for line in figure.axes[0].lines)
    assert figure.axes[0].get_ylim()[0] > lowest / 100


def test_lines_of_equal_ends_have_labels_that_do_not_overlap():
    by_model = {name: ([1, 2], [1.0, 0.5]) for name in ("a", "b", "c", "d")}

    figure = curves.efficiency_figure(by_model)

    figure.canvas.draw()
    boxes = [one.get_window_extent() for one in figure.axes[0].texts]
    assert len(boxes) == 4 and not any(
        one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k]
    )


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        (
            "error",
            lambda r: curves.error_figure({"scOT": np.random.rand(5, 8), "FNO": [1.0] * 8}, times=TIMES),
        ),
        ("spectra", lambda r: figures.spectra_figure(r, {"scOT": r * 0.9}, times=TIMES, slope=-5 / 3)),
        (
            "conserved",
            lambda r: figures.conserved_figure({"mass": {"truth": [1] * 8, "scOT": TIMES}}, times=TIMES),
        ),
        (
            "gallery",
            lambda r: fields.gallery_figure([(f"{k}", r[k, 0]) for k in range(5)], columns=3),
        ),
        (
            "uncertainty",
            lambda r: fields.uncertainty_figure(r[0, 0], abs(r[0, 1]), r[1, 0], name="u", unit="K"),
        ),
        ("alone", lambda r: fields.uncertainty_figure(r[0, 0], abs(r[0, 1]))),
        ("band", lambda r: curves.band_figure(TIMES, [{"title": "p", "mean": TIMES, "std": TIMES}] * 3)),
        ("profile", lambda r: curves.profile_figure(TIMES, {"truth": r[:2, :1, 0, :8]}, times=[0.0, 1.0])),
    ],
)
def test_every_figure_can_be_saved_with_nothing_beyond_its_edges(tmp_path, name, figure):
    drawn = figure(a_rollout())

    path = save_figure(drawn, tmp_path, name, 1)

    assert path.stat().st_size > 4000
    box, edge = drawn.get_tightbbox(), drawn.bbox_inches
    assert box.x0 > -0.05 and box.y0 > -0.05 and box.x1 < edge.x1 + 0.05 and box.y1 < edge.y1 + 0.05
