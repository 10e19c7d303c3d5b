"""Rows of several processes: uneven ones are gathered in order, and a validation does not depend on them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from apps.remote_sensing.models.dino.siamese import Siamese
from apps.remote_sensing.models.softcon import SoftConViT
from apps.remote_sensing.tasks.contrastive import ContrastivePretraining
from core.strategies.collectives import gathered

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from core.strategies.collectives import gathered
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
own = torch.full((3 - 2 * rank, 2), float(rank), requires_grad=True)
every, first = gathered(own, None)
assert every[:, 0].tolist() == [0, 0, 0, 1], every
assert not every.requires_grad and first == 3 * rank
every, first = gathered(torch.tensor([rank, rank]), None, even=True)
assert every.tolist() == [0, 0, 1, 1] and first == 2 * rank
dist.destroy_process_group()
"""


@dataclass
class Scenes:
    image: torch.Tensor
    label: torch.Tensor
    names: tuple[str, ...]


def test_uneven_rows_of_two_processes_are_gathered_in_order(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    both = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "meet")], cwd=root)
        for rank in range(2)
    ]
    assert [one.wait(timeout=60) for one in both] == [0, 0]


def test_rows_of_one_process_are_its_own() -> None:
    rows = torch.rand(3, 2, requires_grad=True)
    every, first = gathered(rows, None)
    assert torch.equal(every, rows)
    assert (every.requires_grad, first) == (False, 0)


def test_a_validation_does_not_depend_on_its_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(11, 3, 2, 16, 16, generator=generator)
    labels = torch.randint(0, 2, (11, 5), generator=generator).float()
    torch.manual_seed(0)
    encoder = SoftConViT(3, width=24, depth=2, heads=2, patch=4, image=16, layer_scale=1.0)
    task = ContrastivePretraining(Siamese(encoder, projection=16, hidden=32))
    found = []
    for size in (11, 3):
        parts = [torch.arange(11)[first : first + size] for first in range(0, 11, size)]
        batches = [
            Scenes(images[rows], labels[rows], tuple(f"scene {int(i)}" for i in rows)) for rows in parts
        ]
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        (scores,) = trainer.validate(task, DataLoader(batches, batch_size=None), verbose=False)
        found.append(scores)
    assert found[0].keys() == {"val_loss", "val_contrastive", "val_soft"}
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["val_loss"] == pytest.approx(found[0]["val_contrastive"] + 0.1 * found[0]["val_soft"])
