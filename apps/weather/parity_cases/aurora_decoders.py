"""Recorded cases of the light decoders on Aurora's latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apps.weather.batch import States, Variables
from apps.weather.data.published import published_scaling
from apps.weather.models.light_decoder import KEY_MAP, LatentDecoders
from apps.weather.tasks.objective import WeightedAbsolute

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Fields as the decoders give them, in transformed units and in physical ones; loss and gradients."""
    config = case.config
    names = tuple(config["surf_vars_new"])
    network = case.filled(
        LatentDecoders(
            names, width=config["embed_dim"], patch=config["patch_size"], hidden=config["hidden_dims"]
        )
    )
    variables = Variables(surface=names)
    statistics = {name: tuple(pair) for name, pair in case.head["normalisation"].items()}
    scaling = published_scaling(variables, statistics)
    inputs, targets = case.group("input"), case.group("target")
    latents = inputs["latent"][:, :, 0]  # B L levels 2D -> B L 2D: the surface alone
    fields = network(latents, inputs["lon"].shape[-1])
    prediction = _states(fields[:, None])
    truth = _states(torch.stack([targets[name] for name in names], dim=2))
    wanted = scaling.scaled(truth, variables)
    loss = WeightedAbsolute(surface=1.0)(prediction, wanted, variables)
    loss.backward()
    pairs = torch.tensor([statistics[name] for name in names], device=fields.device)[..., None, None]
    groups = {
        "normalised": prediction.surface,
        "transformed": prediction.surface * pairs[:, 1] + pairs[:, 0],
        "physical": scaling.physical(prediction, variables).surface,
        "target_transformed": wanted.surface * pairs[:, 1] + pairs[:, 0],
    }
    results = {
        f"output/{group}/{name}": values[:, :, number]
        for group, values in groups.items()
        for number, name in enumerate(names)
    }
    return {**results, "loss/mae_normalised": loss, **case.gradients(network, KEY_MAP)}


def _states(surface: Tensor) -> States:
    return States(surface, surface.new_empty(*surface.shape[:2], 0, 0, *surface.shape[3:]))
