"""Prithvi-EO 1.0's upsampling of tokens to an image of features, before its convolutional heads."""

from __future__ import annotations

from torch import Tensor, nn

from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi

__all__ = ["PixelNorm", "PrithviUpscaled", "UpsamplingNeck"]


class PixelNorm(nn.Module):
    """Norm over the channels of each pixel.

    Args:
        channels: Channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        return self.ln(x.movedim(1, -1)).movedim(-1, 1)


class UpsamplingNeck(nn.Sequential):
    """Four steps of transposed convolutions, each twice as wide and high, in two pairs.

    Args:
        inputs: Channels given.
        outputs: Channels made.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fpn1 = _pair(inputs, outputs)
        self.fpn2 = _pair(outputs, outputs)


class PrithviUpscaled(nn.Module):
    """The encoder and the neck that version 1 was fine-tuned with.

    Args:
        backbone: The encoder.
        outputs: Channels made.
        frames: Patches along time of the images, which stand among the neck's channels; None is the
            encoder's own number.
    """

    def __init__(self, backbone: Prithvi, *, outputs: int, frames: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        slots = backbone.grid[0] if frames is None else frames
        self.neck = UpsamplingNeck(slots * backbone.width, outputs)

    def forward(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Map `(B, C, T, H, W)` to `(B, outputs, 16 h, 16 w)`, `(h, w)` the grid of patches.

        The channels before the neck are `d * t + frame`, other than those of `Prithvi.feature_maps`.
        """
        _, h, w = self.backbone.grid_of(x)
        tokens = self.backbone(x, time, location)[:, 1:]
        image = tokens.transpose(1, 2).reshape(len(tokens), -1, h, w)  # B (t h w) D -> B (D t) h w
        return self.neck(image)


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, 2),
        PixelNorm(outputs),
        nn.GELU(),
        nn.ConvTranspose2d(outputs, outputs, 2, 2),
    )
