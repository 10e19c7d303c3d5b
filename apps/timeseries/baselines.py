"""Forecasts that every model has to beat, from the last value to a closed-form linear map.

Each baseline is built with the horizon, fitted on whole tables `(T, C)` in the units of the evaluation, and
predicts `past (B, L, C) -> (B, H, C)`. The naive ones learn nothing; `fit` is there all the same, so that
an evaluation treats all alike. Missing values may be NaN, or 0 with `observed` False.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.timeseries.smoothing import Constants, holt_winters, smoothing_constants

__all__ = [
    "ETS",
    "Baseline",
    "DLinear",
    "DLinearNetwork",
    "Drift",
    "RepeatLast",
    "Ridge",
    "SeasonalNaive",
    "WindowMean",
    "default_baselines",
    "fill_missing",
    "sliding_windows",
]


@dataclass
class Baseline:
    """A forecaster without pre-training; sub-classes give `predict`, and `fit` if they learn anything.

    Args:
        horizon: Steps to forecast.
    """

    horizon: int

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return _NAMES[type(self).__name__]

    #: Only this many of the last windows are worth the time; None means all.
    last_windows: int | None = field(default=None, init=False, repr=False)

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> Baseline:
        """Learn from tables `(T, C)`; validation tables begin with their context rows. Returns itself."""
        return self

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `past (B, L, C) -> (B, H, C)`, in the units and the float type of `past`.

        Args:
            past: Contexts.
            observed: `(B, L, C)` bool, False where a value is missing.
            season: `(B,)` steps per season of each window, where they differ; otherwise the baseline's own.
        """
        raise TypeError(f"{type(self).__name__} has no predict")


class RepeatLast(Baseline):
    """The last observed value, for every step."""

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        return fill_missing(past, observed)[:, -1:].expand(-1, self.horizon, -1).clone()


@dataclass
class SeasonalNaive(Baseline):
    """The last season, repeated; the last value where a season is longer than the context."""

    season: int = 1

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        past = fill_missing(past, observed)
        length = past.shape[1]
        lag = torch.full((len(past),), self.season) if season is None else season.to(torch.int64).cpu()
        lag = torch.where((lag > 0) & (lag <= length), lag, 1).to(past.device)[:, None]
        steps = length - lag + torch.arange(self.horizon, device=past.device) % lag  # B H
        return past.gather(1, steps[..., None].expand(-1, -1, past.shape[2]))


class WindowMean(Baseline):
    """The mean of what the context observed, for every step."""

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        seen = _observed(past, observed)
        total = torch.where(seen, past, 0.0).sum(1, keepdim=True)
        return (
            (total / seen.sum(1, keepdim=True).clamp(min=1))
            .to(past.dtype)
            .expand(-1, self.horizon, -1)
            .clone()
        )


class Drift(Baseline):
    """The straight line through the first and the last value of the context, continued."""

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        past = fill_missing(past, observed)
        first, last = past[:, :1], past[:, -1:]
        steps = torch.arange(1, self.horizon + 1, device=past.device, dtype=past.dtype)[None, :, None]
        return last + steps * (last - first) / max(past.shape[1] - 1, 1)


@dataclass
class ETS(Baseline):
    """Exponential smoothing with additive damped trend and additive season (Holt-Winters), by statsmodels.

    Trained on one series, the smoothing constants are estimated once per channel, on its newest `context`
    rows, and the recursion runs over all windows at once. Trained on several series or none, they are
    estimated for each window and channel, which takes some 10 ms each: evaluations ask for their last 200
    windows.

    Args:
        season: Steps per season; below 2, or with fewer than two seasons in the context, there is no
            seasonal part.
        context: Rows to estimate on.
    """

    season: int = 1
    context: int = 512
    constants: list[Constants] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.last_windows = 200

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> ETS:
        """Estimate the smoothing constants of each channel, if there is a single table."""
        self.constants = []
        if len(train) == 1:
            newest = fill_missing(train[0][None, -self.context :], None)[0].double().cpu().numpy()
            self.constants = [smoothing_constants(column, self.season) for column in newest.T]
        return self

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`; deterministic, in float64 inside."""
        values = fill_missing(past, observed).double().cpu().numpy()
        out = np.empty((len(values), self.horizon, values.shape[2]))
        shared = self.constants if len(self.constants) == values.shape[2] else None
        seasons = np.full(len(values), self.season) if season is None else season.cpu().numpy()
        for lag in np.unique(seasons):
            rows = np.flatnonzero(seasons == lag)
            for channel in range(values.shape[2]):
                if shared is not None:
                    picked = values[rows, :, channel]
                    out[rows, :, channel] = holt_winters(picked, shared[channel], int(lag), self.horizon)
                    continue
                for row in rows:
                    one = values[row : row + 1, :, channel]
                    constants = smoothing_constants(one[0], int(lag))
                    out[row, :, channel] = holt_winters(one, constants, int(lag), self.horizon)[0]
        return torch.from_numpy(out).to(past)


class DLinearNetwork(nn.Module):
    """A linear map each for moving average and rest (DLinear; Zeng et al. 2022, arXiv 2205.13504).

    Args:
        context: Input steps.
        horizon: Output steps.
        kernel: Width of the moving average, odd; the ends are padded with the edge values.
    """

    def __init__(self, context: int, horizon: int, *, kernel: int = 25) -> None:
        super().__init__()
        self.kernel = kernel
        self.seasonal = nn.Linear(context, horizon)
        self.trend = nn.Linear(context, horizon)

    def forward(self, past: Tensor) -> Tensor:
        """Map `(B, L, C)` to `(B, H, C)`."""
        x = past.transpose(1, 2)  # B L C -> B C L
        side = (self.kernel - 1) // 2
        trend = F.avg_pool1d(
            F.pad(x, (side, self.kernel - 1 - side), mode="replicate"), self.kernel, stride=1
        )
        return (self.seasonal(x - trend) + self.trend(trend)).transpose(1, 2)  # B C H -> B H C


@dataclass
class DLinear(Baseline):
    """`DLinearNetwork`, trained with Adam on the mean squared error; the epoch best on validation is kept.

    Args:
        context: Input steps.
        epochs: At most this many passes; stops after `patience` epochs without a better validation loss.
        lr: First rate; halved every epoch, as in the published runs.
        batch_size: Windows per step.
        max_steps: Upper bound of steps, for large tables.
        seed: Of initialisation and order.
    """

    context: int = 512
    epochs: int = 10
    patience: int = 3
    lr: float = 5e-3
    batch_size: int = 64
    max_steps: int = 3000
    seed: int = 0
    network: DLinearNetwork | None = field(default=None, init=False, repr=False)

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> DLinear:
        """Train on every window of the tables without a missing value.

        Raises:
            ValueError: If no table holds a whole window.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = DLinearNetwork(self.context, self.horizon)
        generator = torch.Generator().manual_seed(self.seed)
        views = _window_views(train, self.context + self.horizon)
        starts = torch.cat(
            [torch.stack([torch.full((len(v),), i), torch.arange(len(v))], 1) for i, v in enumerate(views)]
        )
        optimiser = torch.optim.Adam(network.parameters(), lr=self.lr)
        best, best_state, waited, steps = float("inf"), None, 0, 0
        for epoch in range(self.epochs):
            for group in optimiser.param_groups:
                group["lr"] = self.lr * 0.5**epoch
            order = starts[torch.randperm(len(starts), generator=generator)]
            for rows in order.split(self.batch_size):
                batch = torch.cat([views[i][rows[rows[:, 0] == i, 1]] for i in rows[:, 0].unique().tolist()])
                batch = _complete(batch.transpose(1, 2).float())
                optimiser.zero_grad(set_to_none=True)
                F.mse_loss(network(batch[:, : self.context]), batch[:, self.context :]).backward()
                optimiser.step()
                steps += 1
                if steps >= self.max_steps:
                    break
            loss = _validation_mse(network, validation or train, self.context, self.horizon)
            if loss < best:
                best, waited = loss, 0
                best_state = {key: value.clone() for key, value in network.state_dict().items()}
            else:
                waited += 1
            if waited >= self.patience or steps >= self.max_steps:
                break
        if best_state is not None:
            network.load_state_dict(best_state)
        self.network = network.eval()
        return self

    @torch.no_grad()
    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`; only the last `context` steps are looked at.

        Raises:
            RuntimeError: Before `fit`.
        """
        if self.network is None:
            raise RuntimeError("DLinear predicts only after fit")
        past = fill_missing(past, observed)
        # fitted on the tables in memory, whatever device the windows are on
        return self.network(_last(past, self.context).float().cpu()).to(past)


@dataclass
class Ridge(Baseline):
    """Closed-form regression of the future on the context: one `(L + 1, H)` matrix for all channels.

    Inputs and targets have the context's last value subtracted (the NLinear idea of arXiv 2205.13504), the
    last row of the matrix is the intercept. Normal equations are summed in float64; the penalty is the best
    on validation.

    Args:
        context: Input steps L.
        penalties: To choose from.
        max_rows: Upper bound of training rows (windows times channels); longer tables are thinned evenly.
    """

    context: int = 512
    penalties: tuple[float, ...] = (1e2, 1e3, 1e4)
    max_rows: int = 1_000_000
    weight: Tensor | None = field(default=None, init=False, repr=False)
    penalty: float | None = field(default=None, init=False)

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> Ridge:
        """Solve for the matrix; without validation tables the middle penalty is taken.

        Raises:
            ValueError: If no table holds a whole window.
        """
        size = self.context + 1
        gram = torch.zeros(size, size, dtype=torch.float64)
        cross = torch.zeros(size, self.horizon, dtype=torch.float64)
        for inputs, targets in self._rows(train):
            gram += inputs.T @ inputs
            cross += inputs.T @ targets
        candidates = []
        eye = torch.eye(size, dtype=torch.float64)
        for penalty in self.penalties:
            factor = torch.linalg.cholesky(gram + penalty * eye)
            candidates.append(torch.cholesky_solve(cross, factor))
        best = len(candidates) // 2
        if any(len(table) >= self.context + self.horizon for table in validation):
            errors = torch.zeros(len(candidates), dtype=torch.float64)
            for inputs, targets in self._rows(validation):
                errors += torch.stack([(inputs @ weight - targets).square().sum() for weight in candidates])
            best = int(errors.argmin())
        self.weight, self.penalty = candidates[best], self.penalties[best]
        return self

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`; only the last `context` steps are looked at.

        Raises:
            RuntimeError: Before `fit`.
        """
        if self.weight is None:
            raise RuntimeError("Ridge predicts only after fit")
        past = _last(fill_missing(past, observed), self.context)
        last = past[:, -1:]
        weight = self.weight.to(past)
        return torch.einsum("blc,lh->bhc", past - last, weight[:-1]) + weight[-1][None, :, None] + last

    def _rows(self, tables: Sequence[Tensor], chunk: int = 4096) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(n, L + 1)` and targets `(n, H)` in float64, without rows that miss a value."""
        views = _window_views(tables, self.context + self.horizon)
        stride = max(1, -(-sum(len(view) * view.shape[1] for view in views) // self.max_rows))
        for view in views:
            for part in view[::stride].split(max(1, chunk // view.shape[1])):
                rows = part.reshape(-1, part.shape[-1]).double()  # N C S -> N*C S
                rows = rows[torch.isfinite(rows).all(1)]
                rows = rows - rows[:, self.context - 1 : self.context]
                inputs = torch.cat([rows[:, : self.context], rows.new_ones(len(rows), 1)], 1)
                yield inputs, rows[:, self.context :]


_NAMES = {
    "RepeatLast": "last value",
    "SeasonalNaive": "seasonal naive",
    "WindowMean": "window mean",
    "Drift": "drift",
    "ETS": "ETS",
    "DLinear": "DLinear",
    "Ridge": "ridge",
}


def default_baselines(
    *, context: int, horizon: int, season: int, trained: bool = True, ets: bool = True
) -> list[Baseline]:
    """Return the baselines of an evaluation; `trained=False` leaves out those that need training tables."""
    chosen: list[Baseline] = [
        RepeatLast(horizon),
        SeasonalNaive(horizon, season=season),
        WindowMean(horizon),
        Drift(horizon),
    ]
    if ets:
        chosen.append(ETS(horizon, season=season, context=context))
    if trained:
        chosen += [DLinear(horizon, context=context), Ridge(horizon, context=context)]
    return chosen


def sliding_windows(table: Tensor, size: int) -> Tensor:
    """Return all windows of a table `(T, C)` as a view `(T - size + 1, C, size)`; none if it is short."""
    if len(table) < size:
        return table.new_empty(0, table.shape[1], size)
    return table.unfold(0, size, 1)


def fill_missing(past: Tensor, observed: Tensor | None) -> Tensor:
    """Fill each gap of `past (B, L, C)` with the value before it, at the start with the one after.

    A channel with nothing observed becomes 0. Missing is NaN, or `observed` False.
    """
    seen = _observed(past, observed)
    if bool(seen.all()):
        return past
    steps = torch.arange(past.shape[1], device=past.device)[None, :, None]
    before = torch.where(seen, steps, -1).cummax(1).values
    first = torch.where(seen, steps, past.shape[1] - 1).amin(1, keepdim=True)
    source = torch.where(before < 0, first, before)
    return torch.where(seen, past, 0.0).gather(1, source.expand_as(past))


def _observed(past: Tensor, observed: Tensor | None) -> Tensor:
    """Return where `past` is known, `(B, L, C)` bool."""
    finite = torch.isfinite(past)
    return finite if observed is None else finite & observed.bool()


def _last(past: Tensor, context: int) -> Tensor:
    """Return the last `context` steps, a shorter context being padded on the left with its first value."""
    if past.shape[1] >= context:
        return past[:, past.shape[1] - context :]
    return torch.cat([past[:, :1].expand(-1, context - past.shape[1], -1), past], 1)


def _window_views(tables: Sequence[Tensor], size: int) -> list[Tensor]:
    """Return the window views of the tables that hold at least one window."""
    views = [sliding_windows(table, size) for table in tables if len(table) >= size]
    if not views:
        longest = max((len(table) for table in tables), default=0)
        raise ValueError(f"no series holds a window of {size} rows (the longest has {longest})")
    return views


def _complete(batch: Tensor) -> Tensor:
    """Drop the windows `(B, S, C)` that miss a value, unless none would be left; those are filled."""
    whole = torch.isfinite(batch).all(2).all(1)
    return batch[whole] if bool(whole.any()) else fill_missing(batch, None)


@torch.no_grad()
def _validation_mse(network: nn.Module, tables: Sequence[Tensor], context: int, horizon: int) -> float:
    """Return the mean squared error over the windows of `tables`, infinite where there is none."""
    total, count = 0.0, 0
    for table in tables:
        for part in sliding_windows(table, context + horizon).split(1024):
            batch = part.transpose(1, 2).float()  # N C S -> N S C
            batch = batch[torch.isfinite(batch).all(2).all(1)]
            total += float((network(batch[:, :context]) - batch[:, context:]).square().sum())
            count += batch[:, context:].numel()
    return total / count if count else float("inf")
