"""Recorded cases of SineNet, plain and conditioned: prediction, rollout, losses and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from apps.pde.models.sinenet import KEY_MAP, from_official_config

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["run"]

_ROLLOUT = "output/rollout_"


def run(case: Case) -> Mapping[str, Tensor | None]:
    """Run the network of a case; gradients are those of the loss that the head names."""
    conditioned = {"use_scale_shift_norm": False} if case.kind == "conditioned" else {}
    network = case.filled(from_official_config({**conditioned, **case.config}))
    inputs = case.group("input")
    x, y = inputs["x"], inputs.get("y")
    extra = [inputs.get("time"), inputs.get("z")] if case.kind == "conditioned" else []
    prediction = network(x, *extra)
    results: dict[str, Tensor | None] = {"output/prediction": prediction}
    if y is not None:
        terms = _norm(prediction - y) / _norm(y)  # B K C
        results["loss/scaled_l2_per_field"] = terms
        results["loss/scaled_l2"] = terms.mean()
        results["loss/sum_mse"] = (prediction - y).square().mean(dim=(0, 3, 4)).sum()
        of = results[case.head.get("grad_of") or "loss/scaled_l2"]
        assert of is not None
        of.backward()
        results.update(case.gradients(network, KEY_MAP))
    for name in (name for name in case.tensors if name.startswith(_ROLLOUT)):
        steps, frames = int(name.removeprefix(_ROLLOUT).split("_")[0]), case.tensors[name].shape[1]
        history, made = x, []
        with torch.no_grad():
            for _ in range(steps):
                made.append(network(history, *extra))
                history = torch.cat([history, made[-1]], dim=1)[:, -network.frames :]
        results[name] = torch.cat(made, dim=1)[:, :frames]
    return results


def _norm(fields: Tensor) -> Tensor:
    return fields.flatten(3).norm(dim=-1)
