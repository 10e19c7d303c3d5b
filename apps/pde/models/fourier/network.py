"""FNO, the Fourier neural operator (Li et al. 2020, arXiv 2010.08895): one for steps, one for lead times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.pde.models.fourier.blocks import NORMS, SKIPS, BlockSettings, FourierBlock, PointwiseMLP
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["FNO", "TimedFNO"]


class FNO(nn.Module):
    """Lift every grid point's channels, apply spectral blocks, project: fields to fields on any grid.

    Input frames are merged into channels. The weights act on frequencies, so that one network serves every
    resolution of the same domain, also one it has not seen.

    Args:
        modes: Frequencies kept along each axis, negative ones included; their number is that of the axes, one
            to three.
        in_channels: Channels of a frame.
        out_channels: Channels of the predicted frame.
        width: Channels between the blocks.
        depth: Blocks.
        ratios: Hidden channels of lifting and projection over `width`; 0 makes the lifting a single map.
        frames: Input frames.
        grid: Whether the points' coordinates i / n are appended to the input, one channel an axis.
        padding: Zeros put on both ends of each axis between lifting and projection, as a fraction of the
            axis; one for all axes or one each. For fields that are not periodic.
        skips: Around the spectral convolutions and around the channel MLPs, each `linear`, `soft-gating`,
            `identity` or `none`.
        mlp: Whether blocks have a channel MLP.
        mlp_ratio: Its hidden channels over `width`.
        dropout: In the channel MLPs.
        norm: `group_norm`, `instance_norm`, `batch_norm`, `ada_in` (scale and shift from a condition), or
            None.
        norm_groups: Groups of `group_norm`.
        condition_features: Numbers in the condition of `ada_in`.
        stabiliser: Whether each convolution sees the tanh of its input.
        preactivation: Whether activation and norm come before a block's convolution.
        enforce_hermitian: Whether the last inverse transform sees nothing that a real field cannot have.
        stored_modes: Frequencies the weights have where that is more than `modes`, for training that begins
            with few.

    Raises:
        UserError: If an argument is out of its range.
    """

    timed = False
    resolution = None
    lead_channels = 0
    """Input channels of the lead time, beside those of the frames."""

    def __init__(
        self,
        modes: tuple[int, ...] = (16, 16),
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 24,
        depth: int = 4,
        ratios: tuple[float, float] = (2, 2),
        frames: int = 1,
        grid: bool = True,
        padding: float | tuple[float, ...] | None = None,
        skips: tuple[str, str] = ("linear", "soft-gating"),
        mlp: bool = True,
        mlp_ratio: float = 0.5,
        dropout: float = 0.0,
        norm: str | None = None,
        norm_groups: int = 1,
        condition_features: int | None = None,
        stabiliser: bool = False,
        preactivation: bool = False,
        enforce_hermitian: bool = True,
        stored_modes: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in locals().items()
            if key not in ("self", "__class__")
        }
        _check(self.settings)
        modes, padding = self.settings["modes"], self.settings["padding"]
        self.axes = len(modes)
        self.frames, self.in_channels, self.out_channels = frames, in_channels, out_channels
        self.grid = grid
        self.padding = padding if isinstance(padding, tuple) else (padding or 0.0,) * len(modes)
        channels = frames * in_channels + self.lead_channels + (len(modes) if grid else 0)
        self.lifting = PointwiseMLP(channels, int(ratios[0] * width), width)
        common = BlockSettings(**{part.name: self.settings[part.name] for part in fields(BlockSettings)})
        stored = self.settings["stored_modes"]
        self.layers = nn.ModuleList(
            FourierBlock(width, modes, common, stored=stored, last=layer == depth - 1)
            for layer in range(depth)
        )
        self.projection = PointwiseMLP(width, int(ratios[1] * width), out_channels)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the repeated layers in order."""
        yield from self.layers

    def reset_parameters(self) -> None:
        """Draw every parameter anew and set the norms' statistics to where they begin."""
        for module in self.modules():
            if module is not self and callable(again := getattr(module, "reset_parameters", None)):
                again()

    def forward(self, fields: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map `(B, frames * in_channels, *space)` to `(B, out_channels, *space)`.

        Args:
            fields: Normalised fields; the frames' channels one frame after the other.
            condition: `(condition_features,)` or `(B, condition_features)`, for the norm `ada_in` alone.

        Raises:
            ValueError: If the fields have other axes or channels, or the condition is missing or not looked
                at.
        """
        self._check_input(fields, condition)
        space = fields.shape[2:]
        alike = _coordinates(space, like=fields) if self.grid else None
        x = self.lifting(fields.flatten(2), alike=alike).unflatten(2, space)
        pad = [round(part * n) for part, n in zip(self.padding, space, strict=True)]
        if any(pad):
            x = F.pad(x, [p for both in reversed(pad) for p in (both, both)])
        for layer in self.layers:
            x = layer(x, condition)
        for axis, (p, n) in enumerate(zip(pad, space, strict=True), start=2):
            x = x.narrow(axis, p, n) if p else x
        return self.projection(x.flatten(2)).unflatten(2, space)

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Map frames `(B, frames, in_channels, *space)` to the next one, `(B, 1, out_channels, *space)`.

        Args:
            history: Normalised frames.
            time: `(B,)` lead time, which only the norm `ada_in` looks at.
        """
        condition = time[:, None] if self.settings["norm"] == "ada_in" and time is not None else None
        return self(history.flatten(1, 2), condition).unsqueeze(1)

    def _check_input(self, fields: Tensor, condition: Tensor | None) -> None:
        axes, channels = len(self.settings["modes"]), self.frames * self.in_channels + self.lead_channels
        if fields.ndim != axes + 2 or fields.shape[1] != channels:
            raise ValueError(
                f"fields are {tuple(fields.shape)}; this {type(self).__name__} takes (batch, {channels} "
                f"channels, {axes} space axes)"
            )
        if (condition is not None) != (self.settings["norm"] == "ada_in"):
            raise ValueError(
                f"norm is {self.settings['norm']} and the condition is "
                f"{'missing' if condition is None else 'given'}; ada_in needs one and nothing else takes one"
            )


class TimedFNO(FNO):
    """An `FNO` that is told the lead time through one more input channel, constant over the grid.

    Args as those of `FNO`; `in_channels` counts the fields of a frame alone.
    """

    timed = True
    lead_channels = 1

    def forward(self, fields: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map `(B, frames * in_channels, *space)` and lead times `(B,)` to `(B, out_channels, *space)`."""
        constant = time.to(fields.dtype).view(-1, *[1] * (fields.ndim - 1))
        constant = constant.expand(-1, 1, *fields.shape[2:])
        return super().forward(torch.cat([fields, constant], dim=1), condition)

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Map frames `(B, frames, in_channels, *space)` to the one `time (B,)` later, `(B, 1, out_channels,
        *space)`.

        Raises:
            ValueError: If `time` is missing.
        """
        if time is None:
            raise ValueError("TimedFNO needs the lead time")
        condition = time[:, None] if self.settings["norm"] == "ada_in" else None
        return self(history.flatten(1, 2), time, condition).unsqueeze(1)


def _coordinates(space: torch.Size, *, like: Tensor) -> Tensor:
    """Return `(1, axes, N)`: i / n along each axis."""
    axes = [torch.arange(n, device=like.device, dtype=torch.float32) / n for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)[None].to(like.dtype)


def _check(settings: Mapping[str, Any]) -> None:
    modes, stored, padding = settings["modes"], settings["stored_modes"], settings["padding"]
    if not 1 <= len(modes) <= 3 or min(modes) < 1:
        raise UserError(f"network.modes is {modes}; give one to three numbers of at least 1, one an axis")
    if stored is not None and (
        len(stored) != len(modes) or any(s < m for s, m in zip(stored, modes, strict=True))
    ):
        raise UserError(f"network.stored_modes is {stored}; it must be at least modes {modes} on every axis")
    counts = ("in_channels", "out_channels", "width", "depth", "frames", "norm_groups")
    at_least(1, room="network", **{name: settings[name] for name in counts})
    for skip in settings["skips"]:
        one_of(SKIPS, room="network", skips=skip)
    one_of(("None", *NORMS), room="network", norm=str(settings["norm"]))
    parts = padding if isinstance(padding, tuple) else (padding or 0.0,)
    if min(parts) < 0 or (isinstance(padding, tuple) and len(padding) != len(modes)):
        raise UserError(f"network.padding is {padding}; give one fraction of at least 0, or one an axis")
    if settings["norm"] == "group_norm" and settings["width"] % settings["norm_groups"]:
        raise UserError(
            f"network.norm_groups is {settings['norm_groups']}; it must divide the width {settings['width']}"
        )
