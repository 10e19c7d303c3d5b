"""GPhyT, the General Physics Transformer: it infers the physics from a few past frames.

Wiesner et al. 2025, arXiv 2509.13805. One transformer over all space-time patches gives the change of the
fields; the last frame plus that change is the next one. Nothing tells it which equation it sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from apps.pde.models.physics_transformer.blocks import PhysicsBlock
from apps.pde.models.physics_transformer.numerics import FiniteDifference
from apps.pde.models.physics_transformer.tokens import (
    ConvDetokenizer,
    ConvTokenizer,
    LinearDetokenizer,
    LinearTokenizer,
    flat,
    standing,
    token_grid,
)
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["GPhyT"]

Positions = Literal["absolute", "rotary"]
AttentionKind = Literal["full", "causal"]
Tokenizer = Literal["linear", "convolutions"]


class GPhyT(nn.Module):
    """The network; the defaults are the published size S.

    Args:
        frames: Frames T that are read.
        in_channels: Channels F of a frame (published: pressure, density, temperature and two velocities,
            with zeros where a data set lacks one).
        out_channels: Channels F' of the predicted frame, the first ones of those read; None is all.
        resolution: Points along both axes, one number for a square; None is [256, 128], the published grid.
        patch: Frames and points of a token; None is [1, 16, 16].
        width: Features D of a token.
        hidden: Features within an MLP.
        heads: Of the attention, a divisor of `width`.
        depth: Transformer blocks.
        derivatives: Order (2 or 4) of the finite differences along time and both axes that are put beside
            the fields, or None for the fields alone.
        positions: "absolute" learned ones, or "rotary" ones (`width` must be a multiple of 6).
        attention: "full", or "causal" in time.
        tokenizer: One linear map of a patch, or a chain of convolutions.
        detokenizer: The same for the way back.
        tokenizer_channels: Hidden channels of the chain; a list, for "convolutions" only.
        detokenizer_channels: The same for the way back.
        tokenizer_overlap: Points that the kernel of a linear tokenizer is larger than the patch, even.
        detokenizer_overlap: The same for the way back.
        dropout: Of attention weights and after each MLP.
        stochastic_depth: Probability that a block's branch is left out for a sample in training.

    Attributes:
        resolution: The grid; positions are bound to it.

    Raises:
        UserError: If a setting is not one of those it may be, or numbers do not fit.
    """

    def __init__(
        self,
        *,
        frames: int = 4,
        in_channels: int = 5,
        out_channels: int | None = None,
        resolution: int | list[int] | None = None,
        patch: list[int] | None = None,
        width: int = 192,
        hidden: int = 768,
        heads: int = 3,
        depth: int = 12,
        derivatives: int | None = 2,
        positions: Positions = "absolute",
        attention: AttentionKind = "full",
        tokenizer: Tokenizer = "linear",
        detokenizer: Tokenizer = "linear",
        tokenizer_channels: list[int] | None = None,
        detokenizer_channels: list[int] | None = None,
        tokenizer_overlap: int = 0,
        detokenizer_overlap: int = 0,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        square = [resolution, resolution] if isinstance(resolution, int) else resolution
        grid = [256, 128] if square is None else list(square)
        out_channels = in_channels if out_channels is None else out_channels
        patch = [1, 16, 16] if patch is None else list(patch)
        _check_settings(grid, patch, width=width, heads=heads, positions=positions, derivatives=derivatives)
        one_of(get_args(Positions), room="network", positions=positions)
        one_of(get_args(AttentionKind), room="network", attention=attention)
        one_of(get_args(Tokenizer), room="network", tokenizer=tokenizer, detokenizer=detokenizer)
        at_least(1, room="network", frames=frames, in_channels=in_channels, out_channels=out_channels)
        at_least(1, room="network", depth=depth)
        if out_channels > in_channels:
            raise UserError(f"out_channels is {out_channels}; it can be at most in_channels, {in_channels}")
        self.frames, self.in_channels, self.out_channels = frames, in_channels, out_channels
        self.resolution: tuple[int, int] = (grid[0], grid[1])
        self.patch, self.width, self.hidden, self.heads = patch, width, hidden, heads
        self.positions, self.attention, self.order = positions, attention, derivatives
        self.tokenizer_channels, self.detokenizer_channels = tokenizer_channels, detokenizer_channels
        self.overlaps = (tokenizer_overlap, detokenizer_overlap)
        self.dropout, self.stochastic_depth = dropout, stochastic_depth
        tokens = token_grid(frames, grid, patch)
        self.tokens = tokens
        # Official checkpoints hold the patch as a tensor.
        self.register_buffer("patch_size", torch.empty(3, dtype=torch.int64))
        inputs = in_channels if derivatives is None else 4 * in_channels
        self.derivatives = None if derivatives is None else FiniteDifference(in_channels, order=derivatives)
        self.tokenizer: nn.Module
        self.detokenizer: nn.Module
        if tokenizer == "linear":
            _check_overlap("tokenizer_overlap", tokenizer_overlap)
            self.tokenizer = LinearTokenizer(inputs, width, patch=patch, overlap=tokenizer_overlap)
        else:
            inner = _inner("tokenizer_channels", tokenizer_channels)
            self.tokenizer = ConvTokenizer([inputs, *inner, width], patch=patch)
        if detokenizer == "linear":
            _check_overlap("detokenizer_overlap", detokenizer_overlap)
            self.detokenizer = LinearDetokenizer(
                width, out_channels, patch=patch, overlap=detokenizer_overlap
            )
        else:
            inner = _inner("detokenizer_channels", detokenizer_channels)
            self.detokenizer = ConvDetokenizer([width, *inner, out_channels], patch=patch)
        # A last slot's change depends on the last slot's tokens alone.
        self._separable = detokenizer == "linear" and detokenizer_overlap == 0
        self.place = nn.Parameter(torch.empty(1, *tokens, width)) if positions == "absolute" else None
        self.layers = nn.ModuleList(
            PhysicsBlock(
                width,
                hidden,
                heads,
                grid=tokens,
                causal=attention == "causal",
                rotary=positions == "rotary",
                dropout=dropout,
                stochastic_depth=stochastic_depth,
            )
            for _ in range(depth)
        )
        self._write_own()

    def forward(self, x: Tensor) -> Tensor:
        """Predict the next frame: the last one plus the change, one Euler step of size 1.

        Args:
            x: `(B, T, F, H, W)`, normalised.

        Returns:
            `(B, 1, F', H, W)`.

        Raises:
            UserError: If the shape does not fit the network.
        """
        tokens = self._encode(x)
        change = self._decode(tokens[:, :, -1:] if self._separable else tokens)[:, -1:]
        return x[:, -1:, : self.out_channels] + change

    def differentiate(self, x: Tensor) -> Tensor:
        """Return the change of all slots, `(B, T, F, H, W)` to `(B, T, F', H, W)`, for other integrators."""
        return self._decode(self._encode(x))

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Predict the frame that follows `history`.

        Args:
            history: `(B, T, F, H, W)`.
            time: Not used: the step is that between the frames given.

        Returns:
            `(B, 1, F', H, W)`.
        """
        return self(history)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the transformer blocks."""
        yield from self.layers

    def reset_parameters(self) -> None:
        """Draw all weights anew and write all buffers."""
        for module in reversed(list(self.modules())):  # parts first: the attention draws some of its own anew
            if module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self._write_own()

    def _write_own(self) -> None:
        with torch.no_grad():
            self.patch_size.copy_(torch.tensor(self.patch, device=self.patch_size.device))
            if self.place is not None:
                self.place.normal_(std=0.02)

    def _encode(self, x: Tensor) -> Tensor:
        """Map fields `(B, T, F, H, W)` to tokens `(B, D, t, h, w)`."""
        self._check(x)
        h = x.transpose(1, 2)  # B F T H W
        if self.derivatives is not None:
            h = torch.cat([h, *self.derivatives(h)], dim=1)
        h = flat(self.tokenizer(h))
        if self.place is not None:
            h = h + self.place.flatten(1, 3)
        rotary = self.layers[0].attention.rotary
        tables = None if rotary is None else rotary.tables(self.tokens)
        for layer in self.layers:
            h = layer(h, tables)
        return standing(h, self.tokens)

    def _decode(self, tokens: Tensor) -> Tensor:
        """Map tokens `(B, D, t, h, w)` to fields `(B, T, F', H, W)`."""
        return self.detokenizer(tokens).transpose(1, 2)

    def _check(self, x: Tensor) -> None:
        wanted = (self.frames, self.in_channels, *self.resolution)
        if x.ndim != 5 or tuple(x.shape[1:]) != wanted:
            shape = ", ".join(str(n) for n in wanted)
            raise UserError(
                f"GPhyT was given fields of the shape {tuple(x.shape)}; it needs (B, {shape}): its positions "
                "are bound to the grid, so resample the data or build the network for their grid"
            )


def _check_settings(
    grid: list[int], patch: list[int], *, width: int, heads: int, positions: str, derivatives: int | None
) -> None:
    if len(grid) != 2 or len(patch) != 3:
        raise UserError(
            f"resolution is {grid}, patch {patch}; they must be [H, W] and [frames, rows, columns]"
        )
    if heads < 1 or width % heads:
        raise UserError(f"width is {width} and heads {heads}; heads must divide the width")
    if positions == "rotary" and width % 6:
        raise UserError(f"width is {width}; rotary positions need a multiple of 6")
    if derivatives not in (None, 2, 4):
        raise UserError(f"derivatives is {derivatives}; it must be null, 2 or 4")


def _check_overlap(name: str, overlap: int) -> None:
    if overlap < 0 or overlap % 2:
        raise UserError(f"{name} is {overlap}; it must be an even number")


def _inner(name: str, channels: list[int] | None) -> list[int]:
    if channels is None:
        raise UserError(
            f"{name} is not set; a chain of convolutions needs its hidden channels, e.g. [64, 128]"
        )
    return list(channels)
