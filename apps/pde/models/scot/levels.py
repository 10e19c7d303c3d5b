"""Levels of scOT: between fields and tokens, stages of blocks, between grids and between resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.pde.models.scot.blocks import Grid, ScOTBlock, make_norm
from core.backbones.dropout import Dropout

__all__ = ["DecoderStage", "Embeddings", "EncoderStage", "PatchRecovery", "resample_spectrally"]


class PatchEmbeddings(nn.Module):
    """One linear map of each patch."""

    def __init__(self, channels: int, width: int, *, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, fields: Tensor) -> Tensor:
        """Map `(B, C, S, S)` to tokens `(B, G * G, D)`; the field is padded with zeros to whole patches."""
        missing = -fields.shape[-1] % self.patch
        if missing:
            fields = F.pad(fields, (0, missing, 0, missing))
        return self.projection(fields).flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    """Patches to tokens: linear map, norm, optional mask token and positions, dropout; see `ScOT`."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        patch: int,
        tokens: int,
        conditioned: bool,
        absolute_positions: bool,
        mask_token: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(channels, width, patch=patch)
        self.norm = make_norm(width, conditioned=conditioned)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if mask_token else None
        self.position_embeddings = nn.Parameter(torch.empty(1, tokens, width)) if absolute_positions else None
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set mask token and positions to zero; the layers reset themselves."""
        for parameter in (self.mask_token, self.position_embeddings):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, fields: Tensor, time: Tensor | None, masked: Tensor | None = None) -> Tensor:
        """Map `(B, C, S, S)` to tokens `(B, L, D)`; tokens where `masked (B, L)` is true are replaced."""
        x = self.norm(self.patch_embeddings(fields), time)
        if masked is not None:
            assert self.mask_token is not None
            x = torch.where(masked[..., None].bool(), self.mask_token.to(x.dtype), x)
        if self.position_embeddings is not None:
            x = x + self.position_embeddings
        return self.dropout(x)


class PatchMerging(nn.Module):
    """Four neighbouring tokens to one of twice the width; odd grids are padded with zeros."""

    def __init__(self, width: int, *, conditioned: bool) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = make_norm(2 * width, conditioned=conditioned)

    def forward(self, x: Tensor, grid: tuple[int, int], time: Tensor | None) -> Tensor:
        """Map `(B, X * Y, C)` to `(B, ceil(X / 2) * ceil(Y / 2), 2 C)`."""
        x = x.unflatten(1, grid)
        if grid[0] % 2 or grid[1] % 2:
            x = F.pad(x, (0, 0, 0, grid[1] % 2, 0, grid[0] % 2))
        b, h, w, c = x.shape
        # The quadrants stand in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column).
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).reshape(b, -1, 4 * c)
        return self.norm(self.reduction(x), time)


class PatchUnmerging(nn.Module):
    """One token to four neighbouring ones of half the width."""

    def __init__(self, width: int, *, conditioned: bool) -> None:
        super().__init__()
        self.upsample = nn.Linear(width, 2 * width, bias=False)
        self.mixup = nn.Linear(width // 2, width // 2, bias=False)
        self.norm = make_norm(width // 2, conditioned=conditioned)

    def forward(
        self, x: Tensor, grid: tuple[int, int], finer: tuple[int, int], time: Tensor | None
    ) -> Tensor:
        """Map `(B, X * Y, C)` to `(B, X' * Y', C / 2)` on the finer grid, cropping what goes beyond it."""
        x = self.upsample(x).unflatten(2, (2, 2, -1)).unflatten(1, grid)  # B X Y 2 2 C/2
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if finer != (2 * grid[0], 2 * grid[1]):
            x = x[:, : finer[0], : finer[1]]
        return self.mixup(self.norm(x.flatten(1, 2), time))


class _Stage(nn.Module):
    """Blocks on one level, each with its own `drop_path` and shift of the windows."""

    def __init__(
        self, width: int, *, drop_paths: Sequence[float], shifts: Sequence[int], **block: Any
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ScOTBlock(width, shift=shift, drop_path=rate, **block)
            for rate, shift in zip(drop_paths, shifts, strict=True)
        )

    def _through(self, x: Tensor, grid: Grid, time: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, grid, time)
        return x


class EncoderStage(_Stage):
    """Blocks on one level, then patch merging of their result and the stage's input."""

    def __init__(
        self, width: int, *, drop_paths: Sequence[float], last: bool, shift: int, **block: Any
    ) -> None:
        shifts = [shift * (i % 2) for i in range(len(drop_paths))]
        super().__init__(width, drop_paths=drop_paths, shifts=shifts, **block)
        self.downsample = None if last else PatchMerging(width, conditioned=block["conditioned"])

    def forward(self, x: Tensor, grid: Grid, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the skip state `(B, X * Y, C)` and the next level's input (the same, without one)."""
        skip = self._through(x, grid, time)
        return skip, skip if self.downsample is None else self.downsample(skip + x, grid, time)


class DecoderStage(_Stage):
    """Blocks on one level, then patch unmerging; the order of shifts mirrors the encoder's."""

    def __init__(
        self, width: int, *, drop_paths: Sequence[float], last: bool, shift: int, **block: Any
    ) -> None:
        shifts = [shift * (i % 2) for i in reversed(range(len(drop_paths)))]
        super().__init__(width, drop_paths=drop_paths, shifts=shifts, **block)
        self.upsample = None if last else PatchUnmerging(width, conditioned=block["conditioned"])

    def forward(self, x: Tensor, grid: Grid, finer: Grid | None, time: Tensor | None) -> Tensor:
        """Return the next level's input on the grid `finer`, or the blocks' result on the last level."""
        x = self._through(x, grid, time)
        if self.upsample is None:
            return x
        assert finer is not None
        return self.upsample(x, grid, finer, time)


class PatchRecovery(nn.Module):
    """Tokens to fields: one linear map to each patch, then a 5x5 convolution across the seams."""

    def __init__(self, width: int, channels: int, *, patch: int) -> None:
        super().__init__()
        self.projection = nn.ConvTranspose2d(width, channels, patch, stride=patch)
        self.mixup = nn.Conv2d(channels, channels, 5, padding=2, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int], resolution: int) -> Tensor:
        """Map tokens `(B, L, D)` to `(B, C, S, S)`, cropped to the resolution S."""
        image = self.projection(x.transpose(1, 2).unflatten(2, grid))
        return self.mixup(image[..., :resolution, :resolution])


def resample_spectrally(fields: Tensor, resolution: int) -> Tensor:
    """Resample `(…, S, S)` to `(…, resolution, resolution)` by cutting or zero-padding its spectrum.

    Amplitudes are kept. Going down keeps the integer frequencies from -T/2 to T/2 - 1 along both axes. This
    is right for periodic fields; others ring at their edges.
    """
    size = fields.shape[-1]
    if size == resolution:
        return fields
    wide = torch.float32 if fields.dtype in (torch.float16, torch.bfloat16) else fields.dtype
    spectrum = torch.fft.fft2(fields.to(wide), norm="forward")
    fewer = min(size, resolution)
    negative, positive = fewer // 2, fewer - fewer // 2  # frequencies below zero, and from zero on
    kept = spectrum.new_zeros((*fields.shape[:-2], resolution, resolution))
    for rows in (slice(0, positive), slice(-negative, None)):
        for columns in (slice(0, positive), slice(-negative, None)):
            kept[..., rows, columns] = spectrum[..., rows, columns]
    return torch.fft.ifft2(kept, norm="forward").real.to(fields.dtype)
