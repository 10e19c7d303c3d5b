"""Movies: a GIF that every browser shows, or an MP4 where one is asked for; and the frames of a rollout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import UserError
from core.figures.curves import as_array, labelled, shown_times
from core.figures.pictures import colour_scale, gap_scale, plane
from core.figures.style import figure_path
from core.files import replacing

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ["rollout_frames", "save_movie", "write_movie"]

_INK, _WHITE = (31, 41, 51), (255, 255, 255)
_EDGE, _HEAD, _FOOT, _BAR = 10, 50, 48, 10  # pixels around the panels
_MOST = 60  # frames of a rollout
_PAUSE = 4  # times as long as the others is the last frame shown, before a GIF begins again


def write_movie(
    path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], *, rate: float = 6.0, limit: int = 0
) -> Path:
    """Write frames as a movie, whole or not at all, and return its path.

    Args:
        path: A file that ends in `.gif` (Pillow) or `.mp4` (needs the package av).
        frames: Pictures `(H, W, 3)` of uint8, all of one size.
        rate: Frames a second.
        limit: Bytes that a GIF should not exceed: a larger one is written again at three quarters of its
            width until it fits or is less than 320 pixels wide. 0 sets none.

    Raises:
        UserError: If the suffix is another one, or av is not installed.
        ValueError: If there are no frames, or their sizes differ.
    """
    final = Path(path)
    pictures = list(frames)
    if not pictures:
        raise ValueError("a movie needs at least one frame")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"the frames differ in size: {sorted({picture.shape for picture in pictures})}")
    suffix = final.suffix.lower()
    if suffix == ".gif":
        data = _gif(pictures, rate)
        while limit and len(data) > limit and pictures[0].shape[1] > 320:
            pictures = _smaller(pictures, 0.75)
            data = _gif(pictures, rate)
        with replacing(final) as temporary:
            temporary.write_bytes(data)
    elif suffix == ".mp4":
        with replacing(final) as temporary:
            _mp4(temporary, pictures, rate)
    else:
        raise UserError(f"cannot write a movie as '{final.name}'; name a file that ends in .gif or .mp4")
    return final


def save_movie(
    frames: Iterable[NDArray[np.uint8]],
    folder: str | os.PathLike[str],
    name: str,
    step: int,
    *,
    rate: float = 6.0,
    limit: int = 1_000_000,
) -> Path:
    """Write a movie to `<folder>/figures/<name>-<step>.gif` and return the path; see `write_movie`."""
    return write_movie(figure_path(folder, name, step, ".gif"), frames, rate=rate, limit=limit)


def rollout_frames(
    truth: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    times: Sequence[float],
    name: str = "",
    unit: str = "1",
    side: int = 224,
) -> list[NDArray[np.uint8]]:
    """Return pictures `(H, W, 3)` uint8 of one field at every time: truth, prediction and difference.

    Truth and prediction share the truth's colour scale; the difference has its own, symmetric about 0. Colour
    bars stand below. All scales hold for the whole movie.

    Args:
        truth: `(T, *space)` in physical units, one to three space axes.
        prediction: The same shape; None shows the truth alone.
        times: `(T,)`.
        name: Of the field.
        unit: Of the field.
        side: Pixels of the longer side of a panel.
    """
    true_frames = _panels(truth)
    if len(true_frames) != len(times):
        raise ValueError(f"there are {len(true_frames)} frames and {len(times)} times")
    scale = colour_scale(true_frames)
    word = labelled(name, {name: unit})
    shown = [("truth", true_frames, _Paint(**scale))]
    if prediction is not None:
        frames = _panels(prediction)
        if frames.shape != true_frames.shape:
            raise ValueError(f"the prediction's frames are {frames.shape}, the truth's {true_frames.shape}")
        gap = frames - true_frames
        shown += [("prediction", frames, _Paint(**scale)), ("difference", gap, _Paint(**gap_scale(gap)))]
    return [
        _frame([(head, paint, values[step], word) for head, values, paint in shown], times[step], side=side)
        for step in shown_times(len(times), _MOST)
    ]


def _gif(pictures: list[NDArray[np.uint8]], rate: float) -> bytes:
    """Return a GIF whose frames share one palette; dithering would flicker and double the size."""
    from io import BytesIO

    from PIL import Image

    # Colours of frames from the whole movie: a palette of the first alone would miss what comes later.
    some = [*pictures[:: max(len(pictures) // 8, 1)], pictures[-1]]
    palette = Image.fromarray(np.concatenate(some)).quantize(
        256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    images = [Image.fromarray(one).quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    each = max(round(1000 / rate), 20)
    times = [each] * (len(images) - 1) + [_PAUSE * each]
    written = BytesIO()
    images[0].save(
        written, format="GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False
    )
    return written.getvalue()


def _smaller(pictures: list[NDArray[np.uint8]], factor: float) -> list[NDArray[np.uint8]]:
    from PIL import Image

    size = tuple(round(side * factor) for side in pictures[0].shape[1::-1])
    return [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in pictures]


def _mp4(path: Path, pictures: list[NDArray[np.uint8]], rate: float) -> None:
    from fractions import Fraction

    try:
        import av
    except ImportError as error:
        raise UserError(
            "an MP4 needs the optional package av; install it with pip install 'domainfm[video]', "
            "or name a .gif"
        ) from error
    height, width = pictures[0].shape[:2]
    # H.264 with halved colour takes even sides only.
    room = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        stream.options = {"crf": "18"}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.pad(picture, room, mode="edge"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
    panels: Sequence[tuple[str, _Paint, NDArray[np.float64], str]], time: float, *, side: int
) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    shape = panels[0][2].shape
    factor = side / max(shape)
    wide, high = max(round(shape[0] * factor), 96), max(round(shape[1] * factor), 24)
    width = len(panels) * (wide + _EDGE) + _EDGE
    canvas = Image.new("RGB", (width, _HEAD + high + _FOOT), _WHITE)
    pen = ImageDraw.Draw(canvas)
    title, small = _font(14), _font(11)
    pen.text((_EDGE, 7), f"t = {time:.3f}", fill=_INK, font=_font(16))
    for place, (head, paint, values, below) in enumerate(panels):
        left = _EDGE + place * (wide + _EDGE)
        picture = Image.fromarray(np.ascontiguousarray(paint(values).transpose(1, 0, 2)[::-1]))
        canvas.paste(picture.resize((wide, high), Image.Resampling.NEAREST), (left, _HEAD))
        pen.text((left, _HEAD - 20), head, fill=_INK, font=title)
        ramp = np.repeat(paint.colours[None], _BAR, axis=0)
        bar = Image.fromarray(ramp).resize((wide, _BAR), Image.Resampling.NEAREST)
        top = _HEAD + high + 7
        canvas.paste(bar, (left, top))
        under = top + _BAR + 3
        pen.text((left, under), f"{paint.low:.2g}", fill=_INK, font=small)
        pen.text((left + wide, under), f"{paint.high:.2g}", fill=_INK, font=small, anchor="ra")
        pen.text((left + wide / 2, under), below, fill=_INK, font=small, anchor="ma")
    return np.asarray(canvas)


def _font(size: int) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def _panels(values: Any) -> NDArray[np.float64]:
    """Return `(T, X, Y)`."""
    return np.stack([plane(frame) for frame in as_array(values)])
