"""What every reader of simulation files gives: trajectories of named fields, read lazily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Source"]


class Source(Protocol):
    """Trajectories of named fields in a file or a folder; picklable, no file is held open across processes.

    Attributes:
        name: What tables and messages call it.
        path: The file or folder, as the user gave it.
        channels: Field names in the order of the channel axis.
        units: Field name to unit, "1" where dimensionless or unknown.
        trajectories: How many there are.
        steps: Snapshots of each; 1 for steady problems.
        space: Grid points along each axis.
        times: `(steps,)` float64.
        coordinates: For each axis the float64 positions of its points.
        periodic: Whether the domain is, as far as the file says.
        parameters: Names of the equation's numbers, which may differ between trajectories.
    """

    name: str
    path: str
    channels: tuple[str, ...]
    units: Mapping[str, str]
    trajectories: int
    steps: int
    space: tuple[int, ...]
    times: NDArray[np.float64]
    coordinates: tuple[NDArray[np.float64], ...]
    periodic: bool
    parameters: tuple[str, ...]

    def read(
        self, trajectory: int, steps: Sequence[int], channels: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return raw values `(len(steps), C, *space)` of one trajectory; nothing else of the file is read.

        Raises:
            UserError: If the file is damaged there.
        """
        ...

    def numbers(self, trajectory: int) -> NDArray[np.float32]:
        """Return the equation's numbers `(P,)` of one trajectory, in the order of `parameters`."""
        ...
