"""An optimiser's state by the names of its parameters, which every sharding shares, and by their numbers.

`torch.optim` numbers parameters in the order of the groups. Names hold for any number of processes and for a
parameter that has no state yet because it is frozen; torch's own `get_optimizer_state_dict` instead steps the
optimiser once with gradients of zero to have a state for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from core.checkpoints.writing import clean_name
from core.errors import UserError

__all__ = ["by_name", "named_state", "numbered_state", "parameter_names"]


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """Return the clean names of the optimiser's parameters by group, in their order.

    Raises:
        ValueError: If it holds a parameter that the model does not.
    """
    names = {id(p): clean_name(name) for name, p in model.named_parameters(remove_duplicate=False)}
    try:
        return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    except KeyError as error:
        raise ValueError("the optimiser holds a parameter that is not the model's") from error


def named_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimiser's `state_dict()` with names in place of numbers; no communication, no copies."""
    return by_name(optimizer.state_dict(), parameter_names(model, optimizer))


def by_name(state: Mapping[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """Return a numbered state under the names of the groups' parameters.

    Raises:
        UserError: If there are other groups than the state has.
    """
    groups = state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group) for group in names]:
        raise UserError(
            "the checkpoint's optimiser has other parameter groups than the recipe's; give the same "
            "model.no_decay, layer_decay and rates, or start a new run with --model.weights"
        )
    by_number = {
        number: name
        for group, own in zip(groups, names, strict=True)
        for number, name in zip(group["params"], own, strict=True)
    }
    return {
        **state,
        "state": {by_number.get(number, number): value for number, value in state["state"].items()},
        "param_groups": [{**group, "params": list(own)} for group, own in zip(groups, names, strict=True)],
    }


def numbered_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a named state with numbers, as `Optimizer.load_state_dict` takes it; a numbered one as it is."""
    numbers: dict[str, int] = {}
    groups = []
    for group in state["param_groups"]:
        if any(not isinstance(name, str) for name in group["params"]):
            return dict(state)
        for name in group["params"]:
            numbers.setdefault(name, len(numbers))
        groups.append({**group, "params": [numbers[name] for name in group["params"]]})
    values = {numbers[name]: value for name, value in state["state"].items() if name in numbers}
    return {**state, "state": dict(sorted(values.items())), "param_groups": groups}
