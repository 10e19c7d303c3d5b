"""Figures carry what they promise and render to a PNG without pyplot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from apps.timeseries.figures import (
    ForecastPanel,
    comparison_figure,
    forecast_figure,
)
from core.figures.curves import error_figure, learning_rate_figure
from core.figures.style import save_figure


def panel(title: str, *, dated: bool = True) -> ForecastPanel:
    """Return one panel with everything in it."""
    values = np.sin(np.arange(120) / 4)
    stamps = pd.date_range("2024-01-01", periods=120, freq="h").to_numpy()
    return ForecastPanel(
        title=title,
        past=values[:96],
        prediction=values[96:],
        truth=values[96:] + 0.1,
        quantiles={level / 10: values[96:] + level / 10 - 0.5 for level in range(1, 10)},
        baselines={"seasonal naive": values[72:96]},
        unit="load [kW]",
        **({"past_times": stamps[:96], "times": stamps[96:]} if dated else {}),
    )


@pytest.mark.parametrize("dated", [True, False], ids=["dates", "steps"])
def test_a_forecast_shows_history_truth_bands_and_baseline(tmp_path: Path, dated: bool) -> None:
    figure = forecast_figure(
        [panel("a", dated=dated), panel("b", dated=dated)], title="two", note="bands: validation"
    )
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["history", "truth", "forecast", "80 % band", "40 % band", "seasonal naive"]
    assert figure.axes[0].get_ylabel() == "load [kW]"
    assert figure.legends[0].get_title().get_text() == "bands: validation"
    assert save_figure(figure, tmp_path, "forecast", 1).stat().st_size > 10_000


def test_the_comparison_writes_every_value_and_marks_the_best(tmp_path: Path) -> None:
    table = pd.DataFrame({"MASE": [0.8, 1.0], "MSE": [0.4, np.nan]}, index=["TTM", "seasonal naive"])
    figure = comparison_figure(table, title="test")
    texts = {text.get_text(): text.get_fontweight() for text in figure.axes[0].texts}
    assert texts == {"0.800": "bold", "1.00": "normal"}
    assert "not evaluated" in {text.get_text() for text in figure.axes[1].texts}
    save_figure(figure, tmp_path, "comparison", 0)


def test_error_lines_are_named_at_their_ends_without_overlap(tmp_path: Path) -> None:
    steps = np.arange(1, 25)
    figure = error_figure({"TTM": steps / 24, "ridge": steps / 23.9, "drift": steps / 8}, metric="MAE")
    heights = sorted(text.xy[1] for text in figure.axes[0].texts)
    assert len(heights) == 3
    assert min(np.diff(heights)) > 0.05
    save_figure(figure, tmp_path, "error", 0)


def test_the_learning_rate_search_marks_the_chosen_rate(tmp_path: Path) -> None:
    rates = np.logspace(-7, 1, 50)
    figure = learning_rate_figure(rates, 1 + (np.log10(rates) + 2) ** 2, 1e-3)
    assert any("chosen: 0.001" in text.get_text() for text in figure.axes[0].texts)
    save_figure(figure, tmp_path, "rates", 0)


@pytest.mark.parametrize("name", [r"$\frac{", "a_b$c", r"\alpha$x$", r"5 \$"])
def test_names_are_drawn_as_they_stand(tmp_path: Path, name: str) -> None:
    steps = np.arange(1.0, 25)
    figures = [
        forecast_figure([panel(name)], title=name, note=name),
        comparison_figure(pd.DataFrame({"MSE": [0.8]}, index=[name]), title=name),
        error_figure({name: 10.0**steps}, metric=name),
        learning_rate_figure(10.0**-steps, steps),
    ]
    for number, figure in enumerate(figures):
        save_figure(figure, tmp_path, "named", number)
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
        assert any(name in text.get_text() for text in figure.findobj(Text)) or figure is figures[-1]
    powers = [label.get_text() for label in figures[-1].axes[0].get_xticklabels()]
    assert "10⁻³" in powers


def test_no_figure_needs_pyplot() -> None:
    code = (
        "import sys, core.figures.curves as figures\n"
        "figures.learning_rate_figure([1e-3, 1e-2, 1e-1], [3.0, 2.0, 4.0], 1e-2)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
