"""Trajectories from a network: one call a lead time, or its own output fed back step by step.

B samples, T input frames, K frames out, C input and C' output channels, `space` one to three grid axes; M
members of an ensemble (a network with `members` and `members_advance`), each of which goes its own way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["autoregressive", "by_member", "direct", "feed_back", "is_timed", "member_steps", "steps"]


def is_timed(network: nn.Module) -> bool:
    """Say whether `network` takes a lead time, so that one call reaches any time."""
    return bool(getattr(network, "timed", False))


def direct(network: nn.Module, history: Tensor, times: Tensor, *, parameters: Tensor | None = None) -> Tensor:
    """Return `(B, K, C', *space)`, each frame by one call from `history (B, T, C, *space)`, normalised, with
    its own one of the lead times `(B, K)`.

    `parameters` `(B, P)` of the equation are given to a network with `takes_parameters`.
    """
    frames = [_call(network, history, times[:, k], parameters)[:, -1:] for k in range(times.shape[1])]
    return torch.cat(frames, dim=1)


def autoregressive(
    network: nn.Module,
    history: Tensor,
    times: Tensor,
    *,
    feedback: Sequence[int] | None = None,
    parameters: Tensor | None = None,
) -> Tensor:
    """Return `(B, K, C', *space)`: each call starts from what the one before gave.

    Args:
        network: Maps T frames to the next one or more.
        history: `(B, T, C, *space)`.
        times: `(B, K)` lead times from the last input frame; a call is given the time since its own start.
        feedback: Input channel that each output channel becomes; None is 0, 1, ... Input channels that no
            output becomes are carried over from the last frame unchanged.
        parameters: As in `direct`.
    """
    return torch.cat(list(steps(network, history, times, feedback=feedback, parameters=parameters)), dim=1)


def steps(
    network: nn.Module,
    history: Tensor,
    times: Tensor,
    *,
    feedback: Sequence[int] | None = None,
    detach: bool = False,
    parameters: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the frames of `autoregressive` call by call, `(B, k, C', *space)`; K in all.

    With `detach` they are fed back without gradient, as in GPhyT's training (arXiv 2509.13805).
    """
    done, wanted = 0, times.shape[1]
    before = torch.zeros_like(times[:, 0])
    while done < wanted:
        out = _call(network, history, times[:, done] - before, parameters)[:, : wanted - done]
        yield out
        done += out.shape[1]
        before = times[:, done - 1]
        if done < wanted:
            history = feed_back(history, out.detach() if detach else out, feedback)


def by_member(
    network: nn.Module,
    history: Tensor,
    times: Tensor,
    *,
    way: str,
    feedback: Sequence[int] | None = None,
    parameters: Tensor | None = None,
) -> Tensor:
    """Return the trajectory of every member of an ensemble, `(M, B, K, C', *space)`; M is 1 for one network.

    The way is `direct` or `autoregressive`; members are each fed with their own output.
    """
    each, (history, times, parameters) = _apart(network, history, times, parameters)
    if way == "direct":
        out = direct(each, history, times, parameters=parameters)
    else:
        out = autoregressive(each, history, times, feedback=feedback, parameters=parameters)
    return out.unflatten(0, (_members(network), -1))


def member_steps(
    network: nn.Module,
    history: Tensor,
    times: Tensor,
    *,
    feedback: Sequence[int] | None = None,
    detach: bool = False,
    parameters: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield what `steps` does for every member of an ensemble, `(M, B, k, C', *space)`; M is 1 for one
    network.
    """
    each, (history, times, parameters) = _apart(network, history, times, parameters)
    walk = steps(each, history, times, feedback=feedback, detach=detach, parameters=parameters)
    for out in walk:
        yield out.unflatten(0, (_members(network), -1))


def feed_back(history: Tensor, out: Tensor, feedback: Sequence[int] | None = None) -> Tensor:
    """Return the next input `(B, T, C, *space)`: `out (B, k, C', *space)` behind `history` less its oldest.

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


class _Apart:
    """An ensemble as one network whose batch holds the samples of one member after those of another."""

    def __init__(self, ensemble: nn.Module) -> None:
        self.ensemble, self.members = ensemble, _members(ensemble)
        self.takes_parameters = bool(getattr(ensemble, "takes_parameters", False))

    def advance(
        self, history: Tensor, time: Tensor | None = None, parameters: Tensor | None = None
    ) -> Tensor:
        each = history.unflatten(0, (self.members, -1))
        few = [None if values is None else values[: each.shape[1]] for values in (time, parameters)]
        return self.ensemble.members_advance(each, *few, apart=True).flatten(0, 1)  # type: ignore[operator]


def _members(network: nn.Module) -> int:
    return len(network.members) if hasattr(network, "members_advance") else 1  # type: ignore[arg-type]


def _apart(network: nn.Module, *tensors: Tensor | None) -> tuple[nn.Module, list[Tensor]]:
    """Return the network that rolls out all members, and the batch repeated for each."""
    if not hasattr(network, "members_advance"):
        return network, list(tensors)  # type: ignore[arg-type]
    many = _members(network)
    repeated = [
        None if values is None else values.repeat(many, *[1] * (values.ndim - 1)) for values in tensors
    ]
    return _Apart(network), repeated  # type: ignore[return-value]


def _call(network: nn.Module, history: Tensor, time: Tensor, parameters: Tensor | None) -> Tensor:
    if parameters is not None and getattr(network, "takes_parameters", False):
        return network.advance(history, time, parameters)  # type: ignore[operator]
    return network.advance(history, time)  # type: ignore[operator]
