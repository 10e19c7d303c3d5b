"""The report: one page that holds everything, escapes everything and asks the network for nothing."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.figures.movies import save_movie
from core.figures.style import new_figure, save_figure, style
from core.tables import write_table
from core.tracking.charts import chart, nice_ticks, short
from core.tracking.metrics_csv import MetricsCSV
from core.tracking.report import PAGE, write_report

VOID = {"meta", "img", "line", "circle", "polyline", "polygon"}


class Balance(HTMLParser):
    """Collects the tags of a page and those that were not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def a_run(folder: Path) -> Path:
    logger = MetricsCSV(folder)
    for step in range(0, 40, 2):
        logger.log_metrics({"train/loss": 1 / (step + 1), "lr/decay": 1e-3, "epoch": step // 20}, step=step)
    for step in (19, 39):
        logger.log_metrics({"val/loss": 0.5 / step, "epoch": step // 20}, step=step)
    logger.log_metrics({"test/<mse>": 0.25, "epoch": 2}, step=40)
    (folder / "config.yaml").write_text("model: {width: 64, note: <b>&, api_key: do-not-show}\n")
    (folder / "results.csv").write_text(
        "model,dataset,MASE,accuracy\nTTM,<sun>,0.8123,0.5\nseasonal naive,<sun>,1,0.75\nTTM,co2,1.5,0.9\n"
    )
    with style():
        figure, axes = new_figure()
        axes[0, 0].plot([0, 1], [1, 0])
    save_figure(figure, folder, "forecast", 20)
    save_figure(figure, folder, "forecast", 100)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(a_run(tmp_path_factory.mktemp("runs") / "ttm-demo" / "now")).read_text()


def test_page_asks_for_nothing_outside_itself(page):
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')>\s]+)""", page)

    assert [source[:22] for source in sources] == ["data:image/png;base64,"]
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_page_shows_movies_beside_the_pictures_of_the_same_name(tmp_path):
    folder = a_run(tmp_path / "now")
    frames = [np.full((8, 8, 3), shade, dtype=np.uint8) for shade in (0, 255)]
    for step in (20, 100):
        save_movie(frames, folder, "forecast", step)

    kinds = re.findall(r'src="data:image/(\w+);', write_report(folder).read_text())

    assert kinds == ["gif", "png"]


def test_page_is_well_formed(page):
    parser = Balance()
    parser.feed(page)

    assert parser.wrong == []
    assert parser.open == []


def test_page_has_its_parts(page):
    headings = re.findall(r"<h2>(.*?)</h2>", page)

    assert headings == ["Results", "Figures", "Curves", "Last values", "Config", "Versions"]
    assert "<h1>ttm-demo</h1>" in page
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["loss", "learning rate"]


def test_page_counts_training_and_not_the_test_after_it(page):
    assert "<b>40</b><span>steps</span>" in page
    assert "<b>2</b><span>epochs</span>" in page


def test_page_shows_the_newest_figure_of_a_name(page):
    assert re.findall(r"forecast <span>step (\d+)</span>", page) == ["100"]


def test_page_escapes_what_it_shows(page):
    assert "&lt;sun&gt;" in page
    assert "test/&lt;mse&gt;" in page
    assert "&lt;b&gt;&amp;" in page


def test_page_shows_no_secret(page):
    assert "do-not-show" not in page
    assert "***" in page


def test_best_values_are_marked_among_rows_that_can_be_compared(page):
    assert re.findall(r'<td class="num best">(.*?)</td>', page) == ["0.8123", "0.7500"]


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("kappa", "0.2 0.9 0.5", [1]),
        ("precision", "0.2 0.9 nan", [1]),
        ("mIoU", "0.2 0.9 0.5", [1]),
        ("map_micro", "0.2 0.9 0.9", [1, 2]),
        ("mean_absolute_error", "0.2 0.9 0.5", [0]),
        ("relative_l2_all_times", "nan 0.9 0.5", [2]),
        ("bits_per_byte", "0.2 0.9 inf", [0]),
        ("accuracy_loss", "0.2 0.9 0.5", [0]),
        ("fit_time", "0.2 0.9 0.5", []),
        ("samples_per_second", "0.2 0.9 0.5", []),
        ("coverage_2_sigma", "0.2 0.9 0.5", []),
        ("trajectories", "8 16 32", []),
        ("rmse", "0.5 0.5 0.5", []),
    ],
)
def test_the_true_best_is_marked_and_what_is_no_score_is_not(name, values, best, tmp_path):
    rows = [f"{model},{value}" for model, value in zip("abc", values.split(), strict=True)]
    (tmp_path / "results.csv").write_text("\n".join([f"model,{name}", *rows]))

    cells = re.findall(r'<td class="num( best)?">', write_report(tmp_path).read_text())

    assert [index for index, mark in enumerate(cells) if mark] == best


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path):
    logger = MetricsCSV(tmp_path)
    for step, value in enumerate((float("nan"), 0.25, 0.75)):
        logger.log_metrics({"val/accuracy": value}, step=step)

    assert "<b>0.75</b><span>best val accuracy</span>" in write_report(tmp_path).read_text()


def test_rows_of_numbered_classes_are_not_compared(tmp_path):
    (tmp_path / "by_class.csv").write_text("class,iou\n0,0.5\n1,0.9\n")

    assert "num best" not in write_report(tmp_path).read_text()


def test_page_says_how_many_figures_it_leaves_out(tmp_path):
    (tmp_path / "figures").mkdir()
    for k in range(26):
        (tmp_path / "figures" / f"rollout_{k}-1.png").write_bytes(b"png")

    page = write_report(tmp_path).read_text()

    assert page.count("<figure>") == 24 and "2 more in figures/" in page


def test_page_has_cards_of_data_and_network_without_secrets(tmp_path):
    cards = {"data": {"path": "https://me:pass@host/a.csv?token=abc"}, "network": {"parameters": "9 296"}}

    page = write_report(tmp_path, cards=cards).read_text()

    assert "<h2>Data and network</h2>" in page and "9 296" in page
    assert "pass@" not in page and "abc" not in page


def test_a_styles_strings_and_braces_are_closed():
    css = PAGE.read_text().partition("<style>")[2].partition("</style>")[0]

    assert css.count("{") == css.count("}")
    assert [line for line in css.splitlines() if line.count('"') % 2] == []


def test_an_empty_run_folder_gives_a_page(tmp_path):
    assert "<h2>Versions</h2>" in write_report(tmp_path).read_text()


def test_a_broken_config_gives_a_page_without_it(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1, 2")

    assert "<h2>Config</h2>" not in write_report(tmp_path).read_text()


def test_a_run_begun_again_in_its_folder_shows_each_step_once(tmp_path):
    for value in (4.0, 2.0):
        logger = MetricsCSV(tmp_path)
        logger.log_metrics({"train/loss": value}, step=0)
        logger.log_metrics({"train/loss": value / 2}, step=1)

    assert re.findall(r"<title>(train.*?)</title>", write_report(tmp_path).read_text()) == [
        "train 2 at 1",
        "train 1 at 2",
    ]


def test_a_long_table_is_cut_and_says_so(tmp_path):
    with open(tmp_path / "results-horizon.csv", "w", newline="") as file:
        csv.writer(file).writerows([["model", "horizon", "mse"], *(["TTM", h, h / 7] for h in range(500))])

    table = write_report(tmp_path).read_text().partition("<h2>Versions")[0]

    assert "300 more rows in results-horizon.csv" in table
    assert table.count("<tr>") == 201


def test_a_written_table_reads_back_in_full(tmp_path):
    write_table(tmp_path / "by_step.csv", [{"model": "a, b", "mse": 0.1 + 0.2}, {"model": "c", "mae": 1}])

    assert (tmp_path / "by_step.csv").read_text() == 'model,mse,mae\n"a, b",0.30000000000000004,\nc,,1\n'
    assert "<caption>by step</caption>" in write_report(tmp_path).read_text()


def test_long_curves_are_drawn_with_few_points_and_keep_their_extremes():
    points = [(float(x), 100.0 if x == 7777 else 1.0) for x in range(20_000)]

    svg = chart({"train": points}, logarithmic_from=float("inf"))

    line = re.search(r'<polyline class="line s0" points="(.*?)"', svg).group(1)
    assert len(line.split()) <= 240
    assert 'class="band s0"' in svg
    assert len(svg) < 40_000


def test_a_value_that_is_not_finite_leaves_a_gap():
    svg = chart({"train": [(1, 1.0), (2, 2.0), (3, float("nan")), (4, 1.0), (5, 3.0)]})

    assert svg.count("<polyline") == 2


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_curve_stays_within_its_frame(values):
    svg = chart({"x": [(float(k), value) for k, value in enumerate(values)]})

    heights = [float(y) for y in re.findall(r'cy="([-\d.]+)"', svg)]
    assert all(9.9 <= y <= 206.1 for y in heights), heights


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
@settings(max_examples=60, deadline=None)
def test_ticks_enclose_what_is_shown(low, span):
    high = low + max(span, abs(low) * 1e-6)

    ticks = nice_ticks(low, high, 5)

    slack = (high - low) * 1e-6
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.41234, "0.4123"), (1234, "1234"), (8123456, "8.12M"), (3.9e-8, "3.9e-08")],
)
def test_numbers_are_short(value, text):
    assert short(value) == text
