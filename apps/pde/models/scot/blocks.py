"""Blocks of scOT (Herde et al. 2024, arXiv 2405.19101): norms that depend on the lead time, window attention,
transformer blocks, and convolution blocks on skip connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.cosine import cosine_attention
from core.backbones.dropout import Dropout
from core.backbones.windows import join_windows, offset_index, offset_table, plan_windows, split_windows
from core.errors import UserError, did_you_mean

__all__ = ["ConvNeXtBlock", "Grid", "ResNetBlock", "ScOTBlock", "WindowAttention", "make_norm"]

Grid = tuple[int, int]

# The official program adds -100 twice between places that were no neighbours before the shift.
_FAR = -200.0
_LARGEST_SCALE = math.log(100.0)


class ConditionalNorm(nn.Module):
    """`alpha(t) · normalised(x) + beta(t)`, both linear in the time."""

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Linear(1, width)
        self.bias = nn.Linear(1, width)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """Map `(B, …, C)` with times `(B, 1)` to the same shape."""
        assert time is not None
        shape = (-1, *[1] * (x.dim() - 2), x.shape[-1])
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias(time).view(shape), self.weight(time).view(shape), normal)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"eps={self.eps}"


class PlainNorm(nn.LayerNorm):
    """Layer norm that passes over the time."""

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:  # type: ignore[override]
        """Map `(B, …, C)` to the same shape."""
        return super().forward(x)


def make_norm(width: int, *, conditioned: bool, eps: float = 1e-5) -> ConditionalNorm | PlainNorm:
    """Return the norm of one place of the network."""
    return ConditionalNorm(width, eps=eps) if conditioned else PlainNorm(width, eps=eps)


class WindowAttention(nn.Module):
    """Self-attention within square windows of a grid, by cosines and with a continuous position bias (Liu et
    al. 2022, arXiv 2111.09883).

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
        self, width: int, *, heads: int, window: int, shift: int = 0, bias: bool = True, dropout: float = 0.0
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
        hidden = torch.mm(F.pad(table, (0, 1), value=1.0), weight).relu()
        heights = torch.mm(last.weight, hidden.t()).sigmoid().mul(16.0)
        # The sigmoid on the few offsets, then the gather to the many pairs.
        pairs = heights.index_select(1, offset_index(window, device=device))
        return pairs.view(self.heads, self.window**2, self.window**2)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"heads={self.heads}, window={self.window}, shift={self.shift}"


class ScOTBlock(nn.Module):
    """Window attention, then two linear layers; each branch is normed before it is added.

    Args as those of `ScOT`; `drop_path` is the probability that a sample passes by a branch in training.
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
        self.act = _activation(hidden_act)

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


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 convolution, norm, two linear layers, scaled and added (arXiv 2201.03545)."""

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
    """Two 3x3 convolutions with batch norm, added to the input; no activation after the sum."""

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


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _identity(x: Tensor) -> Tensor:
    return x


_tanh_gelu = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("gelu", "gelu_python"), F.gelu),
    **dict.fromkeys(("gelu_accurate", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"), _tanh_gelu),
    "leaky_relu": F.leaky_relu,
    "linear": _identity,
    "mish": F.mish,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": _squared_relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    **dict.fromkeys(("silu", "swish"), F.silu),
    "tanh": torch.tanh,
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function that official configurations call `name`."""
    if name not in _ACTIVATIONS:
        raise UserError(
            f"activation is '{name}'{did_you_mean(name, _ACTIVATIONS)}; it must be one of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
