"""Trajectories made by our solvers when they are first needed, and kept.

A sample depends on the family, the settings, the seed and its number alone, so that a run that was broken off
goes on where it was, and more samples are added to those that are there.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.counting import counted
from core.errors import UserError, did_you_mean
from core.files import data_folder, locked

if TYPE_CHECKING:
    import torch

    from apps.pde.simulation.families.family import Family
    from core.data.sample_store import Store

__all__ = ["default_batch", "ensure", "positions"]

LICENCE = "CC0-1.0: computed by domainfm's own solvers"
_KEPT = ("title", "equation", "source", "periodic", "horizon")  # of a family, in its store
_MEMORY = {"cpu": 512e6, "cuda": 8e9}
_WORK = 256  # arrays of a field's size that a solver holds at a time, its finer grid included
_MOST = {"cpu": 64, "cuda": 512}


def ensure(
    family: str | Family,
    samples: int,
    *,
    resolution: int | None = None,
    seed: int = 0,
    snapshots: int | None = None,
    parameters: Mapping[str, float] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float64",
) -> Path:
    """Return a store that holds at least the first `samples` samples, computing those that it lacks.

    Processes that ask for the same store at once wait for each other. Memory is bounded by `batch`.

    Args:
        family: Name of the family, or the family itself.
        samples: How many trajectories.
        resolution: Grid points along each axis; by default the family's.
        seed: Seed of the samples; sample i of a seed is the same whatever else is asked for.
        snapshots: Frames of a trajectory; by default the family's.
        parameters: Numbers of the equation that differ from the family's own.
        folder: The store; by default one in the cache, named after everything that it depends on.
        progress: Draw a bar on stderr, or a line every few seconds where that is no terminal.
        batch: Samples solved at a time; chosen by their size by default.
        device: `cpu`, `cuda` (or `cuda:1`), or `auto`.
        dtype: Precision of the solver, `float32` or `float64`; float32 is kept.

    Returns:
        The store's folder.

    Raises:
        UserError: If the family, a parameter or a number is wrong, the folder holds something else, or there
            is no finite solution.
    """
    import torch

    from apps.pde.simulation.families import family as family_of
    from core.data.sample_store import settings_digest

    family = family_of(family) if isinstance(family, str) else family
    settings = _settings(family, resolution, seed, snapshots, parameters, dtype)
    for name, value in (("samples", samples), ("batch", batch)):
        if value is not None:
            _whole(name, value, least=1)
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise UserError(f"the folder is {folder!r}; it must be a path")
    name = f"{settings['family']}-{settings_digest(settings)}"
    path = data_folder() / "pde" / "generated" / name if folder is None else Path(folder).expanduser()
    if (store := _store(path, settings)) is not None and not store.lacking(samples):
        return path
    where = _device(device)
    size = batch or default_batch(family, settings["resolution"], settings["snapshots"], device=where.type)
    with locked(path.with_name(f"{path.name}.lock")):
        former = _store(path, settings)
        store = former or _create(path, family, settings, samples)
        store.extend(samples)
        todo = store.lacking(samples)
        done = samples - len(todo)
        try:
            with counted(family.name, samples, done=done, unit="trajectories", shown=progress) as advance:
                for numbers in _batches(todo, size):
                    _fill(store, family, settings, numbers, device=where, dtype=getattr(torch, dtype))
                    advance(len(numbers))
        except UserError:
            if former is None and not store.complete().any():
                # The settings were wrong; left behind, it would refuse the right ones.
                shutil.rmtree(path, ignore_errors=True)
            raise
    return path


def default_batch(family: Family, resolution: int, snapshots: int, *, device: str = "cpu") -> int:
    """Return how many samples are solved at a time: what half a gigabyte (8 on a GPU) holds, roughly."""
    field = 8.0 * len(family.channels) * resolution**family.space
    budget = _MEMORY.get(device, _MEMORY["cuda"])
    return int(min(max(budget // (field * (snapshots + _WORK)), 1), _MOST.get(device, _MOST["cuda"])))


def positions(family: Family, resolution: int) -> list[float]:
    """Return where the grid's points lie along an axis."""
    low, high = family.extent
    if family.points == "both":
        return [low + (high - low) * k / max(resolution - 1, 1) for k in range(resolution)]
    shift = 0.5 if family.points == "centre" else 0.0
    return [low + (high - low) * (k + shift) / resolution for k in range(resolution)]


def _settings(
    family: Family,
    resolution: int | None,
    seed: int,
    snapshots: int | None,
    parameters: Mapping[str, float] | None,
    dtype: str,
) -> dict[str, Any]:
    """Return everything that the samples depend on.

    Raises:
        UserError: If something of it is wrong.
    """
    from importlib.metadata import version

    from apps.pde.simulation.families.family import wrong_number

    if dtype not in ("float32", "float64"):
        raise UserError(f"the precision is '{dtype}'; it must be float32 or float64")
    points = family.resolution if resolution is None else _whole("the resolution", resolution)
    frames = family.snapshots if snapshots is None else _whole("snapshots", snapshots)
    if points < 4 and family.space:
        raise UserError(f"the resolution is {points}; {family.name} needs at least 4 points along an axis")
    if family.steady and frames != 1:
        raise UserError(f"{family.name} does not depend on time: it has 1 snapshot, not {frames}")
    if not family.steady and frames < 2:
        raise UserError(f"snapshots is {frames}; a trajectory of {family.name} has at least 2")
    if _whole("the seed", seed) < 0:
        raise UserError(f"the seed is {seed}; it must be 0 or more")
    values = dict(family.parameters)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UserError(
            f"the parameters of {family.name} are {parameters!r}; they must be names with numbers"
        )
    for name, value in (parameters or {}).items():
        if name not in values:
            names = ", ".join(values) or "none"
            raise UserError(
                f"{family.name} has no parameter '{name}'{did_you_mean(name, values)}; it has: {names}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"parameter {name} of {family.name} is {value}; it must be a finite number")
        values[name] = float(value)
    if wrong := wrong_number(values):
        raise UserError(f"parameter {wrong} (family {family.name})")
    return {
        "family": family.name,
        "seed": int(seed),
        "resolution": int(points),
        "snapshots": int(frames),
        "parameters": {name: float(value) for name, value in values.items()},
        "precision": dtype,
        "version": version("domainfm"),
    }


def _whole(name: str, value: Any, *, least: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; it must be a whole number")
    if least is not None and value < least:
        raise UserError(f"{name} is {value}; it must be at least {least}")
    return value


def _store(path: Path, settings: Mapping[str, Any]) -> Store | None:
    """Return the store at `path` if there is one.

    Raises:
        UserError: If what is there is something else.
    """
    from core.data.sample_store import Store

    if not path.exists():
        return None
    if path.is_file():
        raise UserError(f"{path} is a file; a store is a folder, name one that does not exist yet")
    store = Store.open(path)
    for name, value in settings.items():
        held = store.attributes.get(name)
        if held != value:
            raise UserError(
                f"{path} holds trajectories with {name} {held}, not {value}; choose another folder"
            )
    return store


def _create(path: Path, family: Family, settings: Mapping[str, Any], samples: int) -> Store:
    from core.data.sample_store import AXES, Store

    if family.space > len(AXES):
        raise ValueError(f"{family.name} has {family.space} space axes; a store holds at most {len(AXES)}")
    return Store.create(
        path,
        samples=samples,
        channels=family.channels,
        times=family.times(settings["snapshots"]).numpy(),
        coordinates=[positions(family, settings["resolution"])] * family.space,
        units=family.units,
        attributes={
            **settings,
            **{name: getattr(family, name) for name in _KEPT},
            **{name: list(getattr(family, name)) for name in ("extent", "inputs", "constants")},
            "licence": LICENCE,
            "project": "domainfm",
        },
    )


def _batches(todo: list[int], size: int) -> Iterator[list[int]]:
    """Cut the samples where an unbroken run would cut them, so that a batch is composed as it was there."""
    cells: dict[int, list[int]] = {}
    for sample in todo:
        cells.setdefault(sample // size, []).append(sample)
    yield from cells.values()


def _fill(
    store: Store,
    family: Family,
    settings: Mapping[str, Any],
    numbers: list[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Solve a batch and write what is finite of it.

    Raises:
        UserError: If a problem cannot be solved, or a solution is not finite.
    """
    import numpy as np
    import torch

    from core.data.randomness import generator

    equation = ", ".join(f"{name}={value:g}" for name, value in settings["parameters"].items())
    problem = f"seed {settings['seed']}, resolution {settings['resolution']}, {equation or 'no parameters'}"
    generators = [generator(settings["seed"], 0, number, family.name) for number in numbers]
    how = {name: settings[name] for name in ("resolution", "snapshots", "parameters")}
    with torch.no_grad():
        try:
            solution = family.sample(generators, **how, dtype=dtype, device=device)
        except (UserError, ValueError, ArithmeticError, RuntimeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"{family.name} ({problem}) could not be solved: {lines[0]}") from error
        values = solution.to(device="cpu", dtype=torch.float32).numpy()
    good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    whole = [number for number, fine in zip(numbers, good, strict=True) if fine]
    if whole:
        store.write(whole, values[good])
    if len(whole) < len(numbers):
        first = next(number for number, fine in zip(numbers, good, strict=True) if not fine)
        raise UserError(
            f"the solution of sample {first} of {family.name} ({problem}) is not finite; "
            "change the resolution or the parameters, or use float64"
        )


def _device(name: str) -> torch.device:
    import torch

    if not isinstance(name, str):
        raise UserError(f"the device is {name!r}; choose cpu, cuda or auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device '{name}'; choose cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is available; use --device cpu or auto")
    return device
