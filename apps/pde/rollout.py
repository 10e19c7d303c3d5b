"""Trajectories from a network: one call a lead time, or its own output fed back step by step.

B samples, T input frames, K frames out, C input and C' output channels, `space` one to three grid axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["autoregressive", "direct", "feed_back", "is_timed", "steps"]


def is_timed(network: nn.Module) -> bool:
    """Say whether `network` takes a lead time, so that one call reaches any time."""
    return bool(getattr(network, "timed", False))


def direct(network: nn.Module, history: Tensor, times: Tensor) -> Tensor:
    """Return `(B, K, C', *space)`, each frame by one call from `history (B, T, C, *space)` with its own lead
    time.

    Args:
        network: One that is `timed`.
        history: Normalised input frames.
        times: `(B, K)` lead times.
    """
    frames = [network.advance(history, times[:, k])[:, -1:] for k in range(times.shape[1])]  # type: ignore
    return torch.cat(frames, dim=1)


def autoregressive(
    network: nn.Module, history: Tensor, times: Tensor, *, feedback: Sequence[int] | None = None
) -> Tensor:
    """Return `(B, K, C', *space)`: each call starts from what the one before gave.

    Args:
        network: Maps T frames to the next one or more.
        history: `(B, T, C, *space)`.
        times: `(B, K)` lead times from the last input frame; a call is given the time since its own start.
        feedback: Input channel that each output channel becomes; None is 0, 1, ... Input channels that no
            output becomes are carried over from the last frame unchanged.
    """
    return torch.cat(list(steps(network, history, times, feedback=feedback)), dim=1)


def steps(
    network: nn.Module,
    history: Tensor,
    times: Tensor,
    *,
    feedback: Sequence[int] | None = None,
    detach: bool = False,
) -> Iterator[Tensor]:
    """Yield the frames of `autoregressive` call by call, `(B, k, C', *space)`; K in all.

    Args:
        network: As there.
        history: As there.
        times: As there.
        feedback: As there.
        detach: Feed back without gradient, as in GPhyT's training (arXiv 2509.13805).
    """
    done, wanted = 0, times.shape[1]
    before = torch.zeros_like(times[:, 0])
    while done < wanted:
        out = network.advance(history, times[:, done] - before)[:, : wanted - done]  # type: ignore[operator]
        yield out
        done += out.shape[1]
        before = times[:, done - 1]
        if done < wanted:
            history = feed_back(history, out.detach() if detach else out, feedback)


def feed_back(history: Tensor, out: Tensor, feedback: Sequence[int] | None = None) -> Tensor:
    """Return the next input `(B, T, C, *space)`: `out (B, k, C', *space)` behind `history`, the oldest left
    out.

    Raises:
        UserError: If an output becomes no input channel.
    """
    inputs, outputs = history.shape[2], out.shape[2]
    if feedback is None and outputs > inputs:
        raise UserError(
            f"the network gives {outputs} channels and takes {inputs}, so its output cannot be fed back; "
            "roll out with model.rollout=direct"
        )
    places = list(range(outputs)) if feedback is None else list(feedback)
    frames = history[:, -1:].expand(-1, out.shape[1], *history.shape[2:])
    if places == list(range(inputs)):
        frames = out
    elif places == list(range(outputs)):
        frames = torch.cat([out, frames[:, :, outputs:]], dim=2)
    else:
        index = torch.tensor(places, device=out.device)
        frames = frames.index_copy(2, index, out.to(frames.dtype))
    return torch.cat([history, frames], dim=1)[:, -history.shape[1] :]
