"""Loggers: a real offline Weights & Biases run read back, TensorBoard, figures, secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.figures.style import new_figure, save_figure, style
from core.tracking.loggers import build_loggers, finish, log_figure, log_movie
from core.tracking.settings import Tracking, without_secrets
from core.tracking.wandb_logger import WandbLogger, wandb_mode

CONFIG = {
    "model": {"network": {"class_path": "apps.x.Net", "init_args": {"dropout": 0.4}}, "freq_token": 3},
    "weights": {"hf_token": "hf_do_not_show", "url": "https://me:word@host/file"},
}


@pytest.fixture
def read_runs(offline_records):
    """The function that returns what the offline runs under a folder hold."""

    def read(folder: Path) -> dict:
        found = {"ids": [], "config": {}, "history": [], "artifacts": [], "exits": []}
        for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
            found["ids"].append(path.stem.removeprefix("run-"))
            for record in offline_records(path):
                kind = record.WhichOneof("record_type")
                if kind == "history":
                    items = record.history.item
                    row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                    found["history"].append(row)
                elif kind == "config":
                    found["config"] |= {i.key: json.loads(i.value_json) for i in record.config.update}
                elif kind == "run":
                    found["config"] |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
                elif kind == "artifact":
                    found["artifacts"].append([entry.path for entry in record.artifact.manifest.contents])
                elif kind == "exit":
                    found["exits"].append(record.exit.exit_code)
        return found

    return read


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def a_figure():
    with style():
        figure, axes = new_figure()
        axes[0, 0].plot([0, 1, 2], [2.0, 1.0, 0.5], label="loss")
        axes[0, 0].legend()
    return figure


def a_movie():
    return [np.full((40, 60, 3), shade, dtype=np.uint8) for shade in (0, 120, 250)]


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """One run logged, closed, and gone on with after a resume."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint = folder / "best.ckpt"
    checkpoint.write_bytes(b"weights")
    loggers = build_loggers(Tracking(wandb="offline"), folder, name="ttm-demo", config=CONFIG)
    loggers[1].log_metrics({"train/loss": 0.5, "epoch": 0}, step=3)
    log_figure(loggers, folder, "forecast", a_figure(), 4)
    log_movie(loggers, folder, "rollout", a_movie(), 4)
    loggers[1].log_checkpoint(checkpoint)
    finish(loggers)
    again = build_loggers(Tracking(wandb="offline"), folder, name="ttm-demo", config=CONFIG)
    again[1].log_metrics({"train/loss": 0.25}, step=5)
    again[1].finalize("failed")
    assert "WANDB_DATA_DIR" not in os.environ, "the environment must be as it was"
    return folder


def test_offline_run_holds_the_metrics(read_runs, offline_run):
    history = read_runs(offline_run)["history"]

    losses = [(row["trainer/global_step"], row["train/loss"]) for row in history if "train/loss" in row]
    assert losses == [(3, 0.5), (5, 0.25)]


def test_offline_run_holds_the_config_as_a_tree(read_runs, offline_run):
    config = read_runs(offline_run)["config"]

    assert config["model"] == CONFIG["model"]


def test_offline_run_holds_no_secret(offline_run):
    held = b"".join(path.read_bytes() for path in offline_run.rglob("*") if path.is_file())

    assert b"class_path" in held
    assert b"hf_do_not_show" not in held
    assert b"me:word@" not in held


def test_offline_run_holds_the_image(read_runs, offline_run):
    row = next(row for row in read_runs(offline_run)["history"] if "forecast/path" in row)
    copy = next(offline_run.glob(f"wandb/offline-run-*/files/{row['forecast/path']}"))

    assert row["trainer/global_step"] == 4
    assert copy.read_bytes() == (offline_run / "figures" / "forecast-4.png").read_bytes()


def test_offline_run_holds_the_movie(read_runs, offline_run):
    row = next(row for row in read_runs(offline_run)["history"] if "rollout/path" in row)
    copy = next(offline_run.glob(f"wandb/offline-run-*/files/{row['rollout/path']}"))

    assert row["trainer/global_step"] == 4 and row["rollout/_type"] == "video-file"
    assert copy.read_bytes() == (offline_run / "figures" / "rollout-4.gif").read_bytes()


def test_offline_run_holds_the_checkpoint_as_an_artifact_in_the_run_folder(read_runs, offline_run):
    assert read_runs(offline_run)["artifacts"] == [["best.ckpt"]]
    assert list((offline_run / "wandb" / "data").rglob("*")), "the artifact is staged in the run folder"


def test_a_resumed_run_keeps_its_id(read_runs, offline_run):
    ids = read_runs(offline_run)["ids"]

    assert len(ids) == 2
    assert set(ids) == {(offline_run / "wandb-id.txt").read_text().strip()}


def test_a_failed_run_is_closed_with_exit_code_1(read_runs, offline_run):
    assert read_runs(offline_run)["exits"] == [0, 1]


def test_offline_run_captures_nothing_that_was_not_asked_for(offline_run):
    names = {path.name for path in offline_run.rglob("*")}

    assert not names & {"requirements.txt", "output.log", "wandb-metadata.json"}


def test_auto_is_offline_without_a_key(no_key):
    assert wandb_mode("auto") == "offline"


def test_auto_is_offline_with_a_key_and_no_network(no_key, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    assert wandb_mode("auto") == "offline"


@pytest.mark.parametrize(("told", "mode"), [("disabled", None), ("offline", "offline"), ("", "offline")])
def test_auto_follows_wandb_mode(no_key, monkeypatch, told, mode):
    monkeypatch.setenv("WANDB_MODE", told)

    assert wandb_mode("auto") == mode


def test_online_without_a_key_is_the_users_mistake(no_key, tmp_path):
    with pytest.raises(UserError, match=r"no key .*'wandb login'.* offline$"):
        build_loggers(Tracking(wandb="online"), tmp_path, name="x")


def test_online_without_a_network_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 does not answer; set .* 'wandb sync'"):
        build_loggers(Tracking(wandb="online"), tmp_path, name="x")


def test_a_wrong_word_for_wandb_is_answered_with_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'offline'"):
        Tracking(wandb="ofline")


def test_off_leaves_only_the_csv(tmp_path):
    loggers = build_loggers(Tracking(wandb="off"), tmp_path, name="x")

    assert [type(logger).__name__ for logger in loggers] == ["MetricsCSV"]


def test_a_logger_that_was_never_used_leaves_nothing(tmp_path):
    finish([WandbLogger(tmp_path, name="x", project="p", mode="offline")])

    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_metrics_and_figures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loggers = build_loggers(Tracking(wandb="off", tensorboard=True), tmp_path, name="x")

    loggers[1].log_metrics({"loss": 0.5}, step=2)
    log_figure(loggers, tmp_path, "forecast", a_figure(), 2)
    log_movie(loggers, tmp_path, "rollout", a_movie(), 2)
    finish(loggers)

    sizes = {"images": 0, "scalars": 0}
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance=sizes)
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 0.5)]
    assert (events.Images("forecast")[0].width, events.Images("forecast")[0].height) == (1280, 512)
    assert (events.Images("rollout")[0].width, events.Images("rollout")[0].height) == (60, 40)


def test_tensorboard_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(UserError, match=r"domainfm\[tensorboard\]"):
        build_loggers(Tracking(wandb="off", tensorboard=True), tmp_path, name="x")


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first = save_figure(a_figure(), tmp_path / "a", "loss", 1).read_bytes()
    second = save_figure(a_figure(), tmp_path / "b", "loss", 1).read_bytes()

    assert first == second
    assert b"matplotlib" not in first.lower()


def test_a_figures_name_cannot_leave_the_folder(tmp_path):
    path = save_figure(a_figure(), tmp_path, "../../val/ETTh1 h=96", 7)

    assert path == tmp_path / "figures" / "val-ETTh1-h-96-7.png"


def test_style_puts_matplotlibs_settings_back():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style():
        pass
    assert dict(matplotlib.rcParams) == before


def test_figures_are_drawn_without_lightning_or_pyplot():
    script = (
        "import sys; from core.figures.style import new_figure, save_figure, style\n"
        "with style(): new_figure()\n"
        "print([m for m in ('torch', 'lightning', 'matplotlib.pyplot', 'wandb') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"


def test_secrets_are_starred_and_numbers_stay():
    plain = without_secrets({"api_key": "x", "freq_token": 3, "path": Path("a"), "list": [{"password": "y"}]})

    assert plain == {"api_key": "***", "freq_token": 3, "path": "a", "list": [{"password": "***"}]}
