"""`dfm weather fit` and `test` from the command line: forecasting, several steps, roll-out with a buffer."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_process import dfm
from small_world import recipe, write_world

from core.checkpoints.files import read_checkpoint
from core.data.normaliser import STATE
from core.tracking.metrics_csv import read_metrics

ROLLOUT = "replay: {capacity: 4, refresh: 3, leads: {0: 12, 4: 36}}"
STRIKING = Path(__file__).parents[2] / "distributed"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an archive and a finished pre-training on it, which is the working folder meanwhile."""
    folder = tmp_path_factory.mktemp("weather")
    world = write_world(folder / "world.zarr")
    (folder / "pretrain.yaml").write_text(
        recipe(world, data="test: {steps: 2}", network="lora: {mode: single}")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DFM_DATA", str(folder / "data"))
        code, out, err = dfm("weather", "fit", "--config", "pretrain.yaml", "--about.test_after_fit=true")
        assert code == 0, out + err
        yield folder


def run_of(folder: Path, name: str) -> Path:
    return sorted((folder / "runs" / "weather").glob(f"*{name}/*"))[-1]


def rollout(folder: Path) -> str:
    text = recipe(folder / "world.zarr", task=ROLLOUT, about=", parent: [pretrain]", data="test: {steps: 2}")
    return text.replace("WeatherForecasting", "RollOut")


def test_a_run_learns_and_is_scored_beside_the_baselines(place: Path) -> None:
    run = run_of(place, "pretrain")
    losses = [row["val_loss"] for row in read_metrics(run) if "val_loss" in row]
    rows = list(csv.DictReader((run / "results.csv").open()))
    assert losses[1] < losses[0]
    assert {row["model"] for row in rows} == {"aurora", "persistence", "climatology", "damped persistence"}
    assert {row["lead"] for row in rows} == {"6.0", "12.0"}
    assert all(float(row["rmse"]) > 0 for row in rows if row["region"] == "global")


def test_a_checkpoint_alone_is_tested_on_other_data(place: Path) -> None:
    write_world(place / "other.zarr", steps=40)
    best = run_of(place, "pretrain") / "checkpoints" / "best.ckpt"
    code, out, err = dfm("weather", "test", "--ckpt_path", best, "--data.path", "other.zarr")
    assert code == 0, out + err
    assert "persistence" in out


def test_fine_tuning_keeps_the_scales_that_the_network_learnt_with(place: Path) -> None:
    write_world(place / "warmer.zarr", steps=40)
    words = [
        "weather",
        "fit",
        "--config",
        "pretrain.yaml",
        "--data.path",
        "warmer.zarr",
        "--trainer.max_steps=1",
    ]
    kept, own = f"--model.weights={best_of(place)}", "--data.statistics={2t: [270, 9], msl: [1e5, 900]}"
    before = read_checkpoint(best_of(place))["state_dict"][STATE]["statistics"]
    for runs, options in (("kept", [kept]), ("given", [kept, own]), ("anew", [])):
        code, out, err = dfm(
            *words, *options, "--trainer.max_steps=1", "--data.region=[-60, 60, 0, 180]", "--runs", runs
        )
        assert code == 0, out + err

    kept_scales, given, anew = (
        read_checkpoint(next((place / runs).glob("weather/*/*/checkpoints/last.ckpt")))["state_dict"][STATE][
            "statistics"
        ]
        for runs in ("kept", "given", "anew")
    )
    assert kept_scales == before and anew != before
    assert given["2t"] == [270, 9] or given["2t"] == (270, 9)


def test_two_steps_are_trained_through(place: Path) -> None:
    words = ["weather", "fit", "--config", "pretrain.yaml", "--data.horizon=2", "--trainer.max_steps=2"]
    code, out, err = dfm(*words, "--runs", place / "two")
    assert code == 0, out + err
    (run,) = (place / "two").glob("weather/*/*")
    assert any("train_loss" in row for row in read_metrics(run))


def test_only_what_is_named_trains_and_a_killed_roll_out_ends_as_the_unbroken_one(place: Path) -> None:
    (place / "rollout.yaml").write_text(rollout(place))
    head = '--model.adaptation={"class_path": "core.adaptation.HeadOnly", "init_args": {"head": ["*lora_*"]}}'
    words = ["weather", "fit", "--config", "rollout.yaml", head, "--checkpoints.every_n_steps=1"]
    before = read_checkpoint(run_of(place, "pretrain") / "checkpoints" / "best.ckpt")["state_dict"]
    strike = {"batch": 7, "once": str(place / "struck"), "rank": 0}
    callback = json.dumps([{"class_path": "striking.Strike", "init_args": strike}])
    killed = [*words, "--runs", "killed", "--trust=striking", f"--trainer.callbacks={callback}"]

    code, out, err = dfm(*words, "--runs", "unbroken", "--model.weights", best_of(place))
    assert code == 0, out + err
    end = subprocess.run(
        [sys.executable, "-m", "core.cli", *map(str, killed), "--model.weights", str(best_of(place))],
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{STRIKING}:{STRIKING.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert end.returncode == -9, end.stdout + end.stderr
    code, out, err = dfm(*words, "--runs", "killed", "--ckpt_path=last")
    assert code == 0, out + err

    one, other = (
        read_checkpoint(next((place / runs).glob("weather/*/*/checkpoints/last.ckpt")))
        for runs in ("unbroken", "killed")
    )
    for name, value in one["state_dict"].items():
        if torch.is_tensor(value):
            assert torch.equal(value, other["state_dict"][name]), name
            assert torch.equal(value, before[name]) or "lora_" in name
    assert any(not torch.equal(one["state_dict"][n], before[n]) for n in before if "lora_B" in n)
    (first,), (second,) = one["replay"], other["replay"]
    assert first.keys() == second.keys()
    assert all(torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True))


def best_of(place: Path) -> Path:
    return run_of(place, "pretrain") / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.network.surface=[2t]"], "the data has the surface variables 2t, msl"),
        (["--model.network.step=12"], "the network's step is 12 hours and the data's 6"),
        (["--data.history=3"], "the network takes 2 states and data.history is 3"),
        (["--data.patch=1", "--model.network.patch=3"], "--data.patch=3"),
        (["--model.objective.weights={z: -1}"], "the weight of z"),
    ],
)
def test_data_that_do_not_fit_are_refused(place: Path, words: list[str], sentence: str) -> None:
    code, _, err = dfm("weather", "fit", "--config", "pretrain.yaml", *words, "--runs", place / "refused")
    assert code == 2
    assert sentence in err
