"""A label of a whole scene: any encoder, its pooled features, and a linear layer."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor, nn

from apps.remote_sensing.models.downstream.encoder_features import (
    feature_maps,
    freeze_idle,
    layers_of,
    patches_of_dates,
    reflected,
    with_dates,
)
from apps.remote_sensing.models.downstream.network import HELD, OnEncoder, encoder_maps
from apps.remote_sensing.models.frames import frame_by_frame
from core.checkpoints.keymap import KeyMap
from core.errors import UserError, did_you_mean

__all__ = ["KEY_MAP", "Labeller", "Pool", "key_maps"]

KEY_MAP = HELD

Pool = Literal["class", "mean", "max"]


def key_maps(network: Labeller) -> tuple[KeyMap, ...]:
    """Return the tables of a network: those of its encoder, whose official files it reads."""
    return encoder_maps(network.encoder)


class Labeller(OnEncoder):
    """Map images to logits of classes, or to values.

    Args:
        encoder: As for `Mapper`.
        outputs: Numbers for each image: classes, or 1.
        pool: What of the last layer is looked at: `mean` and `max` are over its patches and all dates;
            `class` is the feature that the encoder itself has for an image, its class token or what a
            convolutional network pools, averaged over dates that it encodes one by one.
        dropout: Rate before the linear layer.
    """

    def __init__(
        self, encoder: nn.Module, *, outputs: int = 2, pool: Pool = "mean", dropout: float = 0.0
    ) -> None:
        super().__init__(encoder, outputs=outputs, dropout=dropout)
        if pool not in get_args(Pool):
            choices = get_args(Pool)
            hint = did_you_mean(str(pool), choices)
            raise UserError(f"Labeller: pool is '{pool}'; it must be one of {', '.join(choices)}{hint}")
        (last,) = layers_of(encoder, [-1])
        if pool != "class":
            freeze_idle(encoder, [-1])
        self.pool, self.multiple = pool, last.stride
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(last.channels, outputs)

    def forward(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Map images to numbers for each.

        Args:
            x: `(B, C, T, H, W)` or `(B, C, H, W)`, normalised. Sides that are no multiples of a patch are
                reflected at the bottom and on the right.
            time: `(B, T, 2)` year and day of each date, or None.
            location: `(B, 2)` latitude and longitude in degrees, or None.

        Returns:
            `(B, outputs)`.

        Raises:
            UserError: If the images do not fit the network.
        """
        return self.head(self.dropout(self.features(x, time, location)))

    def features(self, x: Tensor, time: Tensor | None = None, location: Tensor | None = None) -> Tensor:
        """Return what the linear layer sees, `(B, D)`; for the arguments see `forward`."""
        x = reflected(with_dates(x), self.multiple)
        if self.pool == "class":
            return self._own_feature(x, time, location)
        (maps,) = feature_maps(self.encoder, x, layers=[-1], time=time, location=location, apart=False)
        parts = maps.unflatten(
            1, (patches_of_dates(self.encoder, x.shape[2]), -1)
        )  # B (T D) h w -> B T D h w
        return parts.mean((1, 3, 4)) if self.pool == "mean" else parts.amax((1, 3, 4))

    def _own_feature(self, x: Tensor, time: Tensor | None, location: Tensor | None) -> Tensor:
        encoder: Any = self.encoder
        if callable(getattr(encoder, "features", None)):  # it takes all dates at once
            return encoder(x, time, location)[:, 0]
        single = encoder(frame_by_frame(x))
        return single if len(single) == len(x) else single.unflatten(0, (len(x), -1)).mean(1)
