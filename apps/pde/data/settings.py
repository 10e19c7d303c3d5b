"""Settings of field data: small frozen dataclasses that a recipe gives by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.pde.data.window_settings import EvaluationSet, WindowSettings
from core.data.checks import at_least, one_of
from core.errors import UserError

if TYPE_CHECKING:
    from apps.pde.batch import FieldFacts

__all__ = ["FieldPreparation", "FieldSettings", "Generation", "NamedSource", "SourceMixture"]


@dataclass(frozen=True)
class Generation:
    """Trajectories of our own solvers, made when they are first needed.

    Attributes:
        families: Family of `dfm data generate` to the number of trajectories.
        resolution: Grid points along each axis; by default the family's.
        seed: Seed of the samples.
        snapshots: Frames of a trajectory; by default the family's.
        parameters: Numbers of the equation that differ from the family's own.
        folder: The store; by default one in the cache, named after everything that it depends on.
        batch: Samples solved at a time; chosen by their size by default.
        device: `cpu`, `cuda` (or `cuda:1`), or `auto`.
        dtype: Precision of the solver, `float32` or `float64`.
    """

    families: dict[str, int]
    resolution: int | None = None
    seed: int = 0
    snapshots: int | None = None
    parameters: dict[str, float] | None = None
    folder: str | None = None
    batch: int | None = None
    device: str = "cpu"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        for family, samples in self.families.items():
            if not isinstance(samples, int) or samples < 1:
                raise UserError(
                    f"data.generate.families.{family} is {samples}; it must be a number of trajectories"
                )


@dataclass(frozen=True)
class SourceMixture:
    """Several sources that are trained on together.

    Attributes:
        sources: Entries with `path`, `card`, `layout` and `axes`, or `generate` (as `Generation` takes it),
            each with an optional `weight`, its share of the samples.
        samples: Training samples in an epoch where there are weights; else the sum of all.
        repeats: Times a source with a weight may be walked through; null for any number.
    """

    sources: list[dict[str, Any]]
    samples: int | None = None
    repeats: float | None = None

    def __post_init__(self) -> None:
        at_least(1, room="data.mixture", samples=self.samples)


@dataclass(frozen=True)
class FieldPreparation:
    """How values, grids and times of files become those of batches.

    Attributes:
        resolution: Points along each axis (or a list of them): every k-th point is kept. Nothing is
            interpolated or filtered, so a coarser grid must divide the stored one.
        normalise: `card` (its constants; what it does not give is computed), `statistics` (mean and standard
            deviation of the training trajectories) or `none`.
        missing: Values that are no numbers: `error`, or `zero` (0 after scaling, as GPhyT does).
        time_constant: Snapshots that make a lead time of 1; by default the card's, else the last snapshot.
        flips: Mirror each axis in half of the training samples; components along it change their sign.
        vectors: For `flips`: lists of fields that are a vector's components, along x first. Known without it:
            velocity and momentum, and what has a field for every axis, such as `force_x` and `force_y`.
        periodic: Whether domains are periodic; by default what a file or its card says, else no.
        keep_mb: Keep trajectories in memory once read where all sources together are smaller than this.
    """

    resolution: int | list[int] | None = None
    normalise: str = "card"
    missing: str = "error"
    time_constant: float | None = None
    flips: bool = False
    vectors: list[list[str]] | None = None
    periodic: bool | None = None
    keep_mb: float = 512.0

    def __post_init__(self) -> None:
        room = "data.prepare"
        one_of(("card", "statistics", "none"), room=room, normalise=self.normalise)
        one_of(("error", "zero"), room=room, missing=self.missing)
        if self.time_constant is not None and not self.time_constant > 0:
            raise UserError(f"{room}.time_constant is {self.time_constant}; it must be positive")


@dataclass(frozen=True)
class NamedSource:
    """One source as a recipe names it.

    Attributes:
        path: File or folder.
        card: Data card.
        layout: Layout of the path.
        axes: Names of its axes, of plain arrays.
        generate: One family that our solvers make, in place of these.
        weight: Share in a mixture.
    """

    path: str | None = None
    card: str | None = None
    layout: str | None = None
    axes: str | None = None
    generate: Generation | None = None
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class FieldSettings:
    """Everything that decides which fields are read and how they are cut (see `apps.pde.data.module.Fields`).

    Attributes:
        trained: Facts of the checkpoint whose scaling is used, if any.
    """

    sources: Sequence[NamedSource]
    inputs: Sequence[str] | None
    outputs: Sequence[str] | None
    parameters: bool | Sequence[str]
    frames: int | None
    windows: WindowSettings | None
    trajectories: int
    val_trajectories: int | None
    test_trajectories: int | None
    test: EvaluationSet
    prepare: FieldPreparation
    trained: FieldFacts | None = None
