"""What our finite-volume solvers share: ghost cells, limited slopes, and a march in which every sample takes
steps of its own length.

Internal layout: `(V, B, *space)`, so that one variable of a batch is one contiguous block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from core.errors import UserError, did_you_mean

__all__ = [
    "BOUNDARIES",
    "GHOSTS",
    "LIMITERS",
    "block_mean",
    "boundaries",
    "centres",
    "check_grid",
    "chunks",
    "fill",
    "half_slope",
    "march",
    "sides",
]

BOUNDARIES = ("periodic", "outflow", "reflecting")
GHOSTS = 2
"""Cells beyond every end of an axis."""

LIMITERS = ("minmod", "mc", "van_leer")

Boundary = str | Sequence[str | Sequence[str]]


def boundaries(kinds: Boundary, space: int) -> tuple[tuple[str, str], ...]:
    """Return `(low, high)` boundary kinds for each of `space` axes.

    Args:
        kinds: One kind for all sides, or one entry an axis, each a kind or a pair `(low, high)`.
        space: Number of space axes.

    Raises:
        UserError: If a kind is unknown, the number of axes is wrong, or one side alone is periodic.
    """
    entries = [kinds] * space if isinstance(kinds, str) else list(kinds)
    if len(entries) != space:
        raise UserError(
            f"boundaries are given for {len(entries)} axes, the grid has {space}: give one entry an axis"
        )
    pairs = [(entry, entry) if isinstance(entry, str) else tuple(entry) for entry in entries]
    for pair in pairs:
        for kind in pair:
            if kind not in BOUNDARIES:
                raise UserError(
                    f"there is no boundary '{kind}'{did_you_mean(kind, BOUNDARIES)}: "
                    f"use {', '.join(BOUNDARIES)}"
                )
        if len(pair) != 2 or pair.count("periodic") == 1:
            raise UserError(
                f"the boundary {pair} is not possible: give (low, high), and periodic for both or none"
            )
    return tuple((low, high) for low, high in pairs)


def fill(padded: Tensor, *, axis: int, kinds: tuple[str, str], odd: int | None = None) -> None:
    """Write the ghost cells of one axis of `padded (V, B, *space)` in place.

    Args:
        padded: Cells with `GHOSTS` more on both ends of every space axis.
        axis: Space axis, from 0.
        kinds: Boundary of the low and the high side.
        odd: Variable that changes its sign in a mirror, the velocity along the axis.
    """
    dim = axis + 2
    inner = padded.shape[dim] - 2 * GHOSTS
    for side, kind in enumerate(kinds):
        start = 0 if side == 0 else GHOSTS + inner
        target = padded.narrow(dim, start, GHOSTS)
        if kind == "periodic":
            target.copy_(padded.narrow(dim, inner if side == 0 else GHOSTS, GHOSTS))
        elif kind == "outflow":
            target.copy_(padded.narrow(dim, GHOSTS if side == 0 else GHOSTS + inner - 1, 1).expand_as(target))
        else:
            target.copy_(padded.narrow(dim, GHOSTS if side == 0 else inner, GHOSTS).flip(dim))
            if odd is not None:
                target[odd].neg_()


def half_slope(before: Tensor, after: Tensor, limiter: str) -> Tensor:
    """Return half of the limited slope, in units of the cell, of two neighbouring differences.

    Cell value plus or minus the result stays between the neighbours' values, so what is positive stays so.
    """
    if limiter == "van_leer":
        product = torch.mul(before, after).clamp_(min=0)
        total = torch.add(before, after)
        return product.div_(total.masked_fill_(total == 0, 1))
    rise = torch.minimum(before, after).clamp_(min=0)
    fall = torch.maximum(before, after).clamp_(max=0)
    if limiter == "minmod":
        return rise.add_(fall).mul_(0.5)
    if limiter == "mc":
        return torch.add(before, after).mul_(0.25).clamp_(min=fall, max=rise)
    raise UserError(
        f"there is no limiter '{limiter}'{did_you_mean(limiter, LIMITERS)}: use {', '.join(LIMITERS)}"
    )


def sides(padded: Tensor, *, axis: int, space: int, limiter: str) -> tuple[Tensor, Tensor]:
    """Return limited linear values `(V, B, *faces)` left and right of the faces across `axis`.

    `padded (V, B, *space)` has `GHOSTS` more cells on both ends of every axis; those of others are cut. No
    `limiter` leaves the cells' own values.
    """
    band = padded
    for other in range(space):
        if other != axis:
            band = band.narrow(other + 2, GHOSTS, padded.shape[other + 2] - 2 * GHOSTS)
    dim, faces = axis + 2, band.shape[axis + 2] - 2 * GHOSTS + 1
    left, right = band.narrow(dim, 1, faces), band.narrow(dim, 2, faces)
    if not limiter:
        return left, right
    rise = band.diff(dim=dim)
    half = half_slope(rise.narrow(dim, 0, faces + 1), rise.narrow(dim, 1, faces + 1), limiter)
    return left + half.narrow(dim, 0, faces), right - half.narrow(dim, 1, faces)


def centres(cells: int, extent: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return the float64 centres `(cells,)` of equal cells that tile `extent`."""
    low, high = extent
    return low + (high - low) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells


def block_mean(values: Tensor, factor: int, space: int) -> Tensor:
    """Average blocks of `factor` cells along each of the last `space` axes."""
    if factor == 1:
        return values
    *lead, size = values.shape[: values.dim() - space], values.shape[values.dim() - space :]
    split = values.reshape(*lead[0], *(part for n in size for part in (n // factor, factor)))
    return split.mean(dim=[-1 - 2 * i for i in range(space)])


def chunks(samples: int, cells: int, device: torch.device) -> list[slice]:
    """Cut a batch so that a processor's cache, or a device's memory, holds what a step touches."""
    at_once = max(1, (2**16 if device.type == "cpu" else 2**24) // cells)
    return [slice(start, start + at_once) for start in range(0, samples, at_once)]


def march(
    state: Tensor,
    *,
    times: Tensor,
    limit: Callable[[Tensor], Tensor],
    step: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    keep: Callable[[Tensor], Tensor],
) -> Tensor:
    """Carry every sample from time 0 through `times` with steps of its own; return the kept frames.

    A sample whose step fails is tried again with half of the length. Samples that have arrived leave the
    batch.

    Args:
        state: `(V, B, *space)` at time 0.
        times: Increasing float64 times `(T,)` of the frames, the first at least 0.
        limit: State to the longest stable step `(B,)` of every sample.
        step: State, step lengths `(B,)` and the samples' numbers `(B,)` to the next state and whether it is
            valid `(B,)`.
        keep: State to a frame `(B, C, *space)`.

    Returns:
        Frames `(B, T, C, *space)`.

    Raises:
        FloatingPointError: If a sample fails with steps of a millionth of the stable length.
    """
    goals = times.to("cpu", torch.float64)
    samples = torch.arange(state.shape[1])
    now = torch.zeros(len(samples), dtype=torch.float64)
    frame = torch.zeros(len(samples), dtype=torch.long)
    shorter = torch.ones(len(samples), dtype=torch.float64)
    first = keep(state)
    frames = first.new_empty(first.shape[0], len(goals), *first.shape[1:])
    if goals[0] == 0:
        frames[:, 0] = first
        frame += 1
    if len(goals) == int(frame[0]):
        return frames
    while len(samples):
        left = goals[frame] - now
        # Equal steps up to the frame: no sliver of a step remains in front of it.
        count = (left / (limit(state).to("cpu", torch.float64) * shorter) - 1e-9).ceil().clamp(min=1)
        length = left / count
        following, valid = step(state, length.to(state), samples.to(state.device))
        passed = valid.cpu() & count.isfinite()
        if bool(passed.all()):
            state = following
            shorter = torch.ones_like(shorter)
        else:
            state = torch.where(passed.to(state.device).view(-1, *(1,) * (state.dim() - 2)), following, state)
            shorter = torch.where(passed, 1.0, shorter / 2)
            if float(shorter.min()) < 1e-6 or not bool(count.isfinite().all()):
                broken = samples[~passed][0]
                raise FloatingPointError(
                    f"sample {int(broken)} has no valid step after time {now[~passed][0]:.6g}"
                )
        arrived = passed & (count == 1)
        now = torch.where(arrived, goals[frame], now + torch.where(passed, length, 0.0))
        if bool(arrived.any()):
            at = arrived.nonzero()[:, 0]
            frames[samples[at].to(frames.device), frame[at].to(frames.device)] = keep(
                state[:, at.to(state.device)]
            )
            frame[at] += 1
            going = (frame < len(goals)).nonzero()[:, 0]
            if len(going) < len(samples):
                state = state[:, going.to(state.device)]
                samples, now, frame, shorter = samples[going], now[going], frame[going], shorter[going]
    return frames


def check_grid(shape: Sequence[int], *, least: int = 4, average: int = 1) -> None:
    """Refuse a grid with an axis shorter than `least`, or that blocks of `average` cells do not tile.

    Raises:
        UserError: Then.
    """
    if not shape or min(shape) < least or not prod(shape):
        raise UserError(f"a grid of {tuple(shape)} cells is too small: every axis needs at least {least}")
    if any(size % average for size in shape):
        raise UserError(f"blocks of {average} cells do not tile a grid of {tuple(shape)} cells")
