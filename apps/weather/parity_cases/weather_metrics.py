"""Recorded cases of the scores of WeatherBench 2 and of OpenSTL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.weather.batch import Grid
from apps.weather.metrics.areas import latitude_weights
from apps.weather.metrics.ensembles import ensemble_errors
from apps.weather.metrics.errors import openstl_errors, spatial_errors, spatial_means, vector_mse
from apps.weather.metrics.regions import region_weights
from apps.weather.metrics.times import calendar

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Weights, errors by region, scores of the ensemble, and the errors of OpenSTL."""
    fields = case.group("input")
    latitude = fields.pop("lat").cpu().numpy()
    falling = latitude[0] > latitude[-1]
    longitude, land = fields.pop("lon").cpu().numpy(), fields.pop("lsm", None)
    if not falling:
        fields = {name: field.flip(-2) for name, field in fields.items()}
        land = None if land is None else land.flip(-2)
    grid = Grid(latitude if falling else latitude[::-1], longitude)
    names = ["global", *(case.head.get("regions") or ())]

    def weights(kind: str) -> tuple[tuple[str, ...], Tensor]:
        mask = None if land is None else land.cpu()
        return region_weights(grid, names, kind=kind, land=mask, threshold=0.5, device=case.device)

    shown, area = weights("area")
    results = {
        "output/lat_weights": torch.from_numpy(latitude_weights(latitude, "area")),
        "output/cos_lat_weights": torch.from_numpy(latitude_weights(latitude, "cos")),
    }
    by_name = _errors(fields, area, _normals(case, fields))
    cosine = spatial_errors(fields["forecast"], fields["truth"], weights("cos")[1])["mse"].sqrt()
    none = spatial_errors(fields["forecast"], fields["truth"], weights("none")[1])["mse"].sqrt()
    for place, region in enumerate(shown):
        for name, values in by_name.items():
            results[f"output/{region}/{name}"] = values[..., place]
    results["output/cos/rmse_sqrt_before_mean_per_init"] = cosine[..., 0]
    results["output/none/rmse_sqrt_before_mean_per_init"] = none[..., 0]
    batch = [fields[name].unsqueeze(2) for name in ("forecast", "truth")]  # B T 1 H W
    for name, norm in (("", False), ("_spatial_norm", True)):
        for metric, value in openstl_errors(*batch, spatial_norm=norm).items():
            results[f"output/openstl/{metric}{name}"] = value.float()
    return results


def _errors(fields: Mapping[str, Tensor], weights: Tensor, normals: Tensor | None) -> dict[str, Tensor]:
    """Return scores `(..., R)` under the recorded names."""
    errors = spatial_errors(fields["forecast"], fields["truth"], weights, normals)
    results = {f"{name}_per_init": values for name, values in errors.items()}
    results["rmse_sqrt_before_time_avg_per_init"] = errors["mse"].sqrt()
    results["rmse"] = errors["mse"].mean(0).sqrt()
    if "acc" in errors:
        results["acc"] = errors["acc"].mean(0)
    if "u_forecast" in fields:
        wind = (fields[name] for name in ("u_forecast", "v_forecast", "u_truth", "v_truth"))
        results["wind_vector_mse_per_init"] = vector_mse(*wind, weights)
    if "ensemble" in fields:
        members, truth = fields["ensemble"], fields["truth"]
        scores = ensemble_errors(members, truth, weights)
        scores["ensemble_variance"] = scores.pop("variance")
        mean = members.to(weights.dtype).mean(-3)
        scores["ensemble_mean_mse"] = spatial_means(weights, (mean - truth).square())[0]
        results |= {f"{name}_per_init": values for name, values in scores.items()}
    return results


def _normals(case: Case, fields: dict[str, Tensor]) -> Tensor | None:
    """Return the climatology `(init, lead, H, W)` of the valid times."""
    if "climatology" not in fields:
        return None
    starts = np.array(case.head["init_times"], dtype="datetime64[s]")
    leads = (np.array(case.head["lead_times_h"]) * 3600).astype("timedelta64[s]")
    hours, days = calendar(starts[:, None] + leads)
    return fields["climatology"][hours // (24 // len(fields["climatology"])), days - 1]
