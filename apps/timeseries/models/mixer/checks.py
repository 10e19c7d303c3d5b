"""What a TTM refuses: settings that do not fit each other, and batches that do not fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from core.errors import UserError

if TYPE_CHECKING:
    from apps.timeseries.models.mixer.network import TTM

__all__ = ["check_future", "check_past", "check_settings"]

_COUNTS = (
    "context", "horizon", "channels", "width", "depth", "expansion", "heads", "decoder_width",
    "decoder_depth",
)  # fmt: skip


def check_settings(network: TTM) -> None:
    """Refuse settings that do not fit each other."""
    given = network.settings
    if given["loss"] not in ("mse", "mae", "pinball", "huber", None):
        raise UserError(f"The TTM's loss is {given['loss']!r}; choose mse, mae, pinball, huber or null.")
    for name, choices in (
        ("norm", ("layer", "batch")),
        ("positions", ("sincos", "random", None)),
        ("scaling", ("std", "mean", None)),
        ("init_linear", ("pytorch", "normal", "uniform", "xavier_uniform")),
        ("init_embed", ("pytorch", "normal", "uniform", "xavier_uniform")),
    ):
        if given[name] not in choices:
            raise UserError(f"The TTM's {name} is {given[name]!r}; it must be one of {choices}.")
    for name in _COUNTS:
        if given[name] < 1:
            raise UserError(f"The TTM's {name} is {given[name]}; it must be at least 1.")
    for name in ("dropout", "head_dropout"):
        if not 0 <= given[name] <= 1:
            raise UserError(f"The TTM's {name} is {given[name]}; it must lie in 0 to 1.")
    if not 0 < network.kept <= network.horizon:
        raise UserError(f"The TTM's kept_horizon is {network.kept}; it must lie in 1 to {network.horizon}.")
    if not 0 < network.patch < network.points_read:
        raise UserError(f"The TTM's patch is {network.patch}; the context {network.context} must be longer.")
    if network.stride < 1:
        raise UserError(f"The TTM's stride is {network.stride}; it must be at least 1.")
    named = [*network.exogenous, *(network.targets or ())]
    if len(set(named)) != len(named) or any(not 0 <= channel < network.channels for channel in named):
        raise UserError(
            f"The TTM's targets {network.targets} and exogenous {network.exogenous} must be "
            f"different channels of its {network.channels}."
        )
    if network.targets == []:
        raise UserError("The TTM has no channel to forecast; name targets, or fewer exogenous channels.")
    if given["static_categories"] and given["decoder"] and not given["decoder_channel_mixing"]:
        raise UserError("The TTM's static_categories need decoder_channel_mixing: true.")


def check_past(network: TTM, past: Tensor, observed: Tensor | None) -> None:
    """Refuse a past that this network cannot read."""
    if past.dim() != 3:
        raise UserError(f"past_values is {tuple(past.shape)}; its shape must be (batch, time, channel).")
    if past.shape[1] < network.context:
        raise UserError(
            f"The context is {past.shape[1]} points long and this network needs {network.context}; "
            "give a longer past, pad it, or choose a network with a shorter context."
        )
    if network.counts_channels and past.shape[2] != network.channels:
        raise UserError(f"past_values has {past.shape[2]} channels; this network has {network.channels}.")
    if observed is not None and observed.shape != past.shape:
        raise UserError(
            f"past_observed has the shape {tuple(observed.shape)}; past_values has {tuple(past.shape)}."
        )


def check_future(network: TTM, past: Tensor, future: Tensor | None, observed: Tensor | None) -> None:
    """Refuse a future whose shape does not fit, or that is missing where it is known and read."""
    if future is None:
        if network.reads_future:
            raise UserError("This network needs the future of its exogenous channels in future_values.")
        return
    batch, _, channels = past.shape
    allowed = {channels} if network.targets is None or network.exogenous else {channels, len(network.targets)}
    if future.dim() != 3 or future.shape[0] != batch or future.shape[2] not in allowed:
        raise UserError(
            f"future_values has the shape {tuple(future.shape)}; "
            f"({batch}, {network.kept}, {channels}) is expected."
        )
    if not (future.shape[1] == network.kept or future.shape[1] >= network.horizon):
        raise UserError(
            f"future_values holds {future.shape[1]} steps; this network forecasts {network.kept}"
            + (f" of {network.horizon}." if network.kept != network.horizon else ".")
        )
    if observed is not None and observed.shape != future.shape:
        raise UserError(
            f"future_observed has the shape {tuple(observed.shape)}; future_values has {tuple(future.shape)}."
        )
