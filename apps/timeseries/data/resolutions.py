"""Diverse-resolution sampling: coarser copies of a series train too (TTM, arXiv 2401.03955, section 3.1)."""

from __future__ import annotations

import numpy as np

from core.errors import UserError, did_you_mean

__all__ = ["HOW", "downsample"]

HOW = ("average", "decimate")


def downsample(values: np.ndarray, factor: int, how: str = "average") -> np.ndarray:
    """Return one channel at a resolution coarser by `factor`, `(T // factor,)`; the oldest odd rows drop.

    Args:
        values: `(T,)` float64, NaN where nothing was measured.
        factor: Rows that become one, at least 2.
        how: `"average"` takes the mean of what was measured in a block, `"decimate"` its last value.
    """
    if factor < 2:
        raise UserError(
            f"resolutions holds {factor}; each must be a whole number of at least 2 (rows made one)"
        )
    if how not in HOW:
        raise UserError(
            f"resolution_how is '{how}', but must be one of {', '.join(HOW)}{did_you_mean(how, HOW)}"
        )
    blocks = values[len(values) % factor :].reshape(-1, factor)
    if how == "decimate":
        return blocks[:, -1].copy()
    observed = ~np.isnan(blocks)
    count = observed.sum(axis=1)
    total = np.where(observed, blocks, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(blocks), np.nan), where=count > 0)
