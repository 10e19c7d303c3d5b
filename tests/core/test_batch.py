"""The batch type: moving, casting, joining, and passing through Lightning in every precision."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.data.batch import Batch, collate
from core.precision import precision_plugin


@dataclass(frozen=True, eq=False)
class Inner(Batch):
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Example(Batch):
    values: Tensor
    mask: Tensor
    name: str | tuple[str, ...] = ""
    extra: Tensor | None = None
    inner: Inner | None = None
    spectrum: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Slotted(Batch):
    values: Tensor


def example(number: int = 0) -> Example:
    return Example(
        values=torch.full((3,), float(number)),
        mask=torch.tensor([True, False, True]),
        name=f"sample {number}",
        inner=Inner(scale=torch.tensor(float(number))),
    )


def test_to_casts_only_floating_tensors_and_leaves_the_rest():
    batch = Example(
        values=torch.ones(2), mask=torch.ones(2, dtype=torch.bool), name="x", spectrum=torch.ones(2) * 1j
    )

    moved = batch.to(torch.bfloat16)

    assert moved.values.dtype == torch.bfloat16
    assert moved.mask.dtype == torch.bool
    assert moved.spectrum.dtype == torch.complex64
    assert moved.name == "x" and moved.extra is None
    assert batch.values.dtype == torch.float32


def test_to_takes_a_device_a_dtype_and_a_tensor_like_a_tensor_does():
    batch = Inner(scale=torch.ones(2))

    assert batch.to("meta").scale.device.type == "meta"
    assert batch.to(device="meta", dtype=torch.float64).scale.dtype == torch.float64
    assert batch.to(torch.ones(1, dtype=torch.float64)).scale.dtype == torch.float64
    assert batch.to("cpu", non_blocking=True).scale.device.type == "cpu"


def test_stack_joins_tensors_nested_batches_and_names():
    batch = Example.stack([example(0), example(1)])

    assert batch.values.shape == (2, 3) and len(batch) == 2
    assert batch.inner.scale.tolist() == [0.0, 1.0]
    assert batch.name == ("sample 0", "sample 1")
    assert batch.extra is None


def test_stack_names_the_field_that_cannot_be_joined():
    with pytest.raises(ValueError, match=r"Example\.extra.*None in some items"):
        Example.stack([example(), Example(torch.ones(3), torch.ones(3), extra=torch.ones(1))])
    with pytest.raises(ValueError, match=r"Slotted\.values"):
        Slotted.stack([Slotted(torch.ones(2)), Slotted(torch.ones(3))])
    with pytest.raises(ValueError, match="no items"):
        Example.stack([])


def test_concatenate_and_select_undo_each_other():
    batch = Example.stack([example(number) for number in range(5)])

    joined = Example.concatenate([batch.select([3, 1]), batch.select([0])])

    assert joined.name == ("sample 3", "sample 1", "sample 0")
    assert joined.values[:, 0].tolist() == [3.0, 1.0, 0.0]
    assert joined.inner.scale.tolist() == [3.0, 1.0, 0.0]


def test_slots_containers_and_length_without_tensors_work():
    @dataclass(frozen=True, eq=False)
    class Levels(Batch):
        names: tuple[str, ...]
        maps: dict[str, list[Tensor]]

    batch = Levels(names=("a", "b"), maps={"x": [torch.ones(2)]})

    assert len(batch) == 2
    assert batch.to(torch.float64).maps["x"][0].dtype == torch.float64
    assert Slotted(torch.ones(4)).to(torch.float16).values.dtype == torch.float16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinning needs an accelerator")
def test_pinned_batch_is_pinned():
    assert Inner(scale=torch.ones(2)).pin_memory().scale.is_pinned()


class Seen(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.dtypes: list[torch.dtype] = []

    def training_step(self, batch: Example, index: int) -> Tensor:
        self.dtypes += [batch.values.dtype, batch.mask.dtype, batch.inner.scale.dtype]
        loss = self.layer(batch.values).mean()
        self.log("loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Example, index: int) -> None:
        self.training_step(batch, index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(precision: str) -> Seen:
    plugin = precision_plugin(precision)
    how = {"precision": precision} if plugin is None else {"plugins": [plugin]}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **how,
    )
    loader = DataLoader([example(number) for number in range(4)], batch_size=2, collate_fn=collate)
    task = Seen()
    trainer.fit(task, loader, loader)
    return task


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("bf16-mixed", torch.float32),
        ("bf16-true", torch.bfloat16),
        ("64-true", torch.float64),
    ],
)
def test_frozen_batch_trains_and_validates_in_every_precision(precision, dtype):
    task = fit(precision)

    assert set(task.dtypes) == {dtype, torch.bool}
    wanted = torch.float32 if precision == "bf16-mixed" else dtype
    assert task.layer.weight.dtype == wanted


def test_only_the_true_precisions_other_than_32_need_a_plugin():
    assert precision_plugin("32-true") is None
    assert precision_plugin(None) is None
    assert precision_plugin("16-mixed") is None
    assert precision_plugin("16-true").convert_input([torch.ones(1)])[0].dtype == torch.float16
