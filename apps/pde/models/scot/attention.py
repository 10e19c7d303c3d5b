"""Cosine attention within windows with a continuous position bias (Liu et al. 2022, arXiv 2111.09883)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.dropout import Dropout
from core.backbones.windows import join_windows, offset_index, offset_table, plan_windows, split_windows

__all__ = ["WindowAttention"]

# The official program adds -100 twice between places that were no neighbours before the shift.
_FAR = -200.0
_LARGEST_SCALE = math.log(100.0)


class WindowAttention(nn.Module):
    """Self-attention within square windows of a grid.

    `softmax(scale · cos(q, k) + bias + mask) v` for each head and window, `scale = exp(logit_scale)`, at most
    100, and `bias = 16 sigmoid(mlp(offset))`.

    Args:
        width: Channels, a multiple of `heads`.
        heads: Number of heads.
        window: Side of the windows, at least 2.
        shift: Cyclic shift, below the window.
        bias: Whether queries and values have a bias; keys never do.
        dropout: Rate on the attention and on the result.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        window: int,
        shift: int = 0,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.logit_scale = nn.Parameter(torch.empty(heads, 1, 1))
        self.continuous_position_bias_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, heads, bias=False)
        )
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=bias)
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scales to 10; the linear layers reset themselves."""
        nn.init.constant_(self.logit_scale, math.log(10.0))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens `(B, X * Y, C)` of a grid `(X, Y)` to the same shape."""
        plan = plan_windows(grid, (self.window,) * 2, (self.shift,) * 2, device=x.device)
        windows = split_windows(x, plan)
        query, key, value = self.query(windows), self.key(windows), self.value(windows)
        bias = self.position_bias(query)
        mask = plan.mask(value=_FAR, dtype=bias.dtype)
        if mask is not None:
            bias = bias + mask[:, None]
        mixed = self._attend(query, key, value, bias)
        return self.dropout(self.project(join_windows(mixed, plan)))

    def position_bias(self, like: Tensor) -> Tensor:
        """Return `(1, heads, N, N)`, N the places of a window, in the device and dtype of `like`."""
        window = (self.window,) * 2
        weight = self.continuous_position_bias_mlp[0].weight
        table = offset_table(window, device=like.device, dtype=weight.dtype)
        # 16 sigmoid on the few offsets, then the gather to the many pairs, heads first.
        heights = self.continuous_position_bias_mlp(table).t().to(like.dtype).sigmoid().mul(16.0)
        pairs = heights.contiguous().index_select(1, offset_index(window, device=like.device))
        return pairs.view(1, self.heads, self.window**2, self.window**2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Mix values `(B * W, N, C)` of each window; `bias` is `(W or 1, heads, N, N)`."""
        count, size, width = query.shape
        split = (count, size, self.heads, width // self.heads)
        scale = self.logit_scale.clamp(max=_LARGEST_SCALE).exp().to(query.dtype).view(self.heads, 1)
        query = (F.normalize(query.view(split), dim=-1) * scale).transpose(1, 2)
        key = F.normalize(key.view(split), dim=-1).transpose(1, 2)
        value = value.view(split).transpose(1, 2)
        if query.is_cuda:
            repeated = bias.expand(-1, -1, -1, -1).repeat(count // bias.shape[0], 1, 1, 1)
            rate = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=repeated, dropout_p=rate, scale=1.0
            )
            return mixed.transpose(1, 2).reshape(count, size, width)
        flat = (count * self.heads, size, width // self.heads)
        logits = torch.bmm(query.reshape(flat), key.reshape(flat).transpose(1, 2))
        logits.view(-1, *bias.shape).add_(bias)
        weights = self.dropout(logits.softmax(-1))
        mixed = torch.bmm(weights, value.reshape(flat))
        return mixed.view(count, self.heads, size, -1).transpose(1, 2).reshape(count, size, width)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"
