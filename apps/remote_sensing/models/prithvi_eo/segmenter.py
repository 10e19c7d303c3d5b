"""Prithvi-EO 1.0 as it was fine-tuned for maps: encoder, neck and fully convolutional heads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi, Statistics
from core.backbones.vit import reset_parts
from core.errors import UserError

__all__ = [
    "BatchNorm",
    "ConvolutionalHead",
    "NormedConvolution",
    "PixelNorm",
    "PrithviSegmenter",
    "PrithviUpscaled",
    "UpsamplingNeck",
]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics for a batch with a single number for each channel.

    That is one sample pooled to one pixel, of which there is no deviation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)


class NormedConvolution(nn.Module):
    """A convolution without a bias, batch norm, ReLU; the names are those of official files.

    Args:
        inputs: Channels given.
        outputs: Channels made.
        kernel: Pixels along a side, an odd number; the size of the image stays.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, inputs, H, W)` to `(B, outputs, H, W)`."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class ConvolutionalHead(nn.Module):
    """Convolutions with norms, and one number for each class and pixel.

    Args:
        inputs: Channels given.
        classes: Classes.
        channels: Channels between.
        convolutions: How many.
        dropout: Rate for whole channels before the last layer.
    """

    def __init__(
        self, inputs: int, classes: int, *, channels: int = 256, convolutions: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        sizes = [inputs] + [channels] * convolutions
        self.convs = nn.ModuleList(NormedConvolution(sizes[i], channels) for i in range(convolutions))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, classes, H, W)`."""
        for convolution in self.convs:
            x = convolution(x)
        return self.conv_seg(self.dropout(x))


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


class PrithviSegmenter(PrithviUpscaled):
    """Map images to logits of classes for each pixel.

    The arguments that are not named here are those of `Prithvi`.

    Args:
        classes: Classes.
        frames: See `Prithvi`; the images must have as many.
        outputs: Channels of the neck; None is the encoder's width times the frames.
        channels: Channels of the heads.
        dropout: Of the heads.
    """

    decoder_parts = ("neck", "auxiliary_head", "decode_head")

    def __init__(
        self,
        classes: int = 2,
        resolution: int | Sequence[int] = 224,
        frames: int = 1,
        patch: Sequence[int] = (1, 16, 16),
        bands: Sequence[str] = HLS,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "v1",
        outputs: int | None = None,
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        settings: dict[str, Any] = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if classes < 1:
            raise UserError(f"classes is {classes}; it must be at least 1")
        backbone = Prithvi(
            **{name: settings[name] for name in inspect.signature(Prithvi).parameters if name in settings}
        )
        channels_made = backbone.grid[0] * width if outputs is None else outputs
        super().__init__(backbone, outputs=channels_made)
        self.settings = settings
        common = {"channels": channels, "dropout": dropout}
        self.auxiliary_head = ConvolutionalHead(channels_made, classes, convolutions=2, **common)
        # the last part: a linear probe takes the last linear layer
        self.decode_head = ConvolutionalHead(channels_made, classes, convolutions=1, **common)

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the encoder's blocks."""
        yield from self.backbone.layers

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        reset_parts(self)

    def forward(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Map images as for `Prithvi.features` to logits `(B, classes, H, W)`."""
        return self._resized(self.decode_head(super().forward(x, time, location)), x)

    def with_auxiliary(
        self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the head and those of the auxiliary head, whose loss is added in training."""
        image = super().forward(x, time, location)
        return self._resized(self.decode_head(image), x), self._resized(self.auxiliary_head(image), x)

    @staticmethod
    def _resized(logits: Tensor, x: Tensor) -> Tensor:
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, 2),
        PixelNorm(outputs),
        nn.GELU(),
        nn.ConvTranspose2d(outputs, outputs, 2, 2),
    )
