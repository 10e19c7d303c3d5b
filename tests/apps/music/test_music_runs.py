"""`dfm music` from the command line: tokenize, fit, resume, test, predict, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from in_process import dfm

from core.checkpoints.files import read_checkpoint
from core.tracking.metrics_csv import read_metrics

RECIPE = """
about: {system: llama, test_after_fit: true}
seed_everything: 1
model:
  class_path: apps.music.tasks.LanguageModelling
  init_args:
    network:
      class_path: core.backbones.llama.Llama
      init_args: {vocabulary: 257, width: 32, depth: 1, heads: 2, ffn: 64, context: 32, tied: true}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-2}}
    prompt: "to be "
    sample_tokens: 40
    restore_best: false
data:
  class_path: apps.music.data.Tokens
  init_args: {path: texts.jsonl, context: 32, batch_size: 8, fractions: [0.8, 0.1, 0.1], seed: 1}
trainer: {max_epochs: 2, num_sanity_val_steps: 0, log_every_n_steps: 5}
checkpoints: {every_n_steps: 7, keep: 9}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with texts and a finished training, which is the working folder meanwhile."""
    folder = tmp_path_factory.mktemp("music")
    lines = [{"text": f"to be or not to be, that is question number {number}. " * 3} for number in range(60)]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "learn.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, out, err = dfm("music", "fit", "--config", "learn.yaml")
        assert code == 0, out + err
        yield folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """The run's folder."""
    (folder,) = (place / "runs" / "music").glob("*-learn/*")
    return folder


def newest(run: Path) -> Path:
    return next(path for path in (run / "checkpoints").iterdir() if path.name.startswith("last"))


def test_a_fit_is_scored_beside_the_baselines(run):
    rows = list(csv.DictReader((run / "results.csv").open()))
    scores = {row["model"]: float(row["bits_per_byte"]) for row in rows}

    assert rows[0]["model"] == "llama"
    assert set(scores) == {"llama", "unigram", "bigram", "3-gram", "5-gram", "gzip", "lzma"}
    assert scores["llama"] < scores["unigram"]
    assert float(rows[0]["perplexity"]) == pytest.approx(math.exp(float(rows[0]["loss"])))
    assert {path.name.rpartition("-")[0] for path in (run / "figures").iterdir()} >= {
        "comparison",
        "loss_by_place",
    }


def test_the_prompt_is_continued_after_each_validation(run):
    samples = (run / "samples.txt").read_text().split("--- step ")[1:]

    assert len(samples) == 3
    assert all(sample.partition("\n")[2].startswith("to be ") for sample in samples)


def test_validation_counts_every_token_alike(run):
    losses = [
        float(row["val_loss"]) for row in csv.DictReader((run / "metrics.csv").open()) if row.get("val_loss")
    ]

    assert len(losses) == 2
    assert losses[1] < losses[0] < math.log(257)


def test_a_checkpoint_alone_continues_prompts(place, run):
    (place / "prompts.txt").write_text("to be or\n\nthat is\n")
    words = ["music", "predict", "--ckpt_path", newest(run), "--max_new", 50, "--samples", 2]

    code, out, err = dfm(*words, "--data.path", "prompts.txt", "--out", "made.json")

    made = json.loads((place / "made.json").read_text())
    assert (code, out.strip()) == (0, "made.json"), err
    assert [one["prompt"] for one in made] == ["to be or"] * 2 + ["that is"] * 2
    assert all(0 < len(one["tokens"]) <= 50 for one in made)
    code, _, err = dfm(*words, "--prompt", "that is", "--out", "made.txt")
    assert code == 0, err
    text = (place / "made.txt").read_text()
    assert all(one["prompt"] + one["continuation"] in text for one in made[2:])


def test_a_run_resumed_within_an_epoch_ends_with_the_weights_of_the_unbroken_one(place, run):
    (middle,) = (run / "checkpoints").glob("step*35.ckpt")
    (place / "middle.ckpt").write_bytes(middle.read_bytes())

    code, out, err = dfm(
        "music", "fit", "--config", "learn.yaml", "--runs", "cut", "--ckpt_path", "middle.ckpt"
    )

    assert code == 0, out + err
    (again,) = (place / "cut" / "music").glob("*-learn/*")
    whole, resumed = read_checkpoint(newest(run)), read_checkpoint(newest(again))
    assert resumed["global_step"] == whole["global_step"] == 56
    weights = {name: value for name, value in whole["state_dict"].items() if isinstance(value, torch.Tensor)}
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in weights.items())


@pytest.mark.slow
def test_a_container_of_the_same_text_gives_the_same_training_tokens(place):
    code, out, err = dfm("music", "tokenize", "--data.path", "texts.jsonl", "--out", "corpus")

    assert code == 0, err
    assert "60 documents" in out
    recipe = yaml.safe_load(RECIPE)
    recipe["data"]["init_args"].update(path="corpus.idx", order="published")
    recipe["about"] = {"system": "llama"}
    (place / "container.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = dfm("music", "fit", "--config", "container.yaml", "--trainer.max_steps", 4)
    assert code == 0, out + err
    assert "60 documents" in err


CURRICULUM = [{
    "class_path": "core.data.curriculum.SequenceCurriculum",
    "init_args": {"curriculum": {"class_path": "core.data.curriculum.FixedLinear",
                                 "init_args": {"minimum": 8, "maximum": 32, "steps": 9}}},
}]  # fmt: skip
DROPPING = [{
    "class_path": "core.backbones.token_dropping.TokenDropping",
    "init_args": {"kept": {"minimum": 16, "maximum": 32, "steps": 9, "layers": 3}},
}]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        pytest.param([], True, id="whole rows"),
        pytest.param(["--data.packing", "documents", "--data.context", 24], False, id="documents"),
        pytest.param(
            ["--trainer.callbacks", json.dumps(CURRICULUM)], False, id="curriculum", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--trainer.callbacks", json.dumps(DROPPING), "--model.network.depth", 3],
            False,
            id="dropped tokens",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mfu_is_left_out_where_rows_differ_in_their_work(place, tmp_path, words, shown):
    code, out, err = dfm(
        "music", "fit", "--config", "learn.yaml", "--trainer.max_steps", 4, "--runs", tmp_path,
        "--trainer.log_every_n_steps", 2, "--tracking.peak_tflops", 1, "--about", "{}", *words,
    )  # fmt: skip

    assert code == 0, out + err
    (run,) = (tmp_path / "music").glob("*/*")
    row = next(row for row in read_metrics(run) if row["step"] == 3)
    assert row["throughput/tokens_per_second"] > row["throughput/samples_per_second"]
    assert ("throughput/mfu" in row) is shown


@pytest.mark.slow
def test_a_trained_network_is_fine_tuned_on_other_texts(place, run):
    (place / "own.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)

    code, out, err = dfm(
        "music", "fit", "--config", "llama/finetune", "--model.weights", newest(run),
        "--data.path", "own.txt", "--trainer.max_epochs", 1, "--runs", "tuned",
    )  # fmt: skip

    assert code == 0, out + err
    (again,) = (place / "tuned" / "music").glob("llama-finetune/*")
    network = yaml.safe_load((again / "config.yaml").read_text())["model"]["init_args"]["network"]
    assert network["init_args"]["width"] == 32
    assert "tensors from" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "--config", "learn.yaml", "--data.context", 64], "data.context is 64"),
        (["fit", "--config", "learn.yaml", "--data.path", "none.txt"], "none.txt does not exist"),
        (["fit", "--config", "learn.yaml", "--data.path", "empty.txt"], "empty.txt holds no text"),
        (["fit", "--config", "learn.yaml", "--data.field", "texts"], "did you mean 'text'"),
        (["fit", "--config", "learn.yaml", "--data.path", "latin.txt"], "is no UTF-8 text"),
        (["fit", "--config", "learn.yaml", "--data.path", "broken.idx"], "does not begin with MMIDIDX"),
        (["fit", "--config", "learn.yaml", "--data.packing", "chunk"], "did you mean 'chunks'"),
        (["fit", "--config", "learn.yaml", "--model.network.vocabulary", 100], "the network has 100 tokens"),
        (["predict", "--ckpt_path", "LAST", "--prompt", "x" * 40], "prompt 1 has 41 tokens"),
        (["predict", "--ckpt_path", "LAST", "--prompt", "x", "--out", "x.wav"], "neither .json nor .txt"),
        (["predict", "--ckpt_path", "LAST", "--prompt", "x", "--data.tokenizer", "a.model"], "a.model"),
        (["predict", "--ckpt_path", "LAST", "--data.path", "empty.txt"], "holds no prompt"),
        (["predict", "--ckpt_path", "LAST", "--prompt", "x", "--temperature", -1], "temperature is -1"),
        (["predict", "--ckpt_path", "none.ckpt", "--prompt", "x"], "none.ckpt does not exist"),
        (["tokenize", "--data.path", "empty.txt", "--out", "y"], "no text to write"),
        (["tokenize", "--data.path", "texts.jsonl", "--out", "y", "--data.tokenizer", "byte"], "'bytes'"),
        (["tokenize", "--data.card", "ett_h1", "--out", "y"], "holds data of timeseries"),
    ],
)
def test_a_mistake_is_one_sentence(place, run, words, sentence):
    (place / "empty.txt").write_text(" \n")
    (place / "latin.txt").write_bytes("Übung".encode("latin-1"))
    (place / "broken.bin").write_bytes(b"1234")
    (place / "broken.idx").write_bytes(b"1234")

    code, out, err = dfm("music", *[newest(run) if word == "LAST" else word for word in words])

    mistakes = [line for line in err.splitlines() if not line.startswith("data:")]
    assert code == 2, out + err
    assert sentence in mistakes[-1]
    assert len(mistakes) == 1
