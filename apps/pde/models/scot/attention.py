"""Cosine attention within windows with a continuous position bias (Liu et al. 2022, arXiv 2111.09883)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.cosine import cosine_attention
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
        mixed = cosine_attention(
            query,
            key,
            value,
            scale=self.logit_scale.clamp(max=_LARGEST_SCALE).exp().view(-1),
            bias=self.position_bias(device=x.device),
            mask=plan.mask(value=_FAR, dtype=self.logit_scale.dtype),
            dropout=self.dropout.p if self.training else 0.0,
        )
        return self.dropout(self.project(join_windows(mixed, plan)))

    def position_bias(self, *, device: torch.device) -> Tensor:
        """Return `(heads, N, N)`, N the places of a window."""
        window = (self.window,) * 2
        first, last = self.continuous_position_bias_mlp[0], self.continuous_position_bias_mlp[2]
        table = offset_table(window, device=device, dtype=first.weight.dtype)
        # The bias is one more row of the weight, and the last product comes out heads first: products with a
        # side of two or three are slow in the layouts of linear layers, above all their gradients.
        weight = torch.cat([first.weight.t(), first.bias[None]])
        hidden = torch.mm(F.pad(table, (0, 1), value=1.0), weight).relu_()
        heights = torch.mm(last.weight, hidden.t()).sigmoid().mul(16.0)
        # The sigmoid on the few offsets, then the gather to the many pairs.
        pairs = heights.index_select(1, offset_index(window, device=device))
        return pairs.view(self.heads, self.window**2, self.window**2)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"
