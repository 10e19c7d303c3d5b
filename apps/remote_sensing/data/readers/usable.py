"""What is known of scenes once they were looked at: which can be used, and whether their dates are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apps.remote_sensing.data.readers.scene import Scene
from apps.remote_sensing.data.readers.source import Source
from core.data.counting import counted
from core.errors import UserError

__all__ = ["mixed_order", "usable"]


def usable(
    source: Source,
    scenes: Sequence[Scene],
    bands: Sequence[int],
    *,
    order: Sequence[int],
    enough: int,
    skip: Callable[[str], None],
) -> list[int]:
    """Return which scenes can be read and hold data, in the order in which they were tried.

    Args:
        source: What reads them.
        scenes: All of them.
        bands: Positions among the source's bands.
        order: In which they are tried.
        enough: How many are wanted; the others are not read.
        skip: Is told why a scene cannot be used.
    """
    kept: list[int] = []
    with counted("data: check of scenes", min(len(scenes), enough), unit="scenes") as advance:
        for row in order:
            if len(kept) == enough:
                break
            scene = scenes[row]
            try:
                pixels = source.read(scene, bands, lambda height, width: (0, 0, height, width))
                if not pixels.valid.any():
                    name = scene.files[0] if scene.files else scene.name
                    raise UserError(f"{name} has no data in any pixel (nodata everywhere)")
                kept.append(row)
                advance(1)
            except UserError as error:
                skip(str(error))
    return kept


def mixed_order(scene: Scene, bands: Sequence[int], count: int) -> tuple[tuple[int, int], ...] | None:
    """Return date and band of each date and band where a reader mixes them up on purpose, else None.

    Both count from 0; the numbers of bands are those among the wanted ones, or -1.
    """
    if scene.statistics is None:
        return None
    places = [scene.places[frame * count + band][1] - 1 for frame in range(scene.frames) for band in bands]
    wanted = {band: place for place, band in enumerate(bands)}
    return tuple((place // count, wanted.get(place % count, -1)) for place in places)
