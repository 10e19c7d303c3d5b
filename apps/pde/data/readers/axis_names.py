"""What the axes of a netCDF file or Zarr group are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["AXES", "Axes", "axes_of", "letters"]

AXES = {
    "n": ("sample", "samples", "trajectory", "trajectories", "member", "batch", "n", "simulation"),
    "t": ("time", "t", "step", "snapshot"),
    "c": ("channel", "channels", "variable", "component"),
    "x": ("x", "lon", "longitude"),
    "y": ("y", "lat", "latitude"),
    "z": ("z", "level", "height"),
}
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"


@dataclass(frozen=True)
class Axes:
    """The axes of an array of a netCDF-4 file.

    Attributes:
        letters: For each axis a letter of `AXES`, or None where it has no name or no known one.
        placed: Whether an axis has a coordinate variable.
    """

    letters: tuple[str | None, ...]
    placed: bool

    @property
    def named(self) -> bool:
        """Whether all axes have known names, one of space among them, so that nothing has to be guessed."""
        return all(self.letters) and "x" in self.letters and len(set(self.letters)) == len(self.letters)


def letters(names: Iterable[Any]) -> tuple[str | None, ...]:
    """Return the letter of `AXES` that each name of an axis stands for, None for an unknown name."""
    found = []
    for name in names:
        word = str(name).lower()
        letter = next((letter for letter, known in AXES.items() if word in known), None)
        found.append("c" if letter is None and word.endswith("_channel") else letter)
    return tuple(found)


def axes_of(array: Any) -> Axes:
    """Return what the dimension scales of an HDF5 array say, which are netCDF-4's dimensions."""
    scales = [axis[0] if len(axis) else None for axis in array.dims]
    names = ["" if scale is None else str(scale.name).rpartition("/")[2] for scale in scales]
    placed = any(
        scale is not None and not _text(scale.attrs.get("NAME", "")).startswith(_NO_VARIABLE)
        for scale in scales
    )
    return Axes(letters(names), placed)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
