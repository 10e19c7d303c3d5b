"""Dates of a scene one by one through a network of single images, and their feature maps side by side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.errors import UserError

__all__ = ["check_one_frame", "frame_by_frame", "joined"]


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
