"""A run as one page: `report.html` needs no network, no script and no other file."""

from __future__ import annotations

import base64
import csv
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from core.files import replacing
from core.tracking.charts import HUES, chart, short
from core.tracking.settings import without_secrets

__all__ = ["write_report"]

FILE = "report.html"
PAGE = Path(__file__).with_name(FILE)  # the frame and its style, light and dark
PACKAGES = ("domainfm", "torch", "lightning", "numpy", "pandas", "xarray", "timm", "monai", "wandb")
MOST_FIGURES = 24
PICTURES = (".png", ".gif")
STAGES = ("train", "val", "validation", "test")
HIDDEN = ("step", "epoch", "throughput/samples")
TITLES = {
    "throughput/samples_per_second": "samples per second",
    "throughput/tokens_per_second": "tokens per second",
    "throughput/data_wait": "share of time waiting for data",
    "throughput/mfu": "model FLOPs utilisation",
}

MOST_ROWS = 200
HIGHER = set("accuracy acc precision recall sensitivity specificity f1 ap map auc auroc kappa mcc r2".split())  # noqa: SIM905
HIGHER |= {"psnr", "ssim", "dice", "iou", "miou", "jaccard", "correlation", "skill", "nse"}
LOWER = set("mse rmse nrmse vrmse mae mase mape smape nd wql crps msis nll brier ece l1 l2 linf".split())  # noqa: SIM905
LOWER |= {"loss", "error", "perplexity", "bits", "worst"}
# Columns that say what was measured, on which rows are compared; and measures that are no score.
KEYS = {"dataset", "series", "horizon", "channel", "variable", "field", "class", "label", "lead", "step"}
KEYS |= {"region", "split", "windows"}
NO_SCORE = {"coverage", "time", "seconds", "throughput"}

Curves = dict[str, dict[str, list[tuple[float, float]]]]


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    cards: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write `<folder>/report.html` from what the run folder holds, whole or not at all, and return its path.

    Read are `metrics.csv` (curves and last values), `results*.csv` and `by_*.csv` (tables; a column `model`
    names the model or baseline), `figures/<name>-<step>.png` and `.gif` (the newest step of each name), and
    `config.yaml` (secrets removed). What is not there is left out.

    Args:
        folder: The run folder.
        title: In place of the recipe's name.
        cards: What is known of data and network beside the files, as `RunRecord` gives it.
    """
    from core.tracking.metrics_csv import read_metrics

    folder = Path(folder).absolute()
    rows = read_metrics(folder)
    curves, lone = _curves(rows)
    config = _read_config(folder)
    about = config.get("about")
    run = [str(about["title"])] if isinstance(about, Mapping) and about.get("title") else []
    tables = [*folder.glob("results*.csv"), *folder.glob("by_*.csv")]
    tables.sort(key=lambda file: (file.stem != "results", file.name))  # the unnamed one first
    template = Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))
    page = template.render(
        title=title or folder.parent.name or folder.name,
        subtitle=" · ".join([*run, "/".join(folder.parts[-3:])]),
        facts=_facts(rows, curves),
        results=[table for file in tables if (table := _results(file))],
        cards={name: without_secrets(card) for name, card in (cards or {}).items()},
        figures=(figures := _figures(folder))[:MOST_FIGURES],
        more_figures=len(figures) - MOST_FIGURES,
        charts=_charts(curves),
        last={name: short(value, 6) for name, value in lone.items()},
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100) if config else "",
        versions=_versions(),
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = folder / FILE
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _facts(rows: Sequence[Mapping[str, float]], curves: Curves) -> list[tuple[str, str]]:
    """Return the row of figures on top: steps, epochs, best validation values, speed."""
    facts: list[tuple[str, str]] = []
    # A test after training is logged one step and one epoch further.
    trained = [row for row in rows if any(name not in HIDDEN and not name.startswith("test") for name in row)]
    steps = [row["step"] for row in trained if "step" in row]
    epochs = [row["epoch"] for row in trained if "epoch" in row]
    if steps:
        facts.append(("steps", f"{int(max(steps)) + 1:,}".replace(",", " ")))
    if epochs:
        facts.append(("epochs", str(int(max(epochs)) + 1)))
    for name, series in curves.items():
        if name == "loss" and series.get("train"):
            facts.append(("last train loss", short(series["train"][-1][1])))
        if values := [y for _, y in series.get("val", []) if math.isfinite(y)]:
            better = better_end(name)
            facts.append(
                (f"best val {name}", short(better(values)))
                if better
                else (f"last val {name}", short(values[-1]))
            )
    speed = [y for _, y in curves.get(TITLES["throughput/samples_per_second"], {}).get("", [])]
    if speed:
        facts.append(("samples per second", f"{statistics.median(speed):,.0f}".replace(",", " ")))
    return facts[:8]


def _curves(rows: Sequence[Mapping[str, float]]) -> tuple[Curves, dict[str, float]]:
    """Sort the metrics into charts of curves that belong together, and values that came only once.

    A step written twice (a run begun again in its folder) counts as it was written last. Steps are shown as
    steps done, one more than the column says.
    """
    points: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in HIDDEN and "step" in row:
                points.setdefault(name, {})[row["step"] + 1] = value
    curves: Curves = {}
    lone: dict[str, float] = {}
    for name, values in points.items():
        if len(values) < 2:
            lone[name] = next(iter(values.values()))
        else:
            group, label = _chart_and_label(name)
            curves.setdefault(group, {})[label] = sorted(values.items())
    order = {"loss": 0, "gradient norm": 2, "learning rate": 3}
    ranked = sorted(curves, key=lambda group: (order.get(group, 4 if group in TITLES.values() else 1), group))
    return {group: curves[group] for group in ranked}, lone


def _chart_and_label(name: str) -> tuple[str, str]:
    """Return the chart and the label of a metric: `val/loss` is the curve `val` of the chart `loss`."""
    if name in TITLES:
        return TITLES[name], ""
    if name == "lr" or name.startswith("lr/"):
        return "learning rate", name.removeprefix("lr").removeprefix("/")
    if name.startswith("grad_norm"):
        return "gradient norm", "greatest between log steps" if name.endswith("_max") else "at the step"
    base = re.sub(r"_(step|epoch)$", "", name)
    suffix = " (epoch)" if name.endswith("_epoch") else ""
    stage, mark, rest = base.partition("/") if "/" in base else base.partition("_")
    if not mark or stage not in STAGES:
        return base, suffix.strip()
    return rest, ("val" if stage == "validation" else stage) + suffix


def _charts(curves: Curves) -> list[tuple[str, list[tuple[int, str, str]], str]]:
    """Return heading, legend (hue, label, last value) and drawing of each chart."""
    charts = []
    for group, series in curves.items():
        legend = [(k % HUES, label, short(points[-1][1])) for k, (label, points) in enumerate(series.items())]
        # A rate's shape is read on a straight scale; losses and norms fall by factors.
        straight = group == "learning rate" or group in TITLES.values()
        charts.append((group, legend, chart(series, logarithmic_from=math.inf if straight else 10)))
    return charts


def _figures(folder: Path) -> list[tuple[str, int, str, str]]:
    """Return name, step, kind and data of the newest figure of each name and kind."""
    newest: dict[tuple[str, str], tuple[int, Path]] = {}
    for path in (folder / "figures").glob("*-*"):
        name, _, step = path.stem.rpartition("-")
        key = (name, path.suffix)
        if path.suffix in PICTURES and name and step.isdigit() and int(step) >= newest.get(key, (-1,))[0]:
            newest[key] = (int(step), path)
    return [
        (name, step, suffix.removeprefix("."), base64.b64encode(path.read_bytes()).decode())
        for (name, suffix), (step, path) in sorted(newest.items())
    ]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = without_secrets(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _versions() -> dict[str, str]:
    """Return the versions of what the run was made with, and the machine's kind."""
    versions = {"Python": platform.python_version(), "System": f"{platform.system()} {platform.machine()}"}
    versions["CPUs"] = str(os.cpu_count())
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    torch = sys.modules.get("torch")  # a report is written without loading it
    if torch is not None and torch.cuda.is_available():
        versions |= {f"GPU {k}": torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
    return versions


def _results(path: Path) -> dict[str, Any] | None:
    """Return a CSV as a table, the best value of each metric marked among the rows that can be compared."""
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = [row for row in csv.reader(file) if row] or [[]]
    if not rows:
        return None
    rows = [(row + [""] * (len(head) - len(row)))[: len(head)] for row in rows]
    columns = list(zip(*rows, strict=True))
    numeric = [all(_float(cell) is not None or not cell for cell in cells) for cells in columns]
    decimals = [_decimals(cells) for cells in columns]
    best = _best(head, rows, numeric)
    shown = [[*map(_fixed, row, numeric, decimals)] for row in rows[:MOST_ROWS]]
    kinds = ["num" if number else "" for number in numeric]
    return {
        "caption": path.stem.removeprefix("results").replace("_", " ").strip("-. "),
        "head": list(zip(kinds, head, strict=True)),
        "rows": [
            [("num best" if (index, k) in best else kinds[k], cell) for k, cell in enumerate(row)]
            for index, row in enumerate(shown)
        ],
        "left": len(rows) - MOST_ROWS,
        "file": path.name,
    }


def _best(head: list[str], rows: list[list[str]], numeric: list[bool]) -> set[tuple[int, int]]:
    """Return the (row, column) of the best values among rows that agree in everything but the model."""
    lower = [name.lower() for name in head]
    keys = [k for k, name in enumerate(lower) if name != "model" and (name in KEYS or not numeric[k])]
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row[k] for k in keys), []).append(index)
    best = set()
    for k, name in enumerate(head):
        better = better_end(name)
        if not numeric[k] or k in keys or better is None:
            continue
        for members in groups.values():
            values = {index: _float(rows[index][k]) for index in members}
            finite = {
                index: value for index, value in values.items() if value is not None and math.isfinite(value)
            }
            if len(set(finite.values())) > 1:
                top = better(finite.values())
                best |= {(index, k) for index, value in finite.items() if value == top}
    return best


def better_end(name: str) -> Callable[..., float] | None:
    """Return `max` for a metric that is good when great, `min` for errors, None for what is no score."""
    words = {
        *re.split(r"[^a-z0-9]+", name.lower()),
        *re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().split(),
    }
    if words & NO_SCORE:
        return None
    return min if words & LOWER else max if words & HIGHER else None


def _decimals(cells: Sequence[str]) -> int | None:
    """Return a column's decimals: for four digits of its smallest value, four at most; None if it is tiny."""
    values = [abs(value) for cell in cells if (value := _float(cell)) is not None and math.isfinite(value)]
    if all(value.is_integer() for value in values):
        return 0
    power = math.floor(math.log10(min(value for value in values if value)))
    return max(0, min(4, 3 - power)) if power >= -3 else None


def _fixed(cell: str, numeric: bool, decimals: int | None) -> str:
    """Return a number with its column's decimals, so that they stand below each other."""
    value = _float(cell) if numeric else None
    if value is None:
        return cell
    return short(value) if decimals is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
