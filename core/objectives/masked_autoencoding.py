"""Masked autoencoding over tokens of any grid (He et al. 2021, arXiv 2111.06377).

Which tokens are removed is decided by noise (`random_masking`), or by the data, such as clouds (`masking`).
Samples of one batch may keep different numbers of tokens: the shorter ones are padded and `valid` says where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.backbones.patches import cut

__all__ = [
    "Masking",
    "masked_loss",
    "masking",
    "normalised_patches",
    "random_masking",
    "restore",
    "select",
    "token_mask",
]


@dataclass(frozen=True)
class Masking:
    """Choice of the tokens of each sample that are kept.

    Args:
        keep: `(B, K)` int64, the kept tokens in the order in which the encoder sees them; padding names
            token 0.
        mask: `(B, L)` bool, True where a token was removed.
        valid: `(B, K)` bool, False at padding; None where nothing is padded.
        restore: `(B, L)` int64, the place of each token among the kept ones followed by the removed ones;
            None where samples keep different numbers.
    """

    keep: Tensor
    mask: Tensor
    valid: Tensor | None = None
    restore: Tensor | None = None


def random_masking(
    batch: int,
    tokens: int,
    ratio: float,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Masking:
    """Keep the `int(tokens * (1 - ratio))` tokens of each sample whose noise `(batch, tokens)` is smallest.

    Without noise it is drawn uniformly from `generator`, on its own device; the result lies on `device`.

    Raises:
        ValueError: If the ratio is not in [0, 1), no token would stay, or the noise has another shape.
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"the mask ratio is {ratio}; it must lie in [0, 1)")
    kept = int(tokens * (1.0 - ratio))
    if kept < 1:
        raise ValueError(f"a mask ratio of {ratio} leaves none of {tokens} tokens")
    if noise is None:
        source = device if generator is None else generator.device
        noise = torch.rand(batch, tokens, generator=generator, device=source).to(device)
    if noise.shape != (batch, tokens):
        raise ValueError(f"the noise is {tuple(noise.shape)} and must be {(batch, tokens)}")
    return _split(noise, kept)


def masking(mask: Tensor, *, count_in_first: bool = False) -> Masking:
    """Return the masking that removes just the tokens of `mask` `(B, L)` bool.

    With `count_in_first` every sample keeps as many tokens as the first, as the published program for cloud
    gaps does: in samples with more to remove some of that stays visible, in those with less some others
    vanish.

    Raises:
        ValueError: If no token would stay in a sample.
    """
    counts = (~mask).sum(1)
    if int(counts.min()) < 1:
        raise ValueError("no token of a sample would be kept; leave such samples out")
    if count_in_first:
        return _split(mask.to(torch.uint8), int(counts[0]))
    most = int(counts.max())
    split = _split(mask.to(torch.uint8), most)
    if int(counts.min()) == most:
        return split
    valid = torch.arange(most, device=mask.device) < counts[:, None]
    return Masking(split.keep * valid, mask, valid)


def token_mask(pixels: Tensor, patch: Sequence[int]) -> Tensor:
    """Return `(B, L)` bool: which tokens hold a non-zero pixel of `(B, C, *axes)`, in any channel.

    Axes that the patch does not divide lose their ends.
    """
    marked = pixels.ne(0).any(1, keepdim=True).to(torch.uint8)
    return cut(marked, patch).flatten(2).ne(0).any(-1)


def select(tokens: Tensor, masking: Masking) -> Tensor:
    """Return the kept ones of tokens `(B, L, D)`, `(B, K, D)`."""
    return tokens.gather(1, masking.keep[..., None].expand(-1, -1, tokens.shape[-1]))


def restore(kept: Tensor, masking: Masking, mask_token: Tensor) -> Tensor:
    """Return `(B, L, D)`: kept tokens `(B, K, D)` in the order of `masking.keep` at their places,
    `mask_token` (broadcastable) at all others; padding is left out.
    """
    batch, tokens = masking.mask.shape
    places = masking.keep
    if masking.valid is not None:
        places = torch.where(masking.valid, places, tokens)  # a place behind the last, cut off again
    empty = mask_token.to(kept.dtype).expand(batch, tokens + (masking.valid is not None), -1)
    return empty.scatter(1, places[..., None].expand(-1, -1, kept.shape[-1]), kept)[:, :tokens]


def normalised_patches(target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return patches `(..., P)` less their own mean, over their own deviation (unbiased variance)."""
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    return (target - mean) / (variance + eps).sqrt()


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm_pix: bool = False) -> Tensor:
    """Return the squared error of removed tokens, a scalar: mean over a patch, then over all of the batch; 0
    where nothing was removed.

    Prediction and target are `(B, L, P)`; with `norm_pix` the target is each patch's deviation from its own
    mean, in units of its own spread. `mask` `(B, L)` is True where a token was removed.
    """
    if norm_pix:
        target = normalised_patches(target)
    wide = torch.promote_types(prediction.dtype, torch.float32)
    error = _MeanSquare.apply(prediction.to(wide), target.to(wide))
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


class _MeanSquare(torch.autograd.Function):
    """The mean of the squared difference over the last axis; it keeps and makes one tensor of that size."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction - target
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dim=-1).square().div(difference.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        (difference,) = ctx.saved_tensors
        grad = difference * (grads[0] * (2.0 / difference.shape[-1])).unsqueeze(-1)
        return grad, -grad if ctx.needs_input_grad[1] else None


def _split(order: Tensor, kept: int) -> Masking:
    """Keep the `kept` tokens that come first in `order` `(B, L)`, the earlier of equal ones."""
    shuffle = order.argsort(dim=1, stable=True)
    back = shuffle.argsort(dim=1)
    return Masking(shuffle[:, :kept], back >= kept, restore=back)
