"""Low ranks in any network: updates of weights (LoRA, arXiv 2106.09685; rsLoRA, 2312.03732; DoRA,
2402.09353), and factors in the place of weights, from which training goes on (PELA, 2310.10700).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import nn

from core.adaptation.freezing import Adaptation, FrozenInEvaluation, is_linear, keep_frozen, names_of
from core.backbones.adapters import LowRankFactors, LowRankUpdate, adapted_layers, reset_with_adapters
from core.data.randomness import generator
from core.errors import UserError, did_you_mean

__all__ = ["DoRA", "LoRA", "LowRank", "factor_rank"]


@dataclass(frozen=True)
class LoRA(FrozenInEvaluation):
    """A low-rank update `scale · B A` of weights is trained, the weights themselves are not.

    At the start the network computes what it did. `core.backbones.adapters.merge` folds the update into the
    weights; so does loading a run's checkpoint as another's `weights`, and exporting it.

    Args:
        rank: Inner dimension of the update.
        alpha: Its scale: it is multiplied by `alpha / rank`.
        targets: Patterns of module names (`*.attention.*`); empty means the linear layers of the network's
            blocks, but those that the update would not make smaller.
        skip: Patterns of modules left alone.
        train: Names of modules and patterns of parameters that are trained whole as well, such as `head`;
            what `model.reinitialise` names always is.
        stabilised: Multiply by `alpha / sqrt(rank)` instead, which keeps large ranks useful (rsLoRA).

    Raises:
        UserError: If a value is out of its range.
    """

    magnitude: ClassVar[bool] = False

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | str = ()
    skip: tuple[str, ...] | str = ()
    train: tuple[str, ...] | str = ()
    stabilised: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"{self._name}: rank is {self.rank}; it must be at least 1")
        if not self.alpha > 0:
            raise UserError(f"{self._name}: alpha is {self.alpha}; it must be above 0")

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def adds(self) -> bool:
        """True."""
        return True

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze the network and put the updates beside its weights."""
        layers = _find_layers(network, self)
        sizes = {name: _size(layer) for name, layer in layers.items()}
        if not self.targets:
            smaller = [name for name, (o, i) in sizes.items() if self.rank * (o + i) < o * i]
            if not smaller:
                raise UserError(
                    f"{self._name}: an update of rank {self.rank} is no smaller than any linear layer of "
                    f"{type(network).__name__}'s blocks; lower the rank"
                )
            layers = {name: layers[name] for name in smaller}
        for name in layers:
            if self.rank > min(sizes[name]):
                out, inner = sizes[name]
                raise UserError(
                    f"{self._name}: rank is {self.rank}, but {name} is {out}x{inner}; lower the rank to "
                    f"{min(out, inner)}, or leave it out with skip"
                )
        keep_frozen(network, names_of(self.train), fresh, where=f"{self._name}: train")
        for name, layer in layers.items():
            # By the layer's name: the same for any number of processes, and no other draws are moved.
            drawing = generator(torch.initial_seed(), 0, name, "adapter")
            LowRankUpdate.install(
                layer,
                self.rank,
                alpha=self.alpha,
                stabilised=self.stabilised,
                magnitude=self.magnitude,
                generator=drawing,
            )
        reset_with_adapters(network)

    def _frozen(self, network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
        return super()._frozen(network, names_of(self.train))


@dataclass(frozen=True)
class DoRA(LoRA):
    """As `LoRA`, with the length of each output's row of a weight trained apart from its direction."""

    magnitude: ClassVar[bool] = True


@dataclass(frozen=True)
class LowRank(Adaptation):
    """Every linear layer becomes two of a small rank, by the singular value decomposition of its weight, and
    everything is trained on.

    Args:
        ratio: How many times fewer parameters a layer shall have, about.
        targets: Patterns of module names; empty means every linear layer of the network.
        skip: Patterns of modules that stay whole, such as `head`.
        smallest: Layers with fewer outputs stay whole.

    Raises:
        UserError: If a value is out of its range.
    """

    ratio: float = 3.0
    targets: tuple[str, ...] | str = ()
    skip: tuple[str, ...] | str = ()
    smallest: int = 10

    def __post_init__(self) -> None:
        if not self.ratio >= 1:
            raise UserError(f"LowRank: ratio is {self.ratio}; it must be at least 1, as in 3")

    @property
    def adds(self) -> bool:
        """True."""
        return True

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Factorise the layers; called once, with the weights in place."""
        layers = _find_layers(network, self)
        sizes = {name: _size(layer) for name, layer in layers.items() if _size(layer)[0] >= self.smallest}
        ranks = {name: rank for name, size in sizes.items() if (rank := factor_rank(*size, ratio=self.ratio))}
        if not ranks:
            raise UserError(
                f"LowRank: no linear layer of {type(network).__name__} is large enough for a ratio of "
                f"{self.ratio}; lower it"
            )
        for name, rank in ranks.items():
            LowRankFactors.install(layers[name], rank)
        reset_with_adapters(network)


def factor_rank(out: int, inner: int, *, ratio: float = 3.0) -> int:
    """Return the rank at which two factors have a `ratio`-th of the parameters of `(out, inner)`, at least;
    0 where there is none.
    """
    return int(out * inner // (ratio * (out + inner)))


def _find_layers(network: nn.Module, adaptation: LoRA | LowRank) -> dict[str, nn.Module]:
    """Return the layers to adapt by name, in the order in which the network holds them.

    `targets` and `skip` are names of modules, `*` and `?` allowed: a layer is meant if its own name fits, or
    the name of a module that holds it.

    Raises:
        UserError: If the network is adapted already, a pattern fits no layer with a weight, nothing is left,
            or two layers share one weight.
    """
    kind, where = type(network).__name__, f"{type(adaptation).__name__}: targets"
    if next(adapted_layers(network), None) is not None:
        raise UserError(f"{type(adaptation).__name__}: {kind} is adapted already; merge it first")
    patterns, skip = names_of(adaptation.targets), names_of(adaptation.skip)
    modules = {name: module for name, module in network.named_modules() if name and _has_weight(module)}
    for pattern in (*patterns, *skip):
        if not any(_fits(name, pattern) for name in modules):
            names = [name for name, _ in network.named_modules() if name]
            raise UserError(
                f"{where} has '{pattern}', which fits no layer of {kind} that has a weight"
                f"{did_you_mean(pattern, names)}"
            )
    if patterns:
        layers = {name: m for name, m in modules.items() if any(_fits(name, p) for p in patterns)}
        # A pattern that names a part of the network means its matrices, not its norms and embeddings.
        exact = {name for name in layers if any(fnmatchcase(name, p) and "*" not in p for p in patterns)}
        layers = {name: m for name, m in layers.items() if name in exact or _is_matrix(m)}
    else:
        scope = [network] if isinstance(adaptation, LowRank) else _blocks(network, where)
        inside = {id(m) for block in scope for m in block.modules()}
        layers = {name: m for name, m in modules.items() if id(m) in inside and _is_matrix(m)}
    layers = {name: m for name, m in layers.items() if not any(_fits(name, p) for p in skip)}
    if not layers:
        raise UserError(f"{where}: {kind} has no linear layer to adapt; name layers by pattern")
    _refuse_shared(network, layers, where)
    return layers


def _is_matrix(module: nn.Module) -> bool:
    """Tell whether a layer is linear, with more than one input and output."""
    return is_linear(module) and min(_size(module)) > 1


def _size(layer: nn.Module) -> tuple[int, int]:
    """Return outputs and inputs of a layer as a matrix."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0], weight[0].numel()


def _has_weight(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim >= 2 and weight.is_floating_point()


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a module's name, or that of a module that holds it, fits."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _blocks(network: nn.Module, where: str) -> list[nn.Module]:
    blocks = getattr(network, "blocks", None)
    layers = list(blocks()) if callable(blocks) else []
    if not layers:
        raise UserError(
            f"{where}: {type(network).__name__} names no repeated layers (its blocks()); name the layers to "
            "adapt by pattern, as in ['*.attention.*']"
        )
    return layers


def _refuse_shared(network: nn.Module, layers: dict[str, nn.Module], where: str) -> None:
    """Refuse layers whose weight another one uses too: the update would be of one of them alone."""
    owners: dict[int, str] = {}
    for name, module in network.named_modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            first = owners.setdefault(id(parameter), name)
            if first != name and (first in layers or name in layers):
                raise UserError(f"{where}: {first} and {name} share one weight; leave both out with skip")
