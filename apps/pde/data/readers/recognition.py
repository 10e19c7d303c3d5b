"""Which reader a file or folder belongs to."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from apps.pde.data.readers import labelled, pdearena, pdebench, pdegym, plain, tensors, the_well, zarr_store
from apps.pde.data.readers.arrays import ArraySource
from core.errors import UserError, did_you_mean
from core.inference.outputs import maker

__all__ = ["LAYOUTS", "open_source", "recognised", "splits_of"]

_READERS: dict[str, ModuleType] = {
    "store": zarr_store,
    "tensors": tensors,
    "the_well": the_well,
    "pdearena": pdearena,
    "pdebench": pdebench,
    "pdegym": pdegym,
    "labelled": labelled,
    "plain": plain,
}
"""Layout to its module: `recognise(path)`, `source(path)`, and `splits(path)` where it keeps parts apart."""

LAYOUTS = tuple(_READERS)
"""Names of the layouts: `store` is ours; `labelled` has named axes, `plain` those that the user names."""


def open_source(
    path: str | Path, *, layout: str | None = None, split: str | None = None, axes: str | None = None
) -> ArraySource:
    """Return the trajectories of a file or folder.

    Args:
        path: File or folder; no values are read.
        layout: One of `LAYOUTS`; None recognises it.
        split: Part of layouts that keep train, valid and test apart (The Well, PDEArena); others refuse it.
        axes: Names of the axes of plain arrays in order, as "run time y x".

    Raises:
        UserError: If the path is not there, the file is damaged, or its layout is unknown.
    """
    if axes is not None and layout not in (None, "plain"):
        raise UserError(f"data.axes is for plain arrays; the layout {layout} says itself what its axes are")
    layout = layout if axes is None else "plain"
    where = _entry(Path(path).expanduser(), layout)
    name = _layout(where, layout)
    reader = _READERS[name]
    if axes is not None and split is None:
        return plain.source(where, axes=axes)
    if split is None:
        return reader.source(where)
    if not hasattr(reader, "splits"):
        raise UserError(f"{where} has the layout {name}, which has no part '{split}'; leave it out")
    return reader.source(where, split=split)


def splits_of(path: str | Path, *, layout: str | None = None) -> tuple[str, ...]:
    """Return which of train, valid and test the data keep apart themselves; empty for one list of all."""
    where = _entry(Path(path).expanduser(), layout)
    reader = _READERS[_layout(where, layout)]
    return reader.splits(where) if hasattr(reader, "splits") else ()


def _entry(path: Path, layout: str | None) -> Path:
    """Return the file of ours that a folder holds under the name of a published set, else the path itself."""
    file = pdegym.assembled(path)
    return file if layout is None and file != path and maker(file) else path


def recognised(path: Path) -> str | None:
    """Return the layout of a file or folder, None if it has none that is known."""
    return next((name for name, reader in _READERS.items() if reader.recognise(path)), None)


def _layout(path: Path, layout: str | None) -> str:
    if layout is not None and layout not in _READERS:
        raise UserError(
            f"there is no layout '{layout}'{did_you_mean(layout, LAYOUTS)}; known: {', '.join(LAYOUTS)}"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist; check data.path")
    if layout is not None:
        return layout
    found = recognised(path)
    if found is None and path.suffix.lower() in plain.SUFFIXES:
        return "plain"  # which asks for its axes
    if found is None:
        raise UserError(
            f"the layout of {path} is not known; readable are {', '.join(LAYOUTS)} "
            "(labelled: netCDF or Zarr with axes named sample, time, x, y), see data.layout"
        )
    return found
