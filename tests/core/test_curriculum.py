"""Curricula grow as recorded, cut batches without mixing rows, and drive the rate by what was processed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.backbones.llama import llama_tiny
from core.backbones.token_dropping import KeptTokens
from core.data.batch import Batch
from core.data.curriculum import (
    FixedDiscrete,
    FixedLinear,
    FixedRoot,
    SequenceCurriculum,
    consumed,
    shortened,
)
from core.data.module import DataModule
from core.data.packing import Packed, PackedBatch
from core.errors import UserError
from core.objectives.next_token import next_token
from core.optim import Cosine
from core.optim.data_pace import CountedByTokens


@given(
    minimum=st.integers(8, 100),
    span=st.integers(0, 500),
    steps=st.integers(1, 60),
    degree=st.sampled_from([1, 2, 3]),
    multiple=st.sampled_from([1, 8]),
)
def test_difficulty_grows_to_the_largest(
    minimum: int, span: int, steps: int, degree: int, multiple: int
) -> None:
    curriculum = FixedRoot(minimum, minimum + span, steps, multiple, degree)
    values = [curriculum.value(step) for step in range(steps + 1)]
    assert values == sorted(values)
    assert all(value % multiple == 0 or value == curriculum.largest for value in values)
    assert {curriculum.value(curriculum.end + step) for step in range(3)} == {curriculum.largest}


def test_discrete_difficulties_last_through_their_step() -> None:
    curriculum = FixedDiscrete(difficulties=(64, 128, 512), until=(50, 200))
    assert [curriculum.value(s) for s in (0, 50, 51, 200, 201, 999)] == [64, 64, 128, 128, 512, 512]


@pytest.mark.parametrize("steps", [0, 1, 7, 12, 40])
@pytest.mark.parametrize(
    "pace",
    [
        FixedLinear(8, 32, 10),
        FixedDiscrete((8, 32), (4,)),
        KeptTokens(16, 64, 9, layers=4),
        FixedLinear(8, 8, 3),
    ],
)
def test_consumed_work_is_the_sum_of_the_shares(pace: object, steps: int) -> None:
    assert consumed(pace, steps) == pytest.approx(sum(pace.share(step) for step in range(steps)))


def test_a_rate_counted_by_tokens_stands_where_the_tokens_stand() -> None:
    pace = FixedDiscrete(difficulties=(16, 32), until=(9,))  # ten half batches, then ten full ones
    rate = CountedByTokens(schedule=Cosine(warmup=0, minimum=0.0), pace=pace)
    assert rate.factor(0, 20) == 1
    assert rate.factor(10, 20) == pytest.approx(Cosine(warmup=0, minimum=0.0).factor(5, 15))
    assert rate.factor(20, 20) == pytest.approx(0)
    with pytest.raises(UserError, match="needs the run's length"):
        rate.factor(0, float("inf"))


@dataclass(frozen=True, eq=False)
class Rows(Batch):
    ids: Tensor
    positions: Tensor
    label: Tensor | None = None


def test_rows_are_truncated_or_cut_into_more_rows() -> None:
    ids = torch.arange(20).view(2, 10)
    batch = Rows(ids, ids % 10)
    assert torch.equal(shortened(batch, 4).ids, ids[:, :4])
    assert shortened(batch, 4, fields=["ids"]).positions.shape == (2, 10)
    assert shortened(batch, 10) is batch and shortened(batch, 99, by="reshape") is batch
    pieces = shortened(batch, 4, by="reshape")
    assert pieces.ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [10, 11, 12, 13], [14, 15, 16, 17]]
    assert len(pieces) == 4


def test_what_cannot_be_cut_is_refused() -> None:
    ids = torch.zeros(2, 10)
    with pytest.raises(UserError, match=r"Rows\.label has no places to cut"):
        shortened(Rows(ids, ids, torch.zeros(2)), 5, by="reshape")
    with pytest.raises(UserError, match="did you mean 'ids'"):
        shortened(Rows(ids, ids), 5, fields=["idz"])
    with pytest.raises(UserError, match="this one is a Tensor"):
        shortened(ids, 5)
    with pytest.raises(UserError, match="minimum 0 and maximum 8"):
        FixedLinear(0, 8, 5)
    with pytest.raises(UserError, match="need as many steps less one"):
        FixedDiscrete((1, 2), ())
    with pytest.raises(UserError, match="begins with length 0"):
        SequenceCurriculum(FixedLinear(4, 8, 5, multiple=8))


class Sentences(Dataset):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        index = where[1]
        return (torch.arange(4 + 7 * index % 23) * (1 + index % 3) + index) % 256


class Data(DataModule):
    def train_set(self) -> Dataset:
        sentences = Sentences()
        lengths = [len(sentences[0, row]) for row in range(len(sentences))]
        return Packed(sentences, lengths, capacity=32, seed=self.seed)


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: nn.Module = llama_tiny(width=32)
        self.shapes: list[tuple[int, ...]] = []
        self.losses: list[float] = []

    def training_step(self, batch: PackedBatch, index: int) -> Tensor:
        self.shapes.append(tuple(batch.ids.shape))
        logits = self.network(batch.ids.reshape(1, -1), **batch.arguments()).logits
        total, count = next_token(logits, batch.labels.reshape(1, -1))
        self.losses.append(float(total.detach() / count))
        return total / count

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize(
    ("by", "shapes"),
    [
        ("truncate", [(4, 8), (4, 8), (4, 16), (4, 16), (4, 24), (4, 24), (4, 32)]),
        ("reshape", [(16, 8), (16, 8), (8, 16), (8, 16), (4, 24), (4, 24), (4, 32)]),
    ],
)
def test_a_recipe_can_train_on_short_sequences_first(by: str, shapes: list[tuple[int, int]]) -> None:
    model = Model()
    curriculum = SequenceCurriculum(FixedLinear(minimum=8, maximum=32, steps=6), by=by)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=9,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[curriculum],
    )
    data = Data(batch_size=4, seed=3, drop_last=True)
    trainer.fit(model, datamodule=data)
    assert model.shapes == [*shapes, (4, 32), (4, 32)]
    assert model.losses[-1] < model.losses[0]
    assert not data.changes
