"""What a checkpoint or a recipe may name: classes of the right kind, and the user's own code by leave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import core.trust
from core.checkpoints.exchange import export_weights, import_weights
from core.checkpoints.files import write_checkpoint
from core.checkpoints.networks import chosen_arguments, instantiate
from core.checkpoints.soups import average_checkpoints
from core.checkpoints.weights import network_from
from core.errors import UserError
from core.inference.predictor import Predictor
from core.optim import Schedule
from core.trust import check, check_options, resolve, trust

TTM = "apps.timeseries.models.ttm.TTM"


@pytest.fixture(autouse=True)
def nobody_trusted(monkeypatch):
    monkeypatch.setattr(core.trust, "_users", set())
    monkeypatch.setattr(sys, "path", list(sys.path))


def touching(path: Path) -> list[dict[str, Any]]:
    """Networks that would each touch or delete something, or run a command."""
    remove = {"class_path": "core.files.remove", "init_args": {"path": str(path)}}
    return [
        remove,
        {"class_path": "core.cli.main", "init_args": {"argv": ["doctor"]}},
        {"class_path": "os.system", "init_args": {"command": f"rm -r {path}"}},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["rm", "-r", str(path)]}},
        {"class_path": "core.trainer.Path", "init_args": {}},
        {"class_path": "core.checkpoints.archive.write_checkpoint", "init_args": {"path": str(path)}},
        {"class_path": "torch.save", "init_args": {"obj": 1, "f": str(path)}},
        {"class_path": "core.cli.__main__.main", "init_args": {}},
        {"class_path": TTM, "init_args": {"context": remove}},
        {"class_path": "torch.nn.Sequential", "init_args": {"a": [remove]}},
        {"class_path": "torch.nn.Sequential", "dict_kwargs": {"a": {"class_path": "builtins.exec"}}},
        {"class_path": "torch.nn.Sequential", "init_args": {"a": [{"class_path": "core.optim.Cosine"}]}},
    ]  # fmt: skip


USES = {
    "network_from": lambda path, out: network_from(path),
    "import": lambda path, out: import_weights(path, out / "x.ckpt"),
    "export": lambda path, out: export_weights(path, out / "x", layout="own"),
    "average": lambda path, out: average_checkpoints([path, path], out / "x.ckpt"),
    "predictor": lambda path, out: Plain.from_checkpoint(path),
}


class Plain(Predictor):
    needs_facts = False


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("number", range(len(touching(Path()))))
def test_no_checkpoint_runs_what_it_names(tmp_path, use, number):
    victim = tmp_path / "victim"
    victim.mkdir()
    evil = touching(victim)[number]
    path = write_checkpoint(
        {
            "state_dict": {"network.w": nn.Linear(1, 1).weight.data},
            "domainfm": {"format": 1, "network": evil},
        },
        tmp_path / "a.ckpt",
    )

    with pytest.raises(UserError, match=r"it is not called|is not run|is no class") as caught:
        USES[use](path, tmp_path)

    assert str(path) in str(caught.value)
    assert victim.is_dir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ckpt", "victim"]


def test_a_line_about_a_checkpoint_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "hidden.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    assert chosen_arguments({"class_path": "hidden.Net", "init_args": {"a": 1}}) == {"a": 1}


def test_code_of_the_users_own_runs_only_if_he_names_it(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "class Net(nn.Linear):\n    pass\n"
        "def built(width: int) -> Net:\n    return Net(width, 1)\n"
        "def bare(width):\n    return Net(width, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    net = {"class_path": "mynet.Net", "init_args": {"in_features": 2, "out_features": 1}}

    with pytest.raises(UserError, match="there is no module mynet"):
        instantiate(net, where="here")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="if you trust it, add --trust mynet"):
        instantiate(net, where="here")
    assert not (tmp_path / "imported").exists()

    trust("mynet")

    assert instantiate(net, where="here").in_features == 2
    assert (
        instantiate({"class_path": "mynet.built", "init_args": {"width": 3}}, where="here").in_features == 3
    )
    with pytest.raises(UserError, match=r"names mynet\.bare, which is no Module; it is not called"):
        instantiate({"class_path": "mynet.bare", "init_args": {"width": 3}}, where="here")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("os", "Python's own modules"), ("no_such", "no module no_such"), ("a b", "no module")],
)
def test_what_cannot_be_trusted_is_said(name, sentence):
    with pytest.raises(UserError, match=sentence):
        trust(name)


def test_a_class_must_be_of_the_kind_that_its_place_takes():
    assert resolve("core.optim.Cosine", (Schedule,), where="here")
    with pytest.raises(UserError, match=r"names core\.optim\.Cosine, which is no Module; it is not called"):
        resolve("core.optim.Cosine", (nn.Module,), where="here")


@pytest.mark.parametrize(
    "value",
    [
        {"model": {"class_path": "os.system"}},
        {"model": {"init_args": {"optimizer": "core.files.remove"}}},
        {"trainer": {"callbacks": [{"class_path": "x", "init_args": {"on_fit_start": "os.system"}}]}},
        {"a": [[{"b": {"class_path": "builtins.exec"}}]]},
        {"optimizer": core.trust.check},
    ],
)
def test_a_config_is_looked_through_at_any_depth(value):
    with pytest.raises(UserError, match="here names"):
        check(value, where="here")


def test_texts_that_name_no_function_are_left_alone():
    check({"data": {"path": "core/files.remove", "name": "vit.tiny", "type": "torch.float32"}}, where="here")
    check({"path": "my.csv", "schedule": {"class_path": "core.optim.NoSuch"}}, where="here")


@pytest.mark.parametrize(
    "words",
    [
        ["--model.optimizer=os.system"],
        ["--model.optimizer", "os.system"],
        ["--model.init_args.network.class_path=subprocess.Popen"],
        ["--data={class_path: os.system}"],
    ],
)
def test_options_of_the_command_line_are_looked_through(words):
    with pytest.raises(UserError, match="the command line names"):
        check_options(words)
