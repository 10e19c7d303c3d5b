"""Runs of the small demo on the stand-in for Neuron and on the CPU, in one process; results go into a file.

The stand-in renames torch's private device type for good, so nothing else may run in this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import stand_in
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from core.accelerators.choice import choose
from core.accelerators.memory import memory_figures
from core.accelerators.neuron import NeuronAccelerator, neuron_arguments, register
from core.cli import main
from core.errors import UserError
from core.resume.streams import capture, restore
from core.tracking.metrics_csv import read_metrics

SMALL = Path(__file__).parents[1] / "cli" / "small.yaml"
# The wrapper tensors of the stand-in know no inference mode, which is torch's own matter and not a device's.
ALWAYS = [
    "--trainer.limit_val_batches", "1", "--trainer.inference_mode=false", "--about", "{}",
    "--checkpoints.every_n_steps", "10", "--trainer.num_sanity_val_steps", "0",
]  # fmt: skip
PLAIN = ["--config", "trainer/cpu_plain"]
SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
NEURON = ["--trainer.accelerator", "neuron"]


def fit(runs: Path, *words: object) -> dict[str, Any]:
    """Run the small demo; return exit code, output, losses by step, and the run's folder."""
    command = [
        "timeseries",
        "fit",
        "--config",
        "ttm/demo",
        "--config",
        SMALL,
        "--runs",
        runs,
        *ALWAYS,
        *words,
    ]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in command])
    text = out.getvalue()
    folders = [line.removeprefix("run folder: ") for line in text.splitlines() if "run folder: " in line]
    rows = read_metrics(folders[0]) if folders and Path(folders[0], "metrics.csv").exists() else []
    return {
        "code": code,
        "out": text,
        "err": err.getvalue(),
        "folder": folders[0] if folders else None,
        "losses": [row["train_loss"] for row in rows if "train_loss" in row],
        "peak_gib": [row["memory/peak_gib"] for row in rows if "memory/peak_gib" in row],
        "mfu": [row["throughput/mfu"] for row in rows if "throughput/mfu" in row],
    }


@contextlib.contextmanager
def linear_outputs() -> Iterator[set[str]]:
    """Collect device and dtype of what linear layers put out while they train."""
    seen: set[str] = set()

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Linear) and module.training and output.device.type != "meta":
            seen.add(f"{output.device.type} {output.dtype}")

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def refusal(function: Any) -> str:
    """Return the sentence of a user's mistake."""
    try:
        function()
    except UserError as mistake:
        return str(mistake)
    return "not refused"


class Least(pl.LightningModule):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def direct(**how: Any) -> None:
    """Fit one batch with a Trainer that was set up by hand."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="neuron", devices=1, max_steps=1, enable_model_summary=False, **quiet, **how
    )
    trainer.fit(Least(), torch.utils.data.DataLoader(torch.ones(2, 2), batch_size=2))


def streams_are_kept() -> bool:
    """Draw from the device's stream, put it back, and draw the same again."""
    device = torch.device("neuron", 1)
    torch.neuron.set_rng_state(torch.Generator().manual_seed(5).get_state(), device)
    before, state = torch.neuron.get_rng_state(device), capture(device)
    torch.neuron.manual_seed_all(9)
    restore(state, device)
    return bool(torch.equal(torch.neuron.get_rng_state(device), before))


def run(folder: Path) -> dict[str, Any]:
    """Return everything that the tests look at."""
    register()
    epochs = ["--trainer.max_epochs", "4"]
    cpu = fit(folder / "cpu", *PLAIN, *epochs)
    neuron = fit(folder / "neuron", *NEURON, *epochs)
    tenth = Path(str(neuron["folder"])) / "checkpoints" / "step00000010.ckpt"
    resumed = fit(folder / "neuron", *NEURON, *epochs, "--ckpt_path", tenth)
    mixed: dict[str, Any] = {}
    for place, precision, words in (
        ("cpu", "bf16-mixed", PLAIN),
        ("neuron", "bf16-mixed", NEURON),
        ("neuron", "bf16-true", NEURON),
    ):
        with linear_outputs() as seen:
            done = fit(folder / "mixed", *words, *SHORT, "--trainer.precision", precision)
        mixed[f"{place} {precision}"] = {"code": done["code"], "err": done["err"], "seen": sorted(seen)}
    one = SingleDeviceStrategy(device=torch.device("neuron", 0))
    stand_in.CALLS.clear()
    figures = memory_figures(torch.device("neuron", 0))
    calls = list(stand_in.CALLS)
    return {
        "cpu": cpu,
        "neuron": neuron,
        "resumed": resumed,
        "mixed": mixed,
        "auto": choose("auto"),
        "figures": figures,
        "calls": calls,
        "streams": streams_are_kept(),
        "devices": {
            str(asked): NeuronAccelerator.parse_devices(asked) for asked in (1, 2, -1, "0,1", "1,", [1])
        },
        "refused": {
            "other plug-in": refusal(lambda: direct(precision="bf16-mixed", strategy=one)),
            "other device": refusal(lambda: direct()),
            "float64": refusal(lambda: neuron_arguments({"precision": "64-true"})),
            "fork": refusal(lambda: neuron_arguments({"strategy": "ddp_fork", "devices": 2})),
            "notebook": refusal(lambda: neuron_arguments({"strategy": "ddp_notebook", "devices": 2})),
            "too many": refusal(lambda: neuron_arguments({"devices": 3})),
            "none": refusal(lambda: neuron_arguments({"devices": 0})),
            "words": refusal(lambda: neuron_arguments({"devices": "two"})),
        },
        "strategy of two": str(neuron_arguments({"devices": 2})["strategy"]),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.chdir(folder)
    torch.set_num_threads(1)
    stand_in.install(devices=2)
    Path("results.json").write_text(json.dumps(run(folder)))
