"""Rates by depth, and layers that thaw or freeze one after the other (arXiv 1801.06146, 1706.04983)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from core.adaptation.freezing import Adaptation, batch_norms
from core.backbones.depths import depths
from core.errors import UserError

__all__ = ["LayerDecay", "ProgressiveFreezing", "ProgressiveThawing"]


@dataclass(frozen=True)
class LayerDecay(Adaptation):
    """Everything is trained, with a rate that falls from each block to the one before it.

    Args:
        decay: The factor; 0.65 to 0.8 for large transformers that were pre-trained by masking.
    """

    decay: float = 0.75

    def __post_init__(self) -> None:
        _check_decay("LayerDecay", self.decay)

    @property
    def layer_decay(self) -> float | None:
        """The factor."""
        return self.decay

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Check that the network has blocks."""
        depths(network, "LayerDecay")


@dataclass(frozen=True)
class _Staged(Adaptation):
    """Freezes what is less deep than a bound, which moves from stage to stage.

    Args:
        every_epochs: Length of a stage in epochs.
        every_steps: Or in optimizer steps. Give one of the two; without either a stage is an epoch.
        blocks: How many blocks the bound moves from a stage to the next.
        decay: Factor of the rate from a block to the one before it; None gives all the same.
    """

    every_epochs: int | None = None
    every_steps: int | None = None
    blocks: int = 1
    decay: float | None = None
    _found: list[tuple[nn.Module, list[tuple[int, Any]], int]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if self.every_epochs is not None and self.every_steps is not None:
            raise UserError(f"{kind}: every_epochs and every_steps are both given; give one of the two")
        for name in ("every_epochs", "every_steps", "blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{kind}: {name} is {value}; it must be at least 1")
        if self.decay is not None:
            _check_decay(kind, self.decay)

    @property
    def needs_unused(self) -> bool:
        """True: frozen parameters have no gradient for a while."""
        return True

    @property
    def layer_decay(self) -> float | None:
        """The factor of the rate from a block to the one before it."""
        return self.decay

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Check that the network has blocks; they are frozen only by `apply`."""
        depths(network, type(self).__name__)
        self._found.clear()

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Freeze or thaw; parameters that were never trainable stay frozen."""
        if not self._found or self._found[0][0] is not network:
            self._find(network)
        _, parts, layers = self._found[0]
        stage = (
            step // self.every_steps if self.every_steps is not None else epoch // (self.every_epochs or 1)
        )
        bound = self._bound(stage * self.blocks, layers)
        for depth, part in parts:
            frozen = depth < bound
            if isinstance(part, nn.Module):
                if network.training and part.training == frozen:
                    part.train(not frozen)
            elif part.requires_grad == frozen:
                part.requires_grad_(not frozen)
                if frozen:
                    part.grad = None

    def _bound(self, passed: int, layers: int) -> int:
        """Return the depth below which all is frozen, after `passed` blocks."""
        raise TypeError(f"{type(self).__name__} is no adaptation of its own; name one of its subclasses")

    def _find(self, network: nn.Module) -> None:
        found, layers = depths(network, type(self).__name__)
        parts: list[tuple[int, Any]] = [
            (found[name], p) for name, p in network.named_parameters() if p.requires_grad
        ]
        parts += [(found.get(f"{name}.weight", 0), norm) for name, norm in batch_norms(network)]
        self._found[:] = [(network, parts, layers)]


@dataclass(frozen=True)
class ProgressiveThawing(_Staged):
    """At first only what stands behind the blocks is trained; then the blocks too, the last one first, and in
    the end what stands before them (gradual unfreezing).

    Args as those of `ProgressiveFreezing`.
    """

    def _bound(self, passed: int, layers: int) -> int:
        return max(0, layers - 1 - passed)


@dataclass(frozen=True)
class ProgressiveFreezing(_Staged):
    """At first everything is trained; then what stands before the blocks is frozen, and the blocks one after
    the other, the first one first. What stands behind them is trained to the end.

    Args:
        every_epochs: Length of a stage in epochs.
        every_steps: Or in optimizer steps. Give one of the two; without either a stage is an epoch.
        blocks: How many blocks are frozen (or thawed) from a stage to the next.
        decay: Factor of the rate from a block to the one before it; None gives all the same.
    """

    def _bound(self, passed: int, layers: int) -> int:
        return min(layers - 1, passed)


def _check_decay(kind: str, decay: float) -> None:
    if not 0 < decay <= 1:
        raise UserError(f"{kind}: decay is {decay}; it must be above 0 and at most 1")
