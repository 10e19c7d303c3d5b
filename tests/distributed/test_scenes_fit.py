"""`dfm remote-sensing fit` on two processes: the losses and scores of the same run in one."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from in_process import dfm

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
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))
    words = ["remote-sensing", "fit", "--config", "small.yaml"]
    found = []
    for name, more in {"one": [], "two": ["--config", "trainer/ddp", "--trainer.devices=2"]}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "small.yaml").write_text(text)
        if more:
            given = [sys.executable, "-m", "core.cli", *words, *more]
            end = launching.outcome(launching.command(given, folder, launching.environment(folder)))
            assert end.codes == [0], end.out
        else:
            monkeypatch.chdir(folder)
            code, out, err = dfm(*words)
            assert code == 0, out + err
        found.append(scores(folder))
    one, two = found
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
