"""Windows of a sequence one after another: each starts from the last value that the one before predicted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["Chained", "chain"]


def chain(network: nn.Module, commands: Tensor, initial: Tensor, *, window: int) -> Tensor:
    """Return outputs `(B, C', T)` under `commands (B, C, T)`, from `initial (B, C')` just before the first.

    All are normalised. The network maps `(B, 1, C + C', window)`, commands and initial values repeated, to
    `(B, 1, C', window)`.

    Raises:
        ValueError: If T is no multiple of `window`.
    """
    if commands.shape[-1] % window:
        raise ValueError(f"{commands.shape[-1]} samples are no multiple of a window of {window}")
    parts = []
    for part in commands.split(window, dim=-1):
        joined = torch.cat([part, initial[..., None].expand(-1, -1, window)], dim=1)
        parts.append(network.advance(joined[:, None])[:, 0])  # type: ignore[operator]
        initial = parts[-1][..., -1]
    return torch.cat(parts, dim=-1)


class Chained(nn.Module):
    """A network for windows of one length, made to predict sequences of any number of windows.

    Channels are the commands and, last, one for each output that holds its initial value. On a single window
    it is the network itself; a longer sequence is predicted window by window, so that training on windows and
    testing on whole trajectories need no other task.

    Args:
        network: On a 1-D grid of fixed resolution, the window.

    Raises:
        UserError: If the network's grid is not one axis of fixed resolution.
    """

    timed = False
    frames = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        resolution = getattr(network, "resolution", None)
        if not isinstance(resolution, tuple) or len(resolution) != 1 or network.frames != 1:
            raise UserError(
                f"{type(network).__name__} has the grid {resolution} and {getattr(network, 'frames', None)} "
                "frames; windows are chained of networks with one axis, a fixed resolution and one frame"
            )
        self.network = network
        self.resolution: tuple[int, ...] = resolution
        self.in_channels, self.out_channels = network.in_channels, network.out_channels

    def blocks(self) -> Iterator[nn.Module]:
        """Yield the network's repeated layers."""
        yield from self.network.blocks()  # type: ignore[operator]

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        self.network.reset_parameters()  # type: ignore[operator]

    def forward(self, history: Tensor) -> Tensor:
        """Map `(B, 1, C + C', T)` to `(B, 1, C', T)`; T is a multiple of the window."""
        window = self.resolution[0]
        if history.shape[-1] == window:
            return self.network.advance(history)  # type: ignore[operator]
        commands, initial = history[:, 0, : -self.out_channels], history[:, 0, -self.out_channels :, 0]
        return chain(self.network, commands, initial, window=window).unsqueeze(1)

    def advance(self, history: Tensor, time: Tensor | None = None) -> Tensor:
        """Map `(B, 1, C + C', T)` to `(B, 1, C', T)`; no time is used."""
        return self(history)
