"""What `dfm` answers before torch is imported: help, recipes, and the mistakes it can see at sight."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.cli import main
from core.cli.arguments import prepare
from core.cli.environment import set_environment
from core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine" / "small.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({"about": {"system": "ttm"}, "model": {}, "data": {}}))
    return path


def test_help_names_every_domain_and_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("timeseries", "recipes", "data", "checkpoint", "parity", "doctor"))


def test_domain_help_names_the_verbs(capsys):
    assert main(["timeseries"]) == 0
    assert "fit|validate|test|predict" in capsys.readouterr().out


def test_recipes_of_a_domain_are_listed_with_their_first_line(capsys):
    assert main(["recipes", "timeseries"]) == 0
    shown = capsys.readouterr().out
    assert "ttm/demo" in shown
    assert "trainer/cpu" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["timeseris", "fit"], "did you mean 'timeseries'?"),
        (["timeseries", "fitt"], "did you mean 'fit'?"),
        (["timeseries", "fit", "--config", "ttm/dem"], "did you mean 'ttm/demo'?"),
        (["timeseries", "fit"], "needs a recipe"),
        (["timeseries", "--config", "ttm/demo", "fit"], "write the verb first: dfm timeseries fit --config"),
        (["timeseries", "test"], "needs --ckpt_path FILE"),
        (
            ["timeseries", "test", "--ckpt_path", "last"],
            "there is no run of timeseries under runs/timeseries;",
        ),
        (["timeseries", "fit", "--config"], "--config needs a value"),
        (["timeseries", "fit", "--config", "ttm/demo", "--modle.x=1"], "did you mean 'model'?"),
        (["timeseries", "fit", "ttm/demo"], "'ttm/demo' stands alone"),
        (["timeseries", "test", "--ckpt_path", "nowhere/a.ckpt"], "nowhere/a.ckpt does not exist"),
        (["recipes", "wether"], "is no domain"),
        (["recipes", "timeseries", "weather"], "takes at most one domain"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run is
    assert main(words) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1, f"one line was expected, got {message!r}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [1, 2\n", "line 2, column 1 is not valid YAML"),
        ("- a\n- b\n", "holds no keys"),
        ("modle: {}\n", "did you mean 'model'?"),
        ("model: {}\ndata: {a: 1, a: 2}\n", "line 2, column 14 is not valid YAML: the key 'a' stands twice"),
    ],
)
def test_a_broken_recipe_is_refused_with_its_place(tmp_path, text, expected):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected.replace("?", r"\?")):
        prepare("timeseries", "fit", ["--config", str(path)])


def test_files_come_first_and_options_keep_their_order_wherever_they_stood(recipe):
    typed = ["--trainer.max_epochs=7", "-c", str(recipe), "--data.batch_size", "-8", "--ckpt_path=last"]
    request = prepare("timeseries", "fit", typed)
    assert request.configs == [recipe]
    assert request.options == ["--trainer.max_epochs=7", "--data.batch_size", "-8"]
    assert request.ckpt_path == "last"


def test_the_recipes_system_names_its_runs(recipe):
    assert prepare("timeseries", "fit", ["--config", str(recipe)]).recipe_name == "ttm-small"


def test_a_hyphen_in_a_domain_is_an_underscore(capsys):
    assert main(["time_series"]) == 2
    assert "did you mean 'timeseries'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], "10000"), (["--cpu.short_spin=false"], None), (["--cpu.short_spin", "true"], "10000")],
)
def test_waiting_threads_are_set_before_torch_is_loaded(recipe, monkeypatch, words, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    set_environment(prepare("timeseries", "fit", ["--config", str(recipe), *words]))
    found = os.environ.pop("GOMP_SPINCOUNT", None)
    assert found == expected


def test_help_is_shown_where_the_terminal_knows_ascii_alone():
    words = [sys.executable, "-m", "domainfm", "timeseries", "fit", "--config", "ttm/demo", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)

    assert done.returncode == 0 and "--data.card" in done.stdout and done.stderr == ""


def test_output_that_finds_no_room_is_said_in_one_sentence():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "core.cli", "recipes"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    assert (done.returncode, done.stderr) == (
        2,
        "dfm: the output cannot be written: No space left on device\n",
    )


def test_a_name_that_no_file_can_have_is_said_in_one_sentence(capsys):
    words = [
        "timeseries",
        "predict",
        "--ckpt_path",
        "a" * 300,
        "--data.path",
        f"{'b' * 300}.csv",
        "--out",
        "out.csv",
    ]

    assert main(words) == 2
    assert capsys.readouterr().err.endswith("…: it is too long\n")
