"""A few fixed shapes: a warning that counts the shapes which came all the same."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from core.accelerators.compilation import CountShapes, StaticShapes, signature
from core.data.batch import Batch


@dataclass(frozen=True, eq=False)
class Words(Batch):
    """`ids` (B, S), `names` of B."""

    ids: Tensor
    names: tuple[str, ...] = ()


def test_a_signature_is_shape_and_dtype_of_every_tensor() -> None:
    batch = {"words": Words(torch.zeros(2, 3, dtype=torch.int64)), "more": [torch.zeros(4)]}

    assert sorted(signature(batch)) == [((2, 3), "int64"), ((4,), "float32")]


def test_shapes_are_counted_and_the_warning_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    counter, trainer = CountShapes(expected=2), SimpleNamespace(is_global_zero=True)

    for rows in (4, 4, 4, 3):
        counter.on_train_batch_start(trainer, None, Words(torch.zeros(rows, 2)), 0)
    assert capsys.readouterr().out == ""
    for rows in (4, 2, 1):
        counter.on_validation_batch_start(trainer, None, Words(torch.zeros(rows, 2)), 0)

    assert counter.count == 5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "3 shapes (2 in training, 1 in validation; the newest float32[4, 2])" in lines[0]


def test_an_incomplete_last_batch_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    data = SimpleNamespace(drop_last=False)

    StaticShapes().setup(SimpleNamespace(datamodule=data, is_global_zero=True), None, "fit")

    assert data.drop_last is True
    assert "data.drop_last is on" in capsys.readouterr().out
