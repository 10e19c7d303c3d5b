"""Convolution blocks on the skip connections of scOT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.pde.models.scot.norms import make_norm

__all__ = ["ConvNeXtBlock", "ResNetBlock"]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, norm, two linear layers, scaled and added to the input (arXiv 2201.03545).

    Args:
        width: Channels.
        conditioned: Whether the norm depends on the time.
        eps: Of the norm.
    """

    def __init__(self, width: int, *, conditioned: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = make_norm(width, conditioned=conditioned, eps=eps)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale of each channel; the layers reset themselves."""
        nn.init.constant_(self.weight, 1e-6)

    def forward(self, x: Tensor, grid: tuple[int, int], time: Tensor | None) -> Tensor:
        """Map tokens `(B, X * Y, C)` to the same shape."""
        image = x.unflatten(1, grid).permute(0, 3, 1, 2)  # B X Y C -> B C X Y, channels last in memory
        y = self.dwconv(image).permute(0, 2, 3, 1).flatten(1, 2)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y, time))))
        return torch.addcmul(x, self.weight, y)


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input; no activation after the sum.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, grid: tuple[int, int], time: Tensor | None) -> Tensor:
        """Map tokens `(B, X * Y, C)` to the same shape; the time is passed over."""
        image = x.unflatten(1, grid).permute(0, 3, 1, 2)
        y = self.bn2(self.conv2(F.leaky_relu(self.bn1(self.conv1(image)), 0.01)))
        return x + y.permute(0, 2, 3, 1).flatten(1, 2)
