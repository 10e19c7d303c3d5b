"""The batch every operator network is fed with, and what is known of the fields in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from core.data.batch import Batch
from core.data.facts import Facts
from core.errors import UserError

__all__ = ["DatasetFacts", "FieldBatch", "FieldFacts", "check_grid"]


@dataclass(frozen=True, eq=False)
class FieldBatch(Batch):
    """Frames of normalised fields on a regular grid; T frames in, K frames as labels, `space` one to three
    axes.

    Values are in the units of the data set's normalisation (dimensionless); `facts.datasets[source]` of the
    data module holds what turns them into physical ones.

    Attributes:
        inputs: `(B, T, C, *space)` float32.
        targets: `(B, K, C', *space)` float32.
        time: `(B, K)` float32, each label's time after the last input frame, in the data set's time constant;
            1.0 for steady problems.
        mask: `(B, C')` or `(B, C', *space)` bool, True where the label does not count, or None.
        parameters: `(B, P)` float32 numbers of the equation (such as a step size or a viscosity), or None.
        source: `(B,)` int64, which data set of the mixture.
        trajectory: `(B,)` int64, its row there.
        snapshots: `(B, 1 + K)` int64, the snapshot of the last input frame and of every label.
    """

    inputs: Tensor
    targets: Tensor
    time: Tensor
    mask: Tensor | None
    parameters: Tensor | None
    source: Tensor
    trajectory: Tensor
    snapshots: Tensor


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """One data set of a mixture.

    Attributes:
        name: Of the data set.
        mean: Of each input channel, physical.
        std: Standard deviations of the same.
        out_mean: Of each label channel.
        out_std: Standard deviations of the same.
        times: Of its snapshots.
        coordinates: Axis (x, y, z) to its first position, its last and the number of points.
        axes: Names of the axes; `time` alone for a driven system's series.
        units: Channel to unit, "1" where dimensionless or unknown.
        periodic: Whether the domain is.
        time_constant: Snapshots that make a lead time of 1.
        step: Snapshots of one step of a rollout.
        reach: Longest lead that a call is trained with, in snapshots; 0 where there is none.
        interest: Label channels of the reported error; empty stands for all.
        masked: Label channels that count nowhere.
        stored: Input channel to the field of the file that fills it.
        fills: Channel to the number, or the word, that it is filled with where no field does.
        parameters: The equation's numbers that the files give.
        path: The file or folder.
        gamma: Ratio of specific heats, where all test trajectories have the same.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    out_mean: tuple[float, ...]
    out_std: tuple[float, ...]
    times: tuple[float, ...]
    coordinates: Mapping[str, tuple[float, float, int]]
    axes: tuple[str, ...] = ("x", "y", "z")
    units: Mapping[str, str] = field(default_factory=dict)
    periodic: bool = False
    time_constant: float = 1.0
    step: int = 1
    reach: float = 0.0
    interest: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    stored: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, float | str] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    path: str = ""
    gamma: float | None = None

    @property
    def is_series(self) -> bool:
        """Whether the only axis is time."""
        return self.axes == ("time",)

    @property
    def spacing(self) -> float:
        """Physical time between two snapshots; 1 for steady problems."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0


@dataclass(frozen=True, kw_only=True)
class FieldFacts(Facts):
    """What a checkpoint must know of fields to predict alone.

    Attributes:
        inputs: Channels of the network's input.
        outputs: Channels of the labels.
        frames: Input frames.
        windows: `pairs`, `history` or `steady`.
        space: Grid points along each axis.
        groups: Starts of the groups of labels, then their number; an error is taken over a group.
        group_names: Of each group.
        datasets: Of the mixture.
        periodic: Whether the domains of all of them are.
        parameters: The equation's numbers that batches carry.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    frames: int
    windows: str
    space: tuple[int, ...]
    groups: tuple[int, ...]
    group_names: tuple[str, ...]
    datasets: tuple[DatasetFacts, ...]
    periodic: bool = False
    parameters: tuple[str, ...] = ()


def check_grid(network: Any, space: Sequence[int], advice: str) -> None:
    """Refuse a grid that a network with a fixed `resolution`, or a fixed number of `axes`, does not take.

    Raises:
        UserError: Naming both, with the advice.
    """
    here = " x ".join(map(str, space))
    axes, fixed = getattr(network, "axes", len(space)), getattr(network, "resolution", None)
    if axes != len(space):
        raise UserError(
            f"the network works on {axes} axes of space and the data has {len(space)} ({here}); give one "
            f"that works on {len(space)}"
        )
    wanted = [fixed] * len(space) if isinstance(fixed, int) else fixed
    if wanted is not None and list(wanted) != list(space):
        raise UserError(
            f"the network works on a grid of {' x '.join(map(str, wanted))} and the data has {here}; {advice}"
        )
