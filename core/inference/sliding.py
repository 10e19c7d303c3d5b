"""A network run on windows of larger images, its outputs averaged where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from core.errors import UserError
from core.inference.tiles import starts

__all__ = ["check_window", "sliding"]


def check_window(size: int | None, stride: int | None) -> tuple[int, int] | None:
    """Return side and step of the windows, or None for whole images.

    Raises:
        UserError: If they do not fit each other.
    """
    if size is None:
        if stride is not None:
            raise UserError("model.window_stride is given without model.window; give the side too")
        return None
    step = max(size // 2, 1) if stride is None else stride
    if size < 1 or not 1 <= step <= size:
        raise UserError(f"windows of {size} every {step} pixels leave gaps; the step must be 1 to {size}")
    return size, step


def sliding(
    network: Callable[..., Tensor], inputs: Mapping[str, Tensor], *, size: int, stride: int, most: int = 16
) -> Tensor:
    """Return the mean of what windows give for each pixel.

    The last window of a row or column stands flush with the end.

    Args:
        network: Maps `x` `(N, C, T, h, w)`, and `time` and `location` where given, to `(N, K, h, w)`.
        inputs: `x` `(B, C, T, H, W)` and those.
        size: Side of a window; where the image is smaller, its side is taken.
        stride: Step between windows.
        most: Windows in a call.

    Returns:
        `(B, K, H, W)`.
    """
    x = inputs["x"]
    height, width = x.shape[-2:]
    rows, columns = min(size, height), min(size, width)
    places = [
        (row, top, left)
        for row in range(len(x))
        for top in starts(height, rows, max(rows - stride, 0))
        for left in starts(width, columns, max(columns - stride, 0))
    ]
    total: Tensor | None = None
    counts = x.new_zeros(len(x), 1, height, width)
    for first in range(0, len(places), most):
        chosen = places[first : first + most]
        windows = torch.stack(
            [x[row, ..., top : top + rows, left : left + columns] for row, top, left in chosen]
        )
        owners = [row for row, _, _ in chosen]
        more = {name: value[owners] for name, value in inputs.items() if name != "x"}
        made = network(x=windows, **more)
        if total is None:
            total = made.new_zeros(len(x), made.shape[1], height, width, dtype=torch.float32)
        for (row, top, left), part in zip(chosen, made, strict=True):
            total[row, :, top : top + rows, left : left + columns] += part
            counts[row, :, top : top + rows, left : left + columns] += 1
    assert total is not None
    return total / counts
