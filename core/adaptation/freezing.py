"""Which parameters are trained, and from when: freezing only switches `requires_grad`, never the optimizer's
groups.

What stays frozen for good is frozen in `prepare`, before a strategy wraps the network. What thaws later is
frozen in `apply`, after the wrapping: a parameter frozen before it and thawed afterwards would drift apart
between ranks. `apply` is a function of step and epoch alone, so a resumed run freezes what the unbroken one
would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.errors import UserError, did_you_mean

__all__ = [
    "Adaptation",
    "FreezeAtFirst",
    "Full",
    "HeadOnly",
    "Parts",
    "batch_norms",
    "frozen_norms",
    "keep_frozen",
    "keep_in_evaluation",
    "names_of",
]


class Adaptation:
    """What is trained; subclasses are frozen dataclasses that a recipe names."""

    @property
    def needs_unused(self) -> bool:
        """Whether distributed training needs `find_unused_parameters=True` because parameters come and go."""
        return False

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze what stays frozen for the whole run and add what it adds; called once, with the weights in
        place and before a strategy wraps the network.

        Args:
            network: Whose weights are loaded.
            fresh: Patterns of parameters that the weights did not bring and that begin anew.

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
class HeadOnly(Adaptation):
    """Only the parameters that `head` names are trained; BatchNorm in the rest keeps its statistics.

    Args:
        head: Names of modules (`head`) or patterns of parameter names (`decoder.*.weight`).
    """

    head: tuple[str, ...] = ("head",)
    _found: list[Parts] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", _patterns(self.head, "HeadOnly: head"))

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Freeze all that `head` does not name."""
        keep_frozen(network, self.head, (), where="HeadOnly: head")

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Keep the frozen BatchNorms in evaluation mode, which `network.train()` may have undone."""
        keep_in_evaluation(self._found, network, lambda: frozen_norms(network, self.head))


@dataclass(frozen=True)
class FreezeAtFirst(Adaptation):
    """Keep some parameters frozen until a step or an epoch, then train them too.

    Args:
        patterns: Names of modules (`backbone`) or patterns of parameter names.
        until_step: They thaw at this optimizer step.
        until_epoch: They thaw at the start of this epoch, counted from 0. Give exactly one of the two.
    """

    patterns: tuple[str, ...] = ("backbone",)
    until_step: int | None = None
    until_epoch: int | None = None
    _found: list[Parts] = field(default_factory=list, init=False, repr=False, compare=False)

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

    @property
    def needs_unused(self) -> bool:
        """True: the frozen parameters have no gradient at first."""
        return True

    def prepare(self, network: nn.Module, fresh: Sequence[str] = ()) -> None:
        """Check the patterns; parts are frozen only by `apply`, after the strategy has arranged the network.

        One that shards puts other parameters in the place of these.
        """
        _refuse_idle(network, self.patterns, "FreezeAtFirst: patterns")
        self._found.clear()

    def apply(self, network: nn.Module, step: int, epoch: int) -> None:
        """Freeze or thaw the named parts; parameters that were never trainable stay frozen."""
        if not self._found or self._found[0].network is not network:
            self._find(network)
        parts = self._found[0]
        frozen = step < self.until_step if self.until_step is not None else epoch < (self.until_epoch or 0)
        for parameter in parts.parameters:
            if parameter.requires_grad == frozen:
                parameter.requires_grad_(not frozen)
                if frozen:
                    parameter.grad = None
        for norm in parts.norms:
            if norm.training == frozen and network.training:
                norm.train(not frozen)

    def _find(self, network: nn.Module) -> None:
        parameters = [
            p for name, p in network.named_parameters() if p.requires_grad and _named(name, self.patterns)
        ]
        norms = [m for name, m in batch_norms(network) if _named(f"{name}.weight", self.patterns)]
        self._found[:] = [Parts(network, parameters, norms)]


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


def frozen_norms(network: nn.Module, trained: Sequence[str] = ()) -> list[nn.Module]:
    """Return the batch normalisations of which nothing is trained and that `trained` does not name."""
    return [
        norm
        for name, norm in batch_norms(network)
        if not any(p.requires_grad for p in norm.parameters()) and not _named(f"{name}.weight", trained)
    ]


def keep_in_evaluation(found: list[Parts], network: nn.Module, find: Callable[[], list[nn.Module]]) -> None:
    """Keep modules in evaluation mode, which `network.train()` may have undone.

    Args:
        found: An adaptation's memory of them, filled at first with what `find` returns.
        network: The network that they are parts of.
        find: Finds them.
    """
    if not found or found[0].network is not network:
        found[:] = [Parts(network, [], find())]
    for module in found[0].norms:
        if module.training:
            module.eval()


@dataclass(frozen=True)
class Parts:
    """What an adaptation switches in a network, found once: walking it at every step would cost more than a
    step may.

    Args:
        network: Whose parts they are.
        parameters: Those that freeze and thaw.
        norms: Modules whose mode is switched with them.
    """

    network: nn.Module
    parameters: list[nn.Parameter]
    norms: list[nn.Module]


def _named(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a parameter's name matches a pattern or lies in a module that one names."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)


def batch_norms(network: nn.Module) -> Iterable[tuple[str, nn.Module]]:
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
