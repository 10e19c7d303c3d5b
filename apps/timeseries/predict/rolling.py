"""A network bound to one context and horizon, made to forecast any horizon: cut, or rolled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from apps.timeseries import BINDING

__all__ = ["Contexts", "forecast_scaled", "mixes_channels"]


@dataclass(frozen=True)
class Contexts:
    """Contexts to forecast from, in scaled units, missing values 0.

    Args:
        values: `(B, L, C)` float32.
        observed: `(B, L, C)` bool.
        future: `(B, H, C)` known future of exogenous channels, 0 elsewhere; None where nothing is known.
        future_observed: `(B, H, C)` bool.
        freq_token: `(B,)` int64 or None.
        static_categories: `(B, n)` int64 or None.
    """

    values: Tensor
    observed: Tensor
    future: Tensor | None = None
    future_observed: Tensor | None = None
    freq_token: Tensor | None = None
    static_categories: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, part: slice) -> Contexts:
        """Return some of the rows."""
        return replace(self, **{name: value[part] for name, value in vars(self).items() if value is not None})

    def to(self, device: torch.device | str) -> Contexts:
        """Return the same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)


@torch.inference_mode()
def forecast_scaled(
    network: nn.Module,
    contexts: Contexts,
    *,
    horizon: int,
    chunk: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return forecasts `(B, horizon, Cp)` in scaled units, on the CPU; no row depends on another.

    A horizon below `chunk` is cut. A longer one is rolled: each forecast is appended to the context,
    exogenous channels with their known future, channels of which neither is known as missing.

    Args:
        network: In evaluation mode; called as `network(past_values, past_observed=…, future_values=…, …)`;
            returns `.prediction`.
        contexts: Any number of rows.
        horizon: Steps wanted.
        chunk: Steps that the network forecasts at once.
        batch_size: Rows per call.
        device: Where the network lies.
    """
    parts = []
    for first in range(0, len(contexts), batch_size):
        batch = contexts.rows(slice(first, first + batch_size)).to(device)
        parts.append(
            _roll(lambda state: _call(network, state), batch, horizon=horizon, chunk=chunk).float().cpu()
        )
    return torch.cat(parts)


def mixes_channels(network: nn.Module) -> bool:
    """Say whether a network is bound to its channels' number and order.

    A network says so itself (`channels_bound`), or its settings do; one that does not tell counts as bound.
    """
    stated = getattr(network, "channels_bound", None)
    settings = getattr(network, "settings", None)
    if stated is not None or settings is None:
        return stated is not False
    return any(settings.get(name) for name in BINDING)


def _call(network: nn.Module, state: Contexts) -> Tensor:
    known = bool(getattr(network, "exogenous", True))  # otherwise the future would only serve a loss
    output = network(
        state.values,
        past_observed=state.observed,
        future_values=state.future if known else None,
        future_observed=state.future_observed if known else None,
        freq_token=state.freq_token,
        static_categories=state.static_categories,
    )
    return output if isinstance(output, Tensor) else output.prediction


def _roll(predict: Callable[[Contexts], Tensor], state: Contexts, *, horizon: int, chunk: int) -> Tensor:
    done, parts = 0, []
    while True:
        window = replace(
            state,
            future=_window(state.future, done, chunk),
            future_observed=_window(state.future_observed, done, chunk),
        )
        forecast = predict(window)[:, : horizon - done]
        parts.append(forecast)
        done += forecast.shape[1]
        if done >= horizon:
            return torch.cat(parts, 1)
        steps, predicted = forecast.shape[1:]
        values = torch.zeros_like(state.values[:, :1]).repeat(1, steps, 1)
        observed = torch.zeros_like(values, dtype=torch.bool)
        if window.future is not None and window.future_observed is not None:
            values = torch.where(window.future_observed[:, :steps], window.future[:, :steps], values)
            observed = window.future_observed[:, :steps].clone()
        values[..., :predicted], observed[..., :predicted] = forecast.to(values.dtype), True
        length = state.values.shape[1]
        state = replace(
            state,
            values=torch.cat([state.values, values], 1)[:, -length:],
            observed=torch.cat([state.observed, observed], 1)[:, -length:],
        )


def _window(future: Tensor | None, first: int, chunk: int) -> Tensor | None:
    """Return `chunk` steps from `first` on, filled up with zeros (False) beyond what is known."""
    if future is None:
        return None
    part = future[:, first : first + chunk]
    lacking = chunk - part.shape[1]
    return torch.cat([part, part.new_zeros(len(part), lacking, part.shape[2])], 1) if lacking else part
