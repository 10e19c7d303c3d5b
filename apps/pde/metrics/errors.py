"""Errors of predicted fields, as the field defines them, and what a scaling curve says.

All take `prediction` and `target` of the shape `(B, T, C, *space)`: B samples, T frames, C channels, one to
three grid axes, x first. Unless it is said otherwise they return `(B, T, C)`, one number per sample, frame
and channel; means over the batch are the caller's. Spectra and conserved quantities stand in `physics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "boundary_rmse",
    "crmse",
    "fourier_rmse",
    "headline",
    "max_error",
    "nrmse",
    "relative_h1",
    "relative_l1",
    "relative_l2",
    "rmse",
    "scaled_l2",
    "vrmse",
]

WELL_EPS, GPHYT_EPS = 1e-7, 1e-6
FOURIER_BANDS = (4, 12)  # where PDEBench's middle and high band begin


def relative_l1(prediction: Tensor, target: Tensor, groups: Sequence[int] | None = None) -> Tensor:
    """Return `100 * sum |x - y| / sum |y|` in percent, per channel group (Poseidon, arXiv 2405.19101).

    Sums are over the group's channels and the grid; a sum of zero becomes 1e-10. Published numbers are of
    normalised fields.

    Args:
        prediction: `(B, T, C, *space)`.
        target: The same.
        groups: Starts of the channel groups and, last, C; None makes every channel a group.

    Returns:
        `(B, T, G)`.
    """
    _check(prediction, target)
    bounds = list(range(target.shape[2] + 1)) if groups is None else list(groups)
    error, size = (prediction - target).abs().flatten(3).sum(-1), target.abs().flatten(3).sum(-1)  # B T C
    parts = [(error[:, :, a:b].sum(-1), size[:, :, a:b].sum(-1)) for a, b in pairwise(bounds)]
    return torch.stack([100 * e / torch.where(s == 0, 1e-10, s) for e, s in parts], dim=-1)


def headline(errors: Tensor, *, statistic: Literal["median", "mean"] = "median") -> Tensor:
    """Return one number of `relative_l1`: the median (or mean) over samples, averaged over groups.

    Args:
        errors: `(N, G)`, one frame of all test samples and the groups of interest.
        statistic: The published headline is the median.
    """
    over = errors.quantile(0.5, dim=0) if statistic == "median" else errors.mean(0)
    return over.mean()


def scaled_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `||x - y||_2 / ||y||_2`, norms over the grid (SineNet, arXiv 2403.19507)."""
    _check(prediction, target)
    return _norm(prediction - target) / _norm(target)


def relative_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `||x - y||_2 / (||y||_2 + 1e-8)`, norms over the grid (FNO, arXiv 2010.08895)."""
    _check(prediction, target)
    return _norm(prediction - target) / (_norm(target) + 1e-8)


def relative_h1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `relative_l2` in the norm `||y||^2 + sum_i ||d_i y||^2` (FNO, arXiv 2010.08895).

    Derivatives are periodic central differences on axes of length 1.
    """
    _check(prediction, target)
    return _sobolev(prediction - target) / (_sobolev(target) + 1e-8)


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `sqrt(mean (x - y)^2)` over the grid (PDEBench, arXiv 2210.07182)."""
    _check(prediction, target)
    return (prediction - target).square().flatten(3).mean(-1).sqrt()


def nrmse(prediction: Tensor, target: Tensor, *, eps: float = 0.0, pooled: bool = False) -> Tensor:
    """Return `sqrt(mean (x - y)^2 / (mean y^2 + eps))`.

    PDEBench has no `eps`; GPhyT (arXiv 2509.13805) has 1e-6 and pools frames.

    Args:
        prediction: `(B, T, C, *space)`.
        target: The same.
        eps: Added to the label's mean square.
        pooled: Whether means are over frames too.

    Returns:
        `(B, T, C)`, or `(B, C)` where frames are pooled.
    """
    error, label = _points(prediction, target, pooled)
    return (error.square().mean(-1) / (label.square().mean(-1) + eps)).sqrt()


def vrmse(prediction: Tensor, target: Tensor, *, eps: float = WELL_EPS, pooled: bool = False) -> Tensor:
    """Return `sqrt(mean (x - y)^2 / (std(y)^2 + eps))` with the unbiased deviation: 1 is the label's mean.

    The Well (arXiv 2412.00568) has `eps` 1e-7 and takes every frame by itself; GPhyT (arXiv 2509.13805) has
    1e-6 and pools frames.

    Args:
        prediction: `(B, T, C, *space)`.
        target: The same.
        eps: Added to the label's variance.
        pooled: Whether mean and deviation are over frames too.

    Returns:
        `(B, T, C)`, or `(B, C)` where frames are pooled.
    """
    error, label = _points(prediction, target, pooled)
    return (error.square().mean(-1) / (label.var(-1, correction=1) + eps)).sqrt()


def crmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the error of the total, `(T, C)`: rms over the batch of `(sum x - sum y) / points`.

    PDEBench, arXiv 2210.07182.
    """
    _check(prediction, target)
    return (prediction - target).flatten(3).mean(-1).square().mean(0).sqrt()


def max_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `max |x - y|` over the grid; PDEBench (arXiv 2210.07182) takes the largest of the batch."""
    _check(prediction, target)
    return (prediction - target).abs().flatten(3).amax(-1)


def boundary_rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `rmse` over the grid's outermost points, first and last face of every axis, each face by itself.

    A corner counts once for every face that it is on (PDEBench, arXiv 2210.07182).
    """
    _check(prediction, target)
    square = (prediction - target).square()
    ends = [square.select(axis, end) for axis in range(3, square.ndim) for end in (0, -1)]
    faces = [end.reshape(*square.shape[:3], -1) for end in ends]  # of one axis a face is a point
    return torch.cat(faces, dim=-1).mean(-1).sqrt()


def fourier_rmse(prediction: Tensor, target: Tensor, *, length: float = 1.0) -> Tensor:
    """Return the error in three bands of wavenumbers, 0-3, 4-11 and 12 up (PDEBench, arXiv 2210.07182).

    The squared errors of Fourier coefficients of non-negative wavenumbers are summed by `floor |k|`, averaged
    over the batch, rooted, divided by the number of points and multiplied by the domain's volume; a band is
    the mean of its wavenumbers, those up to half the points of the shorter axis. A grid too coarse for a band
    gives NaN there.

    Args:
        prediction: `(B, T, C, *space)`.
        target: The same.
        length: Of every axis.

    Returns:
        `(3, T, C)`.
    """
    _check(prediction, target)
    space = target.shape[3:]
    axes = tuple(range(3, target.ndim))
    error = torch.fft.fftn(prediction - target, dim=axes).abs().square()
    for axis, n in zip(axes, space, strict=True):
        error = error.narrow(axis, 0, n // 2)
    places = torch.meshgrid(*(torch.arange(n // 2, device=error.device) for n in space), indexing="ij")
    # Squares of integers are exact in double precision, so a perfect square has its exact root.
    shell = torch.stack(places).double().square().sum(0).sqrt().floor().long().flatten()
    count = min(space) // 2
    kept = shell < count
    sums = error.new_zeros(*error.shape[:3], count)
    sums.index_add_(3, shell[kept], error.flatten(3)[..., kept])
    by_shell = sums.mean(0).sqrt() * (length ** len(space) / math.prod(space))  # T C K
    low, high = FOURIER_BANDS
    return torch.stack(
        [by_shell[..., :low].mean(-1), by_shell[..., low:high].mean(-1), by_shell[..., high:].mean(-1)]
    )


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape or target.ndim < 4:
        raise ValueError(
            f"the prediction is {tuple(prediction.shape)} and the label {tuple(target.shape)}; both must be "
            "(B, T, C, *space)"
        )


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(3), dim=-1)


def _sobolev(x: Tensor) -> Tensor:
    total = x.square().flatten(3).sum(-1)
    for axis in range(3, x.ndim):
        slope = (x.roll(-1, axis) - x.roll(1, axis)) * (x.shape[axis] / 2)
        total = total + slope.square().flatten(3).sum(-1)
    return total.sqrt()


def _points(prediction: Tensor, target: Tensor, pooled: bool) -> tuple[Tensor, Tensor]:
    """Return error and label with all points to be averaged last."""
    _check(prediction, target)
    error, label = prediction - target, target
    if pooled:
        return error.transpose(1, 2).flatten(2), label.transpose(1, 2).flatten(2)
    return error.flatten(3), label.flatten(3)
