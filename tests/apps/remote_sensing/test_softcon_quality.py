"""SoftCon's check of quality on simulated landscapes: the encoder's linear probe beats its start weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import rasterio
import yaml
from in_process import dfm
from rasterio.transform import from_origin
from rasterio.windows import Window

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.readers.landscapes import Landscapes
from apps.remote_sensing.simulation.store import ensure

SIDE, TILE, SHARE, DATES = 256, 32, 0.05, (1, 2, 3)
NETWORK = {
    "class_path": "apps.remote_sensing.models.softcon.Siamese",
    "init_args": {
        "encoder": {
            "class_path": "apps.remote_sensing.models.softcon.SoftConViT",
            "init_args": {"bands": list(HLS), "width": 64, "depth": 2, "heads": 2, "patch": 4, "image": TILE,
                "layer_scale": 1.0},
        },
        "projection": 64,
        "hidden": 256,
    },
}  # fmt: skip


def data(classes: tuple[str, ...], *, seasons: int, batch_size: int) -> dict[str, Any]:
    source = {"path": "tiles", "bands": list(HLS), "seasons": seasons, "classes": list(classes),
        "fractions": [0.7, 0.0, 0.3]}  # fmt: skip
    return {
        "class_path": "apps.remote_sensing.data.Scenes",
        "init_args": {
            "source": {"class_path": "apps.remote_sensing.data.readers.ssl4eo.SSL4EO", "init_args": source},
            "normalise": "none",
            "coordinates": {"time": False, "location": False},
            "batch_size": batch_size,
            "drop_last": True,
            "seed": 3,
        },
    }


def cut_tiles(root: Path) -> tuple[str, ...]:
    """Cut landscapes of three seasons into places, each labelled with the land covers on 5 % of it."""
    source = Landscapes(scenes=12, size=SIDE, frames=3, task="land_cover", clouds=False, seed=1)
    ensure(source.settings, source.path)
    table: dict[str, dict[str, list[str]]] = {}
    for label in sorted((source.path / "labels" / "land_cover").glob("*.tif")):
        with rasterio.open(label) as file:
            covers = file.read(1)
        for day in DATES:
            with rasterio.open(source.path / "images" / f"date_{day}" / label.name) as image:
                for top in range(0, SIDE, TILE):
                    for left in range(0, SIDE, TILE):
                        name, season = f"{label.stem}_{top}_{left}", f"2022010{day}"
                        part = covers[top : top + TILE, left : left + TILE]
                        table.setdefault(name, {})[season] = [
                            str(number)
                            for number in range(len(source.classes))
                            if (part == number).mean() >= SHARE
                        ]
                        path = root / name / season / "all.tif"
                        path.parent.mkdir(parents=True)
                        where = from_origin(500_000 + 30 * left, 5e6 - 30 * top, 30, 30)
                        profile = {"driver": "GTiff", "count": 6, "height": TILE, "width": TILE,
                            "dtype": "int16", "crs": image.crs, "transform": where}  # fmt: skip
                        with rasterio.open(path, "w", **profile) as tile:
                            tile.write(image.read(window=Window(left, top, TILE, TILE)))
    (root / "labels.json").write_text(json.dumps(table))
    return tuple(source.classes)


def scores_of(folder: Path, recipe: str) -> list[dict[str, float]]:
    """Return the scores with a tenth of the labels, and with all."""
    code, out, err = dfm("remote-sensing", "test", "--config", f"{recipe}.yaml")
    assert code == 0, out + err
    (run,) = (folder / "runs" / "remote_sensing" / f"softcon-{recipe}").iterdir()
    rows = csv.DictReader((run / "results.csv").open())
    return [{name: round(float(row[name]), 4) for name in ("map_macro", "map_micro")} for row in rows]


@pytest.mark.slow
def test_the_linear_probe_of_a_pre_trained_encoder_beats_its_start_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))
    classes = cut_tiles(tmp_path / "tiles")
    pretrain = {
        "about": {"system": "softcon"},
        "seed_everything": 1,
        "model": {
            "class_path": "apps.remote_sensing.tasks.contrastive.ContrastivePretraining",
            "init_args": {
                "network": NETWORK,
                "preparation": {"class_path": "apps.remote_sensing.models.frozen.inputs.OfWeights"},
                "optimizer": {
                    "class_path": "torch.optim.AdamW",
                    "init_args": {"lr": 1e-3, "weight_decay": 0.05},
                },
                "schedule": {"class_path": "core.optim.Cosine", "init_args": {"warmup": 0.1}},
                "no_decay": ["1d"],
                "restore_best": False,
            },
        },
        "data": data(classes, seasons=2, batch_size=64),
        "trainer": {"max_epochs": 12, "num_sanity_val_steps": 0},
    }
    probe = {
        "about": {"system": "softcon", "parent": ["pretrain.yaml"]},
        "model": {
            "class_path": "apps.remote_sensing.tasks.probing.Probing",
            "init_args": {"methods": ["linear"], "scaled": [True], "shares": [0.1, 1.0], "seeds": [0, 1, 2]},
        },
        "data": data(classes, seasons=1, batch_size=256),
    }
    start = {
        **probe,
        "about": {"system": "softcon"},
        "seed_everything": 1,
        "model": {**probe["model"], "init_args": {**probe["model"]["init_args"], "network": NETWORK}},
    }
    for name, recipe in {"pretrain": pretrain, "probe": probe, "start": start}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = dfm("remote-sensing", "fit", "--config", "pretrain.yaml")
    assert code == 0, out + err

    before, after = scores_of(tmp_path, "start"), scores_of(tmp_path, "probe")

    print(f"linear probe with 10 % and all of the labels: start weights {before}, pre-trained {after}")
    for labels in (0, 1):
        for name in ("map_macro", "map_micro"):
            assert after[labels][name] > before[labels][name] + 0.01
