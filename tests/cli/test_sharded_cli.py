"""`dfm` with checkpoints that are folders: fit, go on, test, predict, list, inspect, export, average."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from core.checkpoints.files import read_checkpoint, write_checkpoint
from core.checkpoints.manifest import is_sharded
from core.checkpoints.sources import read_folder, read_safetensors, read_weights


@pytest.fixture(scope="module")
def run(fit, tmp_path_factory):
    """A finished small demo with folders written by a thread; not to be written to."""
    runs = tmp_path_factory.mktemp("sharded")
    words = ["--checkpoints.sharded=true", "--checkpoints.asynchronous=true", "--trainer.max_epochs=2"]
    return fit(runs, *words)


@pytest.fixture
def folder(run) -> Path:
    return run.folder / "checkpoints"


def as_file(source: Path, target: Path) -> Path:
    """The same checkpoint as a single file."""
    return write_checkpoint(read_checkpoint(source), target)


def test_fit_leaves_folders_a_link_and_nothing_temporary(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["best.ckpt", "last.ckpt"]
    assert all(name.startswith("step") and name.endswith(".ckpt") for name in names[2:])
    assert all(is_sharded(folder / name) for name in names)
    assert (folder / "last.ckpt").is_symlink()


def test_list_names_folders_with_step_metric_and_validity(dfm, run, folder):
    damaged = run.runs.parent / "damaged"
    shutil.copytree(run.runs, damaged, symlinks=True)
    last = damaged / folder.relative_to(run.runs) / "last.ckpt" / "__0_0.distcp"
    last.write_bytes(last.read_bytes()[:-3])

    lines = dfm("checkpoint", "list", damaged).out.splitlines()

    assert lines[0].split() == ["checkpoint", "step", "epoch", "metric", "valid"]
    assert len([line for line in lines[1:] if line.endswith("yes")]) == len(lines) - 2
    wrong = next(line for line in lines if "(last)" in line)
    assert "no, it is damaged (__0_0.distcp has " in wrong


def test_inspect_says_what_a_folder_is_without_reading_its_shards(dfm, folder):
    facts = json.loads(dfm("checkpoint", "inspect", folder / "best.ckpt", "--json", "--keys").out)

    assert facts["verified"] == "SHA-256 of 3 files in manifest.json"
    assert facts["written by"] == "1 process"
    assert facts["recipe"] == "ttm-demo"
    assert facts["metric"].startswith("val_bounded_mae ")
    state = read_checkpoint(folder / "best.ckpt")["state_dict"]
    assert {f"network.{name}" for name in facts["keys"]} == {k for k in state if k.startswith("network.")}


def test_going_on_from_a_folder_equals_the_unbroken_run_and_may_go_on_in_files(dfm, small, run, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(run.runs, runs, symlinks=True)
    checkpoints = runs / run.folder.relative_to(run.runs) / "checkpoints"
    whole = read_checkpoint(checkpoints / "last.ckpt")
    shutil.rmtree(checkpoints / "best.ckpt")
    for path in sorted(checkpoints.glob("step*"))[3:]:
        shutil.rmtree(path)

    words = ["timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", runs]
    outcome = dfm(*words, "--trainer.max_epochs=2", "--ckpt_path", "last")

    assert outcome.code == 0, outcome.err
    assert "step00000003.ckpt" in outcome.out
    assert (checkpoints / "last.ckpt").resolve().is_file(), "this run was not asked for folders"
    again = read_checkpoint(checkpoints / "last.ckpt")
    assert again["global_step"] == whole["global_step"]
    assert all(
        torch.equal(again["state_dict"][k], v) for k, v in whole["state_dict"].items() if "extra" not in k
    )


def test_a_folder_is_tested_as_a_file_is(dfm, run, folder, tmp_path):
    file = as_file(folder / "best.ckpt", tmp_path / "best.ckpt")
    words = ["timeseries", "test", "--runs", tmp_path / "runs", "--ckpt_path"]
    outcomes = [dfm(*words, path) for path in (folder / "best.ckpt", file)]

    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    written = [max(run.folder.glob("test-*")), tmp_path / "runs"]
    tables = [sorted(table.read_bytes() for table in place.rglob("*.csv")) for place in written]
    assert tables[0] == tables[1] != []


def test_a_folder_predicts_as_a_file_does(dfm, folder, tmp_path):
    file = as_file(folder / "best.ckpt", tmp_path / "best.ckpt")
    table = tmp_path / "my.csv"
    rows = (f"2024-01-{day:02d} {hour:02d}:00,{day * hour % 7}" for day in range(1, 14) for hour in range(24))
    table.write_text("date,load\n" + "\n".join(rows))
    for path, out in ((folder / "best.ckpt", "a.csv"), (file, "b.csv")):
        words = ["--data.path", table, "--data.horizon", 8, "--out", tmp_path / out]
        outcome = dfm("timeseries", "predict", "--ckpt_path", path, *words)
        assert outcome.code == 0, outcome.err

    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_an_exported_folder_is_an_exported_file(dfm, folder, tmp_path):
    file = as_file(folder / "best.ckpt", tmp_path / "best.ckpt")
    for source, name in ((folder / "best.ckpt", "streamed"), (file, "whole")):
        assert dfm("checkpoint", "export", source, "--out", tmp_path / name).code == 0
        assert dfm("checkpoint", "export", source, "--out", tmp_path / f"{name}.safetensors").code == 0

    streamed, whole = read_folder(tmp_path / "streamed"), read_folder(tmp_path / "whole")
    assert streamed[1:] == whole[1:]
    assert streamed[0].keys() == whole[0].keys()
    assert all(torch.equal(tensor, whole[0][name]) for name, tensor in streamed[0].items())
    alone, notes = read_safetensors(tmp_path / "streamed.safetensors")
    assert notes == streamed[2]
    assert alone.keys() == streamed[0].keys()
    assert read_weights(tmp_path / "streamed.safetensors").config == whole[1]


def test_an_exported_folder_takes_no_more_memory_than_its_largest_tensor(folder, tmp_path, monkeypatch):
    from core.checkpoints.exchange import export_weights
    from core.checkpoints.folders import FolderReader

    asked = []
    fill = FolderReader.fill
    monkeypatch.setattr(FolderReader, "fill", lambda reader, keys: asked.append(keys) or fill(reader, keys))

    export_weights(folder / "best.ckpt", tmp_path / "out", layout="own")

    names = read_folder(tmp_path / "out")[0].keys()
    assert sorted(key for keys in asked for key in keys) == sorted(f"state_dict/network.{n}" for n in names)
    assert {len(keys) for keys in asked} == {1}


def test_an_average_is_the_mean_and_notes_what_it_is_made_of(dfm, folder, tmp_path):
    sources = [folder / "step00000002.ckpt", as_file(folder / "step00000004.ckpt", tmp_path / "b.ckpt")]
    sources += [folder / "step00000006.ckpt"]

    outcome = dfm("checkpoint", "average", *sources, "--out", tmp_path / "soup.ckpt")

    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"wrote {tmp_path / 'soup.ckpt'}, the mean of 3; start from it with")
    soup, parts = read_checkpoint(tmp_path / "soup.ckpt"), [read_checkpoint(path) for path in sources]
    for name, tensor in soup["state_dict"].items():
        mean = torch.stack([part["state_dict"][name].double() for part in parts]).mean(0)
        assert torch.allclose(tensor.double(), mean, rtol=1e-7, atol=1e-8), name
    said = soup["domainfm"]["averaged"]
    assert [entry["step"] for entry in said] == [2, 4, 6]
    assert [entry["source"] for entry in said] == [str(path) for path in sources]
    assert soup["domainfm"]["licences"] == parts[0]["domainfm"]["licences"]
    assert "step 4" in dfm("checkpoint", "inspect", tmp_path / "soup.ckpt").out


def test_averaging_other_networks_is_refused_in_one_sentence(dfm, run, folder, tmp_path):
    content = read_checkpoint(folder / "best.ckpt")
    described = content["domainfm"]["config"]["model"]["init_args"]["network"]
    described["init_args"]["width"] = 24
    other = write_checkpoint(content, tmp_path / "other.ckpt")

    for words, sentence in (
        ([folder / "best.ckpt"], "an average needs at least two checkpoints"),
        ([folder / "best.ckpt", other], "do not fit TTM"),
        ([folder / "best.ckpt", tmp_path / "gone.ckpt"], "do not exist"),
    ):
        outcome = dfm("checkpoint", "average", *words, "--out", tmp_path / "soup.ckpt")
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert sentence in outcome.err


def test_a_damaged_folder_and_another_networks_are_refused_in_one_sentence(dfm, small, run, folder, tmp_path):
    damaged = tmp_path / "damaged.ckpt"
    shutil.copytree(folder / "best.ckpt", damaged)
    (damaged / "plain.pt").write_bytes(b"x")
    words = ["timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", tmp_path]

    for given, sentence in (
        (["--ckpt_path", damaged], "is damaged (plain.pt has 1 bytes of"),
        (
            ["--ckpt_path", folder / "best.ckpt", "--model.network.width=24"],
            "has other sizes than the recipe's",
        ),
        (["--ckpt_path", tmp_path], "is a folder and no checkpoint"),
        (["--checkpoints.sharded=often"], "checkpoints.sharded"),
    ):
        outcome = dfm(*words, *given)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
        assert sentence in outcome.err
