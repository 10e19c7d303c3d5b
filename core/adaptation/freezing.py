"""Choice of the parameters that are trained, and from when: freezing only switches `requires_grad`, never the
optimizer's groups.

What stays frozen for good is frozen in `prepare`, before a strategy wraps the network. What thaws later is
frozen in `apply`, after the wrapping: a parameter frozen before it and thawed afterwards would drift apart
between ranks. `apply` is a function of step and epoch alone, so a resumed run freezes what the unbroken one
would. Layers that thaw or freeze one after the other follow arXiv 1801.06146 and 1706.04983.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.backbones.depths import depths
from core.errors import UserError, did_you_mean
from core.tables import text_table

__all__ = [
    "Adaptation",
    "FreezeAtFirst",
    "FrozenInEvaluation",
    "Full",
    "HeadOnly",
    "LayerDecay",
    "ProgressiveFreezing",
    "ProgressiveThawing",
    "is_linear",
    "keep_frozen",
    "names_of",
    "trained_table",
]

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # of a repeated module in its name


class Adaptation:
    """Choice of what is trained; subclasses are frozen dataclasses that a recipe names."""

    @property
    def needs_unused(self) -> bool:
        """Whether distributed training needs `find_unused_parameters=True` because parameters come and go."""
        return False

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze what stays frozen for the whole run and add what it adds; called once, with the weights in
        place and before a strategy wraps the network.

        `fresh` are patterns of parameters that the weights did not bring and that begin anew.

        Raises:
            UserError: If a pattern matches no parameter.
        """

    @property
    def layer_decay(self) -> float | None:
        """Factor of the learning rate from a block to the one before it; None leaves it to the task."""
        return None

    @property
    def adds(self) -> bool:
        """Whether it puts parameters into the network, which a checkpoint then holds too."""
        return False

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Set freezing as it is at optimizer step `step` of epoch `epoch`; called on start, on resume and as
        they advance.
        """


@dataclass(frozen=True)
class Full(Adaptation):
    """Everything is trained."""


@dataclass(frozen=True)
class FrozenInEvaluation(Adaptation):
    """An adaptation whose frozen parts compute as in evaluation: BatchNorms keep their statistics."""

    # The network and its parts, found once: walking it at every step would cost more than a step may.
    _found: list[tuple[nn.Module, list[Any]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Keep the frozen parts in evaluation mode, which `network.train()` may have undone."""
        if not self._found or self._found[0][0] is not network:
            self._found[:] = [(network, self._frozen(network))]
        for module in self._found[0][1]:
            if module.training:
                module.eval()

    def _frozen(self, network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
        """Return the batch normalisations of which nothing is trained and that `trained` does not name."""
        return [
            norm
            for name, norm in _batch_norms(network)
            if not any(p.requires_grad for p in norm.parameters()) and not _named(f"{name}.weight", trained)
        ]


@dataclass(frozen=True)
class HeadOnly(FrozenInEvaluation):
    """Only the parameters that `head` names are trained; BatchNorm in the rest keeps its statistics.

    Args:
        head: Names of modules (`head`) or patterns of parameter names (`decoder.*.weight`).
    """

    head: tuple[str, ...] = ("head",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", _patterns(self.head, "HeadOnly: head"))

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze all that `head` does not name."""
        keep_frozen(network, self.head, (), where="HeadOnly: head")

    def _frozen(self, network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
        return super()._frozen(network, self.head)


@dataclass(frozen=True)
class _Switched(Adaptation):
    """Freezes what is less deep than a bound, which moves as the run goes on."""

    # The network and its parts with their depths, and the number of depths; found once, as above.
    _found: list[tuple[nn.Module, list[tuple[int, Any]], int]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def needs_unused(self) -> bool:
        """True: frozen parameters have no gradient for a while."""
        return True

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Check that the parts are there; they are frozen only by `apply`, after the strategy has arranged
        the network: one that shards puts other parameters in the place of these.
        """
        self._depths(network)
        self._found.clear()

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Freeze or thaw; parameters that were never trainable stay frozen."""
        if not self._found or self._found[0][0] is not network:
            depth, count = self._depths(network)  # what is deepest is never frozen
            parts: list[tuple[int, Any]] = [
                (depth[name], p) for name, p in network.named_parameters() if p.requires_grad
            ]
            parts += [(depth.get(f"{name}.weight", 0), norm) for name, norm in _batch_norms(network)]
            parts = [part for part in parts if part[0] < count - 1]
            self._found[:] = [(network, parts, count)]
        _, parts, count = self._found[0]
        bound = self._bound(step, epoch, count)
        for deep, part in parts:
            frozen = deep < bound
            if isinstance(part, nn.Module):
                if network.training and part.training == frozen:
                    part.train(not frozen)
            elif part.requires_grad == frozen:
                part.requires_grad_(not frozen)
                if frozen:
                    part.grad = None

    def _depths(self, network: nn.Module) -> tuple[dict[str, int], int]:
        """Return every parameter's depth by name, and how many depths there are."""
        return depths(network, type(self).__name__)

    def _bound(self, step: int, epoch: int, count: int) -> int:
        """Return the depth below which all is frozen."""
        raise TypeError(f"{type(self).__name__} is no adaptation of its own; name one of its subclasses")


@dataclass(frozen=True)
class FreezeAtFirst(_Switched):
    """Keep some parameters frozen until a step or an epoch, then train them too.

    Args:
        patterns: Names of modules (`backbone`) or patterns of parameter names.
        until_step: They thaw at this optimizer step.
        until_epoch: They thaw at the start of this epoch, counted from 0. Give exactly one of the two.
    """

    patterns: tuple[str, ...] = ("backbone",)
    until_step: int | None = None
    until_epoch: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "patterns", _patterns(self.patterns, "FreezeAtFirst: patterns"))
        if (self.until_step is None) == (self.until_epoch is None):
            raise UserError(
                f"FreezeAtFirst: until_step is {self.until_step} and until_epoch {self.until_epoch}; "
                "give exactly one of the two"
            )
        until = self.until_step if self.until_step is not None else self.until_epoch
        if until is not None and until < 0:
            raise UserError(f"FreezeAtFirst: until is {until}; it must be at least 0")

    def _depths(self, network: nn.Module) -> tuple[dict[str, int], int]:
        _refuse_idle(network, self.patterns, "FreezeAtFirst: patterns")
        norms = (f"{name}.weight" for name, _ in _batch_norms(network))
        names = [*(name for name, _ in network.named_parameters()), *norms]
        return {name: 0 if _named(name, self.patterns) else 1 for name in names}, 2

    def _bound(self, step: int, epoch: int, count: int) -> int:
        return int(step < self.until_step if self.until_step is not None else epoch < (self.until_epoch or 0))


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
class _Staged(_Switched):
    every_epochs: int | None = None
    every_steps: int | None = None
    blocks: int = 1
    decay: float | None = None

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
    def layer_decay(self) -> float | None:
        """The factor of the rate from a block to the one before it."""
        return self.decay

    def _passed(self, step: int, epoch: int) -> int:
        """Return how many blocks the bound has passed."""
        stage = epoch // (self.every_epochs or 1) if self.every_steps is None else step // self.every_steps
        return stage * self.blocks


@dataclass(frozen=True)
class ProgressiveThawing(_Staged):
    """At first only what stands behind the blocks is trained; then the blocks too, the last one first, and in
    the end what stands before them (gradual unfreezing).

    Args as those of `ProgressiveFreezing`.
    """

    def _bound(self, step: int, epoch: int, count: int) -> int:
        return max(0, count - 1 - self._passed(step, epoch))


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

    def _bound(self, step: int, epoch: int, count: int) -> int:
        return min(count - 1, self._passed(step, epoch))


def names_of(given: Iterable[str]) -> tuple[str, ...]:
    """Return names or patterns as a tuple, of which a recipe may also give one alone."""
    return (given,) if isinstance(given, str) else tuple(given)


def keep_frozen(network: nn.Module, trained: Sequence[str], fresh: Sequence[str], *, where: str) -> None:
    """Freeze every parameter for good but those that `trained` or `fresh` name.

    Raises:
        UserError: If one of `trained` names no parameter; `where` says what it belongs to.
    """
    _refuse_idle(network, trained, where)
    for name, parameter in network.named_parameters():
        if not _named(name, (*trained, *fresh)):
            parameter.requires_grad_(False)


def is_linear(module: nn.Module) -> bool:
    """Tell whether a layer multiplies by a matrix: its weight is `(out, in)`, or that with sides of one."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    return math.prod(weight.shape[2:]) == 1


def trained_table(network: nn.Module) -> str:
    """Return a table of the trained parameters: module, shapes, how many are trained, and their share of it.

    Repeated modules of the same parameters stand in one line, their numbers written as `*`.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    shapes: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in network.named_parameters():
        module, _, leaf = name.rpartition(".")
        shapes.setdefault(module, []).append((leaf, parameter))
    trained = total = 0
    for module, parameters in shapes.items():
        sizes = [(leaf, parameter) for leaf, parameter in parameters if parameter.requires_grad]
        own, held = sum(p.numel() for _, p in sizes), sum(p.numel() for _, p in parameters)
        trained, total = trained + own, total + held
        if not sizes:
            continue
        shown = ", ".join(f"{leaf} {'x'.join(map(str, p.shape)) or '1'}" for leaf, p in sizes)
        row = rows.setdefault((_NUMBER.sub("*", module) or "(network)", shown), [0, 0, 0])
        row[0], row[1], row[2] = row[0] + 1, row[1] + own, row[2] + held
    lines = []
    for (module, shown), (count, own, held) in rows.items():
        times = f" ({count} of them)" if count > 1 else ""
        lines.append((module + times, shown, _grouped(own), _share(own, held)))
    lines.append(("all", "", f"{_grouped(trained)} of {_grouped(total)}", _share(trained, total)))
    return text_table(lines, head=("module", "shape", "trained", "share"))


def _named(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a parameter's name matches a pattern or lies in a module that one names."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)


def _batch_norms(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Yield name and module of every batch normalisation, which changes its statistics in training mode."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm))


def _patterns(patterns: Iterable[str], where: str) -> tuple[str, ...]:
    result = names_of(patterns)
    if not result:
        raise UserError(f"{where} is empty; name at least one module or parameter")
    return result


def _refuse_idle(network: nn.Module, patterns: Iterable[str], where: str) -> None:
    """Refuse patterns that match no parameter of the network."""
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(_named(name, (pattern,)) for name in names):
            modules = [name for name, _ in network.named_modules() if name]
            raise UserError(
                f"{where} has '{pattern}', which names no parameter of {type(network).__name__}"
                f"{did_you_mean(pattern, modules)}"
            )


def _check_decay(kind: str, decay: float) -> None:
    if not 0 < decay <= 1:
        raise UserError(f"{kind}: decay is {decay}; it must be above 0 and at most 1")


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"
