"""A few fixed shapes: buckets, padding, and a warning that counts the shapes which came all the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.accelerators.compilation import CountShapes, StaticShapes, signature
from core.data.batch import Batch
from core.data.buckets import bucket, buckets_between, pad_length, pad_rows


@dataclass(frozen=True, eq=False)
class Words(Batch):
    """`ids` (B, S), `names` of B."""

    ids: Tensor
    names: tuple[str, ...] = ()


@given(st.integers(1, 500), st.integers(0, 5000), st.integers(1, 128), st.floats(1.05, 3))
def test_buckets_rise_to_the_largest_length(smallest: int, more: int, multiple: int, growth: float) -> None:
    largest = smallest + more

    sizes = buckets_between(smallest, largest, multiple=multiple, growth=growth)

    assert sizes == sorted(set(sizes))
    assert all(size % multiple == 0 for size in sizes)
    assert sizes[-1] - multiple < largest <= sizes[-1]
    assert all(after <= max(before * growth, before + multiple) for before, after in pairwise(sizes))


@given(st.integers(1, 1024))
def test_a_length_goes_into_the_smallest_bucket_that_holds_it(length: int) -> None:
    sizes = buckets_between(64, 1024)

    found = bucket(length, sizes)

    assert found >= length
    assert not [size for size in sizes if length <= size < found]


def test_a_length_above_all_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="above the largest bucket, 8"):
        bucket(9, [4, 8])


@given(st.integers(1, 6), st.integers(0, 6), st.integers(-3, 2))
def test_padding_appends_along_one_dimension(length: int, missing: int, dim: int) -> None:
    shape = [2, 3, 4]
    shape[dim] = length
    tensor = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)

    padded = pad_length(tensor, length + missing, dim=dim, value=-1)

    assert torch.equal(padded.narrow(dim, 0, length), tensor)
    assert bool((padded.narrow(dim, length, missing) == -1).all())


def test_a_last_batch_is_padded_with_rows_that_a_mask_leaves_out() -> None:
    batch = Words(torch.arange(6).reshape(3, 2), ("a", "b", "c"))

    padded, real = pad_rows(batch, 5)

    assert padded.ids.tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded.names == ("a", "b", "c", "c", "c")
    assert real.tolist() == [True, True, True, False, False]


def test_a_batch_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="3 samples cannot be padded to 2"):
        pad_rows(Words(torch.zeros(3, 1)), 2)


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
