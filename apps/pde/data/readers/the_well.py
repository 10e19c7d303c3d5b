"""The Well's HDF5 files (Ohana et al. 2024, arXiv 2412.00568): a folder of one set, or single files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable, cells, files_of, joined, uniform
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError

__all__ = ["SPLITS", "recognise", "source", "splits"]

SPLITS = ("train", "valid", "test")
SUFFIXES = (".hdf5", ".h5")
SMALLEST = 1e-4  # published standard deviations are clipped below at this
_AXES = "xyz"


def recognise(path: Path) -> bool:
    """Say whether the file, or the first file of the folder, has this layout."""
    file = _first(path)
    if file is None or not is_hdf5(file):
        return False
    with open_hdf5(str(file)) as opened:
        return "t0_fields" in opened or "t1_fields" in opened


def splits(path: Path) -> tuple[str, ...]:
    """Return which of train, valid and test the folder has."""
    return tuple(name for name in SPLITS if _folder(path, name) is not None) if path.is_dir() else ()


def source(path: Path, *, split: str | None = None) -> ArraySource:
    """Return the trajectories of one split of a folder, or of one file.

    Vectors give one channel an axis (`velocity_x`), tensors one a pair (`strain_xy`). What does not vary in
    time or between samples is repeated.

    Raises:
        UserError: If the split is not there, or files of the set have other grids or fields.
    """
    folder = path if split is None or path.is_file() else _folder(path, split)
    if folder is None:
        raise UserError(f"{path} has no split '{split}'; it has {', '.join(splits(path)) or 'none'}")
    files = files_of(folder, SUFFIXES)
    if not files:
        raise UserError(f"{folder} has no .hdf5 file of The Well")
    sources = [_one(file) for file in files]
    return joined(sources, path, statistics=_statistics(path, sources[0].channels))


def _one(path: Path) -> ArraySource:
    with open_hdf5(str(path)) as file:
        count = int(file.attrs.get("n_trajectories", 0)) or _length(file, 0)
        steps = len(file["dimensions/time"][()].ravel()) if "dimensions/time" in file else _length(file, 1)
        names = [_text(name) for name in file["dimensions"].attrs.get("spatial_dims", ())] or list(
            _AXES[: int(file.attrs.get("n_spatial_dims", 2))]
        )
        grid = tuple(int(np.size(file[f"dimensions/{name}"][()])) for name in names)
        variables: dict[str, Variable] = {}
        constants: list[str] = []
        for order in (0, 1, 2):
            if (group := file.get(f"t{order}_fields")) is None:
                continue
            for field in (_text(name) for name in group.attrs.get("field_names", list(group))):
                if field not in group:
                    raise UserError(
                        f"{path} names the field '{field}' in t{order}_fields but has no such array"
                    )
                dataset = group[field]
                varying = _flags(dataset, len(grid))
                axes = ("n" if varying["n"] else "") + ("t" if varying["t"] else "")
                axes += "".join(axis for axis in _AXES[: len(grid)] if varying[axis])
                count_c = len(grid) ** order
                if dataset.ndim == len(axes) + order and order == 2:
                    raise UserError(f"{path} stores {field} with two tensor axes; flatten them to one")
                shown = [""] if order == 0 else [f"_{a}" for a in names]
                shown = [f"_{a}{b}" for a in names for b in names] if order == 2 else shown
                for component in range(count_c):
                    name = field + shown[component]
                    variables[name] = Variable(
                        f"t{order}_fields/{field}", axes + ("c" if order else ""), component
                    )
                    if not varying["t"]:
                        constants.append(name)
        parameters = [_text(name) for name in file.attrs.get("simulation_parameters", ())]
        parameters = [name for name in parameters if name in file.attrs and np.size(file.attrs[name]) == 1]
        values = [float(np.ravel(file.attrs[name])[0]) for name in parameters]
        times = np.ravel(file["dimensions/time"][()]) if "dimensions/time" in file else uniform(steps)
        axes_at = [np.ravel(file[f"dimensions/{name}"][()]) for name in names]
        kinds = {
            _text(one.attrs.get("bc_type", "")).upper()
            for one in (file["boundary_conditions"].values() if "boundary_conditions" in file else ())
        }
        return ArraySource(
            name=_text(file.attrs.get("dataset_name", path.stem)),
            path=str(path),
            layout="the_well",
            segments=[
                Segment(
                    str(path),
                    count,
                    variables,
                    numbers=np.tile(np.array(values, dtype=np.float32), (count, 1)) if values else None,
                )
            ],
            times=times,
            coordinates=tuple(at if len(at) > 1 else cells(1) for at in axes_at),
            periodic=kinds == {"PERIODIC"},
            parameters=tuple(parameters),
            constants=tuple(constants),
        )


def _flags(dataset: Any, space: int) -> dict[str, bool]:
    attrs = dataset.attrs
    along = np.ravel(attrs.get("dim_varying", [True] * space)).astype(bool).tolist()
    return {
        "n": bool(attrs.get("sample_varying", True)),
        "t": bool(attrs.get("time_varying", True)),
        **dict(zip(_AXES, along, strict=False)),
    }


def _length(file: Any, axis: int) -> int:
    group = file["t0_fields"] if "t0_fields" in file else file["t1_fields"]
    return int(next(iter(group.values())).shape[axis])


def _statistics(path: Path, channels: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Return the mean and the standard deviation that `stats.yaml` beside the data gives for each channel."""
    places = [path, *path.parents][:4] if path.is_dir() else list(path.parents)[:4]
    file = next((place / "stats.yaml" for place in places if (place / "stats.yaml").is_file()), None)
    if file is None:
        return {}
    import yaml

    known = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    found: dict[str, tuple[float, float]] = {}
    for name, mean in (known.get("mean") or {}).items():
        std = (known.get("std") or {}).get(name)
        if std is None:
            continue
        means, stds = np.ravel(mean).astype(float), np.ravel(std).astype(float)
        own = [channel for channel in channels if channel == name or channel.startswith(f"{name}_")]
        own = [name] if name in own else own[: len(means)]
        for channel, one, other in zip(own, means, stds, strict=False):
            found[channel] = (float(one), max(float(other), SMALLEST))
    return found


def _folder(path: Path, split: str) -> Path | None:
    return next((p for p in (path / "data" / split, path / split) if p.is_dir()), None)


def _first(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    return next(iter(files_of(path, SUFFIXES)), None)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
