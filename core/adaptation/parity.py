"""Recorded cases of adapted linear layers: low-rank factors, LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.adaptation.low_rank import factor_rank
from core.backbones.adapters import LowRankFactors, LowRankUpdate, merge

__all__ = ["CASES"]


def adapters(case: Any) -> dict[str, Tensor]:
    """Return outputs and weights of one linear layer, adapted in each way that the case has weights for."""
    config, state, x = case.config, case.state(), case.group("input")["x"]
    rank = factor_rank(config["out"], config["in"], ratio=config.get("compress_ratio", 3))
    factored = _linear(state)
    LowRankFactors.install(factored, rank)
    outputs = {
        "output/lowrank_rank": torch.tensor(rank),
        "output/lowrank_product": factored.weight,
        "output/lowrank_y": factored(x),
    }
    for name in ("lora", "dora"):
        if f"{name}_magnitude" not in state and name == "dora":
            continue
        layer = _updated(case, magnitude=name == "dora")
        outputs |= {f"output/{name}_y": layer(x), f"output/{name}_weight": layer.weight}
        merge(layer)
        outputs |= {f"output/{name}_merged_weight": layer.weight, f"output/{name}_merged_y": layer(x)}
    return outputs


def _linear(state: dict[str, Tensor]) -> nn.Linear:
    weight, bias = state["weight"], state.get("bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer.load_state_dict({name: tensor.clone() for name, tensor in parameters.items()}, assign=True)
    return layer


def _updated(case: Any, *, magnitude: bool) -> nn.Module:
    config, state = case.config, case.state()
    layer = _linear(state)
    stabilised = bool(config.get("use_rslora", False))
    LowRankUpdate.install(
        layer, config["rank"], alpha=config["alpha"], stabilised=stabilised, magnitude=magnitude
    )
    parts = {"lora_a": state["lora_A"], "lora_b": state["lora_B"]}
    if magnitude:
        parts["lora_magnitude"] = state["dora_magnitude"]
    layer.load_state_dict(parts, strict=False)
    return layer


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {("recipes", "adapters"): adapters}
