"""Forecasting metrics as the field defines them (M4 competition, GluonTS, GIFT-Eval, Chronos).

Every function takes tensors that broadcast against each other and returns a float64 tensor without
dimensions, computed in float64. Labels that are NaN are missing and excluded from every sum and count, as are
terms without a meaning, such as a percentage of a zero label. With no term left the result is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from core.metrics.sums import summed

__all__ = ["ForecastErrors", "forecast_errors", "msis", "seasonal_error"]


def forecast_errors(
    prediction: Tensor,
    target: Tensor,
    *,
    scale: Tensor | None = None,
    quantiles: Tensor | None = None,
    levels: Sequence[float] = (),
) -> dict[str, float]:
    """Return all metrics of one table of forecasts; see `ForecastErrors.compute` for what each is.

    Args:
        prediction: Forecasts of any shape (the median, where there are quantiles).
        target: Labels of the same shape, NaN where missing.
        scale: `seasonal_error` of each series, broadcast against them, `(S, 1)` for `(S, H)`. Series whose
            scale is zero or NaN are excluded.
        quantiles: Forecasts of each level, which stands last.
        levels: The levels.
    """
    errors = ForecastErrors(1, 1, levels=levels)
    errors.update(
        prediction.reshape(-1, 1, 1),
        target.reshape(-1, 1, 1),
        scale=None if scale is None else scale.expand(target.shape).reshape(-1, 1),
        quantiles=None if quantiles is None else quantiles.reshape(-1, 1, 1, len(levels)),
    )
    return errors.compute()


def msis(lower: Tensor, upper: Tensor, target: Tensor, scale: Tensor, *, alpha: float = 0.05) -> Tensor:
    """Mean scaled interval score of the central interval of probability `1 - alpha`.

    Args:
        lower: Lower ends.
        upper: Upper ends.
        target: Labels of the same shape, NaN where missing.
        scale: `seasonal_error` of each series, broadcast against them.
        alpha: Probability outside the interval.
    """
    lower, upper, target = lower.double(), upper.double(), target.double()
    below, above = (lower - target).clamp(min=0), (target - upper).clamp(min=0)
    score = upper - lower + (2 / alpha) * (below + above)
    return (score / _defined(scale.double())).nanmean()


def seasonal_error(past: Tensor, *, season: int) -> Tensor:
    """Mean of `|x_t - x_(t-m)|` over the past of each series, the scale of MASE and MSIS.

    Args:
        past: `(…, T)`, NaN where missing; a difference with a missing end is excluded.
        season: `m` in steps; where the past is not longer than that, 1 is taken.

    Returns:
        `(…)` in float64; NaN for a series without two observed points `m` apart.
    """
    if season < 1:
        raise UserError(f"The season is {season} steps; it must be at least 1.")
    lag = season if season < past.shape[-1] else 1
    past = past.double()
    return (past[..., lag:] - past[..., :-lag]).abs().nanmean(-1)


class ForecastErrors:
    """Sums of forecast errors over many windows, by horizon step and channel, on any number of ranks.

    Only sums and counts are kept, in float64 and without a wait for the device, so that a test over millions
    of windows needs no more memory than one batch and equals the metric of all windows at once.

    Args:
        horizon: Steps H.
        channels: Channels C.
        levels: Levels of quantile forecasts, if `update` will be given any.
    """

    _SUMS = (
        *("count", "squared", "absolute", "magnitude"),
        *("percentage", "percentages", "symmetric", "symmetrics", "scaled", "scaleds"),
    )

    def __init__(self, horizon: int, channels: int, *, levels: Sequence[float] = ()) -> None:
        self.levels = tuple(levels)
        names = [*self._SUMS, *(f"level {level}" for level in self.levels)]
        self._names = names
        self._sums = torch.zeros(len(names), horizon, channels, dtype=torch.float64)
        self.windows = 0

    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        *,
        observed: Tensor | None = None,
        scale: Tensor | None = None,
        quantiles: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            prediction: `(B, H, C)`.
            target: `(B, H, C)`, NaN where missing.
            observed: `(B, H, C)`, false where a label is missing though it holds a number.
            scale: `(B, C)` or `(C,)` seasonal errors, for MASE.
            quantiles: `(B, H, C, Q)`, in the order of the levels.

        Raises:
            UserError: If a shape does not fit.
        """
        _, horizon, channels = self._sums.shape
        if prediction.shape != target.shape or tuple(prediction.shape[1:]) != (horizon, channels):
            raise UserError(
                f"Forecasts have the shape {tuple(prediction.shape)} and labels {tuple(target.shape)}; "
                f"both must be (batch, {horizon}, {channels})."
            )
        if self.levels and (quantiles is None or tuple(quantiles.shape) != (*target.shape, len(self.levels))):
            shape = "none" if quantiles is None else f"the shape {tuple(quantiles.shape)}"
            expected = (*target.shape, len(self.levels))
            raise UserError(f"Quantile forecasts have {shape}; {expected} is expected.")
        f, y = prediction.detach().double(), target.detach().double()
        if observed is not None:
            y = y.masked_fill(~observed.to(torch.bool), torch.nan)
        difference = (y - f).abs()
        percentage = difference / _defined(y.abs())
        symmetric = 2 * difference / _defined(y.abs() + f.abs())
        terms = {
            "count": _there(y),
            "squared": difference.square(),
            "absolute": difference,
            "magnitude": y.abs(),
            "percentage": percentage,
            "percentages": _there(percentage),
            "symmetric": symmetric,
            "symmetrics": _there(symmetric),
        }
        if scale is not None:
            scaled = difference / _defined(scale.double().expand(len(y), channels)[:, None])
            terms.update(scaled=scaled, scaleds=_there(scaled))
        for i, level in enumerate(self.levels):
            assert quantiles is not None
            terms[f"level {level}"] = _doubled_pinball(quantiles[..., i].detach().double(), y, level)
        if self._sums.device != y.device:
            self._sums = self._sums.to(y.device)
        for i, name in enumerate(self._names):
            if name in terms:
                self._sums[i] += terms[name].nansum(0)
        self.windows += len(y)

    def add(self, other: ForecastErrors) -> None:
        """Add what another object of the same shape has summed."""
        self._sums += other._sums
        self.windows += other.windows

    def reduce(self) -> None:
        """Add up the sums of all ranks; call once, on every rank, before `compute`."""
        windows = torch.tensor(self.windows, dtype=torch.float64)
        sums = summed({"sums": self._sums, "windows": windows}, self._sums.device)
        self._sums, self.windows = sums["sums"], int(sums["windows"])

    def compute(self) -> dict[str, float]:
        """Return the metrics over everything.

        Beside mse, mae and rmse: `mape`, the mean of `|y - f| / |y|`; `smape`, of `2 |y - f| / (|y| + |f|)`,
        in [0, 2] (the M4 competition multiplies by 100); `nd`, `sum|y - f| / sum|y|`; `nrmse`, rmse over the
        mean magnitude of the labels; with scales `mase`, the mean of `|y - f|` over the seasonal error; with
        levels `wql`, the mean over them of the doubled pinball loss over `sum|y|` (CRPS in GIFT-Eval).
        """
        return {name: float(value) for name, value in self._metrics((0, 1)).items()}

    def by_step(self) -> dict[str, Tensor]:
        """Return each metric by horizon step, `(H,)` on the CPU."""
        return {name: value.cpu() for name, value in self._metrics((1,)).items()}

    def by_channel(self) -> dict[str, Tensor]:
        """Return each metric by channel, `(C,)` on the CPU."""
        return {name: value.cpu() for name, value in self._metrics((0,)).items()}

    def _metrics(self, over: tuple[int, ...]) -> dict[str, Tensor]:
        sums = {name: self._sums[i].sum(over) for i, name in enumerate(self._names)}
        mean_square = sums["squared"] / sums["count"]
        result = {
            "mse": mean_square,
            "mae": sums["absolute"] / sums["count"],
            "rmse": mean_square.sqrt(),
            "mape": sums["percentage"] / sums["percentages"],
            "smape": sums["symmetric"] / sums["symmetrics"],
            "nd": sums["absolute"] / sums["magnitude"],
            "nrmse": mean_square.sqrt() / (sums["magnitude"] / sums["count"]),
        }
        if bool((self._sums[self._names.index("scaleds")] > 0).any()):
            result["mase"] = sums["scaled"] / sums["scaleds"]
        if self.levels:
            losses = torch.stack([sums[f"level {level}"] for level in self.levels])
            result["wql"] = losses.mean(0) / sums["magnitude"]
        return result


def _defined(denominator: Tensor) -> Tensor:
    """Make a zero denominator NaN, so that the term drops out like a missing label."""
    return torch.where(denominator > 0, denominator, torch.nan)


def _there(terms: Tensor) -> Tensor:
    return (~terms.isnan()).double()


def _doubled_pinball(prediction: Tensor, target: Tensor, level: float) -> Tensor:
    return 2 * ((target - prediction) * ((prediction >= target).double() - level)).abs()
