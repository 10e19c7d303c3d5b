"""Transformer blocks of scOT and the stages of its encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apps.pde.models.scot.activations import activation
from apps.pde.models.scot.attention import WindowAttention
from apps.pde.models.scot.norms import make_norm
from apps.pde.models.scot.resample import PatchMerging, PatchUnmerging
from core.backbones.dropout import Dropout

__all__ = ["Block", "DecoderStage", "EncoderStage"]

Grid = tuple[int, int]


class Block(nn.Module):
    """Window attention, then two linear layers; each branch is normed before it is added.

    Args:
        width: Channels.
        heads: Attention heads.
        window: Side of the windows.
        shift: Cyclic shift of the windows.
        mlp_ratio: Hidden width of the linear layers over `width`.
        conditioned: Whether the norms depend on the time.
        qkv_bias: Whether queries and values have a bias.
        drop_path: Probability that a sample passes by a branch in training.
        dropout: Rate after the linear layers.
        attention_dropout: Rate on the attention and after it.
        eps: Of the norms.
        hidden_act: Name of the activation between the linear layers.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        conditioned: bool,
        qkv_bias: bool,
        drop_path: float,
        dropout: float,
        attention_dropout: float,
        eps: float,
        hidden_act: str,
    ) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.attention = WindowAttention(
            width, heads=heads, window=window, shift=shift, bias=qkv_bias, dropout=attention_dropout
        )
        self.layernorm_before = make_norm(width, conditioned=conditioned, eps=eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.layernorm_after = make_norm(width, conditioned=conditioned, eps=eps)
        self.dropout = Dropout(dropout)
        self.drop_path = drop_path
        self.act = activation(hidden_act)

    def forward(self, x: Tensor, grid: Grid, time: Tensor | None) -> Tensor:
        """Map tokens `(B, X * Y, C)` to the same shape."""
        x = x + self._spared(self.layernorm_before(self.attention(x, grid), time))
        hidden = self.dropout(self.fc2(self.act(self.fc1(x))))
        return x + self._spared(self.layernorm_after(hidden, time))

    def _spared(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        drawn = torch.rand(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device)
        return branch * ((drawn + keep).floor() / keep)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"drop_path={self.drop_path}"


class EncoderStage(nn.Module):
    """Blocks on one level, then patch merging of their result and the stage's input.

    Args:
        width: Channels.
        drop_paths: One rate for each block.
        last: Whether no level follows.
        window: Side of the windows.
        shift: Shift of every second block.
        conditioned: Whether the norms depend on the time.
        block: The other arguments of `Block`.
    """

    def __init__(
        self,
        width: int,
        *,
        drop_paths: Sequence[float],
        last: bool,
        shift: int,
        conditioned: bool,
        **block: Any,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, shift=shift * (i % 2), drop_path=rate, conditioned=conditioned, **block)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = None if last else PatchMerging(width, conditioned=conditioned)

    def forward(self, x: Tensor, grid: Grid, time: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the skip state `(B, X * Y, C)` and the next level's input (the same, without one)."""
        start = x
        for block in self.blocks:
            x = block(x, grid, time)
        return x, x if self.downsample is None else self.downsample(x + start, grid, time)


class DecoderStage(nn.Module):
    """Blocks on one level, then patch unmerging; the order of shifts mirrors the encoder's.

    Args:
        width: Channels.
        drop_paths: One rate for each block.
        last: Whether no level follows.
        window: Side of the windows.
        shift: Shift of every second block, counted from the end.
        conditioned: Whether the norms depend on the time.
        block: The other arguments of `Block`.
    """

    def __init__(
        self,
        width: int,
        *,
        drop_paths: Sequence[float],
        last: bool,
        shift: int,
        conditioned: bool,
        **block: Any,
    ) -> None:
        super().__init__()
        depth = len(drop_paths)
        self.blocks = nn.ModuleList(
            Block(
                width, shift=shift * ((depth - 1 - i) % 2), drop_path=rate, conditioned=conditioned, **block
            )
            for i, rate in enumerate(drop_paths)
        )
        self.upsample = None if last else PatchUnmerging(width, conditioned=conditioned)

    def forward(self, x: Tensor, grid: Grid, finer: Grid | None, time: Tensor | None) -> Tensor:
        """Return the next level's input on the grid `finer`, or the blocks' result on the last level."""
        for block in self.blocks:
            x = block(x, grid, time)
        if self.upsample is None:
            return x
        assert finer is not None
        return self.upsample(x, grid, finer, time)
