"""Recorded cases of building blocks: attention over packed sequences, the sampling chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from core.backbones.generation import Sampling, guide, keep_top_k, keep_top_p, mark, penalise
from core.backbones.packed_attention import packed_attention, packed_positions
from core.backbones.rope import Rope, rotate

__all__ = ["CASES"]


def packed(case: Any) -> dict[str, Tensor]:
    """Return attention with rotary positions that restart in each sequence, its loss and gradients."""
    config: Mapping[str, Any] = case.config
    inputs = case.group("input")
    bounds, weight = inputs["cu_seqlens"], inputs["loss_weight"]
    tokens = inputs["q"].shape[0]
    positions = packed_positions(bounds, tokens)
    rope = Rope(config["head_dim"], theta=config["theta"]).to(bounds.device)
    outputs = {"output/position_ids": positions}
    for name, causal in (("causal", True), ("bidirectional", False)):
        q, k, v = (inputs[key].detach().clone().requires_grad_() for key in ("q", "k", "v"))
        cos, sin = rope(positions[None])
        turned, keys = (rotate(x[None], cos, sin)[0] for x in (q, k))
        mixed = packed_attention(turned, keys, v, bounds, causal=causal, max_seqlen=max(config["lengths"]))
        loss = (mixed * weight).sum()
        loss.backward()
        outputs |= {f"output/{name}": mixed, f"loss/{name}": loss}
        for key, x in (("q", q), ("k", k), ("v", v)):
            outputs[f"grad/{name}.{key}"] = torch.zeros_like(x) if x.grad is None else x.grad
    return outputs


def sampling(case: Any) -> dict[str, Tensor]:
    """Return scores and kept tokens after each step from logits to probabilities."""
    config: Mapping[str, Any] = case.config
    inputs = case.group("input")
    logits, history = inputs["cond_logits"], inputs["history_ids"]
    seen = mark(history, logits.shape[1])
    chain = Sampling(**{key: value for key, value in config.items() if key != "guidance_scale"})
    guided = guide(logits, inputs["uncond_logits"], config["guidance_scale"])
    penalised = penalise(guided, seen, chain.repetition_penalty)
    warm = penalised / chain.temperature
    best = warm if chain.top_k is None else keep_top_k(warm, chain.top_k)
    likely = best if chain.top_p is None else keep_top_p(best, chain.top_p)
    outputs = {
        "output/after_cfg": guided,
        "output/after_repetition": penalised,
        "output/after_temperature": warm,
        "output/topk_kept_mask": best.isfinite(),
        "output/topp_kept_mask": likely.isfinite(),
        "output/final_probs": chain.probabilities(guided, seen=seen),
    }
    for name in case.group("output"):
        if name.startswith("raw_logits_repetition_"):
            penalty = float(name.rpartition("_")[2].replace("p", "."))
            outputs[f"output/{name}"] = penalise(logits, seen, penalty)
    return outputs


CASES: dict[tuple[str, str], Callable[[Any], dict[str, Tensor]]] = {
    ("recipes", "packed_attention"): packed,
    ("yue", "sampling"): sampling,
}
