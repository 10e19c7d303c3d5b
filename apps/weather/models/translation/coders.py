"""VariableEncoder and decoder of one variable: convolutions on single frames (Met²Net, arXiv 2507.17189)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VariableDecoder", "VariableEncoder"]

_GROUPS = 2


class _Unit(nn.Module):
    """3x3 convolution, perhaps with a stride of 2, norm in two groups, SiLU."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, width)

    def reset_parameters(self) -> None:
        """Draw truncated normal weights."""
        _reset(self.convolution)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, D, H / stride, W / stride)`."""
        return F.silu(self.norm(self.convolution(x)))


class _DoublingUnit(nn.Module):
    """3x3 convolution to four times the channels, which become twice the rows and columns; norm, SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expansion = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, width)

    def reset_parameters(self) -> None:
        """Draw truncated normal weights."""
        _reset(self.expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, D, H, W)` to `(N, D, 2H, 2W)`."""
        return F.silu(self.norm(F.pixel_shuffle(self.expansion(x), 2)))


class VariableEncoder(nn.Module):
    """`depth` units, of which every second one halves rows and columns."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            _Unit(width if number else 1, width, stride=1 + number % 2) for number in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, 1, H, W)` to `(N, D, h, w)`."""
        for unit in self.units:
            x = unit(x)
        return x


class VariableDecoder(nn.Module):
    """The encoder's units mirrored, and a 1x1 convolution to one channel."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            _Unit(width, width, stride=1) if number % 2 else _DoublingUnit(width) for number in range(depth)
        )
        self.readout = nn.Conv2d(width, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(N, D, h, w)` to `(N, 1, H, W)`."""
        for unit in self.units:
            z = unit(z)
        return self.readout(z)


def _reset(convolution: nn.Conv2d) -> None:
    nn.init.trunc_normal_(convolution.weight, std=0.02)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
