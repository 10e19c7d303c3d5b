"""The batch every operator network is fed with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.data.batch import Batch

__all__ = ["FieldBatch"]


@dataclass(frozen=True, eq=False)
class FieldBatch(Batch):
    """Frames of normalised fields on a regular grid; T frames in, K frames as labels, `space` one to three
    axes.

    Values are in the units of the data set's normalisation (dimensionless); `facts["datasets"][source]` of
    the data module holds what turns them into physical ones.

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
