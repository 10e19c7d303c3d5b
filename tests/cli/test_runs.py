"""Runs through the real command: resumed, repeated, tested, predicted from, and started from each other."""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from core.checkpoints.files import read_checkpoint
from core.cli.predict import check_options, predict_parser
from core.cli.run_folders import lock_folder, release_folder
from core.errors import UserError


def same(one, other) -> bool:
    """Tell whether two checkpoints' parts are equal bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def steps(run: Path) -> list[int]:
    """Return the steps of the rows in metrics.csv that hold a training loss."""
    with (run / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row.get("train_loss")]


def cut_back(run: Path, step: int) -> None:
    """Leave what a run killed right after `step` has left: its checkpoints up to there."""
    folder = run / "checkpoints"
    for path in folder.glob("step*.ckpt"):
        if int(path.stem.removeprefix("step")) > step:
            path.unlink()
    (folder / "best.ckpt").unlink()
    (folder / "last.ckpt").unlink()


@pytest.fixture
def table(tmp_path) -> Path:
    """A CSV of 300 hourly rows of two channels."""
    wave = np.sin(np.arange(300) * 2 * np.pi / 24)
    hours = pd.date_range("2024-01-01", periods=300, freq="h")
    path = tmp_path / "my.csv"
    pd.DataFrame({"date": hours, "load": wave + 3, "heat": 2 * wave}).to_csv(path, index=False)
    return path


# Resuming and repeating ----------------------------------------------------------------------------------


def test_last_goes_on_in_the_same_folder_and_ends_as_the_unbroken_run(trained, copied, fit):
    cut_back(copied.folder, 6)

    again = fit(copied.runs, "--ckpt_path", "last")

    assert again.folder == copied.folder
    assert "step00000006.ckpt" in again.outcome.out
    assert steps(again.folder) == steps(trained.folder)
    ours, unbroken = read_checkpoint(again.last), read_checkpoint(trained.last)
    assert again.last.name == trained.last.name
    assert same(ours["state_dict"], unbroken["state_dict"])
    assert same(ours["optimizer_states"], unbroken["optimizer_states"])


def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(copied, fit):
    cut_back(copied.folder, 8)
    newest = copied.folder / "checkpoints" / "step00000008.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])

    again = fit(copied.runs, "--ckpt_path", "last")

    lines = [line for line in again.outcome.out.splitlines() if "step00000008.ckpt" in line]
    assert len(lines) == 1
    assert "using step00000007.ckpt instead" in lines[0]


def test_run_killed_before_its_first_checkpoint_starts_again_in_its_folder(trained, copied, fit):
    shutil.rmtree(copied.folder / "checkpoints")

    again = fit(copied.runs, "--ckpt_path", "last")

    assert again.folder == copied.folder
    assert "starts again from its seed" in again.outcome.out
    assert same(read_checkpoint(again.last)["state_dict"], read_checkpoint(trained.last)["state_dict"])


def test_changed_value_is_printed_on_resume(copied, fit):
    cut_back(copied.folder, 8)

    again = fit(copied.runs, "--ckpt_path", "last", "--model.network.dropout=0.3")

    changed = [line for line in again.outcome.out.splitlines() if line.startswith("changed since")]
    assert changed == ["changed since the checkpoint: model.network.dropout: 0.1 -> 0.3"]


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(trained, fit, tmp_path):
    again = fit(tmp_path)
    other = fit(tmp_path, "--seed_everything=7", "--data.seed=7")

    first = read_checkpoint(trained.last)["state_dict"]
    assert again.folder != trained.folder
    assert same(read_checkpoint(again.last)["state_dict"], first)
    assert not same(read_checkpoint(other.last)["state_dict"], first)


def test_resolved_config_runs_again_and_gives_the_same_weights(trained, dfm, tmp_path):
    config = trained.folder / "config.yaml"

    outcome = dfm("timeseries", "fit", "--config", config, "--runs", tmp_path)

    assert outcome.code == 0, outcome.err
    (last,) = tmp_path.glob("timeseries/ttm-config/*/checkpoints/last.ckpt")
    assert same(read_checkpoint(last)["state_dict"], read_checkpoint(trained.last)["state_dict"])
    again = yaml.safe_load((last.parents[1] / "config.yaml").read_text())
    assert again == {**yaml.safe_load(config.read_text()), "runs": str(tmp_path)}


def test_every_checkpoint_loads_with_weights_only(trained):
    files = sorted((trained.folder / "checkpoints").glob("*.ckpt"))

    assert len(files) == 12  # ten steps, the best, and the link to the last
    for path in files:
        content = torch.load(path, weights_only=True)
        assert content["domainfm"]["recipe"] == "ttm-demo"
        assert content["domainfm"]["licences"] == ["public domain"]


# Configs -------------------------------------------------------------------------------------------------


def test_hardware_file_given_second_keeps_the_recipes_callbacks(fit, tmp_path):
    recipe = tmp_path / "watched.yaml"
    watch = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    recipe.write_text(yaml.safe_dump({"trainer": {"callbacks": [watch], "max_steps": 1}}))

    run = fit(tmp_path / "runs", "--config", recipe, "--config", "trainer/cpu_plain")

    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    (callback,) = config["trainer"]["callbacks"]
    assert callback["class_path"].endswith("LearningRateMonitor")
    assert config["cpu"]["fast_dropout"] is False
    with (run.folder / "metrics.csv").open(newline="") as file:
        assert any(name.startswith("lr") for name in next(csv.reader(file)))


def test_own_values_of_the_command_line_win_wherever_they_stand(dfm, small, tmp_path):
    outcome = dfm(
        "timeseries", "fit", "--trainer.max_steps=3", "--runs", tmp_path, "--config", "ttm/demo",
        "--data.batch_size", "4", "--config", small, "--model.network.width=8",
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    (path,) = tmp_path.glob("timeseries/ttm-demo/*/config.yaml")
    config = yaml.safe_load(path.read_text())
    assert config["trainer"]["max_steps"] == 3
    assert config["data"]["init_args"]["batch_size"] == 4
    assert config["model"]["init_args"]["network"]["init_args"]["width"] == 8
    assert config["model"]["init_args"]["network"]["init_args"]["levels"] == 2


# Testing and predicting from a checkpoint alone -----------------------------------------------------------


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_checkpoint_alone_rebuilds_the_run(dfm, copied, verb):
    outcome = dfm("timeseries", verb, "--ckpt_path", copied.best)

    assert outcome.code == 0, outcome.err
    (folder,) = copied.folder.glob(f"{verb}-*")
    assert (folder / "metrics.csv").exists()


def test_test_of_a_checkpoint_alone_gives_the_scores_of_the_fit(dfm, copied):
    assert dfm("timeseries", "test", "--ckpt_path", copied.best).code == 0

    (folder,) = copied.folder.glob("test-*")
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "results.csv"), pd.read_csv(copied.folder / "results.csv")
    )


def test_test_on_ones_own_file_scores_every_channel_beside_the_baselines(dfm, copied, table):
    outcome = dfm("timeseries", "test", "--ckpt_path", copied.best, "--data.path", table)

    assert outcome.code == 0, outcome.err
    assert "seasonal naive" in outcome.out
    (folder,) = copied.folder.glob("test-*")
    results = pd.read_csv(folder / "results.csv")
    assert {"TTM", "seasonal naive", "drift"} <= set(results.iloc[:, 0])
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.parametrize(("name", "horizon"), [("out.csv", 10), ("out.parquet", 24), ("out.csv", 70)])
def test_prediction_of_any_horizon_writes_stamps_quantiles_and_a_picture(
    dfm, trained, table, tmp_path, name, horizon
):
    words = ["--data.path", table, "--data.horizon", horizon, "--out", tmp_path / name]
    outcome = dfm("timeseries", "predict", "--ckpt_path", trained.best, *words)

    assert outcome.code == 0, outcome.err
    written = tmp_path / name
    forecast = pd.read_csv(written) if name.endswith("csv") else pd.read_parquet(written)
    loads = forecast[forecast.target == "load"]
    assert len(loads) == horizon
    assert len(forecast) == 2 * horizon
    levels = [f"0.{decile}" for decile in range(1, 10)]
    assert (np.diff(forecast[levels].to_numpy(), axis=1) >= 0).all()
    assert pd.to_datetime(loads.date.iloc[0]) == pd.Timestamp("2024-01-13 12:00")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_prediction_of_a_folder_reports_what_could_not_be_forecast(dfm, trained, table, tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    shutil.copy(table, folder / "good.csv")
    (folder / "empty.csv").write_text("date,load\n")
    (folder / "broken.csv").write_text("date,load\n2024-01-01,many\n2024-01-02,more\n")

    words = ["--data.path", folder, "--data.horizon", 24, "--out", tmp_path / "all.csv"]
    outcome = dfm("timeseries", "predict", "--ckpt_path", trained.best, *words)

    assert outcome.code == 0, outcome.err
    skipped = (tmp_path / "all.skipped.csv").read_text()
    assert "empty" in skipped
    assert "broken" in skipped
    assert "good" not in skipped
    assert "all.skipped.csv" in outcome.out


# One recipe from another's run ------------------------------------------------------------------------------


def test_zero_shot_starts_from_the_newest_parent_run_and_says_which_weights(dfm, copied, table):
    words = ["--config", "ttm/zero_shot", "--runs", copied.runs, "--data.path", table, "--tracking.wandb=off"]
    outcome = dfm("timeseries", "test", *words)

    assert outcome.code == 0, outcome.err
    assert f"tensors from {copied.best} (own layout)" in outcome.out
    assert list(copied.runs.glob("timeseries/ttm-zero_shot/*/results.csv"))


def test_finetuning_starts_from_the_parents_weights_and_keeps_their_origin(dfm, copied, table):
    words = ["--config", "ttm/finetune", "--runs", copied.runs, "--data.path", table, "--data.batch_size=16"]
    outcome = dfm(
        "timeseries",
        "fit",
        *words,
        "--tracking.wandb=off",
        "--trainer.max_steps=2",
        "--model.optimizer.lr=1e-9",
    )

    assert outcome.code == 0, outcome.err
    assert f"tensors from {copied.best} (own layout)" in outcome.out
    (last,) = copied.runs.glob("timeseries/ttm-finetune/*/checkpoints/last.ckpt")
    own, parent = read_checkpoint(last), read_checkpoint(copied.best)
    for name, value in own["state_dict"].items():
        if name.startswith("network."):
            torch.testing.assert_close(value, parent["state_dict"][name], atol=1e-6, rtol=0)
    assert own["domainfm"]["licences"] == ["my.csv: not stated", "public domain"]


def test_finetuned_run_goes_on_from_its_own_checkpoint_not_from_its_parents(dfm, copied, table):
    words = [
        "timeseries",
        "fit",
        "--config",
        "ttm/finetune_head",
        "--runs",
        copied.runs,
        "--data.path",
        table,
    ]
    words += ["--data.batch_size=16", "--tracking.wandb=off", "--trainer.max_steps=2"]
    assert dfm(*words).code == 0
    shutil.rmtree(copied.folder)

    outcome = dfm(*words, "--trainer.max_steps=4", "--ckpt_path", "last")

    assert outcome.code == 0, outcome.err
    assert "going on from" in outcome.out
    (last,) = copied.runs.glob("timeseries/ttm-finetune_head/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["global_step"] == 4


# Weights & Biases -------------------------------------------------------------------------------------------


def test_offline_wandb_run_holds_the_final_metric_the_config_and_an_image(fit, offline_records, tmp_path):
    run = fit(tmp_path / "runs", "--tracking.wandb=offline")

    (path,) = run.folder.glob("wandb/offline-run-*/run-*.wandb")
    found = list(offline_records(path))
    logged = {
        ".".join(item.nested_key) or item.key: item.value_json
        for record in found
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
    }
    scores = pd.read_csv(run.folder / "results.csv")
    assert float(logged["test_mse"]) == pytest.approx(float(scores["MSE"].iloc[0]), rel=1e-3)
    config = " ".join(
        str(item) for r in found for holder in (r.run.config, r.config) for item in holder.update
    )
    assert "apps.timeseries.models.ttm.TTM" in config
    assert list(path.parent.glob("files/media/images/**/*.png"))
    assert list((run.folder / "figures").glob("*.png"))


def test_a_network_bound_to_its_channels_keeps_their_roles_on_other_data(dfm, fit, tmp_path):
    rows = 220
    clock = np.arange(rows)
    frame = pd.DataFrame({
        "date": pd.date_range("2024-01-01", periods=rows, freq="h"),
        "heat": np.sin(clock / 4), "load": np.cos(clock / 4), "note": clock % 7.0,
    })  # fmt: skip
    frame.to_csv(tmp_path / "one.csv", index=False)
    frame[["date", "note", "heat", "load"]].to_csv(tmp_path / "two.csv", index=False)
    bound = ["--model.network.channels=2", "--model.network.decoder.channel_mixing=true"]
    one = ["--data.path", tmp_path / "one.csv", "--data.targets=[load]", "--data.conditional=[heat]"]
    run = fit(tmp_path / "runs", *one, *bound, "--data.windows.univariate=false")

    outcome = dfm("timeseries", "test", "--ckpt_path", run.best, "--data.path", tmp_path / "two.csv")

    assert outcome.code == 0, outcome.err
    assert "targets are" not in outcome.err, "the roles were guessed anew"


def test_the_learning_rate_finder_leaves_its_curve(fit, tmp_path):
    run = fit(tmp_path / "runs", "--model.lr_finder=core.optim.LRFinder", "--model.lr_finder.steps=12")

    assert "learning rate found: " in run.outcome.out
    assert list((run.folder / "figures").glob("learning_rate-*.png"))


def test_weights_named_by_hand_bring_their_network_and_window_sizes(dfm, copied, table, tmp_path):
    outcome = dfm(
        "timeseries", "fit", "--config", "ttm/finetune", "--model.weights", copied.best, "--data.path", table,
        "--data.batch_size=16", "--trainer.max_steps=1", "--tracking.wandb=off", "--runs", tmp_path / "other",
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    assert f"tensors from {copied.best} (own layout)" in outcome.out


# One folder, one writer; names that a user types -----------------------------------------------------------


def test_a_folder_that_another_process_writes_is_refused_with_its_host_and_process(dfm, small, copied):
    hold = "import sys; from pathlib import Path; from core.cli.run_folders import lock_folder;"
    hold += "lock_folder(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, str(copied.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        fit = ("timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", copied.runs)
        refused = dfm(*fit, "--ckpt_path", "last")
        holder.stdin.close()

    assert refused.code == 2
    assert f"is being written by process {holder.pid} on {socket.gethostname()}; wait" in refused.err


def test_a_folder_that_a_run_of_this_process_writes_is_refused_until_that_ends(tmp_path):
    lock_folder(tmp_path)
    with pytest.raises(UserError, match="another run of this process"):
        lock_folder(tmp_path / ".")

    release_folder(tmp_path)
    lock_folder(tmp_path)
    release_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_folder_stands_for_its_best_checkpoint(dfm, trained, table, tmp_path):
    tested = dfm("timeseries", "test", "--ckpt_path", trained.folder, "--runs", tmp_path)
    words = ["--ckpt_path", str(trained.folder), "--data.path", str(table)]
    options = predict_parser("timeseries", None, data="", out="", default_out="out.csv").parse_args(words)
    check_options(options, data="")

    assert tested.code == 0, tested.err
    assert options.ckpt_path == str(trained.best)


def test_keys_and_passwords_given_as_options_are_not_saved(fit, tmp_path):
    address = "https://me:hidden-word@host/x?token=hidden-too"
    run = fit(tmp_path, "--trainer.max_epochs=1", f"--about.notes={address}", "--about.api_key=hidden-key")

    record = read_checkpoint(run.last)["domainfm"]["config"]["about"]
    assert record == {**record, "notes": "https://***@host/x?token=***", "api_key": "***"}
    assert "hidden" not in (run.folder / "config.yaml").read_text()


def test_a_fit_ends_with_its_report_its_best_checkpoint_and_the_next_command(fit, dfm, tmp_path):
    run = fit(tmp_path / "runs", "--tracking.report=true", "--tracking.wandb=offline")

    lines = run.outcome.out.splitlines()[-4:]
    assert lines[0] == f"report: {run.folder}/report.html"
    assert lines[1].startswith(f"best checkpoint: {run.best} (val_bounded_mae ")
    assert lines[2].startswith(f"next: dfm timeseries predict --ckpt_path {run.best} --data.path my.csv")
    assert lines[3].startswith(
        f"Weights & Biases, offline; send it with: wandb sync {run.folder}/wandb/offline-run-"
    )
    page = (run.folder / "report.html").read_text()
    assert "training samples" in page and "test samples" in page and "apps.timeseries.models.ttm.TTM" in page
    name = f"ttm-demo-{run.folder.name}".encode()
    assert any(name in file.read_bytes() for file in run.folder.glob("wandb/offline-run-*/*.wandb"))
