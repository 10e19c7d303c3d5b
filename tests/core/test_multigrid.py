"""The multigrid's shapes, the samples its batches take, its rate, and a real run through the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.module import DataModule
from core.data.multigrid import Multigrid, Shape
from core.data.multigrid_set import MultigridBatches, MultigridShapes
from core.data.sampler import ResumableSampler
from core.errors import UserError
from core.optim.data_pace import MultigridRate

SMALL = Multigrid(frames=8, crop=16, borders=(4, 6), epochs=8)


def test_a_step_costs_about_the_same_in_every_shape() -> None:
    default = Multigrid()
    costs = [s.batch * s.frames * s.crop**2 for stage in default.stages for s in stage.cycle]
    assert all(0.95 < cost / (32 * 224**2) < 1.06 for cost in costs)
    assert [s.crop for s in default.stages[0].cycle] == [112, 158, 158]
    assert [s.batch for s in default.stages[3].cycle] == [4, 2, 1]


def test_without_the_long_cycle_epochs_are_stretched_and_only_the_crop_changes() -> None:
    grid = Multigrid(long_cycle=False)
    assert [stage.until for stage in grid.stages] == [141, 231, 294, 358]
    assert [at for at, _ in grid.rates] == [0, 141, 231, 294]
    assert grid.rates[1][1] == pytest.approx(0.1)
    assert {stage.cycle for stage in grid.stages} == {
        (Shape(4, 32, 112), Shape(2, 32, 158), Shape(1, 32, 224))
    }


@settings(deadline=None, max_examples=20)
@given(total=st.integers(20, 400), cut=st.integers(0, 400))
def test_batches_before_a_step_are_the_sum_of_those_before_it(total: int, cut: int) -> None:
    step = min(cut, total)
    assert SMALL.batches_before(step, total) == sum(SMALL.shape(s, total).batch for s in range(step))


def test_the_rate_follows_the_stages() -> None:
    grid = Multigrid()
    total = round(grid.work * 100)
    seen = [MultigridRate(grid).factor(step, total) for step in range(total)]
    changes = [seen[0], *(b for a, b in pairwise(seen) if a != b)]
    recorded = [rate for _, rate in grid.rates]
    assert changes == [rate for rate, _ in groupby(recorded)]
    assert MultigridRate(grid, warmup=10).factor(5, total) == pytest.approx(seen[5] / 2)


def places(world: int, rank: int, first: int, epochs: int = 2) -> list[list[tuple[int, int]]]:
    sampler = ResumableSampler(23, seed=1, batch_size=8 // world, world=world, rank=rank, start=first * 8)
    batches = MultigridBatches(sampler, 1, grid=SMALL, epochs=epochs)
    rest = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rest += [[(turn, index) for turn, index, *_ in batch] for batch in batches]
    return rest


def test_many_processes_see_the_batches_of_one_and_a_run_goes_on_at_any_step() -> None:
    alone, two = places(1, 0, 0), [places(2, rank, 0) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == alone
    assert places(1, 0, 2) == alone[2:]


def test_every_sample_comes_once_in_every_pass() -> None:
    every = [place for batch in places(1, 0, 0, epochs=6) for place in batch]
    assert sorted(every[:23]) == [(0, index) for index in range(23)]
    assert sorted(every[23:46]) == [(1, index) for index in range(23)]


@dataclass(frozen=True, eq=False)
class Films(Batch):
    film: Tensor  # (B, T, H, W)
    label: Tensor  # (B,)


class Source(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, where: tuple[int, int]) -> Films:
        index = where[1]
        grown = torch.arange(8.0)[:, None, None] * torch.linspace(0, 1 + index, 16)
        return Films(grown.expand(8, 16, 16) / 100, torch.tensor(float(index)))


def test_crops_are_windows_frames_are_strided_and_averages_keep_the_mean() -> None:
    batch = Films.stack([Source()[0, index] for index in range(3)])
    small = Shape(batch=4, frames=4, crop=8)
    crop = MultigridShapes(SMALL, by="crop", time=-3).reshaped(batch, small, (0.99, 0.0))
    assert torch.equal(crop.film, batch.film[:, ::2, 8:, :8])
    mean = MultigridShapes(SMALL, by="resize").reshaped(batch, small)
    assert mean.film.shape == (3, 8, 8, 8)
    torch.testing.assert_close(mean.film.mean(), batch.film.mean())


@dataclass(frozen=True, eq=False)
class Masked(Batch):
    film: Tensor
    mask: Tensor


@pytest.mark.parametrize("by", ["crop", "resize"])
def test_a_mask_keeps_its_place(by: str) -> None:
    film = torch.zeros(1, 1, 16, 16)
    film[..., 8:, :] = 1
    small = MultigridShapes(SMALL, by=by).reshaped(Masked(film, film == 1), Shape(4, 8, 8))
    assert torch.equal(small.film > 0.5, small.mask) and small.mask.shape == (1, 1, 8, 8)


class Data(DataModule):
    def train_set(self) -> Dataset:
        return Source()


class Model(LightningModule):
    """Any size will do: a convolution and a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 1, 1))
        self.shapes: list[tuple[int, ...]] = []
        self.losses: list[float] = []

    def training_step(self, batch: Films, index: int) -> Tensor:
        self.shapes.append(tuple(batch.film.shape))
        guess = self.network(batch.film[:, None]).mean((1, 2, 3, 4))
        loss = (guess - batch.label / 16).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def train(callback: MultigridShapes, epochs: int = 4) -> Model:
    model = Model()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[callback],
    )
    trainer.fit(model, datamodule=Data(batch_size=2))
    return model


def test_a_recipe_can_train_on_the_multigrid() -> None:
    model = train(MultigridShapes(SMALL, time=-3))
    wanted = [SMALL.shape(step, 32) for step in range(32)]
    assert model.shapes == [(2 * s.batch, s.frames, s.crop, s.crop) for s in wanted]
    assert model.losses[-1] < model.losses[0]
    assert model.losses == train(MultigridShapes(SMALL, time=-3)).losses


def test_wrong_schedules_and_data_are_the_users_mistakes() -> None:
    with pytest.raises(UserError, match="must rise between 0"):
        Multigrid(borders=(5, 4), epochs=8)
    with pytest.raises(UserError, match="above 0 and at most 1"):
        Multigrid(short_factors=(2.0,))
    with pytest.raises(UserError, match="must be positive"):
        Multigrid(frames=0)
    with pytest.raises(UserError, match="it must be crop or resize"):
        MultigridShapes(SMALL, by="cropped")
    with pytest.raises(UserError, match="finds no floating tensor label"):
        train(MultigridShapes(SMALL, fields=["label"]))
