"""How images fit an encoder: whole patches, and dates together or each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apps.remote_sensing.models.frames import frame_by_frame, joined
from core.errors import UserError

__all__ = ["feature_maps", "reflected", "with_dates"]

_ONE_VALUE = "more than 1 value per channel"


def with_dates(x: Tensor) -> Tensor:
    """Return images with an axis of dates, `(B, C, T, H, W)` of that or of `(B, C, H, W)`.

    Raises:
        UserError: If they are neither.
    """
    if x.ndim not in (4, 5):
        raise UserError(
            f"the network was given images of the shape {tuple(x.shape)}; it needs (B, C, T, H, W) or "
            "(B, C, H, W)"
        )
    return x.unsqueeze(2) if x.ndim == 4 else x


def reflected(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Return images whose sides are multiples, reflected at the bottom and on the right where they were not.

    Small images are reflected as often as it takes.

    Args:
        x: `(..., H, W)`.
        multiple: Of rows and of columns.
    """
    for axis, side in zip((-2, -1), multiple, strict=True):
        length = x.shape[axis]
        wanted = -(-length // side) * side
        if wanted != length:
            turn = max(length - 1, 1)
            places = torch.arange(wanted, device=x.device).remainder(2 * turn)
            places = torch.minimum(places, 2 * turn - places).clamp(max=length - 1)
            x = x.index_select(axis, places)
    return x


def feature_maps(
    encoder: Any,
    x: Tensor,
    *,
    layers: Sequence[int],
    time: Tensor | None,
    location: Tensor | None,
    apart: bool,
) -> list[Tensor]:
    """Return an encoder's features `(B, T * D, h, w)` for each layer, date by date.

    Args:
        encoder: With `feature_maps`.
        x: `(B, C, T, H, W)`.
        layers: Numbers of its layers.
        time: `(B, T, 2)` or None.
        location: `(B, 2)` or None.
        apart: Whether each date is encoded as an image of its own.

    Raises:
        UserError: If the encoder takes no images of this size, or a batch norm has a single value to train
            with.
    """
    samples = len(x)
    if apart and x.shape[2] > 1:
        if location is not None:
            location = location.repeat_interleave(x.shape[2], dim=0)
        x = frame_by_frame(x).unsqueeze(2)  # B C T H W -> (B T) C 1 H W
        time = None if time is None else time.flatten(0, 1).unsqueeze(1)
    try:
        maps = encoder.feature_maps(x, layers=list(layers), time=time, location=location)
    except AssertionError as error:  # of timm's transformers, which are built for one size
        raise UserError(
            f"{type(encoder).__name__} does not take images of {x.shape[-2]}x{x.shape[-1]} pixels ({error}); "
            "give it options such as img_size or dynamic_img_size: true"
        ) from error
    except ValueError as error:
        if _ONE_VALUE not in str(error):
            raise
        raise UserError(
            f"one sample of {x.shape[-2]}x{x.shape[-1]} pixels leaves a single value for each channel of a "
            f"batch norm in {type(encoder).__name__}, which cannot be trained with; take larger images, more "
            "samples in a batch, or keep the encoder frozen"
        ) from error
    return [joined(found, samples) for found in maps] if len(x) != samples else list(maps)
