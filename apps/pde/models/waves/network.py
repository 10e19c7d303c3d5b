"""SineNet: several U-Nets in a row, each of which moves the features on by a part of the time step.

Zhang et al. 2024, arXiv 2403.19507. In a single U-Net the skips carry features of the input's time to where
features of the output's time are made; with several waves each has to bridge a part of the step only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from torch import Tensor, nn

from apps.pde.models.waves.layers import (
    Activation,
    Conditioning,
    EmbeddingMLP,
    Interpolation,
    LevelSettings,
    Padding,
    Pooling,
    Wave,
    doubling,
)
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["SineNet"]


class SineNet(nn.Module):
    """The network; the defaults are the published 8 waves for a scalar and a vector field.

    Args:
        frames: Frames T that are read.
        future: Frames K that are predicted at once.
        in_channels: Channels C of a frame.
        out_channels: Channels C' of a predicted frame.
        width: Channels c of a wave's top.
        waves: Number of U-Nets in the row; 1 is a plain U-Net.
        multiplier: Level k of a wave has `int(width * multiplier^k)` channels.
        blocks: Convolution blocks of a level.
        levels: Levels below the top; each halves the grid.
        padding: What lies beyond the grid's edge; "circular" exactly when the domain is periodic.
        disentangle: Whether the lower levels of a wave also see its input, pooled to their grid.
        conditioning: How a step size (and an equation's number) acts on the features, if at all.
        parameter: Whether a number of the equation is an input beside the step size.
        activation: Of all convolution blocks.
        norm: Whether there is group normalisation (one group).
        residual: Whether each convolution block has a way around it.
        wave_residual: Whether each wave has one.
        pooling: How four points become one.
        interpolation: How one becomes four.

    Attributes:
        resolution: None: any grid that `2^levels` divides.
        timed: Whether the step size is an input, so that one call reaches any time.
        takes_parameters: Whether a number of the equation is.

    Raises:
        UserError: If a setting is not one of those it may be, or numbers do not fit.
    """

    resolution: None = None

    def __init__(
        self,
        *,
        frames: int = 4,
        future: int = 1,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 64,
        waves: int = 8,
        multiplier: float = 1.425,
        blocks: int = 1,
        levels: int = 4,
        padding: Padding = "zeros",
        disentangle: bool = True,
        conditioning: Conditioning | None = None,
        parameter: bool = False,
        activation: Activation = "gelu",
        norm: bool = True,
        residual: bool = True,
        wave_residual: bool = True,
        pooling: Pooling = "average",
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        at_least(1, room="network", frames=frames, future=future, in_channels=in_channels, width=width)
        at_least(1, room="network", out_channels=out_channels, waves=waves, blocks=blocks, levels=levels)
        one_of(get_args(Padding), room="network", padding=padding)
        one_of(get_args(Pooling), room="network", pooling=pooling)
        one_of(get_args(Interpolation), room="network", interpolation=interpolation)
        if conditioning is not None:
            one_of(get_args(Conditioning), room="network", conditioning=conditioning)
        elif parameter:
            raise UserError("parameter is on without conditioning; set conditioning to scale_shift or add")
        widths = [int(width * multiplier**k) for k in range(levels + 1)]
        if min(widths) < 1:
            raise UserError(f"multiplier is {multiplier}, which leaves a level without channels; raise it")
        self.frames, self.future = frames, future
        self.in_channels, self.out_channels = in_channels, out_channels
        self.timed = conditioning is not None
        self.takes_parameters = parameter
        self.width, self.multiplier, self.levels = width, multiplier, levels
        self.padding, self.interpolation, self.conditioning = padding, interpolation, conditioning
        self.activation, self.pooling, self.norm = activation, pooling, norm
        self.disentangle, self.residual, self.wave_residual = disentangle, residual, wave_residual
        settings = LevelSettings(
            padding=padding,
            activation=activation,
            norm=norm,
            conditioning=conditioning,
            embedding=4 * width,
            blocks=blocks,
            residual=residual,
        )
        self.embed_time = EmbeddingMLP(width, activation) if conditioning else None
        self.embed_parameter = EmbeddingMLP(width, activation) if parameter else None
        self.project = nn.Conv2d(frames * in_channels, width, 3, padding=1, padding_mode=padding)
        self.waves = nn.ModuleList(
            Wave(widths, settings, disentangle=disentangle, wave_residual=wave_residual, pooling=pooling)
            for _ in range(waves)
        )
        self.final = nn.Conv2d(width, future * out_channels, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor, time: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """Predict the next frames.

        Args:
            x: `(B, T, C, H, W)`, the last T frames.
            time: `(B,)`, the step size; for a conditioned network, and ignored by others.
            z: `(B,)`, the equation's number, where the network was built with `parameter`; without it that
                embedding is left out, as in the published program.

        Returns:
            `(B, K, C', H, W)`.

        Raises:
            UserError: If the shape does not fit the network, or it lacks the step size.
        """
        self._check(x)
        batch, _, _, *grid = x.shape
        embedding = self._embedding(time, z)
        h = self.project(x.flatten(1, 2))
        tables = self._tables(grid, h)
        for wave in self.waves:
            h = wave(h, embedding, tables)
        return self.final(h).view(batch, self.future, self.out_channels, *grid)

    def advance(
        self, history: Tensor, time: Tensor | None = None, parameters: Tensor | None = None
    ) -> Tensor:
        """Predict the frames that follow `history`.

        Args:
            history: `(B, T, C, H, W)`.
            time: `(B,)`, the step size; used where the network is conditioned.
            parameters: `(B, P)` numbers of the equation; the first is used where the network has an input
                for it.

        Returns:
            `(B, K, C', H, W)`.
        """
        z = parameters[:, 0] if parameters is not None and self.embed_parameter is not None else None
        return self(history, time if self.conditioning else None, z)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the waves."""
        yield from self.waves

    def reset_parameters(self) -> None:
        """Draw all weights anew as PyTorch does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()

    def _embedding(self, time: Tensor | None, z: Tensor | None) -> Tensor | None:
        if self.embed_time is None:
            return None
        if time is None:
            raise UserError(
                "this SineNet is conditioned on the step size: give `time`, one number per sample"
            )
        embedding = self.embed_time(time)
        return embedding if z is None or self.embed_parameter is None else embedding + self.embed_parameter(z)

    def _tables(self, grid: list[int], like: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Return the matrices that double the grid, from the coarsest level upwards."""
        if self.interpolation == "nearest":
            return None
        circular = self.padding == "circular"
        sizes = {n >> level for n in grid for level in range(1, self.levels + 1)}
        matrices = {n: doubling(n, mode=self.interpolation, circular=circular, like=like) for n in sizes}
        rows, columns = grid
        return [(matrices[rows >> level], matrices[columns >> level]) for level in range(self.levels, 0, -1)]

    def _check(self, x: Tensor) -> None:
        wanted = f"(B, {self.frames}, {self.in_channels}, H, W)"
        if x.ndim != 5 or x.shape[1] != self.frames or x.shape[2] != self.in_channels:
            raise UserError(f"SineNet was given fields of the shape {tuple(x.shape)}; it needs {wanted}")
        step = 2**self.levels
        if any(n % step for n in x.shape[3:]):
            raise UserError(
                f"SineNet was given a grid of {x.shape[3]}x{x.shape[4]} points; with {self.levels} levels "
                f"both sides must be multiples of {step}: resample or crop the data, or use fewer levels"
            )
