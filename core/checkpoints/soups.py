"""Averages of the weights of several trainings from one start (model soups, Wortsman et al. 2022,
arXiv 2203.05482).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.exchange import write_own
from core.checkpoints.sources import Weights, read_weights
from core.checkpoints.weights import network_from
from core.errors import UserError

__all__ = ["average_checkpoints", "greedy_soup", "uniform_soup"]

_SHOWN = 3

State = Mapping[str, Tensor]


def uniform_soup(states: Iterable[State]) -> dict[str, Tensor]:
    """Return the mean of weights with equal names and shapes, one state in memory beside the sum.

    Floating tensors, statistics of norms included, are averaged in float64 and keep their type; the others
    (counters) are the first state's.

    Raises:
        ValueError: If there is no state, or names or shapes differ.
    """
    first: dict[str, Tensor] | None = None
    total: dict[str, Tensor] = {}
    count = 0
    for state in states:
        if first is None:
            first = dict(state)
            total = {name: _wide(tensor).clone() for name, tensor in first.items() if _averaged(tensor)}
        else:
            if wrong := _differences(first, state):
                raise ValueError(f"the weights do not go together: {', '.join(wrong[:_SHOWN])}")
            for name, tensor in total.items():
                tensor += _wide(state[name])
        count += 1
    if first is None:
        raise ValueError("there are no weights to average")
    return {name: (total[name] / count).to(t.dtype) if name in total else t for name, t in first.items()}


def greedy_soup(
    states: Sequence[State], scores: Sequence[float], evaluate: Callable[[dict[str, Tensor]], float]
) -> tuple[dict[str, Tensor], list[int], float]:
    """Return the soup of those states that raise its score, their numbers, and the score.

    The states, of equal names and shapes, are tried from the one with the highest of `scores` down; one is
    kept if the mean with it scores strictly higher. `evaluate` scores weights on the same held-out data,
    never the test data.
    """
    order = sorted(range(len(states)), key=lambda number: -scores[number])
    kept = order[:1]
    soup, best = dict(states[kept[0]]), float(scores[kept[0]])
    for number in order[1:]:
        n = len(kept)
        tried = {
            name: (soup[name] * (n / (n + 1)) + states[number][name] / (n + 1))
            if _averaged(tensor)
            else tensor
            for name, tensor in soup.items()
        }
        score = evaluate(tried)
        if score > best:
            soup, best = tried, score
            kept.append(number)
    return soup, kept, best


def average_checkpoints(sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write the uniform soup of several checkpoints of one network, or what else says which network it
    belongs to, as the `.ckpt` file `out`: weights without an optimiser's state, and the provenance of them
    all.

    Raises:
        UserError: If there are fewer than two, one is damaged, or they are of different networks.
    """
    out = Path(out)
    if out.suffix != ".ckpt":
        raise UserError(f"--out {out} must end in .ckpt")
    if len(sources) < 2:
        raise UserError(f"an average needs at least two checkpoints; {len(sources)} was given")
    first = read_weights(sources[0])
    network = network_from(first)
    records = [(first.source, first.record)]

    def states() -> Iterable[State]:
        reference = {name: tensor for name, tensor in network.state_dict().items()}
        yield reference
        for source in sources[1:]:
            weights = read_weights(source)
            state = _in_names_of(weights, network_from(weights), reference, first)
            records.append((weights.source, weights.record))
            yield state

    soup = uniform_soup(states())
    network.load_state_dict(soup)
    record = {**first.record, "averaged": [_origin(source, record) for source, record in records]}
    for key in ("licences", "sources"):
        record[key] = list(dict.fromkeys(item for _, other in records for item in other.get(key) or ()))
    record.pop("step", None)
    return write_own(network, out, described=first.network, record=record)


def _in_names_of(weights: Weights, network: Any, reference: State, first: Weights) -> State:
    state: State = network.state_dict()
    if wrong := _differences(reference, state):
        raise UserError(
            f"{weights.source} is of another network than {first.source}: {', '.join(wrong[:_SHOWN])}; only "
            "checkpoints of one network can be averaged"
        )
    return state


def _origin(source: str, record: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": source, **{key: record[key] for key in ("recipe", "step") if record.get(key)}}


def _differences(one: State, other: State) -> list[str]:
    wrong = [
        f"{name} is {tuple(other[name].shape)} and not {tuple(one[name].shape)}"
        for name in one
        if name in other and one[name].shape != other[name].shape
    ]
    wrong += [f"{name} is missing" for name in one if name not in other]
    return wrong + [f"{name} is unknown" for name in other if name not in one]


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
