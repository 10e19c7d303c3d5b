"""Errors over samples, lead times and points together, without weights, as tables of OpenSTL have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apps.weather.batch import States, Variables
from core.metrics.sums import summed

__all__ = ["UnweightedErrors"]


class UnweightedErrors:
    """Mean squared and absolute error of every field and model; points without a truth are left out."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._fields: tuple[str, ...] = ()

    def update(self, model: str, forecast: States, truth: States, variables: Variables) -> None:
        """Add forecasts `(B, K, …)` of variables in physical units."""
        self._fields = variables.names
        true = truth.fields
        kept = true.isfinite()
        error = torch.where(kept, forecast.fields - true, 0.0).double()
        sums = torch.stack([part.sum((0, 1, 3, 4)) for part in (kept.double(), error.square(), error.abs())])
        self._sums[model] = self._sums[model] + sums if model in self._sums else sums

    def gather(self, device: torch.device | str) -> None:
        """Add up the sums of all processes; call it once, on every rank."""
        self._sums = summed(self._sums, device)

    def table(self) -> list[dict[str, Any]]:
        """Return `mse`, `mae` and `rmse` of each model and field."""
        return [
            {"model": model, "field": field}
            | {"mse": squares / count, "mae": absolute / count, "rmse": (squares / count) ** 0.5}
            for model, sums in self._sums.items()
            for field, (count, squares, absolute) in zip(self._fields, sums.T.tolist(), strict=True)
            if count
        ]
