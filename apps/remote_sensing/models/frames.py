"""Dates of a scene: one by one through a network of single images, and their feature maps folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from apps.remote_sensing.models.band_maps import ReadsBands
from core.errors import UserError, did_you_mean

__all__ = ["Frames", "SingleImageEncoder", "check_frames", "folded", "frame_by_frame", "joined"]

Frames = Literal["channels", "mean", "max", "difference"]
"""Ways to fold the dates of a feature map."""


class SingleImageEncoder(ReadsBands):
    """An encoder of single images: dates go through it one by one, it knows neither times nor places."""

    name: str | None = None
    """Its name in messages."""

    def feature_maps(
        self,
        x: Tensor,
        *,
        layers: Sequence[int] = (-1,),
        time: Tensor | None = None,
        location: Tensor | None = None,
    ) -> list[Tensor]:
        """Return what some layers give as images.

        Args:
            x: `(B, C, H, W)` or `(B, C, T, H, W)`.
            layers: Numbers from 0, or from the end if negative; the order is kept.
            time: Not used.
            location: Not used.

        Returns:
            One `(B, T * D, h, w)` for each, date by date.

        Raises:
            UserError: If there is no such layer, or the images do not fit.
        """
        return [joined(maps, len(x)) for maps in self.layer_maps(self.one_frame(frame_by_frame(x)), layers)]

    def layer_maps(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return what some layers give of `(B, C, H, W)`, one `(B, D, h, w)` for each."""
        raise TypeError(f"{type(self).__name__} gives no feature maps")

    def one_frame(self, x: Tensor) -> Tensor:
        """Return `(B, C, H, W)` for that or for `(B, C, 1, H, W)`.

        Raises:
            UserError: If it is neither, or C is not the number of bands.
        """
        if x.ndim == 5 and x.shape[2] == 1:
            x = x[:, :, 0]
        if x.ndim != 4 or x.shape[1] != len(self.bands):
            raise UserError(
                f"{self.name or 'the network'} was given images of the shape {tuple(x.shape)}; it needs (B, "
                f"{len(self.bands)}, H, W) with the bands {', '.join(self.bands)}"
            )
        return x


def frame_by_frame(x: Tensor) -> Tensor:
    """Return `(B * T, C, H, W)` of `(B, C, T, H, W)` or `(B, C, H, W)`, the frames of a sample in a row."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


def joined(maps: Tensor, samples: int) -> Tensor:
    """Return `(B, T * D, h, w)` of the maps `(B * T, D, h, w)` of `frame_by_frame`'s images."""
    return maps.unflatten(0, (samples, -1)).flatten(1, 2)


def folded(maps: Tensor, frames: Frames = "channels") -> Tensor:
    """Return one image of the maps of T dates `(B, T, D, h, w)`.

    Args:
        maps: In the order of time.
        frames: `channels` stacks the dates, channel `date * D + d`; `mean` and `max` are over them;
            `difference` is the last less the first.

    Returns:
        `(B, T * D, h, w)` with `channels`, else `(B, D, h, w)`.

    Raises:
        UserError: If `frames` is unknown.
    """
    check_frames(frames)
    if frames == "channels":
        return maps.flatten(1, 2)
    if frames == "mean":
        return maps.mean(1)
    if frames == "max":
        return maps.amax(1)
    return maps[:, -1] - maps[:, 0]


def check_frames(frames: str) -> None:
    """Refuse what `folded` does not know."""
    choices = get_args(Frames)
    if frames not in choices:
        hint = did_you_mean(str(frames), choices)
        raise UserError(f"frames is '{frames}'; it must be one of {', '.join(choices)}{hint}")
