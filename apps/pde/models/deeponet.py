"""DeepONet: a branch net on the input functions times a trunk net on the coordinates (Lu et al. 2021, Nature
Machine Intelligence 3, 218, arXiv 1910.03193), and the convolutional form that Multiphysics Bench uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from core.backbones.sizes import size
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["ConvDeepONet", "DeepONet", "conv_deeponet_2d", "deeponet_engine"]

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


class _Products(nn.Module):
    """What both forms share: layers with weights, and frames merged into channels."""

    timed = False

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the layers with weights in order, branches first."""
        yield from (layer for layer in self.modules() if isinstance(layer, nn.Linear | nn.Conv2d))

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        for layer in self.blocks():
            layer.reset_parameters()  # type: ignore[operator]

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Map frames `(B, frames, in_channels, *space)` to one, `(B, 1, out_channels, *space)`; no time is
        used.
        """
        return self(history.flatten(1, 2)).unsqueeze(1)


class DeepONet(_Products):
    """Unstacked DeepONet: `G(u)(y) = sum_k b_k(u) t_k(y) + b0`, with `basis` functions for every output.

    The branch reads the input functions at the points of one grid; the trunk can be asked anywhere.

    Args:
        resolution: Points along each axis where the inputs are sampled.
        in_channels: Input functions of a frame.
        out_channels: Outputs.
        basis: Basis functions of each output.
        branch: Hidden widths of the branch.
        trunk: Hidden widths of the trunk.
        outputs: `split`: one branch and one trunk give the bases of all outputs, which share their hidden
            layers; `separate`: one pair of nets for each output.
        frames: Input frames.
        constants: How many of the input channels, the last ones, are the same at every point (initial values,
            parameters); the branch reads each of them once.
        residual: Whether the last `out_channels` input channels are added to the outputs, so that the nets
            give a change from the initial values.
        activation: `relu`, `gelu`, `tanh` or `silu`.

    Raises:
        UserError: If an argument is out of its range.
    """

    def __init__(
        self,
        resolution: tuple[int, ...] = (64,),
        in_channels: int = 1,
        out_channels: int = 1,
        basis: int = 64,
        branch: tuple[int, ...] = (128, 128),
        trunk: tuple[int, ...] = (128, 128),
        outputs: str = "split",
        frames: int = 1,
        constants: int = 0,
        residual: bool = False,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if outputs not in ("split", "separate"):
            raise UserError(f"network.outputs is '{outputs}'; it must be split or separate")
        one_of(ACTIVATIONS, room="network", activation=activation)
        counts = {"in_channels": in_channels, "out_channels": out_channels, "basis": basis, "frames": frames}
        at_least(1, room="network", **counts)
        channels = frames * in_channels
        if not 0 <= constants <= channels:
            raise UserError(f"network.constants is {constants}; there are {channels} input channels")
        if residual and out_channels > channels:
            raise UserError(
                f"network.residual adds {out_channels} input channels to the outputs, and there are "
                f"{channels}"
            )
        self.resolution = tuple(resolution)
        self.in_channels, self.out_channels, self.frames = in_channels, out_channels, frames
        self.constants, self.residual = constants, residual
        sensors = (channels - constants) * prod(self.resolution) + constants
        nets = 1 if outputs == "split" else out_channels
        ends = basis * (out_channels // nets)
        self.branches = nn.ModuleList(mlp((sensors, *branch, ends), activation) for _ in range(nets))
        self.trunks = nn.ModuleList(
            mlp((len(self.resolution), *trunk, ends), activation, last=True) for _ in range(nets)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        super().reset_parameters()
        nn.init.zeros_(self.bias)

    def forward(self, fields: Tensor, points: Tensor | None = None) -> Tensor:
        """Map input functions to outputs.

        Args:
            fields: `(B, frames * in_channels, *resolution)`.
            points: `(N, axes)`, where to ask, 0 to 1 along each axis; None is the grid of the inputs.

        Returns:
            `(B, out_channels, *resolution)`, or `(B, out_channels, N)` at `points`.

        Raises:
            ValueError: If the fields have another shape.
        """
        channels, space = self.frames * self.in_channels, self.resolution
        if fields.shape[1:] != (channels, *space):
            raise ValueError(
                f"fields are {tuple(fields.shape)}; this DeepONet takes (batch, {channels}, "
                f"{', '.join(map(str, space))})"
            )
        flat = fields.flatten(2)  # B C N
        varying = flat[:, : channels - self.constants].flatten(1)
        sensors = torch.cat([varying, flat[:, channels - self.constants :, 0]], dim=1)
        where = coordinates(space, like=fields) if points is None else points
        parts = [
            # B (O P) -> B O P;  N (O P) -> O P N
            torch.einsum(
                "bop,nop->bon",
                branch(sensors).unflatten(1, (self.out_channels // len(self.trunks), -1)),
                trunk(where).unflatten(1, (self.out_channels // len(self.trunks), -1)),
            )
            for branch, trunk in zip(self.branches, self.trunks, strict=True)
        ]
        out = torch.cat(parts, dim=1) + self.bias[:, None]
        if self.residual:
            start = flat[:, channels - self.out_channels :]
            out = out + (start if points is None else start[..., :1])
        return out.unflatten(2, space) if points is None else out


class ConvDeepONet(_Products):
    """DeepONet with a convolutional branch for 2-D fields on any grid (Multiphysics Bench's).

    Branch: 3x3 convolutions, each with ReLU and, but for the last, halved by max-pooling; average over 4 x 4
    parts; two linear maps to `basis` numbers. Trunk: linear maps with ReLU of the point. All outputs are
    linear combinations of the products: `out = W (b * t(y)) + b0`.

    Args:
        in_channels: Fields of a frame.
        out_channels: Outputs.
        basis: Products.
        branch: Channels of the convolutions.
        branch_width: Width between the branch's two linear maps.
        trunk: Hidden widths of the trunk.
        frames: Input frames.

    Raises:
        UserError: If an argument is out of its range.
    """

    resolution = None

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        basis: int = 256,
        branch: tuple[int, ...] = (32, 128, 256, 512),
        branch_width: int = 1024,
        trunk: tuple[int, ...] = (256, 512),
        frames: int = 1,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "basis": basis, "frames": frames}
        at_least(1, room="network", **counts)
        self.in_channels, self.out_channels, self.frames = in_channels, out_channels, frames
        steps: list[nn.Module] = []
        for i, (inner, outer) in enumerate(pairwise((frames * in_channels, *branch))):
            steps += [nn.MaxPool2d(2)] if i else []
            steps += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
        self.smallest = 2 ** (len(branch) - 1)
        self.convolutions = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.branch = mlp((branch[-1] * 16, branch_width, basis), "relu")
        self.trunk = mlp((2, *trunk, basis), "relu")
        self.combine = nn.Linear(basis, out_channels)

    def forward(self, fields: Tensor, points: Tensor | None = None) -> Tensor:
        """Map `(B, frames * in_channels, X, Y)` to `(B, out_channels, X, Y)`, or `(B, out_channels, N)` at
        `points (N, 2)`.

        Raises:
            ValueError: If the fields have other channels or too few points.
        """
        channels = self.frames * self.in_channels
        if fields.ndim != 4 or fields.shape[1] != channels or min(fields.shape[2:]) < self.smallest:
            raise ValueError(
                f"fields are {tuple(fields.shape)}; this ConvDeepONet takes (batch, {channels}, X, Y) with "
                f"at least {self.smallest} points along each axis"
            )
        where = coordinates(fields.shape[2:], like=fields) if points is None else points
        weights = self.branch(self.convolutions(fields))[:, None] * self.combine.weight  # B O P
        out = weights @ self.trunk(where).T + self.combine.bias[:, None]
        return out.unflatten(2, fields.shape[2:]) if points is None else out


def mlp(widths: Sequence[int], activation: str, *, last: bool = False) -> nn.Sequential:
    """Return linear maps of `widths` with the activation between them, and with `last` also at the end."""
    steps: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        steps += [nn.Linear(inner, outer), ACTIVATIONS[activation]()]
    return nn.Sequential(*(steps if last else steps[:-1]))


def coordinates(space: Sequence[int], *, like: Tensor) -> Tensor:
    """Return `(N, axes)`: i / n along each axis."""
    axes = [torch.arange(n, device=like.device, dtype=torch.float32) / n for n in space]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(grid, dim=-1).flatten(0, -2).to(like.dtype)


conv_deeponet_2d = size(ConvDeepONet, "The baseline of Multiphysics Bench: 256 products.", basis=256)
deeponet_engine = size(
    DeepONet,
    "For windows of the diesel engine: four commands and seven initial values to seven states.",
    resolution=(20,),
    in_channels=11,
    out_channels=7,
    constants=7,
    residual=True,
)
