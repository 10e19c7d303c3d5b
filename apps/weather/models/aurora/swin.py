"""A U-net of shifted windows on latent levels, latitude and longitude (Liu et al. 2021, arXiv 2103.14030).

Norms stand behind the branches, and what they scale and shift by depends on the lead time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.weather.models.aurora.fourier import LEAD_TIME, expanded
from apps.weather.models.aurora.lora import StepLoRA
from apps.weather.models.aurora.settings import RolloutLoRA, SwinShape
from core.backbones.dot_product import window_attention
from core.backbones.dropout import Dropout
from core.backbones.gelu_linear import gelu_linear
from core.backbones.vit import drop_path
from core.backbones.windows import plan_windows

__all__ = ["Swin3D", "SwinBlock", "TokenGrid"]

TokenGrid = tuple[int, int, int]
"""Latent levels, rows and columns of tokens."""

_FAR = -100.0  # added between tokens of a window that are no neighbours
_LONGITUDE = 2


class LeadTimeNorm(nn.Module):
    """Layer norm whose scale and shift are linear in the SiLU of a condition, the same for all samples."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.width = width
        self.ln_modulation = nn.Sequential(nn.SiLU(), nn.Linear(condition, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `(…, width)` with a condition `(condition,)` to the same shape."""
        shift, scale = self.ln_modulation(condition).chunk(2)
        return F.layer_norm(x, (self.width,), scale.to(x.dtype), shift.to(x.dtype))


class SwinAttention(nn.Module):
    """Self-attention within the windows of a grid, with a low-rank correction by roll-out step."""

    def __init__(self, width: int, *, heads: int, lora: RolloutLoRA | None, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.lora_qkv = StepLoRA(width, 3 * width, lora) if lora else None
        self.lora_proj = StepLoRA(width, width, lora) if lora else None
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, grid: TokenGrid, window: TokenGrid, step: int, *, shifted: bool) -> Tensor:
        """Map tokens `(B, L, D)` of a grid to the same shape."""
        # Along an axis that one window spans there is no shift.
        shift = [side // 2 if shifted and side < g else 0 for g, side in zip(grid, window, strict=True)]
        sides = [min(g, side) for g, side in zip(grid, window, strict=True)]
        plan = plan_windows(grid, sides, shift, device=x.device, padding="around", periodic=(_LONGITUDE,))
        qkv = self.qkv(x)
        if self.lora_qkv is not None:
            qkv = self.lora_qkv(x, qkv, step)
        # Padding is zero before the linear layer, and its bias behind it.
        mixed = window_attention(qkv, plan, heads=self.heads, padding=self.qkv.bias, apart=_FAR)
        y = self.proj(mixed)
        if self.lora_proj is not None:
            y = self.lora_proj(mixed, y, step)
        return self.dropout(y)


class SwinLayers(nn.Module):
    """Two linear layers with an exact GELU between them, and dropout behind each."""

    def __init__(self, width: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, D)` to the same shape."""
        hidden = self.fc1(x)
        if self.training and self.dropout.p > 0.0:
            return self.dropout(self.fc2(self.dropout(F.gelu(hidden))))
        return gelu_linear(hidden, self.fc2)


class SwinBlock(nn.Module):
    """Window attention, then two linear layers; each branch is normed before it is added.

    Args:
        width: Features.
        condition: Width of the condition.
        heads: Attention heads.
        shifted: Whether the windows are shifted by half their sides.
        drop_path: Probability that a sample passes by a branch in training.
        shape: Windows, ratio of the linear layers, dropout.
        lora: Corrections by roll-out step.
    """

    def __init__(
        self,
        width: int,
        condition: int,
        *,
        heads: int,
        shifted: bool,
        drop_path: float,
        shape: SwinShape,
        lora: RolloutLoRA | None,
    ) -> None:
        super().__init__()
        self.window, self.shifted, self.drop_path = shape.window, shifted, drop_path
        self.norm1 = LeadTimeNorm(width, condition)
        self.attn = SwinAttention(width, heads=heads, lora=lora, dropout=shape.dropout)
        self.norm2 = LeadTimeNorm(width, condition)
        self.mlp = SwinLayers(width, int(width * shape.mlp_ratio), dropout=shape.dropout)

    def forward(self, x: Tensor, condition: Tensor, grid: TokenGrid, step: int) -> Tensor:
        """Map tokens `(B, L, D)` of a grid to the same shape; `step` is the roll-out step."""
        branch = self.attn(x, grid, self.window, step, shifted=self.shifted)
        x = x + self._spared(self.norm1(branch, condition))
        return x + self._spared(self.norm2(self.mlp(x), condition))

    def _spared(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.drop_path) if self.training else branch


class TokenMerging(nn.Module):
    """Four neighbours on a level to one token of twice the width; odd grids are padded with zeros behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor, grid: TokenGrid) -> Tensor:
        """Map tokens `(B, L, D)` of a grid to `(B, L', 2 D)` of `halved(grid)`."""
        x = x.unflatten(1, grid)
        if grid[1] % 2 or grid[2] % 2:
            x = F.pad(x, (0, 0, 0, grid[2] % 2, 0, grid[1] % 2))
        b, c, h, w, d = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2, d).transpose(3, 4).reshape(b, -1, 4 * d)
        return self.reduction(self.norm(x))


class TokenSplitting(nn.Module):
    """One token to four neighbours on its level, of half the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 2 * width, bias=False)
        self.lin2 = nn.Linear(width // 2, width // 2, bias=False)
        self.norm = nn.LayerNorm(width // 2)

    def forward(self, x: Tensor, grid: TokenGrid, finer: TokenGrid) -> Tensor:
        """Map tokens `(B, L, D)` of a grid to `(B, L', D / 2)` of the grid that was merged to it."""
        b, (c, h, w) = len(x), grid
        x = self.lin1(x).view(b, c, h, w, 2, 2, -1).transpose(3, 4).reshape(b, c, 2 * h, 2 * w, -1)
        return self.lin2(self.norm(x[:, :, : finer[1], : finer[2]].flatten(1, 3)))


class SwinStage(nn.Module):
    """Blocks on one grid, and the merging or splitting behind them."""

    def __init__(
        self, blocks: list[SwinBlock], *, down: TokenMerging | None = None, up: TokenSplitting | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample, self.upsample = down, up

    def forward(self, x: Tensor, condition: Tensor, grid: TokenGrid, step: int) -> Tensor:
        """Map tokens `(B, L, D)` of a grid through the blocks."""
        for block in self.blocks:
            x = block(x, condition, grid, step)
        return x


class Swin3D(nn.Module):
    """The U-net: `(B, Cl * L, D)` to `(B, Cl * L, 2 D)`.

    Args:
        width: Features D on the finest grid, doubled on every further one.
        shape: Stages.
        lora: Corrections by roll-out step.
    """

    def __init__(self, width: int, shape: SwinShape, lora: RolloutLoRA | None = None) -> None:
        super().__init__()
        self.width = width
        self.time_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        count = len(shape.encoder_depths)
        rates = torch.linspace(0, shape.drop_path, sum(shape.encoder_depths), device="cpu").tolist()

        def blocks(level: int, depth: int, heads: int, before: int) -> list[SwinBlock]:
            return [
                SwinBlock(
                    width << level,
                    width,
                    heads=heads,
                    shifted=i % 2 == 1,
                    drop_path=rates[before + i],
                    shape=shape,
                    lora=lora,
                )
                for i in range(depth)
            ]

        self.encoder_layers = nn.ModuleList(
            SwinStage(
                blocks(i, depth, shape.encoder_heads[i], sum(shape.encoder_depths[:i])),
                down=TokenMerging(width << i) if i < count - 1 else None,
            )
            for i, depth in enumerate(shape.encoder_depths)
        )
        self.decoder_layers = nn.ModuleList(
            SwinStage(
                blocks(count - 1 - i, depth, shape.decoder_heads[i], sum(shape.decoder_depths[:i])),
                up=TokenSplitting(width << (count - 1 - i)) if i < count - 1 else None,
            )
            for i, depth in enumerate(shape.decoder_depths)
        )

    def blocks(self) -> Iterator[SwinBlock]:
        """Yield the blocks in order."""
        for stage in (*self.encoder_layers, *self.decoder_layers):
            yield from stage.blocks

    def forward(self, x: Tensor, grid: TokenGrid, *, hours: float, step: int) -> Tensor:
        """Map tokens of a grid.

        Args:
            x: `(B, L, D)`, L the tokens of the grid.
            grid: Latent levels, rows, columns.
            hours: Lead time.
            step: Roll-out step of the state that the tokens encode.

        Returns:
            `(B, L, 2 D)`: the last stage's result beside the first one's.
        """
        lead = expanded(LEAD_TIME, (hours,), self.width, x.device)[0]
        condition = self.time_mlp(lead.to(self.time_mlp[0].weight.dtype))
        grids, skips = [grid], []
        for stage in self.encoder_layers:
            x = stage(x, condition, grids[-1], step)
            skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x, grids[-1])
                grids.append((grids[-1][0], -(-grids[-1][1] // 2), -(-grids[-1][2] // 2)))
        last = len(grids) - 1
        for i, stage in enumerate(self.decoder_layers):
            level = last - i
            x = stage(x, condition, grids[level], step)
            if stage.upsample is not None:
                x = stage.upsample(x, grids[level], grids[level - 1])
            if 0 < i < last:
                x = x + skips[level - 1]
        return torch.cat([x, skips[0]], -1)
