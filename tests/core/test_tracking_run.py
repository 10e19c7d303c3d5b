"""Following a real run: throughput, progress lines, silence, rewinding on a resume."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from core.tracking.flops import count_flops
from core.tracking.loggers import RunRecord, build_loggers, finish
from core.tracking.metrics_csv import MetricsCSV, read_metrics
from core.tracking.peaks import peak_flops
from core.tracking.progress import Bar, LineProgress, clock, progress_callbacks, quiet
from core.tracking.settings import Tracking
from core.tracking.throughput import Throughput


@dataclass
class Words:
    """A batch that knows how many tokens it holds."""

    x: Tensor
    tokens: int

    def to(self, *args, **kwargs):
        return Words(self.x.to(*args, **kwargs), self.tokens)

    def __len__(self):
        return len(self.x)


class Numbers(Dataset):
    """32 samples of 4 numbers; each takes `delay` seconds to read."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.delay)
        return torch.full((4,), index / 32)


class Tiny(LightningModule):
    """A linear layer in two parameter groups, trained to give zero."""

    def __init__(self, *, slow_validation: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(4, 1)
        self.slow_validation = slow_validation

    def training_step(self, batch, batch_idx):
        loss = self.network(getattr(batch, "x", batch)).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        time.sleep(self.slow_validation)
        self.log("val/loss", self.network(batch).square().mean(), batch_size=len(batch))

    def configure_optimizers(self):
        groups = [
            {"params": [self.network.weight], "name": "decay"},
            {"params": [self.network.bias], "name": "no_decay", "lr": 0.05},
        ]
        return torch.optim.SGD(groups, lr=0.1)


def loader(delay: float = 0.0, **options) -> DataLoader:
    return DataLoader(Numbers(delay), batch_size=4, **options)


def trainer(folder, *callbacks, **options) -> Trainer:
    quiet()
    settings = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "log_every_n_steps": 2,
        "logger": build_loggers(Tracking(wandb="off"), folder, name="tiny"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **options})


def test_throughput_stands_in_the_row_of_the_loss(tmp_path):
    trainer(tmp_path, Throughput()).fit(Tiny(), loader())

    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 3, 5, 7]
    assert set(rows[-1]) == {
        "step", "epoch", "train/loss", "grad_norm", "grad_norm_max", "lr/decay", "lr/no_decay",
        "throughput/samples", "throughput/samples_per_second", "throughput/data_wait",
    }  # fmt: skip
    assert (rows[-1]["lr/decay"], rows[-1]["lr/no_decay"], rows[-1]["throughput/samples"]) == (0.1, 0.05, 32)


def test_waiting_for_data_is_seen(tmp_path):
    trainer(tmp_path, Throughput()).fit(Tiny(), loader(delay=0.01))

    row = read_metrics(tmp_path)[-1]
    assert 0.4 < row["throughput/data_wait"] <= 1
    assert 5 < row["throughput/samples_per_second"] < 100


def test_validation_is_left_out_of_the_clock(tmp_path):
    task = Tiny(slow_validation=0.05)

    trainer(tmp_path, Throughput(), val_check_interval=2).fit(task, loader(), loader())

    rows = [row for row in read_metrics(tmp_path) if "throughput/samples_per_second" in row]
    assert rows[-1]["throughput/samples_per_second"] > 80, "with validation counted it would be below 20"


def test_tokens_are_counted_where_the_batch_has_them(tmp_path):
    batches = loader(collate_fn=lambda items: Words(torch.stack(items), tokens=12))

    trainer(tmp_path, Throughput()).fit(Tiny(), batches)

    row = read_metrics(tmp_path)[-1]
    ratio = row["throughput/tokens_per_second"] / row["throughput/samples_per_second"]
    assert ratio == pytest.approx(3)


def test_mfu_is_shown_only_where_a_peak_is_known(tmp_path):
    trainer(tmp_path / "known", Throughput(peak=1e9, flops_per_sample=1e3)).fit(Tiny(), loader())
    trainer(tmp_path / "cpu", Throughput(flops_per_sample=1e3)).fit(Tiny(), loader())

    row = read_metrics(tmp_path / "known")[-1]
    assert row["throughput/mfu"] == pytest.approx(row["throughput/samples_per_second"] * 1e3 / 1e9)
    assert "throughput/mfu" not in read_metrics(tmp_path / "cpu")[-1]


def test_gradient_norm_is_taken_before_clipping(tmp_path):
    trainer(tmp_path / "clipped", Throughput(), gradient_clip_val=1e-6).fit(Tiny(), loader())

    assert read_metrics(tmp_path / "clipped")[0]["grad_norm"] > 1e-3


def test_accumulated_batches_count_as_one_step(tmp_path):
    trainer(tmp_path, Throughput(), accumulate_grad_batches=2).fit(Tiny(), loader())

    rows = read_metrics(tmp_path)
    assert [(row["step"], row["throughput/samples"]) for row in rows] == [(1, 16), (3, 32)]


def test_resumed_run_has_each_step_once_and_the_same_numbers(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    every = {"log_every_n_steps": 5}  # the checkpoint of step 8 lies between two log steps
    trainer(unbroken, Throughput(), max_epochs=2, **every).fit(Tiny(), loader(), loader())

    keep = ModelCheckpoint(broken, every_n_train_steps=8, save_top_k=-1, filename="{step}")
    parts = (Throughput(), RunRecord(broken, Tracking(report=False)), keep)
    trainer(broken, *parts, max_steps=11, enable_checkpointing=True, **every).fit(Tiny(), loader(), loader())
    parts = (Throughput(), RunRecord(broken, Tracking(report=False)))
    trainer(broken, *parts, max_epochs=2, **every).fit(
        Tiny(), loader(), loader(), ckpt_path=broken / "step=8.ckpt"
    )

    def record(folder):
        rows = read_metrics(folder)
        names = ("step", "throughput/samples", "lr/decay", "grad_norm_max")
        return [tuple(row.get(name) for name in names) for row in rows]

    assert record(broken) == record(unbroken)


def test_progress_prints_one_line_per_interval_and_nothing_else(tmp_path, capfd):
    trainer(tmp_path, LineProgress(), max_epochs=2, log_every_n_steps=4).fit(Tiny(), loader(), loader())

    out, err = capfd.readouterr()
    lines = out.splitlines()
    shape = r"step \d+/16  epoch [12]/2  loss \S+  [\d .]+ samples/s  eta \d\d:\d\d"
    validations = [line for line in lines if line.startswith("validation")]
    assert [line[:33] for line in validations] == [
        "validation after step 8  epoch 1/", "validation after step 16  epoch 2",
    ]  # fmt: skip
    assert re.search(r"val/loss \S+  in 00:00$", validations[0])
    lines = [line for line in lines if line not in validations]
    assert len(lines) == 4
    assert [line for line in lines if not re.fullmatch(shape, line)] == []
    assert lines[-1].endswith("eta 00:00")
    assert err == ""


def test_a_fresh_process_says_nothing_but_its_lines(tmp_path):
    script = (
        "import torch\n"
        "from core.tracking.progress import LineProgress, quiet\n"
        "from lightning.pytorch import Trainer\n"
        "from lightning.pytorch.demos.boring_classes import BoringModel\n"
        "quiet()\n"
        "trainer = Trainer(accelerator='cpu', max_steps=4, limit_val_batches=1, logger=False,\n"
        "    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,\n"
        f"    default_root_dir={str(tmp_path)!r}, callbacks=[LineProgress(every_n_steps=2)])\n"
        "trainer.fit(BoringModel())\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert [line.split("  ")[0] for line in told.stdout.splitlines()] == ["step 2/4", "step 4/4"]
    assert told.stderr == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (42.4, "00:42"), (3725, "1:02:05")])
def test_time_left_reads_as_a_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H200", "bf16", 989.5e12),
        ("NVIDIA H200", "tf32", 494.7e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("Intel Xeon", "fp32", None),
        ("NVIDIA L4", "fp64", None),
    ],
)
def test_peaks_are_the_dense_ones_of_the_datasheets(name, dtype, peak):
    assert peak_flops(name, dtype) == peak


def test_flops_of_linear_layers_are_exact():
    network = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))

    flops = count_flops(network, {"input": torch.zeros(2, 8)}, backward=False)

    assert flops == 2 * 2 * (8 * 16 + 16 * 4)


def test_flops_backward_counts_weights_and_all_inputs_but_the_first():
    network = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))

    flops = count_flops(network, {"input": torch.zeros(2, 8)})

    assert flops == 2 * 2 * (2 * 8 * 16 + 3 * 16 * 4)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_flops_of_attention_are_counted():
    x = torch.zeros(2, 1, 16, 8)  # B heads T D

    assert count_flops(Attention, {"x": x}, backward=False) == 4 * 2 * 16 * 16 * 8


def test_counting_leaves_the_network_as_it_was():
    network = nn.BatchNorm1d(4)

    count_flops(network, {"input": torch.zeros(2, 4)})

    assert network.weight.device.type == "cpu"
    assert network.weight.grad is None
    assert network.num_batches_tracked.item() == 0


class Failing(Tiny):
    """Fails at the third batch."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            raise RuntimeError("the data are broken")
        return super().training_step(batch, batch_idx)


def test_a_run_that_fails_closes_its_file_with_what_was_logged(tmp_path):
    loggers = build_loggers(Tracking(wandb="offline"), tmp_path, name="tiny")

    with pytest.raises(RuntimeError, match="the data are broken"):
        trainer(tmp_path, logger=loggers, log_every_n_steps=1).fit(Failing(), loader())

    held = b"".join(path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert held.count(b"train/loss") >= 2
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]


@pytest.mark.parametrize(("terminal", "kind"), [(True, "Bar"), (False, "LineProgress")])
def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(terminal, kind):
    assert [type(callback).__name__ for callback in progress_callbacks(terminal=terminal)] == [kind]


def test_a_terminal_shows_epochs_from_1_a_line_per_validation_and_results_below_the_test(tmp_path, capfd):
    class Speaking(Tiny):
        test_step = Tiny.validation_step

        def on_test_epoch_end(self):
            print("the table", flush=True)

    bar = Bar(console_kwargs={"force_terminal": True, "width": 120})
    run = trainer(tmp_path, bar, max_epochs=2, enable_progress_bar=True)
    run.fit(Speaking(), loader(), loader())
    run.test(Speaking(), loader(), verbose=False)

    out = capfd.readouterr().out
    assert "Epoch 1/2" in out and "Epoch 2/2" in out and "Epoch 0" not in out
    assert len(re.findall(r"validation after step (?:8|16)  epoch [12]/2  val/loss", out)) == 2
    assert out.index("Testing") < out.index("the table") and "Testing" not in out.split("the table")[1]


def test_a_stdout_that_cannot_say_what_it_is_gets_lines(monkeypatch):
    monkeypatch.setattr("sys.stdout", type("Stream", (), {"write": print})())

    assert [type(callback).__name__ for callback in progress_callbacks()] == ["LineProgress"]


def test_a_long_validation_shows_batches(tmp_path, capsys, monkeypatch):
    moments = iter(range(0, 10_000, 4))
    monkeypatch.setattr("core.tracking.progress.time.perf_counter", lambda: float(next(moments)))

    trainer(tmp_path, LineProgress(), max_epochs=1, log_every_n_steps=4).fit(Tiny(), loader(), loader())

    assert "val batch 3/8\nval batch 6/8\nvalidation after step 8" in capsys.readouterr().out


def test_progress_of_a_long_test_shows_batches(tmp_path, capsys, monkeypatch):
    moments = iter(range(0, 10_000, 4))
    monkeypatch.setattr("core.tracking.progress.time.perf_counter", lambda: float(next(moments)))
    monkeypatch.setattr(Tiny, "test_step", Tiny.validation_step, raising=False)

    trainer(tmp_path, LineProgress()).test(Tiny(), loader(), verbose=False)

    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[:2] == ["test batch 3/8", "test batch 6/8"]


def test_artifact_and_report_end_a_run(tmp_path):
    tracking = Tracking(wandb="offline", artifact=True)
    loggers = build_loggers(tracking, tmp_path, name="tiny", config={"model": {"width": 4}})
    keep = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=4)

    trainer(tmp_path, keep, RunRecord(tmp_path, tracking), logger=loggers, enable_checkpointing=True).fit(
        Tiny(), loader(), loader()
    )
    finish(loggers)

    assert isinstance(loggers[0], MetricsCSV)
    assert (tmp_path / "report.html").exists()
    assert list((tmp_path / "wandb" / "data").rglob("*"))
