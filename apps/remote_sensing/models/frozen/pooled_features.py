"""One feature vector for each image, whatever the network is: what probes and exports look at."""

from __future__ import annotations

import inspect
from typing import Literal

import torch
from torch import Tensor, nn

from apps.remote_sensing.models.frames import frame_by_frame
from core.errors import UserError

__all__ = ["Pool", "encoder_of", "pooled_features"]

Pool = Literal["class", "mean"]


def encoder_of(network: nn.Module) -> nn.Module:
    """Return the part of a network that makes features: a student's, an autoencoder's, a mapper's encoder."""
    while isinstance(inner := getattr(network, "encoder", None), nn.Module):
        network = inner
    return network


def pooled_features(
    network: nn.Module,
    x: Tensor,
    time: Tensor | None = None,
    location: Tensor | None = None,
    *,
    layers: int | None = None,
    pool: Pool | None = None,
) -> Tensor:
    """Return one vector for each image.

    Args:
        network: An encoder: with `probe_features`, or tokens (Prithvi), or `forward(x) -> (B, D)`.
        x: `(B, C, T, H, W)`, prepared. A network of single images sees the dates one by one, and the mean of
            their features is returned.
        time: `(B, T, 2)`, for networks that take it.
        location: `(B, 2)`, for networks that take it.
        layers: How many of a transformer's last blocks give their class tokens, side by side.
        pool: `class` token or `mean` of the patches' tokens; None is the network's own choice, the mean for
            networks that name none.

    Returns:
        `(B, D)`.

    Raises:
        UserError: If the network has no such features.
    """
    name = type(network).__name__
    if hasattr(network, "features") and "time" in inspect.signature(network.features).parameters:
        last = network.features(x, time, location, layers=list(range(-(layers or 1), 0)))
        return torch.cat([tokens[:, 0] if pool == "class" else tokens[:, 1:].mean(1) for tokens in last], 1)
    if pool == "mean" and hasattr(network, "feature_maps"):
        maps = network.feature_maps(frame_by_frame(x), layers=list(range(-(layers or 1), 0)))
        return _over_dates(torch.cat([one.flatten(2).mean(2) for one in maps], 1), len(x))
    run = getattr(network, "probe_features", network)
    options = {}
    if layers is not None:
        if "layers" not in inspect.signature(run).parameters:
            raise UserError(f"{name} has one feature for an image; leave model.layers out")
        options["layers"] = layers
    try:
        features = run(frame_by_frame(x), **options)
    except TypeError as error:
        raise UserError(
            f"{name} gives no features of images alone ({error}); take an encoder of "
            "apps.remote_sensing.models"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(
            f"{name} gives {shape} for a batch of images; a probe needs a row of features for each: take an "
            "encoder of apps.remote_sensing.models"
        )
    return _over_dates(features, len(x))


def _over_dates(features: Tensor, samples: int) -> Tensor:
    return features if len(features) == samples else features.unflatten(0, (samples, -1)).mean(1)
