"""Every kind of bad input gets one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from core.checkpoints.files import read_checkpoint, write_checkpoint

DEMO = ["timeseries", "fit", "--config", "ttm/demo"]
NETWORK = {"class_path": "apps.timeseries.models.ttm.TTM", "init_args": {"width": 16, "levels": 2}}


@pytest.fixture
def refused(dfm, tmp_path, monkeypatch):
    """A function that runs `dfm` in an empty folder and checks how it refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "no-data"))

    def check(words, *fragments):
        outcome = dfm(*words)
        assert outcome.code == 2, f"exit code 2 was expected, not {outcome.code}:\n{outcome.err}"
        assert outcome.err.startswith("dfm"), outcome.err
        assert outcome.err.count("\n") == 1, f"one line was expected, got:\n{outcome.err}"
        for fragment in fragments:
            assert fragment in outcome.err, f"{fragment!r} is missing in: {outcome.err}"
        return outcome

    return check


@pytest.fixture(scope="module")
def series() -> pd.DataFrame:
    """400 hourly rows of two channels."""
    hours = pd.date_range("2024-01-01", periods=400, freq="h")
    wave = np.sin(np.arange(400) * 2 * np.pi / 24)
    return pd.DataFrame({"date": hours, "load": wave + 3, "heat": 2 * wave})


# Recipes -------------------------------------------------------------------------------------------------

RECIPES = {
    "not YAML": ("model: [1, 2\n", ["bad.yaml line 2", "not valid YAML"]),
    "a list": ("- model\n- data\n", ["bad.yaml holds no keys", "model: and data:"]),
    "empty": ("", ["bad.yaml holds no keys"]),
    "not UTF-8": (b"about: \xff\xfe\n", ["bad.yaml is not UTF-8"]),
    "unknown key at the top": ({"modle": {}}, ["unknown key 'modle'", "did you mean 'model'?"]),
    "unknown trainer key": (
        {"trainer": {"max_epoch": 3}},
        ["unknown key 'max_epoch'", "did you mean 'max_epochs'?"],
    ),
    "unknown model key": (
        {"model": {"class_path": "apps.timeseries.tasks.Forecasting", "init_args": {"patiense": 3}}},
        ["unknown key 'patiense'", "did you mean 'patience'?"],
    ),
    "unknown network key": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {"network": {**NETWORK, "init_args": {"widht": 8}}},
            }
        },
        ["unknown key 'widht'", "did you mean 'width'?"],
    ),
    "unknown key of a size function": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {
                    "network": {
                        "class_path": "apps.timeseries.models.ttm.ttm_512_96",
                        "init_args": {"dropuot": 0.1},
                    }
                },
            }
        },
        ["unknown key 'dropuot'", "did you mean 'dropout'?"],
    ),
    "unknown data key": (
        {"data": {"class_path": "apps.timeseries.data.Series", "init_args": {"horizont": 24}}},
        ["unknown key 'horizont'", "did you mean 'horizon'?"],
    ),
    "unknown schedule class": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {"schedule": {"class_path": "core.optim.OneCicle"}},
            }
        },
        ["core.optim", "OneCicle", "OneCycle"],
    ),
    "unknown schedule key": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {"schedule": {"class_path": "core.optim.Cosine", "init_args": {"warmupp": 5}}},
            }
        },
        ["unknown key 'warmupp'", "did you mean 'warmup'?"],
    ),
    "unknown network class": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {"network": {"class_path": "apps.timeseries.models.ttm.TMT"}},
            }
        },
        ["apps.timeseries.models.ttm", "TMT"],
    ),
    "unknown module": (
        {
            "model": {
                "class_path": "apps.timeseries.tasks.Forecasting",
                "init_args": {"network": {"class_path": "apps.timeseries.models.tmt.TTM"}},
            }
        },
        ["there is no module apps.timeseries.models.tmt", "did you mean 'ttm'?"],
    ),
    "unknown task class": (
        {"model": {"class_path": "apps.timeseries.tasks.Forecastin"}},
        ["Forecastin", "did you mean 'Forecasting'?"],
    ),
    "lists without end": ("about: {a: " + "[" * 5000 + "]" * 5000 + "}", ["lists within lists without end"]),
    "tracking word of no meaning": (
        {"tracking": {"wandb": "sometimes"}},
        ["tracking.wandb", "sometimes", "offline"],
    ),
}


@pytest.mark.parametrize(("content", "fragments"), RECIPES.values(), ids=RECIPES)
def test_recipe_is_refused(refused, tmp_path, content, fragments):
    path = tmp_path / "bad.yaml"
    raw = yaml.safe_dump(content) if isinstance(content, dict) else content
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    refused([*DEMO, "--config", path], *fragments)


def test_missing_recipe_is_refused_with_the_nearest_one(refused):
    refused(["timeseries", "fit", "--config", "ttm/pretrian"], "ttm/pretrian", "did you mean 'ttm/pretrain'?")


# Options -------------------------------------------------------------------------------------------------

OPTIONS = {
    "abbreviated name": (["--trainer.max_epoch=3"], ["max_epoch", "did you mean 'max_epochs'?"]),
    "misspelt top": (["--modle.ema=0.9"], ["--modle", "did you mean 'model'?"]),
    "misspelt deep": (["--model.network.widht=8"], ["widht", "did you mean 'width'?"]),
    "word instead of a number": (["--model.network.width=wide"], ["width", "wide", "int"]),
    "word instead of a rate": (["--model.optimizer.lr=fast"], ["lr", "fast", "float"]),
    "fraction instead of a count": (["--data.batch_size=2.5"], ["batch_size", "2.5", "int"]),
    "word instead of a switch": (["--cpu.fast_dropout=often"], ["cpu.fast_dropout", "often", "bool"]),
    "batch size 0": (["--data.batch_size=0"], ["data.batch_size is 0", "at least 1"]),
    "no gradient accumulated": (
        ["--trainer.accumulate_grad_batches=0"],
        ["trainer.accumulate_grad_batches is 0", "at least 1"],
    ),
    "seed below 0": (["--seed_everything=-1"], ["seed_everything is -1", "0 to 4294967295"]),
    "negative workers": (["--data.num_workers=-1"], ["data.num_workers is -1", "0 or more"]),
    "patience 0": (["--model.patience=0"], ["model.patience is 0", "at least 1"]),
    "averaging decay 2": (["--model.ema=2"], ["model.ema is 2", "between 0 and 1"]),
    "mode of no kind": (["--model.mode=lowest"], ["model.mode is 'lowest'", "min or max"]),
    "dropout 2": (["--model.network.dropout=2"], ["dropout", "2", "0 to 1"]),
    "negative width": (["--model.network.width=-16"], ["width", "-16"]),
    "width that its levels do not divide": (["--model.network.width=17"], ["width", "17", "2 must divide"]),
    "patch longer than the context": (["--model.network.patch=200"], ["patch is 200", "context 96"]),
    "horizon of the data is another": (["--data.horizon=48"], ["horizon is 24", "data.horizon is 48"]),
    "horizon of the network is another": (["--model.network.horizon=12"], ["horizon is 12", "24"]),
    "context of the data is shorter": (["--data.context=48"], ["context is 96", "data.context is 48"]),
    "rate of 0 steps": (["--trainer.max_epochs=0.5"], ["trainer.max_epochs", "0.5"]),
    "negative rate": (["--model.optimizer.lr=-1"], ["model.optimizer", "learning rate", "-1"]),
    "no accelerator of that kind here": (["--trainer.accelerator=tpu"], ["trainer.accelerator", "tpu"]),
    "unknown accelerator": (["--trainer.accelerator=gpuu"], ["trainer", "gpuu"]),
    "unknown strategy": (["--trainer.strategy=dpp"], ["trainer", "dpp"]),
    "unknown precision": (["--trainer.precision=17-true"], ["precision", "17-true"]),
    "checkpoints never": (
        ["--checkpoints.every_n_steps=0"],
        ["checkpoints.every_n_steps is 0", "at least 1"],
    ),
    "no checkpoint kept": (["--checkpoints.keep=0"], ["checkpoints.keep is 0"]),
    "tracker in a mode of no kind": (["--tracking.wandb=ofline"], ["tracking.wandb", "ofline"]),
    "no thread": (["--cpu.threads=0"], ["threads", "0", "at least 1"]),
    "two kinds of data": (["--data.card=ett_h1"], ["data.card", "data.mix", "only one of"]),
    "shares that do not sum to 1": (["--data.split.fractions=[0.9,0.9,0.9]"], ["fractions", "sum to 1"]),
    "few-shot share 0": (
        ["--data.mix.weights=null", "--data.split.few_shot=0"],
        ["few_shot is 0", "at most 1"],
    ),
    "missing handled in no known way": (
        ["--data.windows.missing=maks"],
        ["data.windows.missing", "did you mean 'mask'?"],
    ),
    "one weight for two sources": (["--data.mix.weights=[1.0]"], ["data.mix.weights has 1", "2 sources"]),
    "monitor that nobody logs": (["--model.monitor=val_los"], ["val_los", "did you mean 'val_loss'?"]),
    "weights that are nowhere": (
        ["--model.weights=nowhere.ckpt"],
        ["weights nowhere.ckpt", "check the path"],
    ),
    "weights card misspelt": (["--model.weights=ttm-r2-512-69"], ["ttm-r2-512-69", "did you mean 'ttm-r2"]),
    "embedded series misspelt": (
        ["--data.mix.test_sources=[embedded:nil]"],
        ["'nil'", "did you mean 'nile'?"],
    ),
    "unknown data card": (
        ["--data.mix.sources=[ett_h3]", "--data.mix.weights=null"],
        ["ett_h3", "did you mean 'ett_h"],
    ),
    "test series among the training's": (
        [
            "--data.mix.sources=[embedded:nile]",
            "--data.mix.weights=null",
            "--data.mix.test_sources=[embedded:nile]",
        ],
        ["nile", "training", "leave one of them out"],
    ),
}


@pytest.mark.parametrize(("words", "fragments"), OPTIONS.values(), ids=OPTIONS)
def test_option_is_refused(refused, small, words, fragments):
    refused(
        [*DEMO, "--config", small, *words] if "2 sources" not in fragments else [*DEMO, *words], *fragments
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_where_there_is_none(refused):
    refused([*DEMO, "--config", "trainer/cuda"], "trainer", "CUDA", "trainer.accelerator=cpu")


def test_run_folder_that_cannot_be_made_is_refused(refused, small, tmp_path):
    (tmp_path / "taken").write_text("a file")
    refused([*DEMO, "--config", small, "--runs", "taken"], "taken", "--runs")


# CSV files -----------------------------------------------------------------------------------------------


def _text(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def _with(frame: pd.DataFrame, column: str, row: int, value: object) -> bytes:
    changed = frame.astype({column: object})
    changed.loc[row, column] = value
    return _text(changed)


CSVS = {
    "empty": (lambda f: b"", ["my.csv is empty"]),
    "header alone": (lambda f: b"date,load\n", ["my.csv has a header but no rows"]),
    "no header": (lambda f: f.to_csv(index=False, header=False).encode(), ["my.csv has no header"]),
    "text in a column of numbers": (
        lambda f: _with(f, "load", 7, "broken"),
        ["line 9", "'load'", "'broken'", "not a number"],
    ),
    "infinite value": (lambda f: _with(f, "heat", 3, "inf"), ["line 5", "'heat'", "infinite"]),
    "stamp that stands twice": (
        lambda f: _text(pd.concat([f, f.iloc[[10]]])),
        ["2024-01-01 10:00", "stands twice"],
    ),
    "stamp that is none": (lambda f: _with(f, "date", 5, "soon"), ["line 7", "'soon'", "not a time stamp"]),
    "stamp missing": (lambda f: _with(f, "date", 5, ""), ["line 7", "no time stamp", "'date'"]),
    "stamps of no frequency": (
        lambda f: _text(f.assign(date=f.date + pd.to_timedelta(np.arange(400) ** 2 * 37, unit="s"))),
        ["my.csv", "fit no regular frequency", "resample"],
    ),
    "not UTF-8": (lambda f: _with(f, "load", 1, "Übermaß").decode().encode("latin-1"), ["my.csv", "UTF-8"]),
    "row with a cell too many": (
        lambda f: _text(f).replace(b"2024-01-02 00:00:00,", b"2024-01-02 00:00:00,1,"),
        ["line 26 of my.csv has 4 cells", "header has 3"],
    ),
    "two columns of one name": (
        lambda f: _text(f.rename(columns={"heat": "load"})),
        ["my.csv has two columns called 'load'"],
    ),
    "too short": (lambda f: _text(f.head(60)), ["my.csv", "60 rows", "96 + 24", "pad_short"]),
    "picture": (lambda f: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, ["my.csv"]),
}


@pytest.mark.parametrize(("make", "fragments"), CSVS.values(), ids=CSVS)
def test_csv_is_refused_in_training(refused, small, tmp_path, series, make, fragments):
    (tmp_path / "my.csv").write_bytes(make(series))
    words = [
        "--data.path",
        "my.csv",
        "--data.windows.pad_short=false",
        "--data.windows.univariate=false",
        "--data.windows.stride=1",
    ]
    refused([*DEMO, "--config", small, *words], *fragments)


def test_stray_word_among_decimal_commas_is_refused(refused, small, tmp_path):
    rows = [f"2024-01-{day:02};3,5" for day in range(1, 31)]
    (tmp_path / "my.csv").write_text("\n".join(["date;load", *rows, "2024-01-31;kaputt"]))
    refused([*DEMO, "--config", small, "--data.path", "my.csv"], "my.csv", "line 32", "'kaputt'")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--data.path", "mine.csv"], ["there is no file 'mine.csv'", "did you mean 'my.csv'?"]),
        (["--data.path", "my.csv", "--data.targets", "laod"], ["no column 'laod'", "did you mean 'load'?"]),
        (["--data.path", "my.csv", "--data.time", "dates"], ["no column 'dates'", "did you mean 'date'?"]),
        (
            ["--data.path", "my.csv", "--data.split.borders", "etth"],
            ["borders is 'etth'", "did you mean 'ett_h'?"],
        ),
        (["--data.path", "my.csv", "--data.frequency", "often"], ["frequency 'often'", "pandas"]),
        (["--data.path", "none"], ["the folder 'none' holds no .csv"]),
        (["--data.path", "my.docx"], ["my.docx", ".csv", ".parquet"]),
        (["--data.path", "my.parquet"], ["my.parquet is not a Parquet file"]),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) and value[0] == "--data.path" else "",
)
def test_data_file_is_refused(refused, small, tmp_path, series, words, fragments):
    (tmp_path / "my.csv").write_bytes(_text(series))
    (tmp_path / "my.docx").write_bytes(b"PK")
    (tmp_path / "my.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "none").mkdir()
    refused([*DEMO, "--config", small, *words, "--data.windows.univariate=false"], *fragments)


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["--data.path", "gone.csv"], ["gone.csv does not exist"]),
        (
            ["--data.path", "my.csv", "--data.horizont", "5"],
            ["--data.horizont", "did you mean '--data.horizon'?"],
        ),
        (["--data.path", "my.csv", "--data.horizon", "0"], ["horizon", "0"]),
        (["--data.path", "my.csv", "--data.horizon", "ten"], ["--data.horizon", "ten"]),
        (["--data.path", "my.csv", "--quantiles", "1.5"], ["1.5"]),
        (["--data.path", "my.csv", "--data.targets", "laod"], ["'laod'", "did you mean 'load'?"]),
        (["--data.path", "my.csv", "--out", "forecast.xlsx"], ["forecast.xlsx", ".csv"]),
        (["--data.path", "my.csv", "--device", "abacus"], ["--device abacus"]),
        (["--data.path", "empty.csv"], ["empty.csv is empty"]),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) and value[0] == "--data.path" else "",
)
def test_prediction_is_refused(refused, trained, tmp_path, series, words, fragments):
    (tmp_path / "my.csv").write_bytes(_text(series))
    (tmp_path / "empty.csv").write_bytes(b"")
    refused(["timeseries", "predict", "--ckpt_path", trained.best, *words], *fragments)


# Checkpoints ---------------------------------------------------------------------------------------------


def _flipped(source: Path, target: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)


def _foreign(source: Path, target: Path) -> None:
    torch.save({"weights": {"a": torch.zeros(3)}, "made": pd.Timestamp("2024-01-01")}, target)


def _newer(source: Path, target: Path) -> None:
    content = read_checkpoint(source)
    content["domainfm"]["format"] = 99
    write_checkpoint(content, target)


def _bare(source: Path, target: Path) -> None:
    write_checkpoint({"state_dict": read_checkpoint(source)["state_dict"]}, target)


CHECKPOINTS = {
    "one bit flipped": (_flipped, ["bad.ckpt fails its SHA-256 check"]),
    "truncated": (lambda s, t: t.write_bytes(s.read_bytes()[:5000]), ["bad.ckpt", "truncated"]),
    "empty": (lambda s, t: t.write_bytes(b""), ["bad.ckpt is empty"]),
    "text": (lambda s, t: t.write_text("weights"), ["bad.ckpt", "no checkpoint"]),
    "a folder": (lambda s, t: t.mkdir(), ["bad.ckpt is a folder"]),
    "holding Python objects": (_foreign, ["bad.ckpt holds the Python object", "safetensors"]),
    "of a newer format": (_newer, ["bad.ckpt has format 99", "update domainfm"]),
    "without a config": (_bare, ["bad.ckpt holds no config", "--config"]),
}


@pytest.mark.parametrize(("damage", "fragments"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoint_is_refused_in_a_test(refused, trained, tmp_path, damage, fragments):
    damage(trained.last, tmp_path / "bad.ckpt")
    refused(["timeseries", "test", "--ckpt_path", "bad.ckpt"], *fragments)


@pytest.mark.parametrize(
    "name", ["one bit flipped", "truncated", "holding Python objects", "of a newer format"]
)
def test_checkpoint_is_refused_in_a_prediction(refused, trained, tmp_path, series, name):
    damage, fragments = CHECKPOINTS[name]
    damage(trained.last, tmp_path / "bad.ckpt")
    (tmp_path / "my.csv").write_bytes(_text(series))
    refused(["timeseries", "predict", "--ckpt_path", "bad.ckpt", "--data.path", "my.csv"], *fragments)


def test_missing_checkpoint_is_refused_with_the_nearest_name(refused, trained):
    path = trained.best.with_name("bset.ckpt")
    refused(
        ["timeseries", "test", "--ckpt_path", path], "bset.ckpt does not exist", "did you mean 'best.ckpt'?"
    )


def test_last_without_any_run_never_starts_from_scratch(refused, small):
    words = [*DEMO, "--config", small, "--ckpt_path", "last", "--runs", "here"]
    refused(words, "there is no run of ttm-demo", "dfm timeseries fit --config")


def test_last_with_damaged_checkpoints_only_is_refused(refused, copied):
    for path in {path.resolve() for path in (copied.folder / "checkpoints").glob("*.ckpt")}:
        path.write_bytes(path.read_bytes()[:1000])
    words = ["timeseries", "test", "--config", "ttm/demo", "--ckpt_path", "last", "--runs", copied.runs]
    refused(words, "no valid checkpoint")


def test_network_of_another_size_is_refused_on_resume(refused, small, copied):
    words = ["--config", small, "--runs", copied.runs, "--ckpt_path", "last", "--model.network.width=32"]
    refused([*DEMO, *words], "other sizes", "width 16 -> 32", "start a new run")


def test_averaging_that_the_checkpoint_has_not_is_refused_on_resume(refused, small, copied):
    words = ["--config", small, "--runs", copied.runs, "--ckpt_path", "last", "--model.ema=0.9"]
    refused([*DEMO, *words], "averages its weights", "leave model.ema out")


def test_weights_of_another_size_are_refused(refused, small, trained):
    words = ["--model.weights", trained.best, "--model.network.width=32"]
    refused([*DEMO, "--config", small, *words], "do not fit TTM", "of another shape")


def test_weights_with_other_names_are_refused(refused, small, tmp_path):
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "other.pt")
    refused(
        [*DEMO, "--config", small, "--model.weights", "other.pt"], "other.pt", "unknown", "encoder.weight"
    )


def test_export_onto_an_existing_file_is_refused(refused, trained, tmp_path):
    (tmp_path / "out.safetensors").write_text("mine")
    words = ["checkpoint", "export", trained.best, "--out", "out.safetensors"]
    refused(words, "out.safetensors holds other things already", "--out")
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_inspecting_something_else_is_refused(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("no tensors")
    refused(["checkpoint", "inspect", "notes.txt"], "notes.txt")


@pytest.mark.parametrize(
    "recipe", ["ttm/zero_shot", "ttm/finetune", "ttm/finetune_head", "ttm/finetune_few_shot"]
)
def test_recipe_without_its_parent_says_which_command_makes_one(refused, recipe):
    verb = "test" if recipe.endswith("zero_shot") else "fit"
    words = ["timeseries", verb, "--config", recipe, "--runs", "none"]
    refused(words, "ttm/pretrain", "`dfm timeseries fit --config ttm/pretrain`", "--model.weights")


# Data cards ----------------------------------------------------------------------------------------------

HEAD = "---\nname: mine\ndomain: timeseries\n"

CARDS = {
    "no head": "# Only text\n",
    "head that is no YAML": "---\nname: [mine\n---\ntext\n",
    "head without its fields": HEAD + "---\ntext\n",
    "head with an unknown field": HEAD + "titel: x\n---\ntext\n",
}


@pytest.mark.parametrize("text", CARDS.values(), ids=CARDS)
@pytest.mark.parametrize("verb", ["list", "show"])
def test_card_is_refused_by_its_name(refused, tmp_path, monkeypatch, text, verb):
    import core.data.cards as cards

    folder = tmp_path / "cards"
    shutil.copytree(cards.cards_folder(), folder)
    (folder / "mine.md").write_text(text)
    monkeypatch.setattr(cards, "cards_folder", lambda: folder)
    refused(["data", verb, *(["mine"] if verb == "show" else [])], "mine")


def test_data_that_is_not_there_names_the_command_that_fetches_it(refused, small):
    words = ["--data.mix.sources=null", "--data.card=ett_h1", "--data.windows.univariate=false"]
    refused([*DEMO, "--config", small, *words], "ett_h1", "dfm data fetch ett_h1")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["data", "show", "ett_h9"], ["ett_h9", "did you mean 'ett_h"]),
        (["data", "fetch", "wether"], ["wether", "did you mean 'weather'?"]),
        (["data", "lst"], ["lst", "did you mean 'list'?"]),
        (["data", "verify", "ett_h1"], ["ett_h1", "dfm data fetch ett_h1"]),
        (["checkpoint", "fetch", "ttm-r2-512-69"], ["ttm-r2-512-69", "did you mean"]),
        (["checkpoint", "exprot"], ["exprot", "did you mean 'export'?"]),
        (["parity", "nowhere"], ["nowhere"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("data", "checkpoint", "parity") else "",
)
def test_tool_is_refused(refused, words, fragments):
    refused(words, *fragments)
