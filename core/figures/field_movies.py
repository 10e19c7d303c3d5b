"""Rollouts that move: truth, prediction and difference side by side, with the time of every frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.figures.curves import labelled, shown_times
from core.figures.movies import write_movie
from core.figures.pictures import colour_scale, plane

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["rollout_frames", "rollout_movie", "write_movie"]

INK, WHITE = (31, 41, 51), (255, 255, 255)
_EDGE, _HEAD, _FOOT, _BAR = 10, 50, 48, 10  # pixels around the panels
_MOST = 60  # frames in one movie


def rollout_frames(
    truth: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    times: Sequence[float],
    name: str = "",
    unit: str = "1",
    time_unit: str = "",
    side: int = 224,
) -> list[NDArray[np.uint8]]:
    """Return pictures `(H, W, 3)` uint8 of one field at every time.

    Truth and prediction share the truth's colour scale; the difference has its own, symmetric about 0. Colour
    bars stand below. All scales hold for the whole movie.

    Args:
        truth: `(T, *space)` in physical units, one to three space axes.
        prediction: The same shape; None shows the truth alone.
        times: `(T,)`.
        name: Of the field.
        unit: Of the field.
        time_unit: Unit of the times.
        side: Pixels of the longer side of a panel.
    """
    known = _panels(truth)
    if len(known) != len(times):
        raise ValueError(f"there are {len(known)} frames and {len(times)} times")
    scale = colour_scale(known)
    word = labelled(name, {name: unit})
    shown: list[tuple[str, NDArray[np.float64], dict[str, Any], str]] = [("truth", known, scale, word)]
    if prediction is not None:
        made = _panels(prediction)
        if made.shape != known.shape:
            raise ValueError(f"the prediction's frames are {made.shape}, the truth's {known.shape}")
        gap = made - known
        finite = np.abs(gap[np.isfinite(gap)])
        top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        apart = {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
        shown += [("prediction", made, scale, word), ("difference", gap, apart, word)]
    kept = shown_times(len(times), _MOST)
    paints = [_Paint(**how) for _, _, how, _ in shown]
    return [
        _frame(
            [
                (head, paint, values[step], below)
                for (head, values, _, below), paint in zip(shown, paints, strict=True)
            ],
            stamp=f"t = {times[step]:.3f}{' ' + time_unit if time_unit else ''}",
            side=side,
        )
        for step in kept
    ]


def rollout_movie(
    path: str | os.PathLike[str],
    truth: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    times: Sequence[float],
    name: str = "",
    unit: str = "1",
    time_unit: str = "",
    side: int = 224,
    rate: float = 6.0,
    limit: int = 1_000_000,
) -> Path:
    """Write the pictures of `rollout_frames` as a GIF or an MP4 and return the path.

    Args:
        path: A file that ends in `.gif` or `.mp4`.
        truth: See `rollout_frames`.
        prediction: See `rollout_frames`.
        times: See `rollout_frames`.
        name: See `rollout_frames`.
        unit: See `rollout_frames`.
        time_unit: See `rollout_frames`.
        side: See `rollout_frames`.
        rate: Frames a second.
        limit: Bytes that a GIF should not exceed.

    Raises:
        UserError: If the suffix is another one, or an MP4 is asked for without its package.
    """
    frames = rollout_frames(
        truth, prediction, times=times, name=name, unit=unit, time_unit=time_unit, side=side
    )
    return write_movie(path, frames, rate=rate, limit=limit)


class _Paint:
    """Turns values into colours; values that are not finite become grey."""

    def __init__(self, *, cmap: str, vmin: float, vmax: float) -> None:
        import matplotlib

        self.low, self.high = vmin, vmax
        # Few enough colours that all panels find theirs in the one palette of a GIF.
        levels = matplotlib.colormaps[cmap](np.linspace(0, 1, 96))
        self.colours = np.rint(255 * levels[:, :3]).astype(np.uint8)

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        fine = np.isfinite(values)
        part = (np.where(fine, values, self.low) - self.low) / (self.high - self.low)
        top = len(self.colours) - 1
        painted = self.colours[np.clip(np.rint(part * top), 0, top).astype(int)]
        painted[~fine] = (184, 193, 203)
        return painted


def _frame(
    panels: Sequence[tuple[str, _Paint, NDArray[np.float64], str]], *, stamp: str, side: int
) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    shape = panels[0][2].shape
    factor = side / max(shape)
    wide, high = max(round(shape[0] * factor), 96), max(round(shape[1] * factor), 24)
    width = len(panels) * (wide + _EDGE) + _EDGE
    canvas = Image.new("RGB", (width, _HEAD + high + _FOOT), WHITE)
    pen = ImageDraw.Draw(canvas)
    title, small = _font(14), _font(11)
    pen.text((_EDGE, 7), stamp, fill=INK, font=_font(16))
    for place, (head, paint, values, below) in enumerate(panels):
        left = _EDGE + place * (wide + _EDGE)
        picture = Image.fromarray(np.ascontiguousarray(paint(values).transpose(1, 0, 2)[::-1]))
        canvas.paste(picture.resize((wide, high), Image.Resampling.NEAREST), (left, _HEAD))
        pen.text((left, _HEAD - 20), head, fill=INK, font=title)
        ramp = np.repeat(paint.colours[None], _BAR, axis=0)
        bar = Image.fromarray(ramp).resize((wide, _BAR), Image.Resampling.NEAREST)
        top = _HEAD + high + 7
        canvas.paste(bar, (left, top))
        under = top + _BAR + 3
        pen.text((left, under), f"{paint.low:.2g}", fill=INK, font=small)
        pen.text((left + wide, under), f"{paint.high:.2g}", fill=INK, font=small, anchor="ra")
        pen.text((left + wide / 2, under), below, fill=INK, font=small, anchor="ma")
    return np.asarray(canvas)


def _font(size: int) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def _panels(values: Any) -> NDArray[np.float64]:
    """Return `(T, X, Y)`."""
    frames = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values)
    return np.stack([plane(frame) for frame in frames])
