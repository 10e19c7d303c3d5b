"""Recorded cases of SoftCon: the vision transformer on both sensors, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from core.parity import Case

__all__ = ["run"]


def run(case: Case) -> Mapping[str, Any]:
    """Return everything that a case recorded, under its names."""
    return {"vit": _vit, "loss": _loss}[case.kind](case)


def _vit(case: Case) -> Mapping[str, Any]:
    """Class and patch tokens, whole and masked, tokens of single blocks, other sizes, and gradients."""
    import torch

    from apps.remote_sensing.models.dino.official import arguments, chunked
    from apps.remote_sensing.models.softcon import KEY_MAP, SoftConViT
    from core.checkpoints.weights import load_weights

    config = {"layer_norm_eps": case.head.get("layer_norm_eps", 1e-6), **case.config}
    eps = float(config.pop("layer_norm_eps"))
    network = SoftConViT(**arguments(config), eps=eps)
    names = chunked(KEY_MAP, depth=network.depth, chunks=int(config.get("block_chunks", 1)))
    load_weights(case.weights(), network, key_map=names)
    network.to(case.device).train(case.training)
    network.mask_token.requires_grad_()
    given = case.group("input")
    whole = network.encode(given["x"])
    results: dict[str, Tensor | None] = {
        "output/cls": whole.cls,
        "output/reg": whole.registers,
        "output/patch": whole.patches,
        "output/prenorm": whole.unnormed,
    }
    if (masks := given.get("masks")) is not None:
        masked = network.encode(given["x"], masks)
        loss = (masked.cls * given["w_cls"]).sum()
        loss.backward()
        results |= {"output/masked_cls": masked.cls, "output/masked_patch": masked.patches}
        results |= {"output/masked_reg": masked.registers, "loss/loss": loss[None]}
        own = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        results |= {f"grad/{key}": grad for key, grad in names.to_official(own).items()}
    layers = case.head.get("intermediate_layers") or ()
    if isinstance(layers, int):  # so many, the last ones
        layers = range(network.depth - layers, network.depth)
    for i, tokens in enumerate(network.layer_tokens(given["x"], layers) if layers else ()):
        grid = tuple(side // network.patch for side in given["x"].shape[-2:])
        recorded = case.tensors.get(f"output/inter_{i}")
        maps = tokens.patches
        if recorded is not None and recorded.shape[1] != network.width:
            # The program drops the class token alone: registers stay and are cut into the channels.
            maps = torch.cat([tokens.registers, maps], dim=1)
        maps = maps.reshape(len(maps), *grid, -1).permute(0, 3, 1, 2)
        results |= {f"output/inter_{i}": maps, f"output/inter_cls_{i}": tokens.cls}
    for name, other in given.items():
        if name.startswith("x_"):
            label, grid = name.removeprefix("x_"), (side // network.patch for side in other.shape[-2:])
            results |= {
                f"output/{label}_cls": network(other),
                f"output/{label}_pos": network.positions(*grid),
            }
    return results


def _loss(case: Case) -> Mapping[str, Any]:
    """Similarities, both terms, their sum, and its gradient for the student's projections."""
    from core.objectives.contrastive import soft_contrastive

    given, config = case.group("input"), case.config
    queries = given["q"].clone().requires_grad_()
    found = soft_contrastive(
        queries,
        given["k"],
        given["labels"],
        temperature=float(config.get("contrastive_temperature", 0.2)),
        soft_weight=float(config.get("soft_weight", 0.1)),
        soft_temperature=float(config.get("soft_temperature", 1.0)),
    )
    found.total.backward()
    return {
        "output/s": found.similarity,
        "output/t": found.target,
        "loss/contrastive": found.contrastive[None],
        "loss/soft": found.soft[None],
        "loss/total": found.total[None],
        "grad/q": queries.grad,
    }
