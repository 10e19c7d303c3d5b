"""`dfm remote-sensing` with SoftCon: a run that is cut short and resumed, and the probe of what it made."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from in_process import dfm

from core.checkpoints.files import read_checkpoint

PRETRAIN = """
about: {system: softcon}
seed_everything: 1
model:
  class_path: apps.remote_sensing.tasks.contrastive.ContrastivePretraining
  init_args:
    network:
      class_path: apps.remote_sensing.models.softcon.Siamese
      init_args:
        encoder:
          class_path: apps.remote_sensing.models.softcon.SoftConViT
          init_args: {bands: [red, green, nir_narrow], width: 24, depth: 2, heads: 2, patch: 4, image: 16,
            layer_scale: 1.0}
        projection: 16
        hidden: 32
    preparation: {class_path: apps.remote_sensing.models.frozen.inputs.OfWeights}
    reinitialise: ["projector.*", "predictor.*", "teacher.*"]
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
    schedule: {class_path: core.optim.Cosine, init_args: {warmup: 0.1}}
data: &data
  class_path: apps.remote_sensing.data.Scenes
  init_args: &given
    source:
      class_path: apps.remote_sensing.data.readers.ssl4eo.SSL4EO
      init_args: {path: places, bands: [red, green, nir_narrow], fractions: [0.667, 0.083, 0.25],
        classes: [dry, wet]}
    normalise: none
    coordinates: {location: false}
    batch_size: 4
    seed: 3
checkpoints: {every_n_steps: 3, keep: 9}
trainer: {max_epochs: 2, num_sanity_val_steps: 0}
"""
PROBE = """
about: {system: softcon, parent: [pretrain.yaml]}
model:
  class_path: apps.remote_sensing.tasks.probing.Probing
  init_args: {k: 3}
data:
  class_path: apps.remote_sensing.data.Scenes
  init_args:
    source:
      class_path: apps.remote_sensing.data.readers.ssl4eo.SSL4EO
      init_args: {path: places, bands: [red, green, nir_narrow], fractions: [0.667, 0.083, 0.25],
        classes: [dry, wet]}
    normalise: none
    coordinates: {location: false}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with places of two dates, recipes and a finished pre-training."""
    folder = tmp_path_factory.mktemp("softcon")
    drawn = np.random.default_rng(0)
    table = {}
    for number in range(24):
        name, wet = f"{number:07d}", number % 2
        table[name] = {day: [str(wet)] for day in ("20200611T1", "20200904T1")}
        for day in table[name]:
            image = np.array([1400, 1300, 900 if wet else 3000])[:, None, None] + drawn.normal(
                0, 300, (3, 16, 16)
            )
            path = folder / "places" / name / day / "all.tif"
            path.parent.mkdir(parents=True)
            with rasterio.open(
                path, "w", driver="GTiff", count=3, height=16, width=16, dtype="uint16", crs="EPSG:32633",
                transform=rasterio.transform.from_origin(500_000, 5e6, 10, 10),
            ) as file:  # fmt: skip
                file.write(image.astype(np.uint16))
    (folder / "places" / "labels.json").write_text(json.dumps(table))
    (folder / "pretrain.yaml").write_text(PRETRAIN)
    (folder / "probe.yaml").write_text(PROBE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, out, err = dfm("remote-sensing", "fit", "--config", "pretrain.yaml")
        assert code == 0, out + err
        yield folder


def newest(root: Path) -> Path:
    (run,) = root.glob("remote_sensing/*pretrain/*")
    return run


def test_a_run_resumed_within_an_epoch_ends_with_the_weights_of_the_unbroken_one(place):
    whole = newest(place / "runs")
    middle = whole / "checkpoints" / "step00000003.ckpt"
    (place / "middle.ckpt").write_bytes(middle.read_bytes())

    code, out, err = dfm(
        "remote-sensing", "fit", "--config", "pretrain.yaml", "--runs", "cut", "--ckpt_path", "middle.ckpt"
    )

    assert code == 0, out + err
    first, second = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
        for run in (whole, newest(place / "cut"))
    )
    tensors = {name: value for name, value in first.items() if isinstance(value, torch.Tensor)}
    assert any(name.startswith("network.teacher.") for name in tensors)
    assert [name for name, value in tensors.items() if not torch.equal(second[name], value)] == []


def test_the_probe_takes_the_students_encoder_of_the_newest_run(place):
    code, out, err = dfm("remote-sensing", "test", "--config", "probe.yaml")

    assert code == 0, out + err
    assert "preparation: eight_bit, 16 pixels, bands red, green, nir_narrow" in out
    (run,) = (place / "runs" / "remote_sensing" / "softcon-probe").iterdir()
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert [(row["method"], row["features"]) for row in rows] == [
        ("knn", "raw"),
        ("linear", "raw"),
        ("knn", "scaled"),
        ("linear", "scaled"),
    ]
    assert all(float(row["map_macro"]) > 0.6 for row in rows)


def test_probing_is_no_training(place):
    code, _, err = dfm("remote-sensing", "fit", "--config", "probe.yaml")

    assert code == 2
    assert "probing trains nothing, so there is nothing to fit" in err
