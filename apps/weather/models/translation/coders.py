"""Encoder and decoder of one variable: convolutions on single frames (Met²Net, arXiv 2507.17189)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VariableDecoder", "VariableEncoder"]


class _Unit(nn.Module):
    """3x3 convolution, norm in two groups, SiLU."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(2, width)

    def reset_parameters(self) -> None:
        _truncated(self.convolution)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.convolution(x)))


class _DoublingUnit(nn.Module):
    """The same to four times the channels, which become twice the rows and columns before the norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expansion = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)

    def reset_parameters(self) -> None:
        _truncated(self.expansion)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(F.pixel_shuffle(self.expansion(x), 2)))


class VariableEncoder(nn.Module):
    """`depth` units, of which every second one halves rows and columns."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            *(_Unit(width if number else 1, width, stride=1 + number % 2) for number in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, 1, H, W)` to `(N, D, h, w)`."""
        return self.units(x)


class VariableDecoder(nn.Module):
    """The encoder's units mirrored, and a 1x1 convolution to one channel."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.units = nn.Sequential(
            *(
                _Unit(width, width, stride=1) if number % 2 else _DoublingUnit(width)
                for number in range(depth)
            )
        )
        self.readout = nn.Conv2d(width, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(N, D, h, w)` to `(N, 1, H, W)`."""
        return self.readout(self.units(z))


def _truncated(convolution: nn.Conv2d) -> None:
    nn.init.trunc_normal_(convolution.weight, std=0.02)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
