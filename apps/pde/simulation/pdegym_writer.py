"""Our stores written in the layout in which PDEgym is published: one netCDF-4 file, samples first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import replacing
from core.inference.outputs import MARK, maker

if TYPE_CHECKING:
    from apps.pde.simulation.families.family import Family, PublishedSet
    from core.data.sample_store import Store

__all__ = ["published_layout", "refuse_foreign", "write_netcdf"]

_COMMAND = "dfm data generate"
GAMMA = 1.4  # of the published compressible sets, where a family does not say its own


def published_layout(family: Family) -> PublishedSet:
    """Return the family's published layout, or one variable `solution` of all channels where none is."""
    from apps.pde.simulation.families.family import PublishedSet

    return family.published or PublishedSet(file=f"{family.name}.nc", variables={"solution": family.channels})


def write_netcdf(store: Store, family: Family, path: str | os.PathLike[str], *, samples: int) -> Path:
    """Write the first samples of a store as a published netCDF file and return its path.

    One sample is in memory at a time. The file appears under its name only when it is whole.

    Args:
        store: Where they are read from.
        family: Whose published layout is followed.
        path: The file.
        samples: How many.

    Raises:
        UserError: If a sample is not complete, or a file is there that `dfm data generate` did not write.
    """
    import h5netcdf

    final = Path(path)
    refuse_foreign(final)
    layout = published_layout(family)
    parts = [_part(family, store, layout, name) for name in layout.variables]
    axes = ("x", "y", "z")[: len(store.space)]
    sizes = {"time": len(store.times)} | dict(zip(axes, store.space, strict=True))
    try:
        with replacing(final) as temporary, h5netcdf.File(temporary, "w") as file:
            file.dimensions = {"sample": None, **sizes}
            units = store.attributes["units"]
            for name, values in zip(("time", *axes), (store.times, *store.coordinates), strict=True):
                position = file.create_variable(name, (name,), "f8", data=values)
                position.attrs["units"] = store.attributes["axis_units"][name]
            variables = [_variable(file, part, samples=samples, sizes=sizes, units=units) for part in parts]
            file.resize_dimension("sample", samples)
            for sample in range(samples):
                values = store.read(sample)
                for part, variable in zip(parts, variables, strict=True):
                    variable[sample] = part.of(values)
            for name, value in _described(store.attributes).items():
                file.attrs[name] = value
            file.attrs[MARK] = _COMMAND
    except OSError as error:
        raise UserError(
            f"cannot write {final} ({error.strerror or error}); choose another --out or free some space"
        ) from error
    return final


@dataclass(frozen=True)
class _Part:
    """One variable of the file and the channels it holds."""

    name: str
    channels: tuple[str, ...]
    where: Mapping[str, int]
    gamma: float
    timeless: bool
    order: tuple[int, ...]
    axes: tuple[str, ...]

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `(T, C, *space)` as the variable stores it."""
        frames = values[:1] if self.timeless else values
        block = np.stack([self._channel(frames, name) for name in self.channels], axis=1)
        block = block.transpose(0, 1, *(2 + axis for axis in self.order))
        block = block[0] if self.timeless else block
        return block if len(self.channels) > 1 else block.squeeze(0 if self.timeless else 1)

    def _channel(self, frames: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        if name in self.where:
            return frames[:, self.where[name]]
        if name != "energy":
            raise ValueError(f"the published variable {self.name} holds '{name}', which no solver gives")
        density, x, y, pressure = (
            frames[:, self.where[one]].astype(np.float64)
            for one in ("density", "velocity_x", "velocity_y", "pressure")
        )
        return (0.5 * density * (x**2 + y**2) + pressure / (self.gamma - 1)).astype(np.float32)


def _part(family: Family, store: Store, layout: PublishedSet, name: str) -> _Part:
    space = len(store.space)
    order = tuple(reversed(range(space))) if layout.axes == "tyx" else tuple(range(space))
    return _Part(
        name=name,
        channels=tuple(layout.variables[name]),
        where={channel: place for place, channel in enumerate(store.channels)},
        gamma=float(store.attributes.get("parameters", {}).get("gamma", GAMMA)),
        timeless=family.steady or name in layout.constants,
        order=order,
        axes=tuple(("x", "y", "z")[axis] for axis in order),
    )


def _variable(
    file: Any, part: _Part, *, samples: int, sizes: Mapping[str, int], units: Mapping[str, str]
) -> Any:
    several = len(part.channels) > 1
    if several:
        channel = f"{part.name}_channel"
        file.dimensions[channel] = len(part.channels)
    names = (
        ["sample"] + ([] if part.timeless else ["time"]) + ([channel] if several else []) + list(part.axes)
    )
    chunk = [1, *(1 if name == "time" else sizes.get(name, len(part.channels)) for name in names[1:])]
    variable = file.create_variable(part.name, tuple(names), "f4", chunks=tuple(chunk))
    variable.attrs["channels"] = ", ".join(part.channels)
    variable.attrs["units"] = ", ".join(units.get(name, "1") for name in part.channels)
    return variable


def _described(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the group says of itself as netCDF attributes: texts and numbers."""
    plain = {}
    for name, value in attributes.items():
        if isinstance(value, Mapping):
            plain[name] = ", ".join(f"{key}={one}" for key, one in value.items())
        elif isinstance(value, list | tuple):
            plain[name] = ", ".join(str(one) for one in value)
        elif value is not None:
            plain[name] = int(value) if isinstance(value, bool) else value
    return plain


def refuse_foreign(path: Path) -> None:
    """Raise if a file is there that this command did not write: it may be the published one.

    Raises:
        UserError: Then.
    """
    if not path.exists() or maker(path) == _COMMAND:
        return
    raise UserError(f"{path} is there and was not made by this command; remove it or choose another --out")
