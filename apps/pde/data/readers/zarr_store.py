"""The Zarr stores that `dfm data generate` writes, see `core.data.sample_store`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable
from core.errors import UserError

__all__ = ["open_zarr", "recognise", "source"]


def open_zarr(path: str) -> Any:
    """Open a Zarr group for reading.

    Raises:
        UserError: If it is damaged or not there.
    """
    import zarr

    try:
        return zarr.open_group(path, mode="r", use_consolidated=False)
    except Exception as error:  # zarr raises whatever its parsers do
        raise UserError(
            f"{path} is no Zarr group or a damaged one ({type(error).__name__}); generate it again"
        ) from error


def recognise(path: Path) -> bool:
    """Say whether the folder is such a store."""
    from core.data.sample_store import LAYOUT

    if not (path / "zarr.json").is_file():
        return False
    return open_zarr(str(path)).attrs.get("layout") == LAYOUT


def source(path: Path) -> ArraySource:
    """Return the complete trajectories of a store, up to the first that is missing.

    Raises:
        UserError: If none is complete.
    """
    from core.data.sample_store import Store

    store = Store.open(path)
    done = store.complete()
    count = int(np.argmin(done)) if not done.all() else len(done)
    if count == 0:
        raise UserError(f"{path} has no complete trajectory yet; run `dfm data generate` to its end")
    said = store.attributes
    axes = "ntc" + "xyz"[: len(store.space)]
    numbers = {name: float(value) for name, value in (said.get("parameters") or {}).items()}
    column = np.tile(np.array(list(numbers.values()), dtype=np.float32), (count, 1)) if numbers else None
    variables = {name: Variable("fields", axes, place) for place, name in enumerate(store.channels)}
    return ArraySource(
        name=str(said.get("family") or path.stem),
        path=str(path),
        layout="store",
        segments=[Segment(str(path), count, variables, numbers=column)],
        times=store.times,
        coordinates=store.coordinates,
        units=said.get("units") or {},
        periodic=bool(said.get("periodic", False)),
        parameters=tuple(numbers),
        constants=tuple(said.get("constants") or ()),
        inputs=tuple(said.get("inputs") or ()),
        licence=str(said.get("licence") or ""),
        opener=open_zarr,
    )
