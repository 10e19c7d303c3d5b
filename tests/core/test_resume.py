"""Runs that are stopped and resumed, again and again, against the run that never was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpointed import final
from lightning.pytorch.callbacks import EarlyStopping

from core.adaptation import FreezeAtFirst
from core.checkpoints.files import newest_valid, read_checkpoint, write_checkpoint
from core.errors import UserError
from core.resume import check_averaging, checkpoint_callbacks, repair_loops


def differences(a, b, where: str = "") -> list[str]:
    """Paths at which two nested containers are not bitwise equal."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for k in a.keys() | b.keys() for d in differences(a.get(k), b.get(k), f"{where}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{where}[{i}]")]
    return [] if a == b else [f"{where}: {a} and {b}"]


def record(folder: Path) -> set[str]:
    """Every step and validation with its samples and loss, each once however often it was done."""
    return set((folder / "record.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """Run with some options to the end, once for all tests that ask for the same."""
    done: dict[str, Path] = {}

    def get(**options) -> Path:
        name = json.dumps(options, sort_keys=True)
        if name not in done:
            done[name] = tmp_path_factory.mktemp("unbroken")
            tiny.run(done[name], **options)
        return done[name]

    return get


def chain(tiny, folder: Path, strikes: list[int], how: str, **options) -> None:
    """Strike a run at each of the micro-batches in turn, resuming in between, and let it end."""
    for number, at in enumerate(strikes):
        with pytest.raises((tiny.Killed, SystemExit)):
            tiny.run(folder, at=at, how=how, resume=number > 0, **options)
    tiny.run(folder, resume=True, **options)


def assert_same(folder: Path, reference: Path) -> None:
    assert differences(final(reference), final(folder)) == []
    assert record(folder) == record(reference), "a step or a validation was lost or differs"


OPTIONS = {
    "plain": {},
    "accumulate": {"accumulate_grad_batches": 2},
    "averaged": {"ema": True},
    "validation in mid-epoch": {"val_check_interval": 3},
    "ended by steps": {"max_steps": 28, "max_epochs": -1},
    "validation by steps": {"val_check_interval": 5, "check_val_every_n_epoch": None},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_chain_of_signals_equals_unbroken_run(tiny, unbroken, tmp_path, name):
    # 7 micro-batches an epoch: 6 and 13 are its last; under accumulation 9 is the first half of a step.
    chain(tiny, tmp_path, [3, 6, 9, 13], "SIGTERM", **OPTIONS[name])
    assert_same(tmp_path, unbroken(**OPTIONS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_signals_within_validations_leave_at_once_and_equal_unbroken_run(tiny, unbroken, tmp_path, name):
    steps = {"accumulate": [4, 8], "validation in mid-epoch": [3, 6, 10], "validation by steps": [5, 10, 20]}
    chain(tiny, tmp_path, steps.get(name, [7, 14]), "SIGHUP", validation=True, **OPTIONS[name])
    assert_same(tmp_path, unbroken(**OPTIONS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_chain_of_kills_equals_unbroken_run(tiny, unbroken, tmp_path, name):
    # Struck at the start of micro-batch k: the newest checkpoint is of step k; 7 and 14 begin an epoch.
    chain(tiny, tmp_path, [4, 7, 10, 14, 20], "kill", every=1, **OPTIONS[name])
    assert_same(tmp_path, unbroken(**OPTIONS[name]))


def test_a_run_resumed_from_its_best_file_equals_unbroken_run(tiny, unbroken, tmp_path):
    with pytest.raises(tiny.Killed):
        tiny.run(tmp_path, at=15, how="kill")
    tiny.run(tmp_path, resume=str(tmp_path / "checkpoints" / "best.ckpt"))
    assert_same(tmp_path, unbroken())


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_a_stop_at_every_step_equals_unbroken_run(tiny, unbroken, tmp_path, name):
    first_halves = [0, 2, 4, 6, 7, 9, 11, 13, 14, 16, 18]
    strikes = first_halves if name == "accumulate" else list(range(20))
    chain(tiny, tmp_path, strikes, "SIGTERM", **OPTIONS[name])
    assert_same(tmp_path, unbroken(**OPTIONS[name]))


def test_resumed_run_equals_unbroken_run_while_parts_are_frozen(tiny, tmp_path):
    frozen = {"adaptation": FreezeAtFirst(patterns=("backbone",), until_epoch=1)}
    tiny.run(tmp_path / "unbroken", **frozen)
    for number, at in enumerate([3, 6, 9]):
        with pytest.raises(SystemExit):
            again = FreezeAtFirst(patterns=("backbone",), until_epoch=1)
            tiny.run(tmp_path / "chain", at=at, resume=number > 0, adaptation=again)
    last = FreezeAtFirst(patterns=("backbone",), until_epoch=1)
    tiny.run(tmp_path / "chain", resume=True, adaptation=last)
    assert_same(tmp_path / "chain", tmp_path / "unbroken")


def test_averaging_goes_with_scheduled_freezing(tiny, tmp_path):
    _, trainer = tiny.run(tmp_path, ema=True, adaptation=FreezeAtFirst(until_step=5))
    assert trainer.global_step == 21


def test_resumed_early_stopping_stops_at_the_same_epoch(tiny, tmp_path):
    def early() -> dict:
        return {"callbacks": (EarlyStopping("val_loss", patience=1, min_delta=100.0),), "max_epochs": 5}

    tiny.run(tmp_path / "unbroken", **early())
    for number, at in enumerate([3, 6]):
        with pytest.raises(SystemExit):
            tiny.run(tmp_path / "chain", at=at, resume=number > 0, **early())
    tiny.run(tmp_path / "chain", resume=True, **early())
    assert_same(tmp_path / "chain", tmp_path / "unbroken")


def test_newest_checkpoints_are_kept_with_a_link_to_the_last_and_the_best(tiny, tmp_path):
    tiny.run(tmp_path, every=4)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "step00000020.ckpt",
        "step00000021.ckpt",
    ]
    assert (folder / "last.ckpt").resolve().name == "step00000021.ckpt"


@pytest.mark.parametrize("ema", [False, True])
def test_best_weights_are_in_memory_after_the_fit(tiny, tmp_path, ema):
    task, trainer = tiny.run(tmp_path, best=True, max_epochs=2, ema=ema)
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert differences(dict(task.state_dict()), dict(best["state_dict"])) == []
    assert trainer.checkpoint_callback.best_model_path.endswith("best.ckpt")


def test_best_file_holds_the_lowest_validation_loss(tiny, tmp_path):
    tiny.run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    losses: dict[int, list[float]] = {}
    for row in rows:
        if row["stage"] == "val":
            losses.setdefault(row["step"], []).extend([row["loss"]] * len(row["ids"]))
    lowest = min(losses, key=lambda step: sum(losses[step]))
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == lowest


def test_a_metric_that_validation_does_not_log_is_refused_before_training(tiny, tmp_path):
    with pytest.raises(UserError, match=r"'val_los'.*did you mean 'val_loss'"):
        tiny.run(tmp_path, monitor="val_los")
    rows = (tmp_path / "record.jsonl").read_text() if (tmp_path / "record.jsonl").exists() else ""
    assert "train" not in rows


def test_resuming_an_averaged_run_without_averaging_is_refused_and_the_reverse(tiny, tmp_path):
    tiny.run(tmp_path / "averaged", ema=True, max_epochs=1)
    tiny.run(tmp_path / "plain", max_epochs=1)
    with pytest.raises(UserError, match="made with weight averaging and this run has none"):
        tiny.run(tmp_path / "averaged", resume=True)
    with pytest.raises(UserError, match="this run averages its weights"):
        tiny.run(tmp_path / "plain", resume=True, ema=True)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_batch_written_down(tiny, tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step"):
        tiny.run(tmp_path, bad=(11,))
    noted = json.loads((tmp_path / "nonfinite.jsonl").read_text())
    assert 11 in noted["index"]
    assert {"loss", "step", "epoch", "batch", "rank"} <= noted.keys()


def test_a_loss_looked_at_later_leaves_no_checkpoint_behind_it(tiny, tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step"):
        tiny.run(tmp_path, bad=(11,), deferred=True, every=1)
    noted = json.loads((tmp_path / "nonfinite.jsonl").read_text())
    assert 11 in noted["index"]
    written = read_checkpoint(newest_valid(tmp_path / "checkpoints"))
    assert written["global_step"] == noted["step"]


def test_a_skipped_step_leaves_weights_moments_and_statistics_alone(tiny, tmp_path):
    task, _ = tiny.run(tmp_path, bad=(11,), skip=True)
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert len(lines) == 3, "sample 11 is seen once in each of 3 epochs"
    assert all(torch.isfinite(tensor).all() for tensor in task.state_dict().values())
    optimizer = final(tmp_path)["optimizer_states"][0]
    assert {float(state["step"]) for state in optimizer["state"].values()} == {18.0}


def test_skipping_only_bad_steps_ends_the_run(tiny, tmp_path):
    with pytest.raises(UserError, match="in 20 steps in a row"):
        tiny.run(tmp_path, bad=tuple(range(26)), skip=True)


def test_the_repair_touches_only_files_taken_in_mid_epoch():
    def loops(last: bool) -> dict:
        counts = {"ready": 1, "started": 1, "processed": 1, "completed": 1}
        return {
            "loops": {
                "fit_loop": {
                    "epoch_progress": {"total": dict(counts), "current": dict(counts)},
                    "epoch_loop.batch_progress": {"is_last_batch": last},
                }
            }
        }

    at_end, in_middle = loops(True), loops(False)
    repair_loops(at_end)
    repair_loops(in_middle)
    assert at_end == loops(True)
    assert in_middle["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"] == 2
    weights = {"state_dict": {}}
    repair_loops(weights)
    assert weights == {"state_dict": {}}


def test_averaging_is_not_missed_where_nobody_averages():
    check_averaging({}, [])


@pytest.mark.parametrize("wrong", [{"every_n_steps": 0}, {"keep": 0}, {"mode": "least"}])
def test_checkpoint_settings_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        checkpoint_callbacks(tmp_path, **wrong)


def test_a_run_that_goes_on_keeps_the_newest_checkpoints_alone(tiny, tmp_path):
    chain(tiny, tmp_path, [3, 9, 13], "kill", every=1)

    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "step00000020.ckpt", "step00000021.ckpt"]


def test_a_moved_run_does_not_forget_its_best(tiny, tmp_path):
    with pytest.raises(tiny.Killed):
        tiny.run(tmp_path / "here", at=9, how="kill", every=1)
    newest = newest_valid(tmp_path / "here" / "checkpoints")
    content = read_checkpoint(newest)
    for name, state in content["callbacks"].items():
        if name.startswith("KeepBest"):
            path = state["best_model_path"]
            zero = torch.tensor(0.0)
            state |= {"best_model_score": zero, "kth_value": zero, "best_k_models": {path: zero}}
    write_checkpoint(content, newest)
    best = (tmp_path / "here" / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")

    tiny.run(tmp_path / "there", resume=True, every=1)

    assert (tmp_path / "there" / "checkpoints" / "best.ckpt").read_bytes() == best
    names = sorted(path.name for path in (tmp_path / "there" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "step00000020.ckpt", "step00000021.ckpt"]
