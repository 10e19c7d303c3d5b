"""Maps many scenes; one that fails is skipped and reported, or stops the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.errors import UserError

__all__ = ["ON_ERROR", "BatchReport", "each_scene", "outputs_for"]

ON_ERROR = ("skip", "stop")
"""What can be done about a scene that fails."""


class Result(Protocol):
    """What became of one scene."""

    @property
    def existed(self) -> bool:
        """Whether it was there already."""
        ...


@dataclass(frozen=True)
class BatchReport:
    """What became of many scenes.

    Args:
        done: The finished maps.
        failed: Each scene without a map, and the sentence that says why.
    """

    done: tuple[Result, ...]
    failed: tuple[tuple[Path, str], ...]

    def summary(self) -> str:
        """Return how many are mapped, and a line for each that is not."""
        had = sum(one.existed for one in self.done)
        head = f"{len(self.done)} of {len(self.done) + len(self.failed)} scenes are mapped"
        lines = [head + (f", {had} of them before" if had else "")]
        return "\n".join(lines + [f"failed: {path}: {why}" for path, why in self.failed])


def outputs_for(
    scenes: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], *, suffix: str = ".tif"
) -> dict[Path, Path]:
    """Return where each scene's result goes, `<name><suffix>` in the folder, and the scene.

    Raises:
        UserError: If two scenes would have one result.
    """
    outs: dict[Path, Path] = {}
    for scene in map(Path, scenes):
        out = Path(folder) / f"{scene.stem}{suffix}"
        if out in outs:
            raise UserError(
                f"{outs[out]} and {scene} would both be mapped to {out}; rename one, or map them apart"
            )
        outs[out] = scene
    return outs


def each_scene(
    outs: Mapping[Path, Path],
    work: Callable[[Path, Path], Result],
    *,
    on_error: Literal["skip", "stop"] = "skip",
) -> BatchReport:
    """Do the same with many scenes.

    Args:
        outs: Where the result goes, and the scene.
        work: Is given the scene and where the result goes.
        on_error: `skip` tells on stderr which scene fails and goes on; `stop` raises.

    Raises:
        UserError: With `stop`, what the scene that fails raises.
    """
    if on_error not in ON_ERROR:
        raise UserError(f"a scene that fails can 'skip' or 'stop', not '{on_error}'")
    done: list[Result] = []
    failed: list[tuple[Path, str]] = []
    for number, (out, scene) in enumerate(outs.items()):
        try:
            done.append(work(scene, out))
        except BrokenPipeError:  # of a reader of stdout that left
            raise
        except Exception as error:  # whatever is wrong with one file must not end the others
            if on_error == "stop":
                if not isinstance(error, UserError):
                    raise
                raise UserError(f"{error} (scene {number + 1} of {len(outs)}, {scene})") from error
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            failed.append((scene, why))
            print(f"skipped {scene}: {why}", file=sys.stderr, flush=True)
    return BatchReport(tuple(done), tuple(failed))
