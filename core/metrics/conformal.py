"""Split conformal prediction intervals for point forecasters (Vovk et al. 2005; Lei et al. 2018).

Residuals `truth - forecast` on windows that training never saw give, for each step of the horizon and each
channel, the offsets to add to a new point forecast. Those that must serve other series are in units of each
window's own spread (locally weighted, Lei et al. 2018, section 5.2), so that a series of any magnitude, and
one whose history says nothing of its present, gets bands of its own size. Kept as plain tensors, inside the
facts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["GRID", "Conformal", "ContextWindows", "Residuals", "conformal_quantiles", "context_conformal"]

#: Probability levels whose offsets are stored: 0.005, 0.010, …, 0.995.
GRID = tuple(round(0.005 * i, 3) for i in range(1, 200))


@dataclass(frozen=True)
class Conformal:
    """Offsets of the quantiles from a point forecast, in scaled units.

    Args:
        offsets: `(len(levels), H, C)` float32, ascending along the first axis; with `symmetric` the middle
            one is 0.
        windows: Windows that stand behind every offset (the fewest, where values were missing).
        channels: Names of the C channels, or `("*",)` where one set of offsets serves any channel.
        source: What the residuals come from, as the output says it: `validation`, `context backtest`, ….
        symmetric: Whether the offsets were made from absolute residuals.
        levels: Probability levels of the offsets, ascending.
        by_window: Whether each is to be multiplied by the spread of the window that is forecast from.
    """

    offsets: Tensor
    windows: int
    channels: tuple[str, ...]
    source: str
    symmetric: bool = False
    levels: tuple[float, ...] = GRID
    by_window: bool = False

    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}

    @classmethod
    def from_residuals(
        cls,
        residuals: Tensor,
        *,
        channels: Sequence[str] | None = None,
        source: str = "validation",
        symmetric: bool = False,
        levels: Sequence[float] = GRID,
        by_window: bool = False,
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
        offsets = conformal_quantiles(residuals, levels, symmetric=symmetric)
        fewest = int(torch.isfinite(residuals).sum(0).min())
        names = tuple(channels or ("*",))
        return cls(offsets.float(), fewest, names, source, symmetric, tuple(levels), by_window)

    def at(self, levels: Sequence[float], *, horizon: int, channels: Sequence[str]) -> Tensor:
        """Return offsets `(len(levels), horizon, len(channels))`.

        A level between two of the grid takes the wider one. A channel that is not known takes the mean
        offsets of all that are. Beyond the stored horizon the last step's offsets grow with the square root
        of the step, as errors of a random walk do; `described` says so.
        """
        rows = self.offsets[[self._row(level) for level in levels]]
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

    def described(self, horizon: int, levels: Sequence[float] = ()) -> str:
        """Return the source in words, saying so where steps or levels lie beyond what the residuals tell."""
        stored, words = self.offsets.shape[1], self.source
        least = max(self.levels[0], 1 / (self.windows + 1))  # so many residuals say nothing further out
        if any(min(level, 1 - level) < least - 1e-9 for level in levels):
            words += f", levels below {least:.3g} and above {1 - least:.3g} as these"
        return words if horizon <= stored else f"{words}, extrapolated beyond step {stored}"

    def _row(self, level: float) -> int:
        """Return the row of a level: its own, else the next one outwards, else the outermost."""
        if not 0 < level < 1:
            raise ValueError(f"a quantile level must lie between 0 and 1; found {level}")
        if level > 0.5:
            return next((i for i, own in enumerate(self.levels) if own >= level - 1e-9), len(self.levels) - 1)
        return next((i for i in reversed(range(len(self.levels))) if self.levels[i] <= level + 1e-9), 0)


class Residuals:
    """Collects residuals of an evaluation batch by batch, thinned evenly so that memory stays bounded.

    Every `stride`-th window is kept; when `limit` values (windows times steps times channels) are exceeded,
    every second kept window is dropped and the stride doubles: the result depends on the order of the
    windows, which an evaluation fixes, and on nothing else.
    """

    def __init__(self, *, limit: int = 8_000_000) -> None:
        self.limit = limit
        self._kept: list[Tensor] = []
        self._stride = 1
        self._seen = 0

    def update(self, prediction: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Add a batch `(B, H, C)` in scaled units; targets NaN or not `observed` count as missing."""
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

    def conformal(self, *, channels: Sequence[str] | None = None, by_window: bool = False) -> Conformal:
        """Return the offsets of the collected residuals; more than 64 channels are pooled, to stay small."""
        named = channels if channels is not None and len(channels) <= 64 else None
        return Conformal.from_residuals(self.tensor(), channels=named, by_window=by_window)


def conformal_quantiles(residuals: Tensor, levels: Sequence[float], *, symmetric: bool = False) -> Tensor:
    """Return offsets `(len(levels), *rest)` of residuals `(N, *rest)`, corrected for a finite sample.

    Of n residuals the offset of a level q above one half is the ⌈(n + 1) q⌉-th smallest, below one half the
    ⌊(n + 1) q⌋-th, both kept within 1 … n: a new exchangeable residual lies below the former with
    probability at least q, below the latter at most q, wherever n ≥ max(q, 1-q) / min(q, 1-q). One half is
    the median. `symmetric` takes the ⌈(n + 1) |2q - 1|⌉-th smallest absolute residual with the sign of q -
    1/2. NaN is left out, position by position; where no residual is left the offset is 0.
    """
    values = residuals.abs() if symmetric else residuals
    ordered = values.sort(0).values  # NaN is sorted to the end
    count = torch.isfinite(residuals).sum(0)[None]
    level = torch.tensor(levels, dtype=torch.float64).reshape(-1, *[1] * (residuals.ndim - 1))
    # a tolerance below any real spacing of levels keeps 0.9 * 10 = 9.000000000000002 at 9
    exact = (count + 1) * ((2 * level - 1).abs() if symmetric else level)
    upper, lower = (exact - 1e-9).ceil().long(), (exact + 1e-9).floor().long()

    def ranked(rank: Tensor) -> Tensor:
        return ordered.gather(0, (rank - 1).clamp(min=0).minimum((count - 1).clamp(min=0)))

    if symmetric:
        offsets = ranked(upper) * torch.sign(level - 0.5).to(ordered.dtype)
    else:
        above, below = ranked(upper), ranked(lower)
        offsets = torch.where(level > 0.5, above, torch.where(level < 0.5, below, (above + below) / 2))
    return torch.where(count > 0, offsets, torch.zeros_like(offsets))


@dataclass(frozen=True)
class ContextWindows:
    """Earlier ends of one history from which a model can be asked what it would have forecast.

    Args:
        ends: Rows before the first step of each window; none where the history is too short for 8 of them.
        steps: Steps of each window.
    """

    ends: list[int]
    steps: int

    @classmethod
    def of(cls, rows: int, *, horizon: int, context: int, windows: int = 20) -> ContextWindows:
        """Return up to `windows` ends with at least half of the context, or of the history, before them."""
        first = max(8, min(context, rows // 2))
        steps = min(horizon, max((rows - first) // 4, 1))
        stride = max(1, min(steps // 2, (rows - steps - first) // windows))
        ends = list(range(rows - steps, first - 1, -stride))[:windows]
        return cls(ends if len(ends) >= 8 else [], steps)


def context_conformal(
    history: np.ndarray,
    windows: ContextWindows,
    forecasts: np.ndarray | None,
    *,
    widths: np.ndarray | None = None,
    horizon: int,
    season: int = 1,
    channels: Sequence[str],
    levels: Sequence[float] = GRID,
) -> Conformal | None:
    """Return offsets from a series' own history `(T, C)`, NaN where missing, for a forecaster without
    validation residuals; None where the history is too short.

    They come from the model's forecasts `(len(windows.ends), windows.steps, C)` from earlier ends of the
    history, all in scaled units, the residuals of each end divided by its `widths` `(len(windows.ends), 1,
    C)`. Without such windows the differences between values one season apart stand in: those of step h are
    the differences times the root of the seasons that h spans, as for a seasonal naive forecast.
    """
    if windows.ends and forecasts is not None:
        truth = np.stack([history[end : end + windows.steps] for end in windows.ends])
        residuals = torch.from_numpy((truth - forecasts) / (1.0 if widths is None else widths))
        if bool(torch.isfinite(residuals).any(0).all()):
            source = f"backtest of the model on {len(windows.ends)} windows of the history"
            return Conformal.from_residuals(residuals, channels=channels, source=source, levels=levels)
    lag = season if len(history) >= season + 8 else 1
    differences = history[lag:] - history[:-lag] if len(history) > lag else history[:0]
    if np.isfinite(differences).sum() < 8:
        return None
    spanned = np.ceil(np.arange(1, horizon + 1) / lag)
    residuals = torch.from_numpy(differences[:, None, :] * np.sqrt(spanned)[None, :, None])
    source = "seasonal differences of the history"
    return Conformal.from_residuals(residuals, channels=channels, source=source, levels=levels)
