"""Forecasts that need no network: persistence, climatology, and anomalies that fade (damped persistence)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from apps.weather.batch import States
from apps.weather.metrics.times import valid_times
from core.metrics.sums import summed

__all__ = ["DampedPersistence", "SmoothClimatology", "persistence"]

_YEAR = 365.2425 * 86400
_MONTHS = 12
_RIDGE = 1e-6


def persistence(start: States, steps: int) -> States:
    """Return the last of the states `(B, T, ...)` as the forecast `(B, steps, ...)`."""
    last = start.at(slice(-1, None))
    return States(*(x.expand(-1, steps, *x.shape[2:]) for x in (last.surface, last.atmospheric)))


class SmoothClimatology:
    """Mean state by hour of day, and where training saw most of the year, its smooth course through the year.

    The course is two harmonics for each hour of day, fitted by least squares: a short archive gives no noise
    of single days, and what is kept does not grow with it. An hour never seen takes the mean of all.

    Args:
        step: Hours between states; a day has `24 / step` hours, at least one.
        device: Where the states are.
    """

    def __init__(self, step: float, *, device: torch.device | str = "cpu") -> None:
        self.hours = max(round(24 / step), 1)
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._shapes: tuple[torch.Size, ...] = ()
        self._fit: tuple[Tensor, Tensor, int] | None = None

    @torch.no_grad()
    def update(self, states: States, valid: Tensor) -> None:
        """Add states `(B, T, ...)` at times `(B, T)`, seconds since 1970-01-01 UTC."""
        fields, self._shapes = self._flat(states)
        basis = self._basis(valid.flatten(), harmonics=2)
        month = (valid.flatten().double() / _YEAR % 1 * _MONTHS).long()
        sums = {
            "count": fields.new_full((), len(fields)),
            "fields": fields.sum(0),
            "basis": basis.sum(0),
            "squares": basis.T @ basis,
            "products": basis.T @ fields,
            "months": torch.bincount(month, minlength=_MONTHS).to(fields),
        }
        self._sums = {name: value + self._sums.get(name, 0) for name, value in sums.items()}
        self._fit = None

    def gather(self) -> None:
        """Add up the sums of all processes; call it once, on every rank, each of which has seen states."""
        self._sums, self._fit = summed(self._sums, self.device), None

    @torch.no_grad()
    def at(self, valid: Tensor) -> States:
        """Return states `(B, K, ...)` that are normal at the times `(B, K)`."""
        self._fit = self._fit or self._solved()
        mean, coefficients, harmonics = self._fit
        flat = mean + (self._basis(valid.flatten(), harmonics=harmonics).to(coefficients) @ coefficients)
        parts = flat.split([math.prod(shape) for shape in self._shapes], dim=1)
        groups = zip(parts, self._shapes, strict=True)
        return States(*(part.reshape(*valid.shape, *shape) for part, shape in groups))

    def _solved(self) -> tuple[Tensor, Tensor, int]:
        seen = self._sums
        harmonics = 2 if int((seen["months"] > 0).sum()) >= _MONTHS - 2 else 0
        size = self.hours * (1 + 2 * harmonics)  # harmonics stand behind the hours' means
        mean = seen["fields"] / seen["count"]
        squares = seen["squares"][:size, :size]
        ridge = _RIDGE * torch.eye(size).to(squares)
        rest = seen["products"][:size] - seen["basis"][:size, None] * mean
        return mean.float(), torch.linalg.solve(squares + ridge, rest).float(), harmonics

    def _basis(self, valid: Tensor, *, harmonics: int) -> Tensor:
        """Return `(N, hours * (1 + 2 harmonics))`: a constant, then sines and cosines, for the hour's own."""
        hour = torch.div(valid % 86400 * self.hours, 86400, rounding_mode="floor")
        phase = valid.double() / _YEAR % 1 * (2 * math.pi)
        waves = [wave(n * phase) for n in range(1, harmonics + 1) for wave in (torch.cos, torch.sin)]
        course = torch.stack([torch.ones_like(phase), *waves], dim=1)
        own = hour[:, None] == torch.arange(self.hours, device=valid.device)
        return (course[:, :, None] * own[:, None]).flatten(1)

    @staticmethod
    def _flat(states: States) -> tuple[Tensor, tuple[torch.Size, ...]]:
        groups = (states.surface, states.atmospheric)
        flat = [group.flatten(0, 1).flatten(1) for group in groups]
        return torch.cat(flat, dim=1).double(), tuple(group.shape[2:] for group in groups)


class DampedPersistence:
    """The normal state of the valid time and the start's anomaly, less of it with each lead time.

    What is left of it is one number per lead time and field, fitted on training by least squares.

    Args:
        normals: Has `at(valid)`, such as `SmoothClimatology`.
        leads: Hours from the start.
    """

    def __init__(self, normals: SmoothClimatology, leads: Sequence[float]) -> None:
        self.normals, self.leads = normals, tuple(leads)
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, start: States, later: States, time: Tensor) -> None:
        """Add starts `(B, 1, ...)` at the times `(B,)` and the states `(B, K, ...)` after them."""
        before, after = self._anomalies(start, time, (0,)), self._anomalies(later, time, self.leads)
        for number, (a, b) in enumerate(zip(before, after, strict=True)):
            sums = {f"product {number}": (a * b).double().sum((0, -2, -1))}
            sums[f"square {number}"] = a.square().double().sum((0, -2, -1))
            self._sums |= {name: value + self._sums.get(name, 0) for name, value in sums.items()}

    def gather(self) -> None:
        """Add up the sums of all processes; call it once, on every rank, each of which has seen states."""
        self._sums = summed(self._sums, self.normals.device)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Return what is left of anomalies, `(K, VS)` and `(K, VA, C)`."""
        ratios = (self._sums[f"product {n}"] / self._sums[f"square {n}"].clamp(min=1e-30) for n in (0, 1))
        return tuple(ratio.float() for ratio in ratios)  # type: ignore[return-value]

    @torch.no_grad()
    def forecast(self, start: States, time: Tensor) -> States:
        """Return `(B, K, ...)` from starts `(B, 1, ...)` at the times `(B,)`."""
        anomalies, left = self._anomalies(start, time, (0,)), self.coefficients()
        normal = self.normals.at(valid_times(time, self.leads))
        pairs = zip((normal.surface, normal.atmospheric), anomalies, left, strict=True)
        return States(*(mean + share[..., None, None] * anomaly for mean, anomaly, share in pairs))

    def _anomalies(self, states: States, time: Tensor, leads: Sequence[float]) -> tuple[Tensor, Tensor]:
        normal = self.normals.at(valid_times(time, leads))
        return states.surface - normal.surface, states.atmospheric - normal.atmospheric
