"""Recorded cases of the Fourier neural operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apps.pde.models.fno import KEY_MAP, from_official_config
from core.objectives.fields import RelativeH1, RelativeLp

if TYPE_CHECKING:
    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Forward passes, losses and gradients; complex ones as pairs of real numbers."""
    network = case.filled(from_official_config(case.config))
    inputs = case.group("input")
    condition = inputs.get("embedding")
    prediction = network(inputs["x"], condition)
    frame, label = prediction.unsqueeze(1), inputs["y"].unsqueeze(1)  # B C ... -> B 1 C ...
    lp = RelativeLp(reduction="sum")
    results: dict[str, Tensor | None] = {
        "output/prediction": prediction,
        "loss/lp_l2_sum_over_batch": lp(frame, label),
        "loss/h1_sum_over_batch": RelativeH1(reduction="sum")(frame, label),
        "loss/lp_l2_sample0": lp(frame[:1], label[:1])[None],
    }
    loss = results.get(str(case.head.get("grad_of")))
    if loss is not None:
        loss.backward()
        for name, grad in case.gradients(network, KEY_MAP).items():
            results[name] = torch.view_as_real(grad) if grad.is_complex() else grad
    for name in [key for key in inputs if key.startswith("x_")]:
        with torch.no_grad():
            results[f"output/prediction_{name[2:]}"] = network(inputs[name], condition)
    return results
