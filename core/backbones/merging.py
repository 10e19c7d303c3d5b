"""Adapters folded into the weights that they adapt: for good, for a while, or in a state alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from core.backbones.adapters import UPDATE, LowRankUpdate, adapted_layers, combined, product

__all__ = ["merge", "merged", "merged_state"]


def merge(network: nn.Module) -> int:
    """Fold every adapter of `network` into the weights it adapts, in place, and return how many there were.

    The network computes what it did, has the parameters that it had before, and all of them are trained from
    then on only if their own `requires_grad` says so.
    """
    layers = list(adapted_layers(network))
    for _, layer in layers:
        layer.fold()
    network.__dict__.pop("reset_parameters", None)
    return len(layers)


@contextmanager
def merged(network: nn.Module) -> Iterator[None]:
    """Fold every adapter of `network` within a `with`, which saves its products, and restore them bitwise."""
    layers = [layer for _, layer in adapted_layers(network)]
    kept = [(type(layer), layer._parameters.copy(), layer._buffers.copy()) for layer in layers]
    scalings = [vars(layer).get("scaling") for layer in layers]
    weights = [layer.base.detach().clone() if isinstance(layer, LowRankUpdate) else None for layer in layers]
    resetting = vars(network).get("reset_parameters")
    merge(network)
    try:
        yield
    finally:
        for layer, (kind, parameters, buffers), scaling in zip(layers, kept, scalings, strict=True):
            layer.__class__ = kind  # type: ignore[assignment]
            layer._parameters, layer._buffers = parameters, buffers
            if scaling is not None:
                layer.scaling = scaling
        for layer, weight in zip(layers, weights, strict=True):
            if weight is not None and isinstance(layer, LowRankUpdate):
                layer.base.data.copy_(weight)
        if resetting is not None:
            network.reset_parameters = resetting  # type: ignore[assignment]


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which adapters are folded into the weights, as `merge` does; others stay as they are.

    Args:
        state: Name to tensor, of an adapted network or of any other.
    """
    merged = dict(state)
    for name in state:
        prefix, _, leaf = name.rpartition(".")
        dot = f"{prefix}." if prefix else ""
        own = f"{dot}weight"
        if leaf == "lora_a" and all(part in state for part in (own, f"{dot}lora_b", f"{dot}lora_scale")):
            parts = [state[own], *(merged.pop(f"{dot}{part}", None) for part in UPDATE)]
            wide = [None if part is None else part.double() for part in parts]
            merged[own] = combined(*wide).to(state[own].dtype)  # type: ignore[arg-type]
        elif leaf == "low_in" and f"{dot}low_out" in state:
            low_out, low_in = merged.pop(f"{dot}low_out"), merged.pop(name)
            merged[own] = product(low_out.double(), low_in.double()).to(low_in.dtype)
    return merged
