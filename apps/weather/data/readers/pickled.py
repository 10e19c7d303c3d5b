"""Static fields as Aurora's makers publish them: a pickle of arrays on a whole globe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.pickles import read_array_pickle
from core.errors import UserError

if TYPE_CHECKING:
    import xarray

__all__ = ["is_pickle", "pickled_fields"]


def is_pickle(path: str) -> bool:
    """Say whether a path is that of a pickle."""
    return Path(path).suffix in (".pickle", ".pkl")


def pickled_fields(path: str) -> xarray.Dataset:
    """Return the fields `(H, W)` of a pickle, from 90 degrees north to south and from 0 degrees east on.

    Raises:
        UserError: If it holds anything but fields of one shape.
    """
    import xarray

    fields = read_array_pickle(path)
    shapes = {getattr(field, "shape", ()) for field in fields.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or min(shape) < 2:
        raise UserError(f"{path} holds no static fields of latitude and longitude alone; leave it out")
    position = {
        "latitude": np.linspace(90, -90, shape[0]),
        "longitude": np.arange(shape[1]) * (360 / shape[1]),
    }
    return xarray.Dataset({name: (tuple(position), field) for name, field in fields.items()}, position)
