"""Layers adapted in place: low-rank updates of a weight (LoRA, arXiv 2106.09685; rsLoRA, 2312.03732; DoRA,
2402.09353) and low-rank factors in its place (PELA, 2310.10700).

A layer is adapted by giving it a subclass of its own class. Its parameters keep their names, so that key
maps, checkpoints and sharding find them as before, and what is added stands beside them. `layer.weight` is
then what the layer computes with, so that a network which reads its layers' weights is adapted too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FACTORS",
    "UPDATE",
    "Adapted",
    "LowRankFactors",
    "LowRankUpdate",
    "adapted_layers",
    "is_adapter",
    "merge",
    "merged",
    "merged_state",
    "reset_with_adapters",
]

UPDATE = ("lora_a", "lora_b", "lora_scale", "lora_magnitude")
"""Names that `LowRankUpdate` puts beside a layer's own parameters."""
FACTORS = ("low_in", "low_out")
"""Names that `LowRankFactors` puts in the place of a layer's weight."""


class Adapted(nn.Module):
    """Base of adapted layers; `install` of `LowRankUpdate` or `LowRankFactors` makes them."""

    kind: ClassVar[type[nn.Module]] = nn.Module
    """The class that the layer had."""

    def combine(self) -> Tensor:
        """Return the weight that the layer computes with."""
        raise TypeError(f"{type(self).__name__} combines nothing; install one of its subclasses")

    def fold(self) -> None:
        """Put the combined weight in the place of the parts and give the layer its own class back."""
        raise TypeError(f"{type(self).__name__} folds nothing; install one of its subclasses")

    def _linear(self, input: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} maps nothing; install one of its subclasses")

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that the layer computes with, of the shape that it had.

        While it is spread over processes it is the layer's own: only what spreads it asks for it then.
        """
        base = self._parameters.get("weight")
        return base if base is not None and hasattr(base, "device_mesh") else self.combine()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the layer did, with the combined weight.

        A plain linear layer never makes the combined weight: its gradient would be as large as the weight's.
        """
        if self.kind.forward is not nn.Linear.forward:
            return super().forward(*args, **kwargs)
        return self._linear(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the classes that the layer's was made of, which alone have importable names."""
        mixin = type(self).__mro__[1]
        return _blank, (mixin, self.kind), self.__getstate__()  # type: ignore[attr-defined]


class LowRankUpdate(Adapted):
    """`V = W + scale · B A`, and with a magnitude `m · V / ‖V‖` for each output; `W` itself is not trained.

    Parameters beside the layer's own: `lora_a (rank, in)`, `lora_b (out, rank)`, `lora_magnitude (out,)` and
    the buffer `lora_scale ()`.
    """

    lora_a: Tensor
    lora_b: Tensor
    lora_magnitude: Tensor
    lora_scale: Tensor
    scaling: float

    @classmethod
    def install(
        cls,
        layer: nn.Module,
        rank: int,
        *,
        alpha: float,
        stabilised: bool = False,
        magnitude: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Adapt `layer` with a `weight (out, …)` in place, without changing what it computes.

        The update is multiplied by `alpha / rank`, or with `stabilised` by `alpha / sqrt(rank)` (rsLoRA).
        With `magnitude` the length of each output's row is trained apart from its direction (DoRA).
        `generator` draws the update on the CPU; None takes torch's own.

        Raises:
            ValueError: If `rank` is out of its range.
        """
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        out, inner = weight.shape[0], weight[0].numel()
        if not 1 <= rank <= min(out, inner):
            raise ValueError(f"rank is {rank}; for a {out}x{inner} weight it must be 1 to {min(out, inner)}")
        layer.__class__ = _kind(cls, type(layer))
        assert isinstance(layer, cls)
        layer.scaling = alpha / math.sqrt(rank) if stabilised else alpha / rank
        weight.requires_grad_(False)
        layer.lora_a = nn.Parameter(weight.new_empty(rank, inner))
        layer.lora_b = nn.Parameter(weight.new_empty(out, rank))
        if magnitude:
            layer.lora_magnitude = nn.Parameter(weight.new_empty(out))
        layer.register_buffer("lora_scale", weight.new_empty(()))
        layer.reset_adapter(generator)

    @torch.no_grad()
    def reset_adapter(self, generator: torch.Generator | None = None) -> None:
        """Draw the update anew so that it changes nothing; the magnitude is that of the weight as it is."""
        drawn = torch.empty(self.lora_a.shape, device="meta" if self.lora_a.is_meta else "cpu")
        self.lora_a.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
        nn.init.zeros_(self.lora_b)
        self.lora_scale.fill_(self.scaling)
        if "lora_magnitude" in self._parameters:
            self.lora_magnitude.copy_(_row_norms(self.base))

    @property
    def base(self) -> Tensor:
        """The weight without the update."""
        base = self._parameters["weight"]
        assert base is not None
        return base

    def combine(self) -> Tensor:
        """Return the weight with the update."""
        return _combined(*self._parts)

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        magnitude = self._parameters.get("lora_magnitude")
        return self.base, self.lora_a, self.lora_b, self.lora_scale, magnitude

    @torch.no_grad()
    def fold(self) -> None:
        """Add the update to the weight, computed in float64, and take the adapter away."""
        parts = self._parts
        whole = _combined(*(None if part is None else part.double() for part in parts))  # type: ignore[arg-type]
        self.base.copy_(whole)
        for name in UPDATE:
            self._parameters.pop(name, None)
            self._buffers.pop(name, None)
        del self.scaling
        self.__class__ = self.kind  # type: ignore[assignment]

    def _linear(self, input: Tensor) -> Tensor:
        bias, magnitude = self._parameters.get("bias"), self._parameters.get("lora_magnitude")
        low = F.linear(input, self.lora_a) * self.lora_scale
        if magnitude is None:
            return _plus_product(F.linear(input, self.base, bias), low, self.lora_b)
        with torch.no_grad():  # the length is a constant in the backward pass (DoRA, section 4.3)
            length = _row_norms(_direction(self.base, self.lora_a, self.lora_b, self.lora_scale))
        y = _plus_product(F.linear(input, self.base), low, self.lora_b) * (magnitude / length)
        return y if bias is None else y + bias


class LowRankFactors(Adapted):
    """Two factors in the place of a weight `(out, …)`: `low_in (rank, …)` and `low_out (out, rank)`."""

    low_in: Tensor
    low_out: Tensor

    @classmethod
    def install(cls, layer: nn.Module, rank: int) -> None:
        """Factorise `layer` in place by the truncated singular value decomposition of its weight.

        Raises:
            ValueError: If `rank` is out of its range.
        """
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        limit = min(weight.shape[0], weight[0].numel())
        if not 1 <= rank <= limit:
            raise ValueError(f"rank is {rank}; for a weight {tuple(weight.shape)} it must be 1 to {limit}")
        low_in, low_out = _split_weight(weight.detach(), rank)
        layer.__class__ = _kind(cls, type(layer))
        del layer._parameters["weight"]
        layer.low_in = nn.Parameter(low_in, requires_grad=weight.requires_grad)
        layer.low_out = nn.Parameter(low_out, requires_grad=weight.requires_grad)

    def combine(self) -> Tensor:
        """Return the factors' product."""
        return _product(self.low_out, self.low_in)

    @torch.no_grad()
    def fold(self) -> None:
        """Put the product, computed in float64, in the place of the factors."""
        low_in, low_out = self.low_in, self.low_out
        for name in FACTORS:
            del self._parameters[name]
        self.__class__ = self.kind  # type: ignore[assignment]
        whole = _product(low_out.double(), low_in.double()).to(low_in.dtype)
        self.register_parameter("weight", nn.Parameter(whole, requires_grad=low_in.requires_grad))

    def _linear(self, input: Tensor) -> Tensor:
        return F.linear(F.linear(input, self.low_in), self.low_out, self._parameters.get("bias"))


def _combined(weight: Tensor, a: Tensor, b: Tensor, scale: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """Return `V = W + scale · B A`, or `m · V / ‖V‖` with the length of V's rows taken as a constant.

    W is `(out, …)`, A `(rank, in)`, B `(out, rank)`, the scale `()` and m `(out,)`.
    """
    direction = _direction(weight, a, b, scale)
    if magnitude is None:
        return direction
    ratio = magnitude / _row_norms(direction.detach())
    return direction * ratio.view(-1, *[1] * (weight.ndim - 1))


def _split_weight(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return `(rank, …)` and `(out, rank)`, whose product is the nearest of that rank to `weight (out, …)`.

    Each holds the square roots of the singular values.
    """
    if weight.is_meta:
        return weight.new_empty(rank, *weight.shape[1:]), weight.new_empty(weight.shape[0], rank)
    left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    root = values[:rank].sqrt()
    return (
        (root[:, None] * right[:rank]).view(rank, *weight.shape[1:]).to(weight.dtype).contiguous(),
        (left[:, :rank] * root).to(weight.dtype).contiguous(),
    )


def adapted_layers(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Yield name and layer of all that is adapted in `network`."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, Adapted))


def is_adapter(name: str) -> bool:
    """Tell whether a name in a state is that of something an adapter added."""
    return name.rpartition(".")[2] in (*UPDATE, *FACTORS)


def _reset_adapted(network: nn.Module) -> None:
    """Draw all parameters of an adapted `network` anew: its own as it does itself, then the adapters'."""
    layers = [layer for _, layer in adapted_layers(network)]
    updates = [(layer, type(layer)) for layer in layers if isinstance(layer, LowRankUpdate)]
    factors = [(layer, layer.low_in.shape[0]) for layer in layers if isinstance(layer, LowRankFactors)]
    for layer, _ in updates:
        layer.__class__ = layer.kind  # type: ignore[assignment]
    for factored, _ in factors:
        factored.fold()
    type(network).reset_parameters(network)  # type: ignore[attr-defined]
    for layer, kind in updates:
        layer.__class__ = kind  # type: ignore[assignment]
        layer.reset_adapter()
    for factored, rank in factors:
        LowRankFactors.install(factored, rank)


def reset_with_adapters(network: nn.Module) -> None:
    """Have an adapted network's `reset_parameters`, which knows nothing of adapters, draw these too."""
    if hasattr(network, "reset_parameters"):
        network.reset_parameters = partial(_reset_adapted, network)  # type: ignore[assignment]


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
    kept = []
    for _, layer in adapted_layers(network):
        state = {**vars(layer), "_parameters": layer._parameters.copy(), "_buffers": layer._buffers.copy()}
        weight = layer.base.detach().clone() if isinstance(layer, LowRankUpdate) else None
        kept.append((layer, type(layer), state, weight))
    resetting = vars(network).get("reset_parameters")
    merge(network)
    try:
        yield
    finally:
        for layer, kind, state, weight in kept:
            layer.__class__ = kind  # type: ignore[assignment]
            vars(layer).update(state)
            if weight is not None and isinstance(layer, LowRankUpdate):
                layer.base.data.copy_(weight)
        if resetting is not None:
            network.reset_parameters = resetting  # type: ignore[assignment]


def merged_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with its adapters folded into the weights, as `merge` does; others stay as they are."""
    merged = dict(state)
    for name in state:
        prefix, _, leaf = name.rpartition(".")
        dot = f"{prefix}." if prefix else ""
        weight = f"{dot}weight"
        if leaf == "lora_a" and all(part in state for part in (weight, f"{dot}lora_b", f"{dot}lora_scale")):
            parts = [state[weight], *(merged.pop(f"{dot}{part}", None) for part in UPDATE)]
            wide = [None if part is None else part.double() for part in parts]
            merged[weight] = _combined(*wide).to(state[weight].dtype)  # type: ignore[arg-type]
        elif leaf == "low_in" and f"{dot}low_out" in state:
            low_out, low_in = merged.pop(f"{dot}low_out"), merged.pop(name)
            merged[weight] = _product(low_out.double(), low_in.double()).to(low_in.dtype)
    return merged


def _plus_product(y: Tensor, low: Tensor, b: Tensor) -> Tensor:
    """Return `y + low Bᵀ` in one product, for `y (..., out)`, `low (..., rank)` and `B (out, rank)`."""
    return torch.addmm(y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), b.t()).view(y.shape)


def _product(low_out: Tensor, low_in: Tensor) -> Tensor:
    """Return the weight `(out, …)` that factors `(out, rank)` and `(rank, …)` stand for."""
    return (low_out @ low_in.flatten(1)).view(low_out.shape[0], *low_in.shape[1:])


def _direction(weight: Tensor, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    return weight + (scale * (b @ a)).view(weight.shape)


def _row_norms(weight: Tensor) -> Tensor:
    norms = weight.flatten(1).norm(dim=1)
    return norms.clamp_min(torch.finfo(norms.dtype).tiny)  # a row of zeros stays one


def _make_kind(mixin: type[Adapted], kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of adapted layers that were of class `kind`."""
    return type(f"{mixin.__name__}{kind.__name__}", (mixin, kind), {"kind": kind, "__module__": __name__})


_kind: Callable[[type[Adapted], type[nn.Module]], type[nn.Module]] = cache(_make_kind)  # type: ignore[assignment]


def _blank(mixin: type[Adapted], kind: type[nn.Module]) -> nn.Module:
    adapted = _kind(mixin, kind)
    return adapted.__new__(adapted)
