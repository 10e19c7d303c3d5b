"""Prithvi-EO's masked autoencoder: the encoder sees few patches, a small decoder predicts the others."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.models.band_maps import ReadsBands
from apps.remote_sensing.models.prithvi_eo.coded_blocks import CodedBlocks
from apps.remote_sensing.models.prithvi_eo.encoder import Coordinate, Prithvi, Statistics
from core.backbones.patches import patchify, unpatchify
from core.backbones.vit import reset_parts
from core.errors import UserError
from core.objectives.masked_autoencoding import (
    Masking,
    masked_loss,
    masking,
    random_masking,
    restore,
    token_mask,
)

__all__ = ["MAEOutput", "PrithviDecoder", "PrithviMAE"]


@dataclass(frozen=True)
class MAEOutput:
    """Loss, prediction and mask of a batch.

    Args:
        loss: Scalar, squared error of removed patches.
        prediction: `(B, L, prod(patch) * C)`, within a patch the channel fastest.
        mask: `(B, L)` bool, True where a patch was removed.
        masking: The same as places.
        grid: Patches along frames, rows and columns.
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor
    masking: Masking
    grid: tuple[int, int, int]


class PrithviDecoder(CodedBlocks):
    """Map the tokens of kept patches to the pixels of all.

    Args:
        inputs: Features of the encoder's tokens.
        outputs: Pixels times bands of a patch.
        grid: Patches along frames, rows and columns that the weights were trained on.
        width: Features of its own tokens, a multiple of 16.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs over the width.
        coordinates: Which of `time` and `location` it can be told.
        learn_scale: Whether the strengths of their codes are learnt.
        eps: Of the norms.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        grid: tuple[int, int, int],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        coordinates: Sequence[str],
        learn_scale: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.add_blocks(
            width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, coordinates=coordinates,
            learn_scale=learn_scale, eps=eps,
        )  # fmt: skip
        self.predict = nn.Linear(width, outputs)
        self.write_own()

    def forward(
        self,
        tokens: Tensor,
        masking: Masking,
        grid: tuple[int, int, int],
        time: Tensor | None = None,
        location: Tensor | None = None,
    ) -> Tensor:
        """Map tokens `(B, 1 + K, inputs)` of the encoder to all patches of a grid, `(B, L, outputs)`.

        `masking` says where tokens belong; for dates and places see `Prithvi.features`.
        """
        h = self.embed(tokens)
        places = restore(h[:, 1:], masking, self.mask_token) + self.codes(grid, time, location)
        h = torch.cat([h[:, :1] + self.positions(grid)[:, :1], places], dim=1)
        for layer in self.layers:
            h = layer(h)
        return self.predict(self.norm(h[:, 1:]))

    def write_own(self) -> None:
        """Draw the mask token and the linear layers, and compute the table of positions."""
        nn.init.normal_(self.mask_token, std=0.02)
        for layer in (self.embed, self.predict):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        super().write_own()


class PrithviMAE(ReadsBands):
    """Predict the pixels of removed patches from the others.

    The arguments that are not named here are those of `Prithvi`.

    Args:
        mlp_ratio: See `Prithvi`; the decoder has the same.
        coordinates: See `Prithvi`; the decoder has codes of its own.
        drop_path: See `Prithvi`; the decoder has none.
        decoder_width: Features of the decoder's tokens, a multiple of 16.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        mask_ratio: Share of patches removed at random, over space and time together.
        norm_pix: Whether the target is each patch's deviation from its own mean in units of its own spread.
    """

    def __init__(
        self,
        resolution: int | Sequence[int] = 224,
        frames: int = 3,
        patch: Sequence[int] = (1, 16, 16),
        bands: Sequence[str] = HLS,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        coordinates: Sequence[Coordinate] = (),
        learn_scale: bool = False,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "v2",
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
    ) -> None:
        settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if decoder_width % 16 or decoder_heads < 1 or decoder_width % decoder_heads:
            raise UserError(
                f"decoder_width is {decoder_width} and decoder_heads {decoder_heads}; the width must be a "
                "multiple of 16 and of the heads"
            )
        if not 0.0 <= mask_ratio < 1.0:
            raise UserError(f"mask_ratio is {mask_ratio}; it must lie in [0, 1)")
        self.settings = settings
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        self.encoder = Prithvi(**{name: settings[name] for name in inspect.signature(Prithvi).parameters})
        self.decoder = PrithviDecoder(
            width,
            math.prod(self.encoder.patch) * len(self.encoder.bands),
            grid=self.encoder.grid,
            width=decoder_width,
            depth=decoder_depth,
            heads=decoder_heads,
            mlp_ratio=mlp_ratio,
            coordinates=coordinates,
            learn_scale=learn_scale,
            eps=eps,
        )

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the blocks of the encoder and of the decoder."""
        yield from self.encoder.layers
        yield from self.decoder.layers

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        reset_parts(self)

    @property
    def bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Bands of the input in their order."""
        return self.encoder.bands

    def band_weights(self) -> dict[str, tuple[Tensor, int]]:
        """Return what predicts bands; the encoder knows what reads them."""
        rows = math.prod(self.encoder.patch)
        return {f"decoder.predict.{name}": (p, rows) for name, p in self.decoder.predict.named_parameters()}

    def our_bands(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return our names of the bands that a checkpoint names."""
        return self.encoder.our_bands(named)

    def forward(
        self,
        x: Tensor,
        time: Tensor | None = None,
        location: Tensor | None = None,
        *,
        mask_ratio: float | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        gaps: Tensor | None = None,
        count_in_first: bool = False,
    ) -> MAEOutput:
        """Remove patches, predict them, and compare.

        Args:
            x: `(B, C, T, H, W)` normalised, or `(B, C, H, W)` if the network was built with one frame; the
                patch must divide frames, rows and columns.
            time: As for `Prithvi.features`.
            location: As for `Prithvi.features`.
            mask_ratio: Share of patches removed; None is the network's own, and 0 removes none.
            noise: `(B, L)` uniform; the smallest are kept. None draws it.
            generator: Where noise is drawn from.
            gaps: `(B, C or 1, T, H, W)`, non-zero where a pixel is to be filled in; the patches that hold
                such a pixel are removed, instead of random ones.
            count_in_first: See `core.objectives.masked_autoencoding.masking`; the published program for gaps
                does so.

        Raises:
            UserError: If a shape does not fit, or no patch would stay.
        """
        x = self.encoder.images(x)
        grid = self.encoder.grid_of(x)
        if any(n % p for n, p in zip(x.shape[2:], self.encoder.patch, strict=True)):
            raise UserError(
                f"the images have {tuple(x.shape[2:])} frames, rows and columns; the autoencoder needs "
                f"multiples of its patch {self.encoder.patch}: crop or pad them"
            )
        ratio = self.mask_ratio if mask_ratio is None else mask_ratio
        try:
            if gaps is None:
                chosen = random_masking(
                    len(x), math.prod(grid), ratio, noise=noise, generator=generator, device=x.device
                )
            else:
                gaps = gaps.unsqueeze(2) if gaps.dim() == 4 else gaps
                chosen = masking(token_mask(gaps, self.encoder.patch), count_in_first=count_in_first)
        except ValueError as error:
            raise UserError(str(error)) from error
        latent = self.encoder.encode(x, time, location, chosen)
        prediction = self.decoder(latent, chosen, grid, time, location)
        target = patchify(x, self.encoder.patch)
        loss = masked_loss(prediction, target, chosen.mask, norm_pix=self.norm_pix)
        return MAEOutput(loss, prediction, chosen.mask, chosen, grid)

    def image(self, prediction: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Return predicted patches `(B, L, P)` as images `(B, C, T, H, W)`."""
        return unpatchify(prediction, grid=grid, patch=self.encoder.patch)

    def mask_image(self, mask: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Return which pixels were removed, `(B, T, H, W)` bool, of tokens `(B, L)`."""
        pixels = mask[..., None].expand(-1, -1, math.prod(self.encoder.patch))
        return unpatchify(pixels, grid=grid, patch=self.encoder.patch)[:, 0]
