"""A map of a scene: any encoder, a decoder, and a value or logits for each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.models import prithvi
from apps.remote_sensing.models.decoders import FCN, Decoder, FeatureShapes, Neck
from apps.remote_sensing.models.downstream.encoder_features import (
    chosen_layers,
    dates_of_a_patch,
    feature_maps,
    freeze_idle,
    patches_of_dates,
    reflected,
    with_dates,
)
from apps.remote_sensing.models.downstream.network import HELD, OnEncoder, encoder_maps, with_neck
from apps.remote_sensing.models.frames import Frames, check_frames, folded
from apps.remote_sensing.models.prithvi_eo.segmenter import ConvolutionalHead
from core.checkpoints.keymap import KeyMap
from core.errors import UserError

__all__ = ["KEY_MAP", "MapHead", "Mapper", "key_maps"]

KEY_MAP = HELD


def key_maps(network: Mapper) -> tuple[KeyMap, ...]:
    """Return the tables of a network: those of its encoder, whose official files it reads.

    With Prithvi and its first version's neck, fine-tuned files of version 1 are read whole.
    """
    if isinstance(network.encoder, prithvi.Prithvi) and isinstance(network.chosen, Neck):
        return (with_neck(network.encoder, auxiliary=network.auxiliary_head is not None),)
    return encoder_maps(network.encoder)


class MapHead(nn.Module):
    """Convolutions with ReLU, dropout of whole channels, and a linear layer at each pixel.

    Args:
        inputs: Channels given.
        outputs: Numbers for each pixel.
        hidden: Channels of the convolutions.
        dropout: Rate.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        self.convs = nn.ModuleList(
            nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1) for i in range(len(hidden))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(sizes[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, inputs, H, W)` to `(B, outputs, H, W)`."""
        for convolution in self.convs:
            x = F.relu(convolution(x))
        return self.last(self.dropout(x))


class Mapper(OnEncoder):
    """Map images to numbers for each pixel: logits of classes, or values.

    Args:
        encoder: Anything with `feature_maps(x, layers=…, time=…, location=…)`: Prithvi, SoftCon, any
            backbone of timm. Parameters that the layers taken do not depend on lose their gradient.
        outputs: Numbers for each pixel: classes, or 1.
        decoder: Which; None is `FCN()`.
        layers: Numbers of the encoder's layers that the decoder takes, shallow ones first; None is the last
            one, or four spread over its depth or sizes.
        frames: What becomes of the dates of features: `channels` stacks them, `mean` and `max` are over them,
            `difference` is the last less the first.
        dates: Dates T of the images; None is the encoder's own number, or 1. Only `channels` holds to it.
        apart: Whether each date is encoded as an image of its own, also by an encoder that takes several.
        hidden: Channels of convolutions before the last layer.
        dropout: Rate for whole channels before the last layer.
        auxiliary: Whether there is a second head in training, see `with_auxiliary`.
    """

    has_decoder = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        outputs: int = 2,
        decoder: Decoder | None = None,
        layers: Sequence[int] | None = None,
        frames: Frames = "channels",
        dates: int | None = None,
        apart: bool = False,
        hidden: Sequence[int] = (),
        dropout: float = 0.1,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(encoder, outputs=outputs, dropout=dropout)
        check_frames(frames)
        dates = int(getattr(encoder, "frames", 1)) if dates is None else dates
        span = dates_of_a_patch(encoder)
        for name, value in {"dates": dates, "hidden": min(hidden, default=1)}.items():
            if value < 1:
                raise UserError(f"Mapper: {name} is {value}; it must be at least 1")
        if apart and span > 1:
            raise UserError(
                f"Mapper: apart encodes each date alone, and a patch of the encoder spans {span} dates; "
                "leave apart out or give the encoder patches of one date"
            )
        if dates % span:
            raise UserError(f"Mapper: dates is {dates}; it must be a multiple of the {span} dates of a patch")
        if frames == "difference" and dates // span < 2:
            raise UserError(
                f"Mapper: frames is difference and dates is {dates}; a difference needs at least {2 * span} "
                "dates"
            )
        self.chosen = FCN() if decoder is None else decoder
        self.frames, self.dates, self.apart = frames, dates, apart
        kind = type(self.chosen).__name__
        taken = chosen_layers(encoder, layers, wanted=self.chosen.layers_wanted, where=kind)
        self.layers = tuple(layer.number for layer in taken)
        freeze_idle(encoder, self.layers)
        self.slots = dates if apart else patches_of_dates(encoder, dates)
        stacked = self.slots if frames == "channels" else 1
        maps = FeatureShapes(
            channels=tuple(layer.channels * stacked for layer in taken),
            strides=tuple(layer.stride for layer in taken),
            slots=stacked,
            any_size=getattr(encoder, "any_size", True),
        )
        self.decoder = self.chosen.build(maps.channels, maps=maps)
        self.auxiliary_head = (
            ConvolutionalHead(
                self.decoder.auxiliary,
                outputs,
                channels=self.chosen.channels_out or self.decoder.channels,
                convolutions=2,
                dropout=dropout,
            )
            if auxiliary
            else None
        )
        # The last part: a linear probe takes the last linear layer that there is.
        self.head = MapHead(self.decoder.channels, outputs, hidden=hidden, dropout=dropout)

    def forward(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Map images to numbers for each pixel.

        Args:
            x: `(B, C, T, H, W)` or `(B, C, H, W)`, normalised. Sides that the decoder cannot halve and double
                are reflected at the bottom and on the right, and the result is cut.
            time: `(B, T, 2)` year and day of each date, or None.
            location: `(B, 2)` latitude and longitude in degrees, or None.

        Returns:
            `(B, outputs, H, W)`.

        Raises:
            UserError: If the images do not fit the network.
        """
        x = with_dates(x)
        return self._enlarged(self.head(self.decoder(self._maps(x, time, location))), x)

    def with_auxiliary(
        self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the numbers of the auxiliary head, whose loss is added in training.

        It sees the third of four layers, or what version 1's neck makes, or what the head sees.

        Raises:
            UserError: If the network was built without one.
        """
        if self.auxiliary_head is None:
            raise UserError("the network has no auxiliary head; build it with auxiliary: true")
        x = with_dates(x)
        image, beside = self.decoder.with_auxiliary(self._maps(x, time, location))
        return self._enlarged(self.head(image), x), self._enlarged(self.auxiliary_head(beside), x)

    def _maps(self, x: Tensor, time: Tensor | None, location: Tensor | None) -> list[Tensor]:
        count = x.shape[2]
        if count != self.dates and (self.frames == "channels" or count < self._fewest):
            raise UserError(
                f"the images have {count} date(s) and the network was built for {self.dates}; choose dates "
                f"of the data, or give the network dates: {count}"
            )
        x = reflected(x, self.decoder.multiple)
        maps = feature_maps(
            self.encoder, x, layers=self.layers, time=time, location=location, apart=self.apart
        )
        if self.frames == "channels" or self.slots == 1:
            return maps
        slots = count if self.apart else patches_of_dates(self.encoder, count)
        return [folded(features.unflatten(1, (slots, -1)), self.frames) for features in maps]

    @property
    def _fewest(self) -> int:
        return dates_of_a_patch(self.encoder) * (2 if self.frames == "difference" else 1)

    def _enlarged(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return logits at the padded image's size, cut to the image's own."""
        height, width = x.shape[-2:]
        padded = tuple(
            -(-side // whole) * whole
            for side, whole in zip((height, width), self.decoder.multiple, strict=True)
        )
        if tuple(logits.shape[-2:]) != padded:
            logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]
