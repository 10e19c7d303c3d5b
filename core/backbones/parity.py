"""Recorded cases of building blocks: attention over packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.backbones.packed_attention import packed_attention, packed_positions
from core.backbones.rope import Rope, rotate

__all__ = ["CASES"]


def packed(case: Any) -> dict[str, Tensor]:
    """Return attention with rotary positions that restart in each sequence, its loss and gradients."""
    config: Mapping[str, Any] = case.config
    given = case.group("input")
    bounds, weight = given["cu_seqlens"], given["loss_weight"]
    tokens = given["q"].shape[0]
    positions = packed_positions(bounds, tokens)
    rope = Rope(config["head_dim"], theta=config["theta"]).to(bounds.device)
    outputs = {"output/position_ids": positions}
    for name, causal in (("causal", True), ("bidirectional", False)):
        q, k, v = (given[key].detach().clone().requires_grad_() for key in ("q", "k", "v"))
        cos, sin = rope(positions[None])
        turned, keys = (rotate(x[None], cos, sin)[0] for x in (q, k))
        mixed = packed_attention(turned, keys, v, bounds, causal=causal, max_seqlen=max(config["lengths"]))
        loss = (mixed * weight).sum()
        loss.backward()
        outputs |= {f"output/{name}": mixed, f"loss/{name}": loss}
        for key, x in (("q", q), ("k", k), ("v", v)):
            outputs[f"grad/{name}.{key}"] = torch.zeros_like(x) if x.grad is None else x.grad
    return outputs


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {("recipes", "packed_attention"): packed}
