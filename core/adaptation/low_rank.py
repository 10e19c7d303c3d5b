"""Low-rank factors in the place of weights, and training on from there (PELA, arXiv 2310.10700)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from core.adaptation.freezing import Adaptation, names_of
from core.adaptation.targets import find_layers
from core.backbones.adapters import LowRankFactors, Resetting, adapted_layers
from core.errors import UserError

__all__ = ["LowRank", "factor_rank"]


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
        kind = type(network).__name__
        if next(adapted_layers(network), None) is not None:
            raise UserError(f"LowRank: {kind} is adapted already; merge it first")
        layers = find_layers(
            network,
            names_of(self.targets),
            skip=names_of(self.skip),
            where="LowRank: targets",
            everywhere=True,
        )
        ranks = {}
        for name, layer in layers.items():
            weight = layer.weight
            out, inner = weight.shape[0], weight[0].numel()  # type: ignore[index, union-attr, operator]
            rank = factor_rank(out, inner, ratio=self.ratio)  # type: ignore[arg-type]
            if rank >= 1 and out >= self.smallest:
                ranks[name] = rank
        if not ranks:
            raise UserError(
                f"LowRank: no linear layer of {kind} is large enough for a ratio of {self.ratio}; lower it"
            )
        for name, rank in ranks.items():
            LowRankFactors.install(layers[name], rank)
        if hasattr(network, "reset_parameters"):
            network.reset_parameters = Resetting(network)  # type: ignore[assignment]


def factor_rank(out: int, inner: int, *, ratio: float = 3.0) -> int:
    """Return the rank at which two factors have a `ratio`-th of the parameters of `(out, inner)`, at least;
    0 where there is none.
    """
    return int(out * inner // (ratio * (out + inner)))
