"""Adapted runs through the real command: the table, exact resume, adapters alone, and merged weights."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from in_process import Outcome, dfm

from core.adaptation import load_adapter
from core.backbones.adapters import is_adapter, merge
from core.checkpoints.files import read_checkpoint
from core.checkpoints.sources import read_weights
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

LORA = ("--model.adaptation", "core.adaptation.LoRA", "--model.adaptation.rank=2")


@pytest.fixture(scope="module")
def small(repository: Path) -> Path:
    return repository / "tests" / "cli" / "small.yaml"


def fit(runs: Path, small: Path, *words: object) -> tuple[Outcome, Path]:
    """Fit the small demo into `runs`; return the outcome and the folder of its checkpoints."""
    short = ("--trainer.max_epochs=-1", "--trainer.max_steps=4", "--trainer.val_check_interval=4")
    outcome = dfm(
        "timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", runs, *short, *words
    )
    assert outcome.code == 0, f"the run failed:\n{outcome.out}{outcome.err}"
    line = next(line for line in outcome.out.splitlines() if line.startswith("run folder: "))
    return outcome, Path(line.removeprefix("run folder: ")) / "checkpoints"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Path:
    """A checkpoint of everything trained."""
    return (fit(tmp_path_factory.mktemp("base"), small)[1] / "last.ckpt").resolve()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, small: Path, base: Path) -> tuple[Outcome, Path]:
    """A run that adapted it."""
    return fit(tmp_path_factory.mktemp("adapted"), small, "--model.weights", base, *LORA)


def state(path: Path) -> dict[str, torch.Tensor]:
    found = read_checkpoint(path)["state_dict"]
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def test_a_run_prints_what_it_trains_and_leaves_the_rest(adapted, base):
    outcome, folder = adapted
    lines = [line for line in outcome.out.splitlines() if line.startswith(("module ", "all "))]
    assert len(lines) == 2 and "trained" in lines[0] and " of " in lines[1]
    before, after = state(base), state(folder / "last.ckpt")
    assert {name for name in after if is_adapter(name)} == set(after) - set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(name.endswith("lora_b") and tensor.any() for name, tensor in after.items())


def test_a_resumed_adapted_run_ends_as_the_unbroken_one(adapted, base, small, tmp_path):
    _, folder = adapted
    runs, copied = tmp_path / "runs", tmp_path / "runs" / folder.relative_to(folder.parents[3])
    shutil.copytree(folder.parents[3], runs, symlinks=True)
    unbroken = (folder / "last.ckpt").resolve().name
    for path in copied.glob("*.ckpt"):
        if path.is_symlink() or path.name not in ("step00000001.ckpt", "step00000002.ckpt"):
            path.unlink()
    outcome, again = fit(runs, small, "--ckpt_path", "last", "--model.weights", base, *LORA)
    assert again == copied and "step00000002.ckpt" in outcome.out
    ours, theirs = read_checkpoint(again / unbroken), read_checkpoint(folder / unbroken)
    assert all(torch.equal(ours["state_dict"][n], t) for n, t in state(folder / unbroken).items())
    moments = [c["optimizer_states"][0]["state"] for c in (ours, theirs)]
    assert list(moments[0]) == list(moments[1])
    assert all(torch.equal(moments[0][n]["exp_avg"], m["exp_avg"]) for n, m in moments[1].items())


def test_another_adaptation_cannot_go_on_with_the_checkpoint(adapted, small):
    _, folder = adapted
    words = (
        "timeseries",
        "fit",
        "--config",
        "ttm/demo",
        "--config",
        small,
        "--ckpt_path",
        folder / "last.ckpt",
    )
    for other in ((*LORA[:2], "--model.adaptation.rank=3"), ()):
        outcome = dfm(*words, *other)
        assert outcome.code == 2 and "adapters cannot change in a run" in outcome.err
        assert outcome.err.count("\n") == 1


def test_an_adapter_is_saved_alone_and_loaded_on_top(adapted, base, small, tmp_path):
    _, folder = adapted
    file = tmp_path / "adapter.safetensors"
    outcome = dfm("checkpoint", "export", folder / "last.ckpt", "--adapter", "--out", file)
    assert outcome.code == 0 and "SavedAdapter" in outcome.out
    assert file.stat().st_size < base.stat().st_size / 3

    network = network_from(base).eval()
    load_adapter(network, file)
    trained = network_from(folder / "last.ckpt").eval()
    x = torch.randn(3, 96, 1)
    with torch.no_grad():
        here, there = network(x).prediction, trained(x).prediction
    assert torch.allclose(here, there, rtol=1e-4, atol=1e-5)
    merge(network)
    assert all(torch.equal(t, trained.state_dict()[n]) for n, t in network.state_dict().items())

    on_top = ("--model.adaptation", "core.adaptation.SavedAdapter", "--model.adaptation.path", file)
    outcome, again = fit(tmp_path / "runs", small, "--model.weights", base, *on_top)
    assert read_checkpoint((again / "last.ckpt").resolve())["domainfm"]["trained"]


def test_an_adapter_goes_on_no_other_weights(adapted, base, tmp_path):
    _, folder = adapted
    file = tmp_path / "adapter.safetensors"
    dfm("checkpoint", "export", folder / "last.ckpt", "--adapter", "--out", file)
    other = network_from(base)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(UserError, match="was trained on other weights than TTM holds"):
        load_adapter(other, file)
    assert all(is_adapter(name) for name in load_adapter(other, file, check=False))
    with pytest.raises(UserError, match="adapted already"):
        load_adapter(other, file)
    with pytest.raises(UserError, match="are an adapter, which goes on top of others"):
        load_weights(file, network_from(base))


def test_a_run_that_trains_everything_has_no_adapter(base, tmp_path):
    outcome = dfm("checkpoint", "export", base, "--adapter", "--out", tmp_path / "a.safetensors")
    assert outcome.code == 2 and "keeps no weights frozen" in outcome.err


def test_an_adapted_checkpoint_is_tested_exported_and_started_from(adapted, tmp_path):
    _, folder = adapted
    assert dfm("timeseries", "test", "--ckpt_path", folder / "last.ckpt").code == 0
    outcome = dfm("checkpoint", "export", folder / "last.ckpt", "--out", tmp_path / "merged")
    assert outcome.code == 0, outcome.err
    merged, again = read_weights(tmp_path / "merged"), network_from(folder / "last.ckpt")
    assert not any(is_adapter(name) for name in merged.tensors)
    load_weights(merged, again)


def test_an_adaptation_gives_the_rates_by_depth(small, tmp_path):
    thawing = ("--model.adaptation", "core.adaptation.ProgressiveThawing", "--model.adaptation.decay=0.5")
    _, folder = fit(tmp_path, small, *thawing, "--trainer.max_steps=1", "--trainer.val_check_interval=1")
    checkpoint = read_checkpoint((folder / "last.ckpt").resolve())
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    scales = sorted({group["scale"] for group in groups})
    assert len(scales) > 2 and scales[-1] == 1.0
    assert all(upper == 2 * lower for lower, upper in pairwise(scales))
    held = set(checkpoint["optimizer_states"][0]["state"])
    assert 0 < len(held) < sum(len(group["params"]) for group in groups), "only the head has moved"
