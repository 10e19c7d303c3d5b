"""Movies beside the figures of a run: a GIF that every browser shows, or an MP4 where one is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.figures.style import figure_path
from core.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["save_movie", "write_movie"]

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


def _gif(pictures: list[NDArray[np.uint8]], rate: float) -> bytes:
    """Return a GIF whose frames share one palette; dithering would flicker and double the size."""
    from io import BytesIO

    import numpy as np
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
    import numpy as np
    from PIL import Image

    height, width = (round(side * factor) for side in pictures[0].shape[:2])
    return [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BOX)) for one in pictures
    ]


def _mp4(path: Path, pictures: list[NDArray[np.uint8]], rate: float) -> None:
    from fractions import Fraction

    import numpy as np

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
