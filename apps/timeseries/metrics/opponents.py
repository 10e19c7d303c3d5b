"""Baselines that learn a linear map from the training rows, and every baseline set beside a network.

All have one call shape; see `apps.timeseries.metrics.baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apps.timeseries.data import frequency as rates
from apps.timeseries.metrics.baselines import (
    ETS,
    Baseline,
    Drift,
    RepeatLast,
    SeasonalNaive,
    WindowMean,
    fill_missing,
)

if TYPE_CHECKING:
    from apps.timeseries.data.store import SeriesSet

__all__ = [
    "DLinear",
    "DLinearNetwork",
    "Opponent",
    "Ridge",
    "default_baselines",
    "opponents",
    "sliding_windows",
]


class Opponent:
    """A baseline for many series, fitted when it is first asked.

    Those that learn one map take it from the training rows of all series; ETS is estimated on each series'
    own, or on each context where there are none. The season is each series' own.

    Args:
        baseline: Not yet fitted.
        series: The series.
        trained: Training rows of each.
        context: Rows before validation rows that belong to them.
        targets: Number of channels that are forecast.
    """

    def __init__(
        self,
        baseline: Baseline,
        series: SeriesSet,
        trained: Sequence[tuple[int, int]],
        *,
        context: int,
        targets: int,
    ) -> None:
        self.name, self.last_windows = baseline.name, baseline.last_windows
        self._baseline, self._series, self._trained = baseline, series, trained
        self._context, self._targets = context, targets
        self._seasons = torch.tensor([rates.season(track.frequency) for track in series.tracks])
        self._fitted: dict[int | None, Baseline] = {}

    def predict(self, past: Tensor, observed: Tensor, series: Tensor) -> Tensor:
        """Forecast `past (B, L, C)` of the given series `(B,)`: `(B, H, C)`."""
        series = series.cpu()
        if not isinstance(self._baseline, ETS):
            return self._fit(None).predict(past, observed, season=self._seasons[series])
        out = past.new_empty(len(past), self._baseline.horizon, past.shape[2])
        for number in series.unique().tolist():
            rows = (series == number).to(past.device)
            out[rows] = self._fit(number).predict(past[rows], observed[rows])
        return out

    def _fit(self, number: int | None) -> Baseline:
        """Return the baseline fitted on one series, or on all."""
        if number not in self._fitted:
            with torch.inference_mode(False), torch.enable_grad():  # some are trained, in the midst of a test
                self._fitted[number] = self._fitted_on_all() if number is None else self._fitted_on(number)
        return self._fitted[number]

    def _fitted_on_all(self) -> Baseline:
        tracks = [number for number, track in enumerate(self._series.tracks) if track.factor == 1]
        parts = [[self._rows(number, *self._trained[number]) for number in tracks], []]
        for number in tracks:
            first, end = self._series.tracks[number].split.val
            parts[1].append(self._rows(number, max(0, first - self._context) if end > first else first, end))
        train, validation = ([table for table in part if len(table)] for part in parts)
        return self._baseline.fit(train, validation=validation)

    def _fitted_on(self, number: int) -> Baseline:
        rows = self._rows(number, *self._trained[number])
        baseline = replace(self._baseline, season=int(self._seasons[number]))  # type: ignore[call-arg]
        return baseline.fit([rows] if len(rows) >= self._context else [])

    def _rows(self, number: int, first: int, end: int) -> Tensor:
        """Return the target channels of a series' rows, `(T, C)` scaled."""
        return self._series.store.series(number)[first:end, : self._targets]


def opponents(
    series: SeriesSet,
    trained: Sequence[tuple[int, int]],
    *,
    context: int,
    horizon: int,
    targets: int,
    learned: bool = True,
) -> list[Opponent]:
    """Return the baselines of an evaluation, with `learned` also those that learn from the training rows."""
    trained_rows = [rows for rows, track in zip(trained, series.tracks, strict=True) if track.factor == 1]
    learned = learned and any(end - first >= context + horizon for first, end in trained_rows)
    first = series.tracks[0].frequency
    alike = all(track.frequency == first for track in series.tracks if track.factor == 1)
    season = rates.season(first if alike else "")
    chosen = default_baselines(context=context, horizon=horizon, season=season, trained=learned)
    return [Opponent(one, series, trained, context=context, targets=targets) for one in chosen]


def default_baselines(*, context: int, horizon: int, season: int, trained: bool = True) -> list[Baseline]:
    """Return the baselines of an evaluation; `trained=False` leaves out those that need training tables."""
    chosen: list[Baseline] = [
        RepeatLast(horizon),
        SeasonalNaive(horizon, season=season),
        WindowMean(horizon),
        Drift(horizon),
        ETS(horizon, season=season, context=context),
    ]
    if trained:
        chosen += [DLinear(horizon, context=context), Ridge(horizon, context=context)]
    return chosen


class DLinearNetwork(nn.Module):
    """A linear map each for moving average and rest (DLinear; Zeng et al. 2022, arXiv 2205.13504)."""

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

    name: ClassVar[str] = "DLinear"

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
    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        if self.network is None:
            raise RuntimeError("DLinear predicts only after fit")
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

    name: ClassVar[str] = "ridge"

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

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        if self.weight is None:
            raise RuntimeError("Ridge predicts only after fit")
        past = _last(past, self.context)
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


def sliding_windows(table: Tensor, size: int) -> Tensor:
    """Return all windows of a table `(T, C)` as a view `(T - size + 1, C, size)`; none if it is short."""
    if len(table) < size:
        return table.new_empty(0, table.shape[1], size)
    return table.unfold(0, size, 1)


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
