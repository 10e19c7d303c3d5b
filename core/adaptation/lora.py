"""Low-rank adaptation (LoRA, arXiv 2106.09685), its stabilised scale (rsLoRA, 2312.03732) and its magnitudes
(DoRA, 2402.09353), of any network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from core.adaptation.freezing import (
    Adaptation,
    Parts,
    frozen_norms,
    keep_frozen,
    keep_in_evaluation,
    names_of,
)
from core.adaptation.targets import find_layers
from core.backbones.adapters import LowRankUpdate, Resetting, adapted_layers
from core.data.randomness import generator
from core.errors import UserError

__all__ = ["DoRA", "LoRA"]


@dataclass(frozen=True)
class LoRA(Adaptation):
    """A low-rank update `scale · B A` of weights is trained, the weights themselves are not.

    At the start the network computes what it did. `core.backbones.merging.merge` folds the update into the
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

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | str = ()
    skip: tuple[str, ...] | str = ()
    train: tuple[str, ...] | str = ()
    stabilised: bool = False
    _found: list[Parts] = field(default_factory=list, init=False, repr=False, compare=False)

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

    @property
    def _magnitude(self) -> bool:
        return False

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze the network and put the updates beside its weights."""
        if next(adapted_layers(network), None) is not None:
            raise UserError(f"{self._name}: {type(network).__name__} is adapted already; merge it first")
        layers = find_layers(
            network, names_of(self.targets), skip=names_of(self.skip), where=f"{self._name}: targets"
        )
        sizes = {name: (m.weight.shape[0], m.weight[0].numel()) for name, m in layers.items()}  # type: ignore
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
                magnitude=self._magnitude,
                generator=drawing,
            )
        if hasattr(network, "reset_parameters"):
            network.reset_parameters = Resetting(network)  # type: ignore[assignment]

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Keep the frozen BatchNorms in evaluation mode: their statistics go with the frozen weights."""
        keep_in_evaluation(self._found, network, lambda: frozen_norms(network, names_of(self.train)))


@dataclass(frozen=True)
class DoRA(LoRA):
    """As `LoRA`, with the length of each output's row of a weight trained apart from its direction."""

    @property
    def _magnitude(self) -> bool:
        return True
