"""Dates of a scene: one by one through a network of single images, and their feature maps folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from core.errors import UserError, did_you_mean

__all__ = ["Frames", "check_frames", "check_one_frame", "folded", "frame_by_frame", "joined"]

Frames = Literal["channels", "mean", "max", "difference"]
"""What becomes of the dates of a feature map."""


def check_one_frame(x: Tensor, bands: Sequence[str], *, name: str = "the network") -> Tensor:
    """Return `(B, C, H, W)` for that or for `(B, C, 1, H, W)`.

    Args:
        x: Images.
        bands: Those that the network reads.
        name: What the message calls it.

    Raises:
        UserError: If it is neither, or C is not the number of bands.
    """
    if x.ndim == 5 and x.shape[2] == 1:
        x = x[:, :, 0]
    if x.ndim != 4 or x.shape[1] != len(bands):
        raise UserError(
            f"{name} was given images of the shape {tuple(x.shape)}; it needs (B, "
            f"{len(bands)}, H, W) with the bands {', '.join(bands)}"
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
    """Refuse what `folded` does not know.

    Raises:
        UserError: With the choices.
    """
    choices = get_args(Frames)
    if frames not in choices:
        hint = did_you_mean(str(frames), choices)
        raise UserError(f"frames is '{frames}'; it must be one of {', '.join(choices)}{hint}")
