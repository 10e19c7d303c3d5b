"""An ensemble: independently initialised copies of a network, trained together, whose spread is the
uncertainty.

The diesel-engine study with DeepONets reports mean and two standard deviations of such an ensemble.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """`members` copies of `network`, each with weights of its own; it predicts their mean.

    The task applies its objective to every member (`members_advance`) and takes the mean, so that each is
    trained as if it were alone; one optimiser holds them all.

    Args:
        network: Any network here; it becomes the first member, with its own weights.
        members: Copies, at least 2.
        seed: Decides the other members' weights.

    Raises:
        UserError: If there are fewer than two members, or the network cannot draw its weights anew.
    """

    def __init__(self, network: nn.Module, members: int = 8, seed: int = 0) -> None:
        super().__init__()
        if members < 2:
            raise UserError(f"network.members is {members}; an ensemble has at least 2")
        if not callable(getattr(network, "reset_parameters", None)):
            raise UserError(f"{type(network).__name__} cannot draw its weights anew, so it has no ensemble")
        self.seed = seed
        self.frames, self.in_channels, self.out_channels = (
            getattr(network, name) for name in ("frames", "in_channels", "out_channels")
        )
        self.resolution: Any = getattr(network, "resolution", None)
        self.timed = bool(getattr(network, "timed", False))
        self.takes_parameters = bool(getattr(network, "takes_parameters", False))
        self.future: int = getattr(network, "future", 1)
        self.members = nn.ModuleList([network, *(deepcopy(network) for _ in range(members - 1))])
        self._draw(range(1, members))

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the members."""
        yield from self.members

    def reset_parameters(self) -> None:
        """Draw every member's weights anew from `seed`."""
        self._draw(range(len(self.members)))

    def forward(
        self,
        history: Tensor,
        time: Tensor | None = None,
        parameters: Tensor | None = None,
        *,
        apart: bool = False,
    ) -> Tensor:
        """Map `(B, frames, C, *space)` to all members' predictions `(M, B, K, C', *space)`.

        Args:
            history: The same for all members; if `apart`, `(M, B, frames, C, *space)`, each its own.
            time: `(B,)` lead times; used by members that take one.
            parameters: `(B, P)` numbers of the equation; used by members that take them.
            apart: Whether `history` has members.
        """
        more = {} if parameters is None or not self.takes_parameters else {"parameters": parameters}
        each = history if apart else [history] * len(self.members)
        pairs = zip(self.members, each, strict=True)
        return torch.stack([member.advance(own, time, **more) for member, own in pairs])  # type: ignore[operator]

    def members_advance(self, history: Tensor, *given: Tensor | None, apart: bool = False) -> Tensor:
        """Return the members' predictions; see `forward`."""
        return self(history, *given, apart=apart)

    def advance(self, history: Tensor, *given: Tensor | None) -> Tensor:
        """Map `(B, frames, C, *space)`, times and parameters to the members' mean `(B, K, C', *space)`."""
        return self(history, *given).mean(dim=0)

    def mean_and_std(self, history: Tensor, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the members' mean and standard deviation (of a sample, M - 1), both `(B, K, C', *space)`."""
        std, mean = torch.std_mean(self(history, *given), dim=0)
        return mean, std

    def _draw(self, which: range) -> None:
        device = next(self.parameters()).device
        if device.type == "meta":
            return
        # Drawn beside the global stream, which therefore stands where it stood.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for index in which:
                torch.manual_seed(self.seed * 1_000_003 + index)
                self.members[index].reset_parameters()  # type: ignore[operator]
