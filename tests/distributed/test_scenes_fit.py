"""`dfm remote-sensing fit` on two processes: the losses and scores of the same run in one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from one_and_two import folders_of

from core.tracking.metrics_csv import read_metrics

NETWORKS = {
    "Segmentation": """
      class_path: apps.remote_sensing.models.mapper.Mapper
      init_args:
        encoder:
          class_path: apps.remote_sensing.models.prithvi.Prithvi
          init_args: {resolution: 32, frames: 1, patch: [1, 8, 8], width: 32, depth: 2, heads: 2}
        decoder: {class_path: apps.remote_sensing.models.decoders.FCN, init_args: {channels: 8, steps: 1}}
        dropout: 0.0
""",
    "Pretraining": """
      class_path: apps.remote_sensing.models.prithvi.PrithviMAE
      init_args: {resolution: 32, frames: 3, patch: [1, 8, 8], width: 32, depth: 2, heads: 2,
        decoder_width: 16, decoder_depth: 1, decoder_heads: 2, coordinates: [time, location]}
""",
}
TASKS = {"Segmentation": "floods", "Pretraining": "images"}
RECIPE = """
about: {{system: prithvi, test_after_fit: true}}
seed_everything: 1
model:
  class_path: apps.remote_sensing.tasks.{task}
  init_args:
    network: {network}
    restore_best: false
data:
  class_path: apps.remote_sensing.data.Scenes
  init_args:
    source:
      class_path: apps.remote_sensing.data.readers.landscapes.Landscapes
      init_args: {{scenes: 20, size: 32, frames: 3, task: {scenes}, seed: 1, fractions: [0.5, 0.25, 0.25]}}
    batch_size: 4
    augment: {{flips: true}}
    seed: 1
trainer: {{max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 1, accelerator: cpu}}
"""

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.mark.parametrize("task", list(TASKS))
def test_two_processes_give_the_losses_and_scores_of_one(task, launching, tmp_path, monkeypatch):
    text = RECIPE.format(task=task, network=NETWORKS[task], scenes=TASKS[task])
    words = ["remote-sensing", "fit"]
    how = {"launching": launching, "folder": tmp_path, "monkeypatch": monkeypatch}
    one, two = map(scores, folders_of(words, text, **how))
    assert set(one) == set(two)
    assert two == {name: pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True) for name, value in one.items()}


def scores(folder: Path) -> dict[str, float]:
    """Return validation losses and scores of each epoch, and the results of the test."""
    (run,) = folder.glob("runs/remote_sensing/*/*")
    rows = [row for row in read_metrics(run) if any(name.startswith("val_") for name in row)]
    with (run / "results.csv").open(newline="") as file:
        (own, *_) = csv.DictReader(file)
    logged = {f"{name} {n}": v for n, row in enumerate(rows) for name, v in row.items() if "val_" in name}
    return logged | {name: float(value) for name, value in own.items() if name != "model"}
