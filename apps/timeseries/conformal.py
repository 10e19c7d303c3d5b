"""Prediction intervals for point forecasters by split conformal prediction (Vovk et al. 2005; Lei et al.
2018).

Residuals `truth - forecast` on windows that training never saw give, for each step of the horizon and each
channel, the offsets to add to a new point forecast. All is in the externally scaled units of a series (its
own mean 0, scale 1), so that offsets learnt on one series serve another of any magnitude. Kept as plain
tensors, inside the normaliser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["GRID", "Conformal", "Residuals", "conformal_quantiles", "context_conformal"]

#: Probability levels whose offsets are stored: 0.005, 0.010, …, 0.995.
GRID = tuple(round(0.005 * i, 3) for i in range(1, 200))


@dataclass(frozen=True)
class Conformal:
    """Offsets of the quantiles from a point forecast, in scaled units.

    Args:
        offsets: `(len(GRID), H, C)` float32, ascending along the first axis; with `symmetric` the middle
            one is 0.
        windows: Windows that stand behind every offset (the fewest, where values were missing).
        channels: Names of the C channels, or `("*",)` where one set of offsets serves any channel.
        source: What the residuals come from, as the output says it: `validation`, `context backtest`, ….
        symmetric: Whether the offsets were made from absolute residuals.
    """

    offsets: Tensor
    windows: int
    channels: tuple[str, ...]
    source: str
    symmetric: bool = False

    @classmethod
    def from_residuals(
        cls,
        residuals: Tensor,
        *,
        channels: Sequence[str] | None = None,
        source: str = "validation",
        symmetric: bool = False,
    ) -> Conformal:
        """Make offsets from residuals `(N, H, C)`, NaN where the truth is missing.

        Without `channels` the residuals of all channels are pooled.

        Raises:
            ValueError: If there is no residual at all, or the channels' number differs.
        """
        if residuals.ndim != 3 or not bool(torch.isfinite(residuals).any()):
            raise ValueError(
                f"conformal offsets need residuals (N, H, C); found shape {tuple(residuals.shape)}"
            )
        if channels is None:
            residuals = residuals.transpose(1, 2).reshape(-1, residuals.shape[1], 1)  # N H C -> N*C H 1
        elif len(channels) != residuals.shape[2]:
            raise ValueError(f"{len(channels)} channel names for {residuals.shape[2]} channels of residuals")
        offsets = conformal_quantiles(residuals, GRID, symmetric=symmetric)
        fewest = int(torch.isfinite(residuals).sum(0).min())
        return cls(offsets.float(), fewest, tuple(channels or ("*",)), source, symmetric)

    def at(self, levels: Sequence[float], *, horizon: int, channels: Sequence[str]) -> Tensor:
        """Return offsets `(len(levels), horizon, len(channels))`.

        A level between two of the grid takes the wider one. A channel that is not known takes the mean
        offsets of all that are. Beyond the stored horizon the last step's offsets grow with the square root
        of the step, as errors of a random walk do; `described` says so.
        """
        rows = self.offsets[[_grid_row(level) for level in levels]]
        columns = [
            rows[:, :, self.channels.index(name)] if name in self.channels else rows.mean(2)
            for name in channels
        ]
        out = torch.stack(columns, 2)
        stored = out.shape[1]
        if horizon <= stored:
            return out[:, :horizon]
        growth = (torch.arange(stored + 1, horizon + 1) / stored).sqrt()
        return torch.cat([out, out[:, -1:] * growth[None, :, None]], 1)

    def described(self, horizon: int) -> str:
        """Return the source in words, with the note that steps beyond the stored horizon are
        extrapolated.
        """
        stored = self.offsets.shape[1]
        return self.source if horizon <= stored else f"{self.source}, extrapolated beyond step {stored}"

    def state(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        return {
            "offsets": self.offsets,
            "windows": self.windows,
            "channels": list(self.channels),
            "source": self.source,
            "symmetric": self.symmetric,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Conformal:
        """Undo `state`."""
        return cls(
            offsets=torch.as_tensor(state["offsets"]),
            windows=int(state["windows"]),
            channels=tuple(state["channels"]),
            source=str(state["source"]),
            symmetric=bool(state["symmetric"]),
        )

    def renamed(self, source: str) -> Conformal:
        """Return the same offsets under another source."""
        return replace(self, source=source)


class Residuals:
    """Collects residuals of an evaluation batch by batch, thinned evenly so that memory stays bounded.

    Every `stride`-th window is kept; when `limit` values are exceeded, every second kept window is dropped
    and the stride
    doubles: the result depends on the order of the windows, which an evaluation fixes, and on nothing else.

    Args:
        limit: Values kept at most (windows times steps times channels).
    """

    def __init__(self, *, limit: int = 8_000_000) -> None:
        self.limit = limit
        self._kept: list[Tensor] = []
        self._stride = 1
        self._seen = 0

    def update(self, prediction: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Add a batch `(B, H, C)` in scaled units; targets that are NaN or not `observed` count as
        missing.
        """
        residual = (target - prediction).detach()
        if observed is not None:
            residual = residual.masked_fill(~observed.bool(), math.nan)
        index = torch.arange(self._seen, self._seen + len(residual), device=residual.device)
        self._seen += len(residual)
        part = residual[index % self._stride == 0].float().cpu()
        if len(part):
            self._kept.append(part)
        while sum(part.numel() for part in self._kept) > self.limit and sum(map(len, self._kept)) > 1:
            self._kept = [torch.cat(self._kept)[::2]]
            self._stride *= 2

    def reset(self) -> None:
        """Forget everything."""
        self._kept, self._stride, self._seen = [], 1, 0

    def __len__(self) -> int:
        return self._seen

    def tensor(self) -> Tensor:
        """Return the kept residuals `(N, H, C)`.

        Raises:
            ValueError: If nothing was collected.
        """
        if not self._kept:
            raise ValueError("no residual was collected")
        return torch.cat(self._kept)

    def conformal(
        self, *, channels: Sequence[str] | None = None, source: str = "validation", symmetric: bool = False
    ) -> Conformal:
        """Return the offsets that the collected residuals give. Channels beyond 64 are pooled, to keep it
        small.
        """
        named = channels if channels is not None and len(channels) <= 64 else None
        return Conformal.from_residuals(self.tensor(), channels=named, source=source, symmetric=symmetric)


def conformal_quantiles(residuals: Tensor, levels: Sequence[float], *, symmetric: bool = False) -> Tensor:
    """Return the offsets `(len(levels), *rest)` of residuals `(N, *rest)`, with the finite-sample
    correction.

    Of n residuals the offset of a level q above one half is the ⌈(n + 1) q⌉-th smallest, below one half the
    ⌊(n + 1) q⌋-th, both kept within 1 … n: a new exchangeable residual lies below the former with
    probability at least q, below the latter at most q, wherever n ≥ max(q, 1-q) / min(q, 1-q). One half is
    the median. `symmetric` takes the ⌈(n + 1) |2q - 1|⌉-th smallest absolute residual with the sign of q -
    1/2. NaN is left out, position by position; where no residual is left the offset is 0.
    """
    values = residuals.abs() if symmetric else residuals
    ordered = values.sort(0).values  # NaN is sorted to the end
    count = torch.isfinite(residuals).sum(0)
    rows = []
    for level in levels:
        share = abs(2 * level - 1) if symmetric else level
        # a tolerance below any real level spacing keeps 0.9 * 10 = 9.000000000000002 at 9
        exact = (count + 1).double() * share
        upper, lower = (exact - 1e-9).ceil(), (exact + 1e-9).floor()
        if symmetric or level > 0.5:
            picks = (upper,)
        elif level < 0.5:
            picks = (lower,)
        else:
            picks = (upper, lower)
        found = [
            ordered.gather(0, (pick.long() - 1).clamp(min=0).minimum((count - 1).clamp(min=0))[None])[0]
            for pick in picks
        ]
        offset = torch.stack(found).mean(0)
        if symmetric:
            offset = offset * (0.0 if level == 0.5 else math.copysign(1.0, level - 0.5))
        rows.append(torch.where(count > 0, offset, torch.zeros_like(offset)))
    return torch.stack(rows)


def context_conformal(
    history: np.ndarray,
    predict: Callable[[list[int], int], np.ndarray],
    *,
    horizon: int,
    context: int,
    season: int = 1,
    channels: Sequence[str],
    windows: int = 20,
) -> Conformal | None:
    """Return offsets from a series' own history, for a forecaster without validation residuals.

    The model is run from up to `windows` earlier ends of the history, each with at least half of the
    context before it. Where fewer than 8 such windows fit, the differences between values one season apart
    stand in: those of step h are the differences times the root of the seasons that h spans, as for a
    seasonal naive forecast.

    Args:
        history: `(T, C)` in scaled units, NaN where missing.
        predict: Takes ends (rows before the first forecast step) and a number of steps; returns `(N, steps,
            C)`.
        horizon: Steps of the forecast that is to come.
        context: Steps the model looks at.
        season: Steps per season.
        channels: Names of the C channels.
        windows: Most ends to forecast from.

    Returns:
        None where the history is too short for either.
    """
    rows = len(history)
    first = max(8, min(context, rows // 2))
    steps = min(horizon, max((rows - first) // 4, 1))
    ends = list(range(rows - steps, first - 1, -max(1, min(steps // 2, (rows - steps - first) // windows))))[
        :windows
    ]
    if len(ends) >= 8:
        truth = np.stack([history[end : end + steps] for end in ends])
        residuals = torch.from_numpy(truth - predict(ends, steps))
        if bool(torch.isfinite(residuals).any()):
            source = f"backtest of the model on {len(ends)} windows of the history"
            return Conformal.from_residuals(residuals, channels=channels, source=source)
    lag = season if rows >= season + 8 else 1
    differences = history[lag:] - history[:-lag] if rows > lag else history[:0]
    if np.isfinite(differences).sum() < 8:
        return None
    spanned = np.ceil(np.arange(1, horizon + 1) / lag)
    residuals = torch.from_numpy(differences[:, None, :] * np.sqrt(spanned)[None, :, None])
    return Conformal.from_residuals(
        residuals, channels=channels, source="seasonal differences of the history"
    )


def _grid_row(level: float) -> int:
    """Return the row of the grid for a level: the same, or the next one further from one half."""
    if not 0 < level < 1:
        raise ValueError(f"a quantile level must lie between 0 and 1; found {level}")
    position = level / 0.005 - 1
    row = math.ceil(position - 1e-6) if level > 0.5 else math.floor(position + 1e-6)
    return min(max(row, 0), len(GRID) - 1)
