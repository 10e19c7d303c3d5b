"""`dfm pde` from the command line: fit, test, other data, fine-tuning on other fields, efficiency curves."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import dfm

RECIPE = """
about: {{system: poseidon, test_after_fit: true{parent}}}
seed_everything: 1
model:
  class_path: apps.pde.tasks.Operator
  init_args:
    optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 1.0e-3}}}}
{model}
data:
  class_path: apps.pde.data.Fields
  init_args:
    generate: {{families: {{{family}: 8}}, resolution: 16, snapshots: 5}}
    {fields}
    windows: {{class_path: apps.pde.data.Pairs, init_args: {{max_steps: 4, step: 1}}}}
    val_trajectories: 2
    test_trajectories: 2
    batch_size: 8
    seed: 1
trainer: {{max_epochs: 1, num_sanity_val_steps: 0}}
"""
OWN = """
    network:
      class_path: apps.pde.models.poseidon.ScOT
      init_args: {resolution: 16, patch: 2, in_channels: 4, out_channels: 4, width: 8, depths: [1, 1],
        heads: [2, 2], skips: [1, 0], window: 4}
"""
FIELDS = "[density, velocity_x, velocity_y, pressure]"
FLOW = f"inputs: {FIELDS}\n    outputs: {FIELDS}"
BARE = "--model.movie=false", "--model.examples=0"
OTHER = """
    network: {init_args: {in_channels: 1, out_channels: 1}}
    reinitialise: ["embeddings*", "patch_recovery*"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with recipes and a finished pre-training, which is the working folder meanwhile."""
    folder = tmp_path_factory.mktemp("pde")
    (folder / "pretrain.yaml").write_text(RECIPE.format(parent="", model=OWN, family="ns_sines", fields=FLOW))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DFM_DATA", str(folder / "data"))
        code, out, err = dfm("pde", "fit", "--config", "pretrain.yaml")
        assert code == 0, out + err
        yield folder


def run_of(folder: Path) -> Path:
    (run,) = (folder / "runs" / "pde" / "poseidon-pretrain").iterdir()
    return run


def test_a_fit_leaves_scores_figures_and_a_movie(place):
    run = run_of(place)
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert [row["model"] for row in rows] == ["poseidon", "persistence"]
    assert all(0 < float(row["relative_l1"]) < 1000 for row in rows)
    assert {row["step"] for row in csv.DictReader((run / "by_time.csv").open())} == {"1", "2", "3", "4"}
    assert {row["channel"] for row in csv.DictReader((run / "spectra.csv").open())} == {"velocity"}
    totals = {row["quantity"] for row in csv.DictReader((run / "conserved.csv").open())}
    assert totals == {"mass", "momentum_x", "momentum_y"}
    metrics = (run / "metrics.csv").read_text().splitlines()[0]
    assert "test_spectrum_error" in metrics and "test_drift" in metrics
    figures = {path.name.rpartition("-")[0] for path in (run / "figures").iterdir()}
    assert {"rollout-1", "spectra", "error_by_time", "conserved", "rollout"} <= figures


def test_a_checkpoint_is_tested_on_another_file_with_its_own_constants(place):
    code, out, err = dfm(
        "data", "generate", "pde/ns_gauss", "--samples", 4, "--resolution", 16, "--snapshots", 5,
        "--out", place / "own.zarr", "--quiet",
    )  # fmt: skip
    assert code == 0, out + err
    best = run_of(place) / "checkpoints" / "best.ckpt"
    parts = "--data.val_trajectories=1", "--data.test_trajectories=2", "--data.card=ns_gauss"
    code, out, err = dfm("pde", "test", "--ckpt_path", best, "--data.path", place / "own.zarr", *parts, *BARE)
    assert code == 0, out + err
    assert "persistence" in out


def test_fine_tuning_on_other_fields_replaces_embedding_and_recovery(place):
    recipe = place / "heat.yaml"
    recipe.write_text(
        RECIPE.format(parent=", parent: [pretrain.yaml]", model=OTHER, family="heat", fields="")
    )
    code, out, err = dfm("pde", "fit", "--config", recipe, *BARE)
    assert code == 0, out + err
    assert "embeddings.patch_embeddings.projection.weight" in out


def test_the_efficiency_curve_goes_on_where_it_stood(place):
    words = "pde", "efficiency", "--config", "pretrain.yaml", "--trajectories", 1, 4, "--out", "curve"
    code, out, err = dfm(*words, "--", *BARE)
    assert code == 0, out + err
    rows = list(csv.DictReader(Path("curve/efficiency.csv").read_text().splitlines()))
    assert [row["trajectories"] for row in rows] == ["1", "4"]
    assert Path("curve/efficiency.png").stat().st_size > 10_000
    code, again, err = dfm(*words, "--", *BARE)
    assert code == 0 and "run folder" not in again
    code, _, err = dfm(*words, "--", "--data.batch_size=4")
    assert code == 2 and "--data.batch_size=4" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.frames=2", "--data.windows=Histories"], "takes 1 frames and data.frames is 2"),
        (["--data.inputs=[velocity_z]"], "velocity_z"),
        (["--model.rollout=sideways"], "model.rollout is 'sideways'"),
        (["--data.generate.families={ns_sinus: 4}"], "ns_sinus"),
        (["--model.network.depths=[1,1,1]"], "heads"),
    ],
)
def test_mistakes_are_told_in_one_sentence(place, words, sentence):
    code, _, err = dfm("pde", "fit", "--config", "pretrain.yaml", *words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert err.strip().count("\n") == 0


def test_unknown_recipes_of_the_curve_are_refused(place):
    code, _, err = dfm("pde", "efficiency", "--config", "poseidon/finetun")
    assert code == 2 and "did you mean 'poseidon/finetune'" in err
