"""Windows of a grid: order, padding, shift, masks, offsets, and what is kept."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backbones.windows import (
    join_windows,
    offset_index,
    offset_table,
    plan_windows,
    split_windows,
)

GEOMETRIES = [
    ((8, 8), (4, 4), (0, 0)),
    ((8, 8), (4, 4), (2, 2)),
    ((10, 7), (4, 4), (2, 2)),
    ((3, 3), (2, 2), (0, 0)),
    ((6, 6), (6, 6), (0, 0)),
    ((4, 6, 5), (2, 3, 2), (1, 0, 1)),
]


def rolled(x: torch.Tensor, grid, window, shift) -> torch.Tensor:
    """Return windows by pad, roll, view and permute."""
    n, c = len(grid), x.shape[-1]
    padding = [0, 0]
    for g, w in zip(reversed(grid), reversed(window), strict=True):
        padding += [0, -g % w]
    x = F.pad(x.unflatten(1, grid), padding).roll([-s for s in shift], dims=list(range(1, n + 1)))
    sides = [s for p, w in zip(x.shape[1:-1], window, strict=True) for s in (p // w, w)]
    x = x.reshape(x.shape[0], *sides, c)
    order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1]
    return x.permute(order).reshape(-1, math.prod(window), c)


@pytest.mark.parametrize(("grid", "window", "shift"), GEOMETRIES)
def test_split_equals_pad_roll_and_partition(grid, window, shift):
    x = torch.randn(2, math.prod(grid), 3)

    assert torch.equal(split_windows(x, plan_windows(grid, window, shift)), rolled(x, grid, window, shift))


@pytest.mark.parametrize(("grid", "window", "shift"), GEOMETRIES)
def test_join_undoes_split_and_gradients_are_right(grid, window, shift):
    plan = plan_windows(grid, window, shift)
    x = torch.randn(2, math.prod(grid), 2, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(2 * plan.count, plan.size, 2, dtype=torch.float64)

    assert torch.equal(join_windows(split_windows(x, plan), plan), x)
    assert torch.autograd.gradcheck(lambda x: join_windows(split_windows(x, plan) * factor, plan), (x,))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.data())
def test_every_token_has_exactly_one_place(rows, columns, window, data):
    shift = data.draw(st.integers(0, window - 1))
    plan = plan_windows((rows, columns), (window, window), (shift, shift))
    x = torch.arange(1.0, rows * columns + 1).view(1, -1, 1)

    shown = split_windows(x, plan).flatten()

    assert torch.equal(shown[shown > 0].sort().values, x.flatten())
    assert torch.equal(join_windows(split_windows(x, plan), plan), x)


def test_the_mask_separates_what_the_shift_brought_together():
    plan = plan_windows((4, 4), (2, 2), (1, 1))
    mask = plan.mask(value=-100.0, dtype=torch.float32)
    rows = split_windows(torch.arange(4.0).repeat_interleave(4).view(1, 16, 1), plan)[..., 0]
    columns = split_windows(torch.arange(4.0).repeat(4).view(1, 16, 1), plan)[..., 0]

    def apart(place: torch.Tensor) -> torch.Tensor:
        return (place[:, :, None] - place[:, None]).abs() > 1

    assert mask is not None
    assert torch.equal(mask != 0, apart(rows) | apart(columns))
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_there_is_no_mask_without_a_shift():
    assert plan_windows((5, 5), (2, 2), (0, 0)).mask(value=-1.0, dtype=torch.float32) is None


def test_offsets_are_log_spaced_and_each_pair_finds_its_own():
    table = offset_table((3, 3), device="cpu", dtype=torch.float64)
    index = offset_index((3, 3), device="cpu").view(9, 9)

    def spaced(offset: int) -> float:
        x = offset / 2 * 8
        return math.copysign(math.log2(abs(x) + 1) / 3, x) if x else 0.0

    pairs = [((i // 3 - j // 3), (i % 3 - j % 3)) for i in range(9) for j in range(9)]
    wanted = torch.tensor([[spaced(a), spaced(b)] for a, b in pairs], dtype=torch.float64)
    assert table.shape == (25, 2)
    torch.testing.assert_close(table[index.flatten()], wanted, atol=1e-6, rtol=0)


AROUND = [((4, 5, 10), (2, 3, 4), (1, 1, 2)), ((2, 7, 9), (2, 6, 4), (0, 3, 2)), ((3, 8), (3, 4), (0, 2))]


def padded_around(x: torch.Tensor, window, value: float) -> torch.Tensor:
    """Pad `(B, …, C)` in front by the smaller half of what is missing, and behind."""
    sides = []
    for g, w in zip(reversed(x.shape[1:-1]), reversed(window), strict=True):
        sides += [-g % w // 2, -g % w - -g % w // 2]
    return F.pad(x, [0, 0, *sides], value=value)


@pytest.mark.parametrize(("grid", "window", "shift"), AROUND)
def test_padding_around_follows_the_shift_and_is_a_region(grid, window, shift):
    plan = plan_windows(grid, window, shift, padding="around", periodic=(len(grid) - 1,))
    regions = torch.zeros(1, *grid, 1)
    for axis, (g, w, s) in enumerate(zip(grid, window, shift, strict=True), start=1):
        place = torch.arange(g)
        part = (place >= g - w).long() + (place >= g - s).long() if s else torch.zeros(g)
        part = part.clamp(max=1) if axis == len(grid) else part
        shape = [1] * (len(grid) + 2)
        shape[axis] = g
        regions = regions * 3 + part.view(shape)
    zero = (0,) * len(grid)
    groups = rolled(
        padded_around(regions, window, -1.0).flatten(1, -2),
        [-(-g // w) * w for g, w in zip(grid, window, strict=True)],
        window,
        zero,
    )[..., 0]
    apart = groups[:, :, None] != groups[:, None]
    x = torch.randn(2, *grid, 3)
    moved = padded_around(x.roll([-s for s in shift], dims=list(range(1, len(grid) + 1))), window, 0.0)

    assert torch.equal(plan.mask(value=1.0, dtype=torch.float32), apart.float())
    assert torch.equal(
        split_windows(x.flatten(1, -2), plan), rolled(moved.flatten(1, -2), moved.shape[1:-1], window, zero)
    )
    assert torch.equal(join_windows(split_windows(x.flatten(1, -2), plan), plan), x.flatten(1, -2))


def test_padding_shows_a_row_of_its_own_with_its_gradient():
    plan = plan_windows((3, 5), (2, 4), (1, 2), padding="around", periodic=(1,))
    x = torch.randn(2, 15, 2, dtype=torch.float64, requires_grad=True)
    row = torch.randn(2, dtype=torch.float64, requires_grad=True)

    windows = split_windows(x, plan, padding=row)

    assert torch.equal(windows.flatten(0, 1)[plan.padding], row.expand(len(plan.padding), 2))
    assert torch.autograd.gradcheck(lambda x, row: split_windows(x, plan, padding=row).square(), (x, row))


def test_ends_of_an_axis_are_neighbours_only_where_it_is_periodic():
    round_the_globe = plan_windows((8,), (4,), (2,), periodic=(0,)).mask(value=1.0, dtype=torch.float32)
    with_ends = plan_windows((8,), (4,), (2,)).mask(value=1.0, dtype=torch.float32)

    assert not round_the_globe.any()
    assert with_ends.any()


def test_plans_and_masks_are_kept_and_serve_training_after_inference():
    grid, window, shift = (12, 12), (6, 6), (3, 3)
    with torch.inference_mode():
        first = plan_windows(grid, window, shift)
        mask = first.mask(value=-7.0, dtype=torch.float32)
        assert plan_windows(grid, window, shift) is first
        assert first.mask(value=-7.0, dtype=torch.float32) is mask
    x = torch.randn(1, 144, 2, requires_grad=True)

    (split_windows(x, first)[:, :1] * mask.sum()).sum().backward()

    assert x.grad is not None


def test_a_plan_is_made_where_it_is_asked_for_even_among_meta_tensors():
    with torch.device("meta"):
        plan = plan_windows((9, 9), (4, 4), (2, 2), device="cpu")
    assert plan.gather.device.type == "cpu"

    with torch.device("meta"):
        x = torch.empty(2, 81, 3)
        meta = plan_windows((9, 9), (4, 4), (2, 2), device="meta")
        assert split_windows(x, meta).shape == (18, 16, 3)
        assert join_windows(split_windows(x, meta), meta).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((4, 4), (2,), (0, 0)), "as many axes"),
        (((4, 4), (2, 2), (2, 0)), "shift .* below the window"),
        (((0, 4), (2, 2), (0, 0)), "must be positive"),
    ],
)
def test_geometries_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan_windows(*arguments)


def test_a_window_of_one_has_no_offsets():
    with pytest.raises(ValueError, match="at least 2"):
        offset_table((1, 4), device="cpu", dtype=torch.float32)
