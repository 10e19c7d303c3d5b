"""`dfm remote-sensing` from the command line: every task trained on simulated scenes, and resumed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from in_process import Outcome, dfm

ENCODER = {
    "class_path": "apps.remote_sensing.models.prithvi.Prithvi",
    "init_args": {"resolution": 32, "patch": [1, 8, 8], "width": 32, "depth": 2, "heads": 2,
                  "coordinates": ["time", "location"]},
}  # fmt: skip
MAE = {
    "class_path": "apps.remote_sensing.models.prithvi.PrithviMAE",
    "init_args": {**ENCODER["init_args"], "frames": 3, "decoder_width": 16, "decoder_depth": 1,
                  "decoder_heads": 2},
}  # fmt: skip
FCN = {"class_path": "apps.remote_sensing.models.decoders.FCN", "init_args": {"channels": 16, "steps": 1}}


def encoder(frames: int) -> dict:
    """Return the encoder for a number of dates."""
    return {**ENCODER, "init_args": {**ENCODER["init_args"], "frames": frames}}


def mapper(outputs: int, built: int, **more: object) -> dict:
    """Return a small network of maps whose encoder is built for some dates."""
    arguments = {"encoder": encoder(built), "decoder": FCN, "outputs": outputs, **more}
    return {"class_path": "apps.remote_sensing.models.mapper.Mapper", "init_args": arguments}


def labeller(outputs: int, frames: int) -> dict:
    """Return a small network of labels."""
    arguments = {"encoder": encoder(frames), "outputs": outputs}
    return {"class_path": "apps.remote_sensing.models.labeller.Labeller", "init_args": arguments}


def recipe(
    task: str,
    network: dict | None,
    scenes: str,
    *,
    parent: str | None = None,
    tested: bool = True,
    **model: object,
) -> str:
    """Return a recipe of one epoch on sixteen scenes."""
    arguments = {**({"network": network} if network else {}), **model}
    source = {
        "scenes": 16,
        "size": 32,
        "frames": 3,
        "task": scenes,
        "seed": 1,
        "fractions": [0.5, 0.25, 0.25],
    }
    return yaml.safe_dump(
        {
            "about": {
                "system": "prithvi",
                "test_after_fit": tested,
                **({"parent": parent} if parent else {}),
            },
            "seed_everything": 1,
            "model": {"class_path": f"apps.remote_sensing.tasks.{task}", "init_args": arguments},
            "data": {
                "class_path": "apps.remote_sensing.data.Scenes",
                "init_args": {
                    "source": {
                        "class_path": "apps.remote_sensing.data.readers.landscapes.Landscapes",
                        "init_args": source,
                    },
                    "augment": {"flips": True},
                    "batch_size": 4,
                    "seed": 1,
                },
            },
            "trainer": {"max_epochs": 2, "num_sanity_val_steps": 0},
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of all runs, with data of its own."""
    folder = tmp_path_factory.mktemp("remote_sensing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DFM_DATA", str(folder / "data"))
        yield folder


def fit(place: Path, name: str, text: str, *more: object) -> tuple[Outcome, Path]:
    """Run a recipe and return what it said and its folder."""
    (place / f"{name}.yaml").write_text(text)
    outcome = dfm("remote-sensing", "fit", "--config", f"{name}.yaml", *more)
    assert outcome.code == 0, outcome.out + outcome.err
    return outcome, max((place / "runs" / "remote_sensing" / f"prithvi-{name}").iterdir())


def rows(path: Path) -> list[dict[str, str]]:
    """Return a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_segmentation_leaves_tables_figures_and_a_temperature(place: Path) -> None:
    _, run = fit(place, "floods", recipe("Segmentation", mapper(2, 1, auxiliary=True), "floods"))
    results = {row["model"]: row for row in rows(run / "results.csv")}
    assert set(results) == {"prithvi", "most frequent class", "single pixels (LDA)"}
    assert 0 <= float(results["prithvi"]["iou"]) <= 1
    assert [row["class"] for row in rows(run / "by_class.csv")] == ["dry", "water"]
    confusion = rows(run / "confusion.csv")
    counted = sum(int(row["predicted water"]) + int(row["predicted dry"]) for row in confusion)
    assert 2 * 32 * 32 < counted <= 4 * 32 * 32, "pixels at the swath's edge have no label"
    figures = {path.name.partition("-")[0] for path in (run / "figures").glob("*.png")}
    assert figures == {"examples", "by_class", "confusion", "calibration"}
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    facts = content["state_dict"]["normaliser._extra_state"]
    assert facts["kind"] == "segmentation"
    assert facts["temperature"] > 0


def test_a_change_is_found_between_dates_encoded_apart(place: Path) -> None:
    network = mapper(2, 1, dates=2, apart=True, frames="difference")
    _, run = fit(place, "change", recipe("Change", network, "change"))
    assert [row["class"] for row in rows(run / "by_class.csv")] == ["same", "changed"]


def test_windows_cover_images_that_are_larger(place: Path) -> None:
    text = recipe("Segmentation", mapper(7, 3), "land_cover", window=16, window_stride=8, baselines=False)
    _, run = fit(place, "covers", text)
    assert [row["model"] for row in rows(run / "results.csv")] == ["prithvi"]


def test_a_regression_is_scored_in_the_labels_own_units(place: Path) -> None:
    _, run = fit(place, "biomass", recipe("Regression", mapper(1, 1), "biomass", quantity="biomass in t/ha"))
    results = {row["model"]: row for row in rows(run / "results.csv")}
    assert float(results["mean of training"]["rmse"]) > 1, "the labels are tonnes, not deviations"
    assert float(results["prithvi"]["mae"]) < 3 * float(results["mean of training"]["mae"])


def test_several_labels_a_scene(place: Path) -> None:
    _, run = fit(place, "labels", recipe("Classification", labeller(7, 3), "scene_labels"))
    assert 0 <= float(rows(run / "results.csv")[0]["map_macro"]) <= 1
    assert len(rows(run / "by_class.csv")) == 7


def test_pre_training_feeds_gap_filling_and_maps(place: Path) -> None:
    _, run = fit(place, "pretrain", recipe("Pretraining", MAE, "images"))
    assert {row["model"] for row in rows(run / "results.csv")} == {"prithvi", "mean of what is seen"}
    assert any((run / "figures").glob("reconstruction-*.png"))
    outcome, gaps = fit(place, "gaps", recipe("GapFilling", None, "gaps", parent="pretrain.yaml"))
    assert "weights:" in outcome.out
    assert len(rows(gaps / "by_band.csv")) == 12
    table = next(row for row in rows(gaps / "results.csv") if row["model"] == "prithvi")
    logged = next(row for row in rows(gaps / "metrics.csv") if row.get("test_ssim"))
    for name in ("ssim", "mse", "mae"):
        assert float(logged[f"test_{name}"]) == pytest.approx(float(table[name]), rel=1e-6)
    own = {"class_path": "apps.remote_sensing.models.mapper.Mapper",
           "init_args": {"decoder": FCN, "outputs": 7}}  # fmt: skip
    text = recipe(
        "Segmentation", own, "land_cover", parent="pretrain.yaml", reinitialise=["decoder.*", "head.*"]
    )
    outcome, maps = fit(place, "fine", text, "--model.adaptation", "LightDecoder")
    assert "weights:" in outcome.out
    before, after = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, maps)
    )
    name = "network.encoder.layers.0.attn.qkv.weight"
    assert torch.equal(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"][name],
                       after[name])  # fmt: skip
    assert name in before


@pytest.mark.parametrize("kind", ["Pretraining", "Segmentation"])
def test_a_resumed_run_equals_an_unbroken_one(place: Path, kind: str) -> None:
    network, scenes = (MAE, "images") if kind == "Pretraining" else (mapper(7, 3), "land_cover")
    text = recipe(kind, network, scenes, tested=False)
    _, whole = fit(place, f"whole_{kind}", text, "--trainer.max_steps=5", "--trainer.max_epochs=9")
    _, broken = fit(place, f"broken_{kind}", text, "--trainer.max_epochs=1")
    outcome = dfm("remote-sensing", "fit", "--config", f"broken_{kind}.yaml", "--ckpt_path", "last",
                  "--trainer.max_steps=5", "--trainer.max_epochs=9")  # fmt: skip
    assert outcome.code == 0, outcome.out + outcome.err
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, broken)
    )
    assert first["global_step"] == second["global_step"] == 5
    one, two = first["state_dict"], second["state_dict"]
    assert all(torch.equal(one[name], two[name]) for name in one if "_extra_state" not in name)
    assert one["normaliser._extra_state"] == two["normaliser._extra_state"]
