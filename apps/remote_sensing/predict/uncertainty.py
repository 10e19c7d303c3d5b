"""A map, and beside it how undecided the probabilities are that it was made of."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.predict.settings import MapSettings
from apps.remote_sensing.predict.target import Target

__all__ = ["Targets", "undecided"]


def undecided(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of probabilities `(K, ...)` over that of even ones: 0 is sure, 1 knows nothing."""
    with np.errstate(invalid="ignore"):
        shares = np.clip(scores, np.finfo(np.float64).tiny, 1.0)
        return -(shares * np.log(shares)).sum(axis=0) / np.log(max(len(scores), 2))


class Targets:
    """The map of a scene and, if wanted, a second one of its uncertainty; both grow and resume together.

    Args:
        path: As of `Target`.
        uncertainty: Where the second map goes, or None.
        like: As of `Target`.
        settings: As of `Target`.
        facts: As of `Target`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        uncertainty: str | os.PathLike[str] | None,
        *,
        like: Any,
        settings: MapSettings,
        facts: dict[str, Any],
    ) -> None:
        self._map = Target(path, like=like, settings=settings, facts=facts)
        self.path, self.lock = self._map.path, self._map.lock
        self._second: Target | None = None
        self.beside: tuple[Path, ...] = ()
        if uncertainty is not None:
            how = replace(
                settings, kind="scores", names=("uncertainty",), dtype="float32", nodata=None, colours=None
            )
            self._second = Target(uncertainty, like=like, settings=how, facts={**facts, "of": "uncertainty"})
            self.beside = (self._second.path,)
        self._needed = False  # whether the second one is still to be made
        self.rows = 0  # of tiles that are written

    def finished(self, *, overwrite: bool = False) -> bool:
        """Return whether all is there already; see `Target.finished`."""
        first = self._map.finished(overwrite=overwrite)
        self._needed = self._second is not None and not self._second.finished(overwrite=overwrite)
        return first and not self._needed

    def begin(self, *, restart: bool = False) -> dict[str, int]:
        """Begin or go on; see `Target.begin`."""
        left = self._map.begin(restart=restart)
        if self._needed and self._second is not None:
            known = self._second.begin(restart=restart)
            if known["rows"] < left["rows"]:  # its half is lost: it is noted before the map
                left = self._map.begin(restart=True)
        self.rows = left["rows"]
        return left

    def write(self, top: int, values: NDArray, entropy: NDArray[np.float32] | None) -> None:
        """Write rows of the map and of its uncertainty."""
        if self._needed and self._second is not None and entropy is not None:
            self._second.write(top, entropy)
        self._map.write(top, values)

    def note(self, *, rows: int, valid: int) -> None:
        """Record how far both are."""
        if self._needed and self._second is not None:
            self._second.note(rows=rows, valid=valid)
        self._map.note(rows=rows, valid=valid)
        self.rows = rows

    def finish(self) -> None:
        """Finish both, the map last."""
        if self._needed and self._second is not None:
            self._second.finish()
        self._map.finish()

    def discard(self) -> None:
        """Remove what both grew in."""
        if self._second is not None:
            self._second.discard()
        self._map.discard()
