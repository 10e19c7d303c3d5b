"""The mean absolute error of normalised fields by which Aurora is trained (Bodnar et al. 2025, methods)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from apps.weather.batch import States, Variables, level_name
from core.errors import UserError

__all__ = ["WeightedAbsolute"]


@dataclass(frozen=True)
class WeightedAbsolute:
    """`γ / (VS + VA) · (α Σ_k w_k |dS_k| + β Σ_k mean_c w_kc |dA_kc|)` over normalised fields.

    Points whose target is missing (NaN) do not count. There is no weight by latitude, as published.

    Attributes:
        weights: Of variables (`2t`, `z`) or of one level (`z_500`); 1 where nothing is said.
        surface: α, the share of surface variables.
        atmospheric: β, that of variables on levels.
        scale: γ, the weight of the data set.

    Raises:
        UserError: If a weight is negative.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    surface: float = 0.25
    atmospheric: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight < 0:
                raise UserError(f"the weight of {name} in model.objective is {weight}; it must be 0 or more")

    def __call__(self, prediction: States, target: States, variables: Variables) -> Tensor:
        """Return the scalar mean over the batch and its times."""
        surface, atmospheric = self._factors(variables, prediction.surface.device)
        total = prediction.surface.new_zeros(())
        if variables.surface:
            total = total + (_absolute(prediction.surface, target.surface) * surface).sum()
        if variables.atmospheric:
            total = total + (_absolute(prediction.atmospheric, target.atmospheric) * atmospheric).sum()
        return total

    def _factors(self, variables: Variables, device: torch.device) -> tuple[Tensor, Tensor]:
        return _factors(tuple(sorted(self.weights.items())), self._shares, variables, device)

    @property
    def _shares(self) -> tuple[float, float]:
        return self.scale * self.surface, self.scale * self.atmospheric


def _absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of each variable (and level) over samples, times and points."""
    error = (prediction - target).abs()
    kept = ~torch.isnan(target)
    axes = (0, 1, -2, -1)
    return torch.where(kept, error, 0.0).sum(axes) / kept.sum(axes).clamp(min=1)


@lru_cache(maxsize=64)
def _factors(
    weights: tuple[tuple[str, float], ...],
    shares: tuple[float, float],
    variables: Variables,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return the factors `(VS,)` and `(VA, C)` of the variables' mean errors."""
    given = dict(weights)
    count = len(variables.surface) + len(variables.atmospheric)
    # density, sine and cosine of a wave weigh as the wave
    waves = [re.sub("_(density|sin|cos)$", "", name) for name in variables.surface]
    surface = [given.get(name, 1.0) * shares[0] / count for name in waves]
    levels = [
        [
            given.get(level_name(name, level), given.get(name, 1.0))
            * shares[1]
            / count
            / len(variables.levels)
            for level in variables.levels
        ]
        for name in variables.atmospheric
    ]
    with torch.inference_mode(False):  # kept tensors must serve training too
        return torch.tensor(surface, device=device), torch.tensor(levels, device=device)
