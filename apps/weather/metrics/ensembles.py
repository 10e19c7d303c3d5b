"""Scores of an ensemble of forecasts (WeatherBench 2); members stand on the third axis from the end."""

from __future__ import annotations

import torch
from torch import Tensor

from apps.weather.metrics.errors import spatial_means

__all__ = ["crps_parts", "energy_parts", "ensemble_errors"]


def crps_parts(members: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts `(..., H, W)` of the CRPS, which is `skill - spread / 2` (Zamo and Naveau 2018, fair).

    Args:
        members: `(..., M, H, W)`.
        truth: `(..., H, W)`.

    Returns:
        Mean distance of members from the truth, and unbiased mean distance of two members, by ranks.
    """
    count = members.shape[-3]
    skill = (members - truth.unsqueeze(-3)).abs().mean(-3)
    ranks = 2 * torch.arange(1, count + 1, device=members.device, dtype=members.dtype) - count - 1
    ordered = members.sort(dim=-3).values
    spread = (ordered * ranks[:, None, None]).sum(-3) * (2 / max(count * (count - 1), 1))
    return skill, spread


def energy_parts(members: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts `(..., R)` of the energy score, which is `skill - spread / 2`, by norms over a region.

    Skill is the mean of the members' distance from the truth, spread that of neighbouring members.
    """
    skill = spatial_means(weights, (members - truth.unsqueeze(-3)).square())[0].sqrt().mean(-2)
    if members.shape[-3] < 2:
        return skill, torch.zeros_like(skill)
    apart = (members[..., 1:, :, :] - members[..., :-1, :, :]).square()
    return skill, spatial_means(weights, apart)[0].sqrt().mean(-2)


def ensemble_errors(members: Tensor, truth: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return `crps`, `crps_skill`, `crps_spread`, `variance` (M - 1) and `energy_score`, each `(..., R)`.

    Args:
        members: `(..., M, H, W)`.
        truth: `(..., H, W)`.
        weights: `(R, H, W)`.
    """
    members, truth = members.to(weights.dtype), truth.to(weights.dtype)
    skill, spread = crps_parts(members, truth)
    variance = members.var(-3, correction=min(members.shape[-3] - 1, 1))
    skill, spread, variance = spatial_means(weights, skill, spread, variance)
    distance, apart = energy_parts(members, truth, weights)
    return {
        "crps": skill - spread / 2,
        "crps_skill": skill,
        "crps_spread": spread,
        "variance": variance,
        "energy_score": distance - apart / 2,
    }
