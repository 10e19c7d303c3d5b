"""Data modules under a real Trainer: order, resuming at any step and worker count, sharing out over ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.module import DataModule
from core.data.randomness import generator
from core.errors import UserError


@dataclass(frozen=True, eq=False)
class Numbers(Batch):
    index: Tensor
    noise: Tensor


class Samples(Dataset):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where: tuple[int, int]) -> Numbers:
        epoch, index = where
        noise = torch.randn(2, generator=generator(5, epoch, index, "noise"))
        return Numbers(torch.tensor(index), noise)


class WholeBatches(Samples):
    def __getitems__(self, where: list[tuple[int, int]]) -> Numbers:
        return Numbers.stack([self[one] for one in where])


class Data(DataModule):
    def __init__(self, length: int = 26, kind: type = Samples, **how) -> None:
        super().__init__(**{"batch_size": 4, "seed": 1} | how)
        self.length, self.kind = length, kind

    def train_set(self) -> Dataset:
        return self.kind(self.length)

    def val_set(self) -> Dataset:
        return self.kind(5)

    def predict_set(self) -> Dataset:
        return self.kind(10)


class Task(LightningModule):
    """Writes down which samples each step saw, with their noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.seen: dict[int, list] = {}
        self.validated: list[list[int]] = []

    def training_step(self, batch: Numbers, index: int) -> Tensor:
        row = [self.current_epoch, index, batch.index.tolist(), batch.noise.tolist()]
        self.seen.setdefault(self.global_step, row)
        return self.layer(batch.noise).square().mean()

    def validation_step(self, batch: Numbers, index: int) -> None:
        self.validated.append(batch.index.tolist())

    def predict_step(self, batch: Numbers, index: int) -> list[int]:
        return batch.index.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        # The repair of Lightning's loop state that the suite's task makes too (core/resume.py).
        loops = checkpoint["loops"]["fit_loop"]
        progress = loops["epoch_progress"]
        if not loops["epoch_loop.batch_progress"]["is_last_batch"]:
            for scope in ("total", "current"):
                progress[scope]["ready"] = progress[scope]["started"] = progress[scope]["processed"] + 1


def trainer(folder, **how) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **{"max_epochs": 3} | how,
    )


def saver(folder) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    task = Task()
    trainer(folder, callbacks=[saver(folder)]).fit(task, Data())
    assert len(task.seen) == 21
    return folder, task


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own(unbroken):
    rows = list(unbroken[1].seen.values())
    epochs: list[list[int]] = [[], [], []]
    for epoch, _, part, _ in rows:
        epochs[epoch] += part

    assert all(sorted(order) == list(range(26)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert rows[0][3] != rows[7][3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Samples, WholeBatches])
def test_workers_and_whole_batches_give_the_same_samples(unbroken, tmp_path, workers, kind):
    task = Task()
    how = {"enable_checkpointing": False, "max_epochs": 2}
    trainer(tmp_path, **how).fit(task, Data(kind=kind, num_workers=workers))

    assert task.seen == {step: row for step, row in unbroken[1].seen.items() if step < 14}


@pytest.mark.parametrize(
    ("step", "workers"), [(1, 0), (3, 2), (6, 0), (7, 0), (7, 2), (8, 0), (14, 0), (20, 0)]
)
def test_resumed_run_sees_the_samples_of_the_unbroken_run(unbroken, tmp_path, step, workers):
    folder, whole = unbroken
    task = Task()
    trainer(tmp_path, enable_checkpointing=False).fit(
        task, Data(num_workers=workers), ckpt_path=folder / f"step={step}.ckpt", weights_only=True
    )

    assert task.seen == {at: row for at, row in whole.seen.items() if at >= step}


def test_a_chain_of_resumes_across_the_end_of_an_epoch_sees_every_sample(unbroken, tmp_path):
    last, seen = None, {}
    for stop in (3, 7, 8, 13, 21):
        task = Task()
        trainer(tmp_path, callbacks=[saver(tmp_path)], max_steps=stop).fit(
            task, Data(), ckpt_path=last, weights_only=True
        )
        seen |= task.seen
        last = tmp_path / f"step={stop}.ckpt"

    assert seen == unbroken[1].seen


def test_checkpoints_of_an_epoch_end_begin_the_next_epoch(unbroken):
    stored = torch.load(unbroken[0] / "step=7.ckpt", weights_only=True)["Data"]

    assert stored == {"epoch": 1, "samples": 0, "length": 26, "global_batch": 4, "seed": 1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 8}, "4 samples in a batch of all processes, this run has 8"),
        ({"length": 25}, "26 training samples, this run has 25"),
        ({"seed": 2}, "1 as data.seed, this run has 2"),
    ],
)
def test_resuming_in_mid_epoch_with_another_order_is_refused(unbroken, tmp_path, changed, words):
    folder, _ = unbroken

    with pytest.raises(UserError, match=words):
        trainer(tmp_path, enable_checkpointing=False).fit(
            Task(), Data(**changed), ckpt_path=folder / "step=3.ckpt", weights_only=True
        )


def test_limited_epochs_resume_too(tmp_path):
    whole, rest = Task(), Task()
    trainer(tmp_path, limit_train_batches=3, callbacks=[saver(tmp_path)]).fit(whole, Data())
    trainer(tmp_path, limit_train_batches=3, enable_checkpointing=False).fit(
        rest, Data(), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True
    )

    assert rest.seen == {at: row for at, row in whole.seen.items() if at >= 3}


def test_overfitting_repeats_the_same_batch(tmp_path):
    task = Task()
    trainer(tmp_path, overfit_batches=1, enable_checkpointing=False).fit(task, Data())

    assert [row[2] for row in task.seen.values()] == [[0, 1, 2, 3]] * 3


def test_prediction_keeps_the_order_of_the_data(tmp_path):
    predicted = trainer(tmp_path).predict(Task(), Data(eval_batch_size=4))

    assert predicted == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_missing_and_empty_data_and_wrong_sizes_are_the_users_mistakes(tmp_path):
    with pytest.raises(UserError, match="no training data"):
        trainer(tmp_path).fit(Task(), DataModule())
    with pytest.raises(UserError, match="no training data"):
        trainer(tmp_path).fit(Task(), Data(length=0))
    with pytest.raises(UserError, match="too few"):
        trainer(tmp_path).fit(Task(), Data(length=3, drop_last=True))
    with pytest.raises(UserError, match=r"data\.batch_size is 0"):
        DataModule(batch_size=0)
    with pytest.raises(UserError, match=r"data\.num_workers is -1"):
        DataModule(num_workers=-1)


SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec); sys.modules["cases"] = cases; spec.loader.exec_module(cases)
folder, checkpoint = Path(sys.argv[2]), sys.argv[3] or None
task = cases.Task()
run = cases.trainer(folder, devices=2, strategy="ddp", max_epochs=2, callbacks=[cases.saver(folder)])
run.fit(task, cases.Data(batch_size=2, length=24), ckpt_path=checkpoint, weights_only=True)
rows = {step: row[2] for step, row in task.seen.items()}
told = {"seen": rows, "validated": task.validated, "weight": task.layer.weight.tolist()}
Path(folder, f"rank{run.global_rank}.json").write_text(json.dumps(told))
"""


def two_processes(folder, checkpoint="") -> list[dict]:
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = os.environ | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, str(script), __file__, str(folder), str(checkpoint)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_see_the_batches_of_one_and_resume_and_share_validation(tmp_path):
    one = Task()
    trainer(tmp_path, enable_checkpointing=False, max_epochs=2).fit(one, Data(length=24))

    both = two_processes(tmp_path / "whole")
    resumed = two_processes(tmp_path / "rest", tmp_path / "whole" / "step=4.ckpt")

    together = {int(step): first + both[1]["seen"][step] for step, first in both[0]["seen"].items()}
    assert together == {step: row[2] for step, row in one.seen.items()}
    for whole, rest in zip(both, resumed, strict=True):
        assert rest["seen"] == {step: rows for step, rows in whole["seen"].items() if int(step) >= 4}
        assert rest["weight"] == whole["weight"]
    counts = [len(rank["validated"]) for rank in both]
    assert counts[0] == counts[1]
    assert {index for rank in both for part in rank["validated"] for index in part} == set(range(5))


def test_processes_share_a_batch_only_if_it_can_be_shared():
    data = Data(batch_size=8)
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(
            keep_batch=True,
            distributed_sampler_kwargs={"num_replicas": 2, "rank": 1},
            root_device=torch.device("cpu"),
        ),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=False),
        overfit_batches=0,
        current_epoch=0,
    )
    sampler = data.train_dataloader().sampler
    assert (sampler.batch_size, sampler.global_batch) == (4, 8)
    data.trainer.strategy.distributed_sampler_kwargs["num_replicas"] = 3
    with pytest.raises(UserError, match=r"data\.batch_size is 8, which 3 processes cannot share evenly"):
        data.train_dataloader()
