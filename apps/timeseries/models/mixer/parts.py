"""Stages of TinyTimeMixer around its mixers: scaling, patches, prefix, positions, decoder, head, channel
mixing.

Source: Ekambaram et al. 2024, arXiv 2401.03955; checked against the authors' implementation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.mixer.layers import MixerBlock, SoftmaxGate, StackSettings
from apps.timeseries.models.mixer.settings import Positions, Scaling
from core.backbones.dropout import Dropout
from core.errors import UserError

__all__ = ["Backbone", "ForecastMixer", "Head", "MixerDecoder", "scale_window"]


def scale_window(x: Tensor, observed: Tensor | None, kind: Scaling | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scale every channel of every window by its own observed past.

    Args:
        x: `(B, L, C)`; unobserved points are scaled too, so they must hold a number (data sets fill in 0).
        observed: `(B, L, C)`, true or 1 where observed; None is everywhere.
        kind: "std" subtracts the mean and divides by the population deviation, "mean" divides by the mean
            magnitude, None leaves the values.

    Returns:
        The scaled values, the location `(B, 1, C)` and the scale `(B, 1, C)`.
    """
    if kind is None:
        one = x.new_ones(x.shape[0], 1, x.shape[2])
        return x, torch.zeros_like(one), one
    mask = torch.ones_like(x) if observed is None else observed.to(x.dtype)
    count = mask.sum(1, keepdim=True)
    known = count.clamp(min=1)
    if kind == "mean":
        total = (x * mask).abs().sum(1, keepdim=True)
        # A channel without any observation takes the magnitude that it has in the rest of the batch.
        fallback = total.sum(0, keepdim=True) / count.sum(0, keepdim=True).clamp(min=1)
        scale = torch.where(count > 0, total / known, fallback).clamp(min=1e-10)
        return x / scale, torch.zeros_like(scale), scale
    loc = (x * mask).sum(1, keepdim=True) / known
    centred = x - loc
    variance = (centred * mask).square().sum(1, keepdim=True) / known
    scale = (variance + 1e-5).sqrt()
    return centred / scale, loc, scale


class PositionTable(nn.Module):
    """A vector for each patch: a fixed table of sines and cosines, or a learnt one.

    Args:
        patches: Number of patches `N`.
        width: Features `D`.
        kind: "sincos" (kept in the state dict, never trained) or "random" (trained).
    """

    def __init__(self, patches: int, width: int, kind: Positions) -> None:
        super().__init__()
        self.kind = kind
        table = torch.empty(patches, width)
        if kind == "sincos":
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute or draw the table anew."""
        if self.kind == "random":
            nn.init.normal_(self.table)
            return
        n, width = self.table.shape
        device = self.table.device
        rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
        angle = torch.arange(n, device=device)[:, None] * rate
        table = torch.zeros(n, width, device=device)
        table[:, 0::2] = angle.sin()
        table[:, 1::2] = angle.cos()[:, : width // 2]
        table = table - table.mean()
        self.table.copy_(table / (table.std() * 10))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        return x + self.table


class FrequencyPrefix(nn.Module):
    """A patch made of the sampling frequency's token, put in front of the others."""

    def __init__(self, tokens: int, patch: int, width: int) -> None:
        super().__init__()
        middle = (patch + width) // 2
        self.embedding = nn.Embedding(tokens, patch)
        self.fc1 = nn.Linear(patch, middle)
        self.fc2 = nn.Linear(middle, width)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Map `(B, C, n, D)` and tokens `(B,)` to `(B, C, n + 1, D)`."""
        vector = self.fc2(F.gelu(self.fc1(self.embedding(token.long()))))
        return torch.cat([vector[:, None, None].expand(-1, x.shape[1], -1, -1), x], dim=2)


class Backbone(nn.Module):
    """Patches to features: embedding, optional frequency prefix and positions, mixer."""

    def __init__(
        self,
        *,
        patch: int,
        patches: int,
        width: int,
        frequency_tokens: int,
        positions: Positions | None,
        mixer: StackSettings,
    ) -> None:
        super().__init__()
        rows = patches + (1 if frequency_tokens else 0)
        self.embed = nn.Linear(patch, width)
        self.prefix = FrequencyPrefix(frequency_tokens, patch, width) if frequency_tokens else None
        self.positions = PositionTable(rows, width, positions) if positions else None
        self.mixer = MixerBlock(rows, width, mixer)

    def forward(self, patches: Tensor, freq_token: Tensor | None = None) -> Tensor:
        """Map patches `(B, C, n, P)` to features `(B, C, N, D)`, N = n or, with the prefix, n + 1.

        Raises:
            UserError: If the network has a frequency prefix and no token is given.
        """
        x = self.embed(patches)
        if self.prefix is not None:
            if freq_token is None:
                raise UserError(
                    "This network has a frequency prefix and the batch has no freq_token; "
                    "give the data's frequency."
                )
            x = self.prefix(x, freq_token)
        if self.positions is not None:
            x = self.positions(x)
        return self.mixer(x)


class MixerDecoder(nn.Module):
    """From the backbone to the head: adapter, optional raw patches and categories, mixer."""

    def __init__(
        self,
        *,
        patch: int,
        patches: int,
        width_in: int,
        width: int,
        raw_residual: bool,
        categories: Sequence[int],
        mixer: StackSettings,
    ) -> None:
        super().__init__()
        # Official checkpoints hold no adapter where the widths are equal.
        self.adapter = nn.Linear(width_in, width) if width_in != width else None
        self.raw = nn.Linear(patch, width) if raw_residual else None
        self.categories = nn.ModuleList(nn.Embedding(size, width) for size in categories)
        if mixer.channels:
            mixer = replace(mixer, channels=mixer.channels + len(categories))
        self.mixer = MixerBlock(patches, width, mixer)

    def forward(self, x: Tensor, patches: Tensor, static_categories: Tensor | None = None) -> Tensor:
        """Map `(B, C, N, D_in)`, the scaled patches `(B, C, n, P)` and categories `(B, n_cat)` to `(B, C, N,
        D)`.

        Raises:
            UserError: If the network has static categories and none are given.
        """
        channels = x.shape[1]
        if self.adapter is not None:
            x = self.adapter(x)
        if self.raw is not None:
            # Row 0 of a network with a prefix stands for the frequency: its raw patch is zero.
            x = x + self.raw(F.pad(patches, (0, 0, x.shape[2] - patches.shape[2], 0)))
        if len(self.categories):
            if static_categories is None or static_categories.shape[1] != len(self.categories):
                count = "none" if static_categories is None else str(static_categories.shape[1])
                raise UserError(
                    f"This network has {len(self.categories)} static categories and the batch has {count}."
                )
            values = static_categories.long()
            vectors = [table(values[:, i]) for i, table in enumerate(self.categories)]
            extra = torch.stack(vectors, dim=1)[:, :, None].expand(-1, -1, x.shape[2], -1)
            x = torch.cat([x, extra], dim=1)
        return self.mixer(x)[:, :channels]


class ForecastMixer(nn.Module):
    """Correct each forecast step from all channels' values around it, known future ones included.

    The window of a step holds `context` steps before it and as many after it. What it reads is kept as the
    published networks have it: the forecasts in the window's own scaled units, the past and the known future
    in the caller's.

    Args:
        targets: Number of predicted channels.
        exogenous: Number of channels whose future is known.
        context: Steps on each side, `c`.
        gated: Whether the flattened window is gated.
        prepend_past: Whether the first windows see the past; else they see zeros.
        past_offset: Steps at the past's end to skip.
        mixer: Settings of a mixer over the channels, or None.
    """

    def __init__(
        self,
        *,
        targets: int,
        exogenous: int,
        context: int,
        gated: bool,
        prepend_past: bool,
        past_offset: int,
        mixer: StackSettings | None,
    ) -> None:
        super().__init__()
        self.context, self.prepend_past, self.past_offset = context, prepend_past, past_offset
        channels, size = targets + exogenous, 2 * context + 1
        self.embed: nn.Linear | None = None
        self.mixer: MixerBlock | None = None
        if mixer is not None:
            self.embed = nn.Linear(size, 2 * size)
            self.mixer = MixerBlock(channels, 2 * size, mixer)
            size = 2 * size
        self.gate = SoftmaxGate(channels * size) if gated else None
        self.project = nn.Linear(channels * size, targets)

    def forward(self, forecast: Tensor, past: Tensor, known: Tensor | None) -> Tensor:
        """Correct the forecasts.

        Args:
            forecast: `(B, H, targets)`.
            past: `(B, L, targets + exogenous)`, in this order.
            known: `(B, H, exogenous)`, or None without exogenous channels.

        Returns:
            `(B, H, targets)`.
        """
        c = self.context
        x = forecast if known is None else torch.cat([forecast, known], dim=2)
        if c:
            zeros = x.new_zeros(x.shape[0], c, x.shape[2])
            end = past.shape[1] - self.past_offset
            before = past[:, end - c : end] if self.prepend_past else zeros
            x = torch.cat([before, x, zeros], dim=1)
        x = x.unfold(1, 2 * c + 1, 1)  # B (H + 2c) C -> B H C s
        if self.embed is not None and self.mixer is not None:
            x = self.mixer(self.embed(x))
        x = x.flatten(2)
        if self.gate is not None:
            x = self.gate(x)
        return forecast + self.project(x)


class Head(nn.Module):
    """Flatten, drop out, project to the horizon; the same for all channels."""

    def __init__(
        self,
        *,
        features: int,
        horizon: int,
        kept: int,
        targets: Sequence[int] | None,
        dropout: float,
        forecast_mixer: ForecastMixer | None,
    ) -> None:
        super().__init__()
        self.kept = kept
        self.targets = None if targets is None else list(targets)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(features, horizon)
        self.forecast_mixer = forecast_mixer

    def forward(self, x: Tensor, past: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Map `(B, C, N, D)` to `(B, kept, targets)`; `past` and `known` go to the forecast mixer."""
        y = self.project(self.dropout(x.flatten(2)))  # B C H
        if self.targets is not None:
            y = y[:, self.targets]
        y = y.transpose(1, 2)[:, : self.kept]  # B C H -> B H C
        if self.forecast_mixer is None:
            return y
        assert past is not None
        return self.forecast_mixer(y, past, known)
