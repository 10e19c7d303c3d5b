"""`dfm` from a shell, as its users type it: the script of the installation, exit codes, and streams."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from core.checkpoints.files import read_checkpoint
from core.cli.arguments import merged
from core.files import configs_folder

HERE = Path(__file__).parent


def shell(words: list[object], folder: Path, path: Path = HERE) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("dfm")
    return subprocess.run(
        [str(script), *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_answers_at_once_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    done = shell(["--help"], tmp_path, path=tmp_path)

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "dfm timeseries fit --config ttm/demo" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_terminated_run_leaves_within_a_step_and_goes_on_bit_by_bit(dfm, small, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    watch = {"class_path": "watching.Watch", "init_args": {"log": str(tmp_path / "log"), "how": "SIGTERM"}}
    words = ["timeseries", "fit", "--config", "ttm/demo", "--config", small, "--about.test_after_fit=false"]
    words += ["--trainer.accumulate_grad_batches=2", "--trust=watching"]
    assert dfm(*words, "--runs", tmp_path / "unbroken").code == 0
    watch["init_args"]["after"] = 3  # in the middle of the second step's gradients

    done = shell([*words, "--runs", "runs", f"--trainer.callbacks={json.dumps([watch])}"], tmp_path)

    assert done.returncode == 143, done.stderr
    assert done.stderr == ""
    assert "stopped by SIGTERM after step 2; go on with: dfm timeseries fit" in done.stdout
    assert len((tmp_path / "log").read_text().splitlines()) <= 4
    assert dfm(*words, "--runs", tmp_path / "runs", "--ckpt_path=last").code == 0
    one, other = (
        read_checkpoint(next((tmp_path / name).glob("timeseries/ttm-demo/*/checkpoints/last.ckpt")))
        for name in ("runs", "unbroken")
    )
    assert one["global_step"] == other["global_step"]
    for name, value in one["state_dict"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other["state_dict"][name]), name


def test_defect_in_a_step_shows_its_traceback_and_exits_with_1(small, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from apps.timeseries.tasks import Forecasting\n\n\n"
        "class Broken(Forecasting):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return 1 / 0\n"
    )
    demo = yaml.safe_load((configs_folder() / "timeseries/ttm/demo.yaml").read_text())
    recipe = merged(demo, yaml.safe_load(small.read_text()))
    recipe["model"]["class_path"] = "broken.Broken"
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(recipe))

    words = ["timeseries", "fit", "--config", "broken.yaml", "--trust", "broken"]
    done = shell(words, tmp_path, path=tmp_path)

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "broken.py" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
