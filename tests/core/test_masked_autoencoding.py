"""Masked autoencoding over any grid: patches, which tokens stay, where they return, what the loss counts."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backbones.patches import PatchEmbed, cut, patch_grid, patchify, unpatchify
from core.backbones.positions import grid_table, resize_table, sincos
from core.objectives.masked_autoencoding import (
    masked_loss,
    masking,
    random_masking,
    restore,
    select,
    token_mask,
)

GRIDS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3)
quick = settings(max_examples=30, deadline=None)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(axes=GRIDS, channels=st.integers(1, 3))
def test_patches_of_any_grid_come_back(axes: list[tuple[int, int]], channels: int) -> None:
    grid, patch = zip(*axes, strict=True)
    x = noise(2, channels, *(g * p for g, p in axes))

    tokens = patchify(x, patch)

    assert tokens.shape == (2, math.prod(grid), math.prod(patch) * channels)
    assert torch.equal(unpatchify(tokens, grid=grid, patch=patch), x)
    assert patch_grid(x.shape[2:], patch) == grid


def test_within_a_patch_the_channel_is_fastest_then_column_row_and_frame() -> None:
    x = noise(2, 3, 4, 6, 10)
    wanted = rearrange(x, "b c (t s) (h p) (w q) -> b (t h w) (s p q c)", s=2, p=3, q=5)

    assert torch.equal(patchify(x, (2, 3, 5)), wanted)


@pytest.mark.parametrize("axes", [(7,), (6, 9), (3, 8, 5)])
def test_embedding_equals_a_convolution_whose_stride_is_its_kernel(axes: tuple[int, ...]) -> None:
    patch = (2, 4, 3)[: len(axes)]
    embed, x = PatchEmbed(3, 8, patch=patch), noise(2, 3, *axes)

    assert torch.allclose(embed(x), embed.proj(x).flatten(2).transpose(1, 2), atol=1e-6)


@quick
@given(tokens=st.integers(1, 30), ratio=st.floats(0.0, 0.99), seed=st.integers(0, 99))
def test_kept_tokens_return_to_their_places_and_no_other_is_kept(
    tokens: int, ratio: float, seed: int
) -> None:
    if int(tokens * (1.0 - ratio)) < 1:
        return
    x, empty = noise(3, tokens, 2, seed=seed), torch.full((1, 1, 2), -1.0)

    chosen = random_masking(3, tokens, ratio, generator=torch.Generator().manual_seed(seed))
    back = restore(select(x, chosen), chosen, empty)

    assert torch.equal(back, torch.where(chosen.mask[..., None], empty, x))
    assert (~chosen.mask).sum(1).tolist() == [int(tokens * (1.0 - ratio))] * 3


@quick
@given(seed=st.integers(0, 999), share=st.floats(0.0, 0.9))
def test_samples_that_keep_different_numbers_are_padded_and_restored(seed: int, share: float) -> None:
    removed = noise(4, 9, seed=seed) < share
    removed[:, 4] = False
    x, empty = noise(4, 9, 2, seed=seed + 1), torch.full((1, 1, 2), -1.0)

    chosen = masking(removed)
    kept = select(x, chosen)
    if chosen.valid is not None:
        kept = kept.masked_fill(~chosen.valid[..., None], torch.nan)

    assert torch.equal(restore(kept, chosen, empty), torch.where(removed[..., None], empty, x))
    assert torch.equal(chosen.mask, removed)


def test_the_smallest_noise_is_kept_as_recorded_programs_do() -> None:
    order = torch.tensor([[0.9, 0.1, 0.5, 0.3]])

    chosen = random_masking(1, 4, 0.5, noise=order)

    assert chosen.keep.tolist() == [[1, 3]]
    assert chosen.mask.tolist() == [[True, False, True, False]]
    assert chosen.restore is not None
    assert chosen.restore.tolist() == [[3, 0, 2, 1]]


def test_counting_in_the_first_sample_keeps_as_many_in_all() -> None:
    removed = torch.tensor([[True, True, False, False], [True, False, False, False]])

    chosen = masking(removed, count_in_first=True)

    assert chosen.keep.tolist() == [[2, 3], [1, 2]]
    assert chosen.mask.tolist() == [[True, True, False, False], [True, False, False, True]]


def test_the_same_generator_draws_the_same_masks() -> None:
    first, second = (random_masking(2, 50, 0.6, generator=torch.Generator().manual_seed(7)) for _ in range(2))

    assert torch.equal(first.keep, second.keep)
    assert not torch.equal(first.keep[0], first.keep[1])


@quick
@given(axes=GRIDS, seed=st.integers(0, 99))
def test_a_token_is_marked_if_any_of_its_pixels_is(axes: list[tuple[int, int]], seed: int) -> None:
    patch = [side for _, side in axes]
    pixels = noise(2, 2, *(g * p for g, p in axes), seed=seed) < 0.1

    assert torch.equal(token_mask(pixels, patch), cut(pixels, patch).flatten(2).any(-1))


def test_visible_patches_carry_no_loss_and_no_gradient() -> None:
    prediction, target = noise(2, 6, 5).requires_grad_(), noise(2, 6, 5, seed=1)
    mask = torch.tensor([[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)

    loss = masked_loss(prediction, target, mask)
    loss.backward()

    assert torch.allclose(loss, (prediction - target)[mask].square().mean())
    assert prediction.grad is not None
    assert not prediction.grad[~mask].any()


def test_the_gradient_of_the_loss_is_that_of_its_definition() -> None:
    prediction, target = noise(2, 3, 4).double(), noise(2, 3, 4, seed=1).double()
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)

    pair = (prediction.requires_grad_(), target.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, t: masked_loss(p, t, mask), pair)


def test_normalised_targets_have_the_unbiased_spread_of_their_own_patch() -> None:
    target, mask = noise(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    wanted = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()

    assert masked_loss(wanted, target, mask, norm_pix=True) < 1e-12
    assert masked_loss(torch.zeros_like(target), 5 + 3 * target, mask, norm_pix=True) == pytest.approx(
        7 / 8, rel=1e-4
    )


def test_a_loss_over_nothing_removed_is_zero() -> None:
    assert masked_loss(noise(1, 2, 3), noise(1, 2, 3, seed=1), torch.zeros(1, 2, dtype=torch.bool)) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_masking(1, 4, 1.0), "must lie in"),
        (lambda: random_masking(1, 2, 0.9), "leaves none of 2 tokens"),
        (lambda: random_masking(1, 4, 0.5, noise=torch.zeros(1, 3)), "must be"),
        (lambda: masking(torch.ones(1, 4, dtype=torch.bool)), "no token of a sample"),
        (lambda: patchify(torch.zeros(1, 1, 5), (2,)), "does not divide"),
        (lambda: unpatchify(torch.zeros(1, 5, 4), grid=(2, 2), patch=(2, 2)), "make no grid"),
    ],
)
def test_what_cannot_be_masked_or_cut_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_codes_are_sines_before_cosines_of_falling_frequencies() -> None:
    code = sincos(torch.tensor([3.0]), 4)[0]

    assert code.tolist() == pytest.approx([math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)])


def test_a_table_joins_the_codes_of_its_axes_in_the_order_asked() -> None:
    table = grid_table((2, 3), (2, 4), order=(1, 0))

    assert table.shape == (6, 6)
    assert torch.equal(table[5], torch.cat([sincos(torch.tensor(2), 4), sincos(torch.tensor(1), 2)]))


@quick
@given(frames=st.integers(1, 3), rows=st.integers(2, 5), columns=st.integers(2, 5))
def test_a_table_resized_keeps_its_corners_and_its_own_size(frames: int, rows: int, columns: int) -> None:
    table = noise(frames * 9, 4)

    same = resize_table(table, grid=(3, 3), to=(3, 3))
    other = resize_table(table, grid=(3, 3), to=(rows, columns)).view(frames, rows, columns, 4)

    assert torch.allclose(same, table, atol=1e-6)
    corners = table.view(frames, 3, 3, 4)[:, ::2, ::2]
    assert torch.allclose(other[:, :: rows - 1, :: columns - 1], corners, atol=1e-5)
