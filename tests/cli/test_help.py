"""`--help` with a recipe shows the options that it has; what is shown is what the parser takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from core.cli import main
from core.cli.arguments import prepare, read_yaml
from core.cli.completion import SCRIPTS, candidates
from core.cli.help import recipe_options, show_help
from core.cli.lightning_cli import parse
from core.cli.recipes import all_recipes
from core.cli.signatures import described


def shown(*words: str) -> str:
    return show_help(prepare(words[0], words[1], [*words[2:], "--help"]))


@pytest.mark.parametrize("words", [("--help", "--config", "ttm/finetune"), ("--config=ttm/finetune", "-h")])
def test_a_recipes_help_shows_its_options_with_values_and_meanings(words, capsys):
    assert main(["timeseries", "fit", *words]) == 0
    text = capsys.readouterr().out

    heads = [line for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()]
    assert heads[:4] == [
        "often changed:",
        "data: apps.timeseries.data.Series:",
        "network: apps.timeseries.models.ttm.TTM:",
        "task: apps.timeseries.tasks.Forecasting:",
    ]
    for line in (
        "--data.card=ett_h2",
        "--model.optimizer.lr=0.0003",
        "--model.schedule.warmup",
        "--data.path",
    ):
        assert line in text
    assert "Rows the network sees." in text and "starts" not in text.split("often changed")[1][:40]


def test_options_on_the_command_line_and_named_sizes_are_the_values_shown():
    assert "--data.batch_size=8 " in shown(
        "timeseries", "fit", "--config", "ttm/finetune", "--data.batch_size", "8"
    )
    assert described("apps.timeseries.models.ttm.ttm_1536_720")["context"].default == "1536"


def test_help_without_a_recipe_says_how_to_see_them_and_lists_them():
    text = shown("music", "fit")

    assert "`dfm music fit --config llama/demo --help` shows them" in text
    assert all(recipe.name in text for recipe in all_recipes("music"))


def test_help_of_a_run_folder_is_that_of_its_config(tmp_path):
    config = {
        "data": {"class_path": "apps.timeseries.data.Series", "init_args": {"batch_size": 3}},
        "model": {},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    text = shown("timeseries", "test", "--ckpt_path", str(tmp_path))

    assert "--data.batch_size=3 " in text and "--trainer.max_epochs" not in text.split("data: apps")[0]


def test_predicts_help_does_not_mind_a_recipe(capsys):
    with pytest.raises(SystemExit) as left:
        main(["timeseries", "predict", "--config", "ttm/demo", "--help"])

    assert left.value.code == 0 and "--data.horizon" in capsys.readouterr().out


@pytest.mark.parametrize(("domain", "recipe"), [("timeseries", "ttm/demo"), ("pde", "poseidon/demo")])
def test_every_option_shown_is_taken_by_the_parser(domain, recipe):
    request = prepare(domain, "fit", ["--config", recipe])
    groups = recipe_options(request, read_yaml(request.configs[0]))
    lines = [line for title, lines in groups.items() if title != "trainer" for line in lines if line.value]
    lines = [line for line in lines if ".mixture." not in line.name]  # goes with sources alone
    words = ["--config", str(request.configs[0]), *(f"{line.name}={line.value}" for line in lines)]

    config = parse(request, words).plain_config()

    assert len(lines) > 60
    assert config["data"]["class_path"] == read_yaml(request.configs[0])["data"]["class_path"]


@pytest.mark.parametrize("domain", ["timeseries", "pde", "remote_sensing", "music", "weather"])
def test_most_options_of_every_recipe_have_a_meaning(domain):
    for recipe in (recipe for recipe in all_recipes(domain) if "model" in read_yaml(recipe.path)):
        request = prepare(domain, "fit", ["--config", str(recipe.path)])
        groups = recipe_options(request, read_yaml(recipe.path))
        lines = [
            line for title, lines in groups.items() if title.startswith(("data:", "task:")) for line in lines
        ]
        silent = [line.name for line in lines if not line.meaning and ".optimizer." not in line.name]
        assert not silent, f"{recipe.name}: {silent}"


def test_recipes_are_listed_with_whole_sentences():
    for domain in ("timeseries", "pde", "remote_sensing", "music", "weather"):
        for recipe in all_recipes(domain):
            assert recipe.summary.count("(") == recipe.summary.count(")"), recipe.summary


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["timeser"], ["timeseries"]),
        (["pde", "f"], ["fit"]),
        (["timeseries", "fit", "--config", "ttm/finetune_f"], ["ttm/finetune_few_shot"]),
        (["timeseries", "fit", "--config", "ttm/finetune", "--model.network.wi"], ["--model.network.width"]),
        (["timeseries", "test", "--ckpt_path", "b"], ["best"]),
        (["pde", "fit", "--data.card", "fns"], ["fns_kf"]),
        (["timeseries", "predict", "--data.hor"], ["--data.horizon"]),
        (["checkpoint", "av"], ["average"]),
        (["checkpoint", "export", "--la"], ["--layout"]),
        (["data", "show", "ett_h"], ["ett_h1", "ett_h2"]),
        (["timeseries", "fit", "--data.path", ""], []),
        (["nonsense", ""], []),
    ],
)
def test_what_is_typed_is_completed(words, expected):
    assert candidates(words) == expected


def test_bash_completes_with_the_script(tmp_path):
    (tmp_path / "dfm").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked; echo ttm/finetune\n')
    (tmp_path / "dfm").chmod(0o755)
    typed = "COMP_WORDS=(dfm timeseries fit --config ttm/); COMP_CWORD=4; _dfm; echo ${COMPREPLY[@]}"

    done = subprocess.run(
        ["bash", "-c", f"{SCRIPTS['bash']}\n{typed}"],
        cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip

    assert done.stdout == "ttm/finetune\n", done.stderr
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["completion", "words", "timeseries", "fit", "--config", "ttm/"]


def test_the_newest_run_of_a_domain_is_meant_without_a_recipe(tmp_path, monkeypatch):
    from core.cli import run_folders
    from core.cli.predict import check_options, predict_parser

    for name in ("ttm-demo/20250101-000000", "ttm-other/20260101-000000"):
        folder = tmp_path / "runs/timeseries" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "checkpoints/best.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folders, "damage", lambda path: None)
    (tmp_path / "my.csv").touch()
    parser = predict_parser("timeseries", None, data="a file", out="a file", default_out="out.csv")

    options = parser.parse_args(["--ckpt_path", "best", "--data.path", "my.csv"])
    check_options(options, data="a file")

    assert Path(options.ckpt_path).parts[2] == "ttm-other"
