"""Translator of latents from past to future: attention between variables, then convolutions of large kernels
within each (Met²Net, arXiv 2507.17189; TAU, arXiv 2206.12126).
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.vit import drop_path, reset_parts

__all__ = ["TemporalAttentionUnit", "Translator"]


class _DropPath(nn.Module):
    """Leaves out whole samples' branches in training; a module, so that recorded masks may take its place."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.rate) if self.training else branch


class _Gating(nn.Module):
    """The input times what depthwise 5x5, dilated depthwise 7x7 and 1x1 convolutions make of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv_spatial = nn.Conv2d(width, width, 7, padding=9, groups=width, dilation=3)
        self.conv1 = nn.Conv2d(width, width, 1)
        # A squeeze and excitation that stands in the published weights and is never used.
        squeezed = width // max(width // 16, 4)
        layers = nn.Linear(width, squeezed, bias=False), nn.Linear(squeezed, width, bias=False)
        self.fc = nn.Sequential(layers[0], nn.Identity(), layers[1]).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class _Spatial(nn.Module):
    """Gating between two 1x1 convolutions, with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(width, width, 1)
        self.spatial_gating_unit = _Gating(width)
        self.proj_2 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x))))


class _Mix(nn.Module):
    """1x1 convolution to four times the channels, depthwise 3x3, GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def reset_parameters(self) -> None:
        for layer in (self.fc1, self.dwconv, self.fc2):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class TemporalAttentionUnit(nn.Module):
    """TAU: gated convolutions and an MLP, each behind a batch norm and within a scaled residual."""

    def __init__(self, width: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attn = _Spatial(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = _Mix(width)
        self.drop_path1, self.drop_path2 = _DropPath(drop_path), _DropPath(drop_path)
        self.layer_scale_1 = nn.Parameter(torch.empty(width))
        self.layer_scale_2 = nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        """Set the scales of the branches."""
        nn.init.constant_(self.layer_scale_1, 0.01)
        nn.init.constant_(self.layer_scale_2, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, D, h, w)` to the same shape."""
        x = x + self.drop_path1(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.drop_path2(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class _VariableAttention(nn.Module):
    """Attention between variables: a head's channels of a whole field are one vector of the sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.GroupNorm(1, width)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, variables, width, *grid = x.shape
        flat = x.flatten(0, 1)

        def headed(part: nn.Module) -> Tensor:  # (B V) D h w -> B heads V (d h w)
            return part(flat).view(batch, variables, self.heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(*(headed(p) for p in (self.query, self.key, self.value)))
        mixed = mixed.transpose(1, 2).reshape(batch * variables, width, *grid)
        return F.silu(self.out(mixed)).view_as(x)


class _TranslatorBlock(nn.Module):
    """Attention between variables and TAU within each, both within residuals that end in a norm."""

    def __init__(self, width: int, heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.attention = _VariableAttention(width, heads)
        self.norm_1, self.norm_2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.tau = TemporalAttentionUnit(width, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm_1((x + self.attention(x)).flatten(0, 1))
        # The published feed-forward part has a residual of its own within the block's.
        return self.norm_2(2 * flat + self.tau(flat)).view_as(x)


class Translator(nn.Module):
    """1x1 convolution to the width, blocks that begin alike, and 1x1 convolution back.

    Args:
        channels: Of a variable's latent, all frames together.
        width: Within the blocks; a multiple of `heads`.
        depth: Number of blocks.
        heads: Of the attention between variables.
        drop_path: Probability in training that a branch of TAU is left out for a variable of a sample.
    """

    def __init__(self, channels: int, width: int, *, depth: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        block = _TranslatorBlock(width, heads, drop_path=drop_path)
        self.layers = nn.ModuleList(copy.deepcopy(block) for _ in range(depth))
        self.conv2 = nn.Conv2d(width, channels, 1)

    def reset_parameters(self) -> None:
        """Draw the weights; every block gets those of the first."""
        reset_parts(self)
        for layer in self.layers[1:]:
            layer.load_state_dict(self.layers[0].state_dict())

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, V, C, h, w)` to the same shape."""
        x = self.conv1(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        for layer in self.layers:
            x = layer(x)
        return self.conv2(x.flatten(0, 1)).view_as(z)
