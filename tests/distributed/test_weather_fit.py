"""`dfm weather fit` on two processes: the losses and scores of the same run in one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from one_and_two import folders_of
from small_world import light_recipe, recipe, write_world

from core.tracking.metrics_csv import read_metrics

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.mark.parametrize("task", [recipe, light_recipe], ids=["forecasting", "light decoding"])
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("64-true", 1e-10)])
def test_two_processes_give_the_losses_and_scores_of_one(
    task, precision, tolerance, launching, tmp_path, monkeypatch
):
    world = write_world(tmp_path / "world.zarr")
    text = task(world, data="test: {steps: 2}").replace("test_after_fit: false", "test_after_fit: true")
    # Adam's first steps turn differences in the last digit into whole steps.
    text = text.replace("torch.optim.AdamW", "torch.optim.SGD").replace("lr: 3.0e-3", "lr: 0.1")
    words = ["weather", "fit", f"--trainer.precision={precision}"]
    how = {"launching": launching, "folder": tmp_path, "monkeypatch": monkeypatch}
    one, two = map(scores, folders_of(words, text, **how))
    assert set(one) == set(two)
    assert two == {name: pytest.approx(value, rel=tolerance, nan_ok=True) for name, value in one.items()}


def scores(folder: Path) -> dict[str, float]:
    """Return validation losses of each epoch, and every number of the test's table."""
    (run,) = folder.glob("runs/weather/*/*")
    losses = [row["val_loss"] for row in read_metrics(run) if "val_loss" in row]
    numbers = {f"val_loss {epoch}": loss for epoch, loss in enumerate(losses)}
    for row in csv.DictReader((run / "results.csv").open()):
        where = " ".join(row[name] for name in ("model", "variable", "level", "lead", "region"))
        numbers |= {f"{where} {name}": float(row[name]) for name in ("rmse", "mae") if row[name]}
    return numbers
