"""No verb runs what a recipe, checkpoint or option may not name; the user's own code only by `--trust`."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import core.trust
from core.checkpoints.files import read_checkpoint, write_checkpoint

KEYS = {
    "network": ("model", "init_args", "network"),
    "nested": ("model", "init_args", "network", "init_args", "dropout"),
    "optimizer": ("model", "init_args", "optimizer"),
    "schedule": ("model", "init_args", "schedule"),
    "adaptation": ("model", "init_args", "adaptation"),
    "task": ("model",),
    "data": ("data",),
    "reader": ("data", "init_args", "card"),
    "callback": ("trainer", "callbacks"),
}
VERBS = ["fit", "validate", "test", "predict"]
TOOLS = ["import", "export", "average", "inspect"]


@pytest.fixture(autouse=True)
def nobody_trusted(monkeypatch):
    monkeypatch.setattr(core.trust, "_users", set())
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    return folder


def poisoned(config: dict[str, Any], key: str, victim: Path, payload: str) -> dict[str, Any]:
    """Return the config with a payload that deletes `victim` at `key`."""
    evil: Any = {
        "core.files.remove": {"class_path": "core.files.remove", "init_args": {"path": str(victim)}},
        "os.system": {"class_path": "os.system", "init_args": {"command": f"rm -r {victim}"}},
        "shutil.rmtree": "shutil.rmtree",
    }[payload]
    config = copy.deepcopy(config)
    *way, last = KEYS[key]
    inner = config
    for step in way:
        inner = inner.setdefault(step, {})
    inner[last] = [evil] if key == "callback" else evil
    return config


@pytest.fixture(scope="module")
def content(trained) -> dict[str, Any]:
    return read_checkpoint(trained.best)


@pytest.mark.parametrize(
    ("verb", "payload"),
    [(verb, "core.files.remove") for verb in VERBS] + [("fit", "os.system"), ("fit", "shutil.rmtree")],
)
@pytest.mark.parametrize("key", KEYS)
def test_no_verb_runs_what_a_recipe_names(dfm, content, tmp_path, victim, verb, key, payload):
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(yaml.safe_dump(poisoned(content["domainfm"]["config"], key, victim, payload)))

    outcome = dfm("timeseries", verb, "--config", recipe, "--runs", tmp_path / "runs")

    assert outcome.code == 2, outcome.out + outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert victim.is_dir()


@pytest.mark.parametrize("payload", ["core.files.remove", "os.system"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("verb", [*VERBS[1:], *TOOLS])
def test_no_verb_runs_what_a_checkpoint_names(dfm, content, tmp_path, victim, verb, key, payload):
    config = poisoned(content["domainfm"]["config"], key, victim, payload)
    evil = {**content, "domainfm": {**content["domainfm"], "config": config}}
    path = write_checkpoint(evil, tmp_path / "evil.ckpt")
    words: list[Any] = {
        "import": ["checkpoint", "import", path, "--out", tmp_path / "out.ckpt"],
        "export": ["checkpoint", "export", path, "--out", tmp_path / "out"],
        "average": ["checkpoint", "average", path, path, "--out", tmp_path / "out.ckpt"],
        "inspect": ["checkpoint", "inspect", path],
    }.get(verb, ["timeseries", verb, "--ckpt_path", path, "--runs", tmp_path / "runs"])

    outcome = dfm(*words)

    assert victim.is_dir()
    used = ("network", "nested") if verb in TOOLS else set(KEYS) - {"optimizer", "schedule", "callback"}
    if verb not in ("inspect", "predict") and key in used:
        assert outcome.code == 2, outcome.out + outcome.err
        assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    ["--model.optimizer=os.system", "--model.optimizer=core.files.remove", "--model.schedule=subprocess.run",
     "--model.network=os.system", "--trainer.callbacks+=core.cli.main", "--data=shutil.rmtree"],
)  # fmt: skip
def test_an_option_names_no_function(dfm, small, tmp_path, option):
    outcome = dfm("timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", tmp_path, option)

    assert outcome.code == 2, outcome.out
    assert len(outcome.err.splitlines()) == 1


def test_a_network_of_the_users_own_is_trained_and_read_if_he_trusts_it(dfm, fit, tmp_path, monkeypatch):
    (tmp_path / "ownnet.py").write_text(
        "from apps.timeseries.models.ttm import TTM\nclass Mine(TTM):\n    '''My own network.'''\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--model.network.class_path=ownnet.Mine"]

    refused = dfm("timeseries", "fit", "--config", "ttm/demo", "--runs", tmp_path / "runs", *words)
    assert refused.code == 2
    assert "there is no module ownnet" in refused.err or "--trust ownnet" in refused.err

    run = fit(tmp_path / "runs", *words, "--trust", "ownnet")
    monkeypatch.setattr(core.trust, "_users", set())
    refused = dfm("timeseries", "test", "--ckpt_path", run.best)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert refused.err.rstrip().endswith("if you trust it, add --trust ownnet")
    for use in (["timeseries", "test", "--ckpt_path", run.best], ["checkpoint", "inspect", run.best]):
        assert dfm(*use, "--trust=ownnet").code == 0


def test_trust_needs_a_name(dfm):
    assert "--trust needs a module's name" in dfm("timeseries", "test", "--trust").err
