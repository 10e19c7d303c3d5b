"""A network bound to one context and horizon, made to forecast any horizon: cut, or rolled."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from apps.timeseries import BINDING
from apps.timeseries.batch import SeriesBatch

__all__ = ["mixes_channels", "roll"]


@torch.inference_mode()
def roll(network: nn.Module, batch: SeriesBatch, *, horizon: int, chunk: int) -> Tensor:
    """Return forecasts `(B, horizon, Cp)` in scaled units; no row depends on another.

    A horizon below `chunk` is cut. A longer one is rolled: each forecast is appended to the context,
    exogenous channels with their known future, channels of which neither is known as missing.

    Args:
        network: In evaluation mode; called as `network(past_values, past_observed=…, future_values=…, …)`;
            returns `.prediction`.
        batch: Contexts with their known future `(B, horizon, C)`, where the network lies.
        horizon: Steps wanted.
        chunk: Steps that the network forecasts at once.
    """
    forecasts: list[Tensor] = []
    done = 0
    while True:
        window = replace(
            batch,
            future_values=_window(batch.future_values, done, chunk),
            future_observed=_window(batch.future_observed, done, chunk),
        )
        forecast = _call(network, window)[:, : horizon - done]
        forecasts.append(forecast)
        steps, predicted = forecast.shape[1:]
        done += steps
        if done >= horizon:
            return torch.cat(forecasts, 1)
        observed = window.future_observed[:, :steps].clone()
        values = torch.where(observed, window.future_values[:, :steps], 0.0)
        values[..., :predicted], observed[..., :predicted] = forecast.to(values.dtype), True
        length = batch.past_values.shape[1]
        batch = replace(
            batch,
            past_values=torch.cat([batch.past_values, values], 1)[:, -length:],
            past_observed=torch.cat([batch.past_observed, observed], 1)[:, -length:],
        )


def mixes_channels(network: nn.Module) -> bool:
    """Say whether a network is bound to its channels' number and order.

    A network says so itself (`channels_bound`), or its settings do; one that does not tell counts as bound.
    """
    stated = getattr(network, "channels_bound", None)
    settings = getattr(network, "settings", None)
    if stated is not None or settings is None:
        return stated is not False
    return any(settings.get(name) for name in BINDING)


def _call(network: nn.Module, batch: SeriesBatch) -> Tensor:
    known = bool(getattr(network, "exogenous", True))  # otherwise the future would only serve a loss
    output = network(
        batch.past_values,
        past_observed=batch.past_observed,
        future_values=batch.future_values if known else None,
        future_observed=batch.future_observed if known else None,
        freq_token=batch.freq_token,
        static_categories=batch.static_categories,
    )
    return output if isinstance(output, Tensor) else output.prediction


def _window(future: Tensor, first: int, chunk: int) -> Tensor:
    """Return `chunk` steps from `first` on, filled up with zeros (False) beyond what is known."""
    part = future[:, first : first + chunk]
    lacking = chunk - part.shape[1]
    return torch.cat([part, part.new_zeros(len(part), lacking, part.shape[2])], 1) if lacking else part
