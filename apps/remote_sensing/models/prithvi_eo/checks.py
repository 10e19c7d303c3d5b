"""What Prithvi refuses, in one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi

__all__ = ["check_coordinates", "check_images", "check_layers", "check_settings"]

_COORDINATES = ("time", "location")


def check_settings(settings: Mapping[str, Any], *, statistics: Sequence[str]) -> None:
    """Refuse settings that do not fit each other.

    Raises:
        UserError: With the settings and their values.
    """
    for name in ("frames", "width", "depth", "heads"):
        if settings[name] < 1:
            raise UserError(f"{name} is {settings[name]}; it must be at least 1")
    width, heads, patch = settings["width"], settings["heads"], list(settings["patch"])
    if width % 16:
        raise UserError(f"width is {width}; Prithvi's code of positions needs a multiple of 16")
    if width % heads:
        raise UserError(f"width is {width} and heads {heads}; heads must divide the width")
    sides = settings["resolution"]
    sides = [sides, sides] if isinstance(sides, int) else list(sides)
    if len(patch) != 3 or len(sides) != 2:
        raise UserError(
            f"patch is {patch} and resolution {sides}; they must be [frames, rows, columns] and "
            "[rows, columns]"
        )
    axes = dict(zip(("frames", "rows", "columns"), (settings["frames"], *sides), strict=True))
    for (name, length), side in zip(axes.items(), patch, strict=True):
        if side < 1 or side > length:
            raise UserError(f"the patch has {side} {name} of {length}; it must have 1 to {length}")
    bands = list(settings["bands"])
    if not bands or len(set(bands)) != len(bands):
        raise UserError(f"bands are {', '.join(bands) or 'none'}; each must be named once, and at least one")
    for name in settings["coordinates"]:
        if name not in _COORDINATES:
            hint = did_you_mean(str(name), _COORDINATES)
            raise UserError(f"coordinates hold '{name}'; they may hold time and location{hint}")
    if "time" in settings["coordinates"] and patch[0] != 1:
        raise UserError(f"the patch has {patch[0]} frames; a code of time needs patches of one frame")
    if settings["statistics"] not in statistics:
        hint = did_you_mean(str(settings["statistics"]), statistics)
        raise UserError(
            f"statistics is '{settings['statistics']}'; it must be one of {', '.join(statistics)}{hint}"
        )


def check_images(network: Prithvi, x: Tensor) -> None:
    """Refuse images that are not `(B, C, T, H, W)` with the network's bands and at least one patch.

    Raises:
        UserError: With the shape found and the one needed.
    """
    found = tuple(x.shape)
    if x.dim() != 5:
        frames = " (images without a frame axis are taken by networks of one frame)" if x.dim() == 4 else ""
        raise UserError(f"Prithvi was given images of the shape {found}; it needs (B, C, T, H, W){frames}")
    if x.shape[1] != len(network.bands):
        raise UserError(
            f"Prithvi was given {x.shape[1]} bands and has {len(network.bands)} "
            f"({', '.join(network.bands)}); choose these from the data, or give the network the data's bands"
        )
    if any(n < p for n, p in zip(x.shape[2:], network.patch, strict=True)):
        raise UserError(
            f"Prithvi was given images of {tuple(x.shape[2:])} frames, rows and columns; its patch alone has "
            f"{network.patch}: pad them or take larger ones"
        )


def check_coordinates(network: Prithvi, x: Tensor, time: Tensor | None, location: Tensor | None) -> None:
    """Refuse coordinates that do not belong to the images, where the network reads them.

    Raises:
        UserError: With the shape found and the one needed.
    """
    wanted = {
        "time": (network.time_code, time, (x.shape[0], x.shape[2], 2), "year and day of each frame"),
        "location": (network.location_code, location, (x.shape[0], 2), "latitude and longitude"),
    }
    for name, (code, given, shape, meaning) in wanted.items():
        if code is not None and given is not None and tuple(given.shape) != shape:
            raise UserError(f"{name} has the shape {tuple(given.shape)}; it must be {shape}, {meaning}")


def check_layers(layers: Sequence[int], *, count: int) -> list[int]:
    """Return numbers of blocks counted from 0.

    Raises:
        UserError: If one is out of range, or there is none.
    """
    if not layers:
        raise UserError("no block is named whose features are wanted; name at least one")
    for number in layers:
        if not -count <= number < count:
            raise UserError(f"layers name block {number}; the network has {count}, 0 to {count - 1}")
    return [number % count for number in layers]
