"""Recorded cases of Met²Net."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from apps.weather.models.met2net import KEY_MAP, Met2Net, from_official_config

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """A forecast with its intermediate tensors, or a training step with gradients of both kinds."""
    network = case.filled(from_official_config(case.config))
    return _trained(case, network) if case.training else _forecast(case, network)


def _forecast(case: Case, network: Met2Net) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: results.__setitem__(f"output/{name}", output))

    for number, encoder in enumerate(network.q.encoders):
        keep(f"enc_{number}", encoder)
    for number, layer in enumerate(network.q.translator.layers):
        keep(f"layer{number}", layer)
        keep(f"attn_layer{number}", layer.attention)
    with torch.no_grad():
        results["output/prediction"] = network(case.group("input")["x"])
    return results


def _trained(case: Case, network: Met2Net) -> dict[str, Tensor]:
    inputs = case.group("input")
    masks = [mask for name, mask in sorted(inputs.items()) if name.startswith("drop_path_mask/")]
    keep = 1.0 - float(case.head.get("drop_path_probability", 0.0))
    as_reference = copy.deepcopy(network)
    results: dict[str, Tensor] = {}
    for group, system in (("grad", network), ("grad_as_reference", as_reference)):
        _replay(system, masks, keep)
        published = system is as_reference
        losses = system.two_stage(inputs["x"], inputs["y"], scored=True, reference_gradients=published)
        losses.total.backward()
        if not published:
            system.follow()
            results |= {
                "loss/rec": losses.reconstruction,
                "loss/latent": losses.latent,
                "loss/pre": losses.prediction,
                "loss/total": losses.total,
                "output/pre_y": losses.forecast,
            }
            after = KEY_MAP.to_official(system.state_dict())
            results |= {f"output/after/{name}": tensor for name, tensor in after.items()}
        results |= case.gradients(system, KEY_MAP, group=group)
    return results


def _replay(network: Met2Net, masks: list[Tensor], keep: float) -> None:
    """Let recorded masks stand for stochastic depth, in the order in which a training step meets it; without
    any nothing is left out.
    """
    recorded = iter(masks)
    for copy_ in (network.k, network.q):
        for layer in copy_.translator.layers:
            for name in ("drop_path1", "drop_path2"):
                setattr(layer.tau, name, _Recorded(next(recorded) / keep) if masks else nn.Identity())


class _Recorded(nn.Module):
    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.kept.view(-1, 1, 1, 1)
