"""Mixer layers of TinyTimeMixer (Ekambaram et al. 2024, arXiv 2401.03955, section 3).

All layers act on `(B, C, N, D)`: batch, channel, patch, width. Mixing over patches and over channels
multiplies from the left, `W @ x`, so that nothing is transposed and the gate's softmax runs over the second
last dimension, which is up to 21 times faster than over a last dimension of eight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.timeseries.models.mixer.settings import MixerSettings
from core.backbones.dropout import Dropout

__all__ = [
    "MixerBlock",
    "MixerLayer",
    "PatchAttention",
    "SoftmaxGate",
    "StackSettings",
    "TokenLinear",
]


@dataclass(frozen=True)
class StackSettings:
    """How the mixers of one stage are built.

    Args:
        depth: Layers, at each level.
        levels: Patch lengths that are mixed at, from the finest to the coarsest; 0 is one plain stack.
        channels: Number of channels to mix; 0 mixes none.
        dropout: In every MLP, and on attention's probabilities.
        mixer: What the mixers of all stages have in common.
    """

    depth: int = 1
    levels: int = 0
    channels: int = 0
    dropout: float = 0.2
    mixer: MixerSettings = field(default_factory=MixerSettings)


class TokenLinear(nn.Module):
    """A linear map over the second last dimension: `y = W @ x + b`.

    It is no `nn.Linear`, which acts on the last dimension, though it has the same parameters and
    initialisation.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as `nn.Linear` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(M, n_in, D)` to `(M, n_out, D)`."""
        return _mix_tokens(x, self.weight, self.bias)


class _MLP(nn.Module):
    """Two linear maps, GELU between, dropout after each, over the last or the second last dimension."""

    def __init__(self, size: int, settings: StackSettings, *, tokens: bool) -> None:
        super().__init__()
        linear = TokenLinear if tokens else nn.Linear
        self._map = _mix_tokens if tokens else F.linear
        self.fc1 = linear(size, size * settings.mixer.expansion)
        self.fc2 = linear(size * settings.mixer.expansion, size)
        self.dropout1 = Dropout(settings.dropout)
        self.dropout2 = Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        hidden = self.fc1(x)
        if not torch.is_grad_enabled():  # nothing needs the value before GELU again
            hidden = torch.ops.aten.gelu_(hidden)
            if not self.training:
                return self.fc2(hidden)
        else:
            hidden = F.gelu(hidden)
        if type(self.fc2) not in (nn.Linear, TokenLinear):  # an adapter stands in its place
            return self.dropout2(self.fc2(self.dropout1(hidden)))
        # Both factors of dropout go into the second map's weight and bias, which are small.
        first, second = self.dropout1.gain(hidden), self.dropout2.gain(hidden)
        weight = self.fc2.weight if first * second == 1.0 else self.fc2.weight * (first * second)
        bias = self.fc2.bias if second == 1.0 else self.fc2.bias * second
        return self.dropout2.zeroed(self._map(self.dropout1.zeroed(hidden), weight, bias))


class SoftmaxGate(nn.Module):
    """`x * softmax(linear(x))` over the last or the second last dimension."""

    def __init__(self, size: int, *, tokens: bool = False) -> None:
        super().__init__()
        self.linear = TokenLinear(size, size) if tokens else nn.Linear(size, size)
        self.dim = -2 if tokens else -1

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        weights = self.linear(x).softmax(self.dim)
        return x * weights if torch.is_grad_enabled() else weights.mul_(x)


def _mix_tokens(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map `(M, n_in, D)` by `weight (n_out, n_in)` and `bias (n_out,)` to `(M, n_out, D)`."""
    return torch.baddbmm(bias[:, None], weight.expand(x.shape[0], -1, -1), x)


def _plus(x: Tensor, y: Tensor) -> Tensor:
    """Return `x + y`, in the place of `y` (which was just computed) where no gradient is wanted."""
    return x + y if torch.is_grad_enabled() else y.add_(x)


class _BatchNorm(nn.Module):
    """Batch normalisation of each of the `D` features over samples, channels and patches."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape `(…, D)`."""
        return self.batchnorm(x.reshape(-1, x.shape[-1])).view(x.shape)


def _norm(settings: StackSettings, width: int) -> nn.Module:
    if settings.mixer.norm == "batch":
        return _BatchNorm(width, settings.mixer.norm_eps)
    return nn.LayerNorm(width, eps=settings.mixer.norm_eps)


class PatchAttention(nn.Module):
    """Attention among patches, without mask; the number of patches is small, so plain products serve best.

    Args:
        width: Embedding size, divisible by `heads`.
        heads: Number of heads.
        dropout: On the probabilities.

    Raises:
        ValueError: If `width` is not divisible by `heads`.
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads is {heads}; it must divide the width {width}")
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(M, N, D)` to `(M, N, D)`."""
        m, n, width = x.shape
        size = width // self.heads

        def split(y: Tensor) -> Tensor:
            return y.view(m, n, self.heads, size).transpose(1, 2).reshape(m * self.heads, n, size)

        q, k, v = (split(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        weights = self.dropout(torch.bmm(q * size**-0.5, k.transpose(1, 2)).softmax(-1))
        mixed = torch.bmm(weights, v).view(m, self.heads, n, size)
        return self.out_proj(mixed.transpose(1, 2).reshape(m, n, width))


class PatchMixer(nn.Module):
    """Mix over patches, with an optional attention among them beside the MLP."""

    def __init__(self, patches: int, width: int, settings: StackSettings) -> None:
        super().__init__()
        self.norm = _norm(settings, width)
        self.mlp = _MLP(patches, settings, tokens=True)
        self.gate = SoftmaxGate(patches, tokens=True) if settings.mixer.gated else None
        self.attention: PatchAttention | None = None
        self.attention_norm: nn.Module | None = None
        if settings.mixer.self_attention:
            self.attention = PatchAttention(width, heads=settings.mixer.heads, dropout=settings.dropout)
            self.attention_norm = _norm(settings, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        y = self.norm(x).flatten(0, 1)  # B C N D -> M N D
        attended = None if self.attention is None else self.attention(y)
        y = self.mlp(y)
        if self.gate is not None:
            y = self.gate(y)
        if self.attention_norm is not None and attended is not None:
            y = self.attention_norm(y + attended)
        return _plus(x, y.view(x.shape))


class FeatureMixer(nn.Module):
    """Mix over the features of each patch."""

    def __init__(self, width: int, settings: StackSettings) -> None:
        super().__init__()
        self.norm = _norm(settings, width)
        self.mlp = _MLP(width, settings, tokens=False)
        self.gate = SoftmaxGate(width) if settings.mixer.gated else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        y = self.mlp(self.norm(x))
        return _plus(x, y if self.gate is None else self.gate(y))


class ChannelMixer(nn.Module):
    """Mix over channels; here the gate stands before the MLP, not after it as in the other two mixers."""

    def __init__(self, channels: int, width: int, settings: StackSettings) -> None:
        super().__init__()
        self.norm = _norm(settings, width)
        self.gate = SoftmaxGate(channels, tokens=True) if settings.mixer.gated else None
        self.mlp = _MLP(channels, settings, tokens=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        y = self.norm(x).flatten(2)  # B C N D -> B C (N D): the channels are the rows that W multiplies
        if self.gate is not None:
            y = self.gate(y)
        return _plus(x, self.mlp(y).view(x.shape))


class MixerLayer(nn.Module):
    """Channel mixer (optional), patch mixer (if there are two patches or more), feature mixer."""

    def __init__(self, patches: int, width: int, settings: StackSettings) -> None:
        super().__init__()
        self.channel_mixer = ChannelMixer(settings.channels, width, settings) if settings.channels else None
        self.patch_mixer = PatchMixer(patches, width, settings) if patches > 1 else None
        self.feature_mixer = FeatureMixer(width, settings)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        if self.channel_mixer is not None:
            x = self.channel_mixer(x)
        if self.patch_mixer is not None:
            x = self.patch_mixer(x)
        return self.feature_mixer(x)


class MixerBlock(nn.Module):
    """A stack of mixer layers, at one geometry or at several patch lengths from the finest to the coarsest.

    With `levels` K, level i = K-1, …, 0 reads the patches as `N * 2^i` patches of width `D / 2^i`; where that
    width would be four or less it keeps the patches as they are.

    Args:
        patches: Number of patches `N`.
        width: Features of a patch `D`.
        settings: Of the stack and its mixers.

    Raises:
        ValueError: If `width` cannot be cut as a level needs it.
    """

    def __init__(self, patches: int, width: int, settings: StackSettings) -> None:
        super().__init__()
        self.patches, self.width = patches, width
        self.factors: list[int] = []

        def stack(factor: int) -> nn.ModuleList:
            size = (patches * factor, width // factor)
            return nn.ModuleList(MixerLayer(*size, settings) for _ in range(settings.depth))

        if settings.levels == 0:
            self.layers = stack(1)
            return
        for level in reversed(range(settings.levels)):
            factor = 2**level if width // 2**level > 4 else 1
            if width % factor:
                raise ValueError(
                    f"the width is {width}; with {settings.levels} levels it {factor} must divide it"
                )
            self.factors.append(factor)
        self.levels = nn.ModuleList(stack(factor) for factor in self.factors)

    def stack(self) -> list[nn.Module]:
        """Return all layers in the order in which they act."""
        if self.factors:
            return [layer for layers in self.levels for layer in cast(nn.ModuleList, layers)]
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, N, D)` to the same shape."""
        if not self.factors:
            for layer in self.layers:
                x = layer(x)
            return x
        for factor, layers in zip(self.factors, self.levels, strict=True):
            # B C N D -> B C (N f) (D / f), row-major, and back
            x = x.reshape(*x.shape[:2], self.patches * factor, self.width // factor)
            for layer in cast(nn.ModuleList, layers):
                x = layer(x)
            x = x.reshape(*x.shape[:2], self.patches, self.width)
        return x
