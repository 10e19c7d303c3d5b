"""How recorded cases of time-series systems map onto the networks and metrics here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["CASES"]


def _tiny_time_mixer(case: Case) -> Mapping[str, Tensor | None]:
    """Forward pass, loss and gradients of TTM, plain or masked."""
    from apps.timeseries.models.ttm import KEY_MAP, from_official_config
    from core.checkpoints.weights import load_weights

    network = from_official_config({**case.config, "architectures": [case.head.get("model_class")]})
    load_weights(case.weights(), network)
    network.to(case.device).train(case.training)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: object, inputs: object, output: Tensor) -> None:
            seen[name] = output

        return hook

    network.backbone.register_forward_hook(keep("output/backbone_hidden_state"))
    last = network.backbone if network.decoder is None else network.decoder
    last.register_forward_hook(keep("output/decoder_hidden_state"))
    given = case.group("input")
    output = network(
        given["past_values"],
        past_observed=given.get("past_observed_mask"),
        future_values=given.get("future_values"),
        future_observed=given.get("future_observed_mask"),
        freq_token=given.get("freq_token"),
        static_categories=given.get("static_categorical_values"),
    )
    results: dict[str, Tensor | None] = {
        "output/prediction_outputs": output.prediction,
        "output/loc": output.loc,
        "output/scale": output.scale,
        "loss/loss": output.loss,
        **seen,
    }
    if output.loss is not None:
        output.loss.backward()
        gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        results.update({f"grad/{key}": grad for key, grad in KEY_MAP.to_official(gradients).items()})
    return results


def _forecast_metrics(case: Case) -> Mapping[str, Any]:
    """All metrics of one table of forecasts; the mean forecast is the median there."""
    import torch

    from apps.timeseries.metrics.errors import forecast_errors, msis, seasonal_error

    given = case.group("input")
    levels = [float(level) for level in case.config["quantile_levels"]]
    past, label, quantiles = given["past"], given["label"], given["quantiles"]  # (S, T), (S, H), (S, Q, H)
    error = seasonal_error(past, season=int(case.config["seasonality"]))
    lower, upper = quantiles[:, levels.index(min(levels))], quantiles[:, levels.index(max(levels))]
    alpha = float(case.config.get("msis_alpha", 0.05))
    median = quantiles[:, levels.index(0.5)]
    found = forecast_errors(
        median, label, scale=error[:, None], quantiles=quantiles.transpose(1, 2), levels=levels
    )
    names = {
        "MSE[mean]": "mse", "MSE[0.5]": "mse", "MAE[0.5]": "mae", "MASE[0.5]": "mase", "MAPE[0.5]": "mape",
        "sMAPE[0.5]": "smape", "RMSE[mean]": "rmse", "NRMSE[mean]": "nrmse", "ND[0.5]": "nd",
        "mean_weighted_sum_quantile_loss": "wql",
    }  # fmt: skip
    return {
        "output/seasonal_error": error,
        "output/MSIS": msis(lower, upper, label, error[:, None], alpha=alpha),
        **{f"output/{name}": torch.tensor(found[key], dtype=torch.float64) for name, key in names.items()},
    }


CASES: dict[tuple[str, str], Callable[[Case], Mapping[str, Any]]] = {
    ("tinytimemixer", "tinytimemixer"): _tiny_time_mixer,
    ("forecast_metrics", "forecast_metrics"): _forecast_metrics,
}
