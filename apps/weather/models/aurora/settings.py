"""Settings of Aurora's parts that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from core.errors import UserError

__all__ = ["PerceiverShape", "RolloutLoRA", "SwinShape"]


@dataclass(frozen=True)
class SwinShape:
    """Stages of the U-net; the grid of tokens is halved after each one of the encoder but the last.

    Attributes:
        window: Sides of the attention windows along latent levels, latitude and longitude.
        encoder_depths: Blocks of each stage, the finest first.
        encoder_heads: Attention heads of each stage.
        decoder_depths: The same on the way back, the coarsest first.
        decoder_heads: Attention heads.
        mlp_ratio: Hidden width of a block's linear layers over its width.
        drop_path: Rate of stochastic depth in the last block; it grows linearly from 0.
        dropout: Rate after linear layers.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    window: tuple[int, int, int] = (2, 6, 12)
    encoder_depths: tuple[int, ...] = (6, 10, 8)
    encoder_heads: tuple[int, ...] = (8, 16, 32)
    decoder_depths: tuple[int, ...] = (8, 10, 6)
    decoder_heads: tuple[int, ...] = (32, 16, 8)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dropout: float = 0.0

    def check(self, width: int, latent_levels: int) -> None:
        """Raise a `UserError` unless the stages fit each other and tokens of `width` on `latent_levels`."""
        sides = (self.encoder_depths, self.encoder_heads, self.decoder_depths, self.decoder_heads)
        if len({len(side) for side in sides}) != 1 or not self.encoder_depths:
            raise UserError(
                f"Aurora's swin has {', '.join(str(len(side)) for side in sides)} encoder_depths, "
                "encoder_heads, decoder_depths and decoder_heads; give one of each for every stage"
            )
        if sum(self.encoder_depths) != sum(self.decoder_depths):
            raise UserError(
                f"Aurora's swin has {sum(self.encoder_depths)} blocks in the encoder and "
                f"{sum(self.decoder_depths)} in the decoder; both need as many"
            )
        widths = [width << level for level in range(len(self.encoder_depths))]
        for where, heads, wide in (
            ("encoder", self.encoder_heads, widths),
            ("decoder", self.decoder_heads, widths[::-1]),
        ):
            for count, features in zip(heads, wide, strict=True):
                if count < 1 or features % count:
                    raise UserError(
                        f"Aurora's {where} has a stage of width {features}, which {count} heads do not divide"
                    )
        if latent_levels > self.window[0] and latent_levels % self.window[0]:
            raise UserError(
                f"Aurora has {latent_levels} latent levels, no multiple of the window's {self.window[0]}; "
                "change latent_levels or swin.window"
            )


@dataclass(frozen=True)
class PerceiverShape:
    """Attention between pressure levels and latent levels.

    Attributes:
        heads: Attention heads, in encoder and decoder.
        encoder_depth: Blocks in the encoder.
        decoder_depth: Blocks in the decoder.
        encoder_ratio: Hidden width of the encoder's linear layers over their width.
        decoder_ratio: Of the decoder's.
        eps: Of the norms.
        stabilise: Whether queries and keys of the encoder's first block are normed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    heads: int = 16
    encoder_depth: int = 1
    decoder_depth: int = 1
    encoder_ratio: float = 4.0
    decoder_ratio: float = 2.0
    eps: float = 1e-5
    stabilise: bool = False


@dataclass(frozen=True)
class RolloutLoRA:
    """Low-rank corrections of the U-net's attention that depend on the roll-out step.

    Attributes:
        mode: `single`: one correction for all steps; `from_second`: none at step 0, then the same; `all`: one
            for each step.
        steps: Steps from which on there is no correction, in every mode.
        rank: Inner dimension.
        alpha: The correction is multiplied by `alpha / rank`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    mode: Literal["single", "from_second", "all"] = "single"
    steps: int = 40
    rank: int = 8
    alpha: float = 8.0
