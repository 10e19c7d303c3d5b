"""The encoder that a described network holds, so that a recipe can build another network on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from core.errors import UserError
from core.trust import resolve

__all__ = ["encoder_described", "holds_encoder"]

_MAE = "_mae"


def holds_encoder(class_path: str) -> bool:
    """Say whether what `class_path` names is built on an encoder that it is given."""
    return "encoder" in inspect.signature(_named(class_path)).parameters


def encoder_described(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return `class_path` and `init_args` of the encoder of a network that they describe.

    Args:
        network: An autoencoder by its class or a named size, a network built on an encoder, or an encoder.

    Raises:
        UserError: If it is an autoencoder whose encoder has no name.
    """
    path, arguments = str(network["class_path"]), dict(network.get("init_args") or {})
    if isinstance(arguments.get("encoder"), Mapping):
        return dict(arguments["encoder"])
    from apps.remote_sensing.models.prithvi_eo.autoencoder import PrithviMAE
    from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi

    if not _makes(path, PrithviMAE):
        return {"class_path": path, "init_args": arguments}
    module, _, name = path.rpartition(".")
    sized = hasattr(import_module(module), name.removesuffix(_MAE)) and name.endswith(_MAE)
    if not sized and name != PrithviMAE.__name__:
        module, sized = Prithvi.__module__, False
    if not sized and not arguments:
        raise UserError(
            f"{path} does not say the sizes of its encoder; name them under model.network.encoder"
        )
    place = f"{module}.{name.removesuffix(_MAE)}" if sized else f"{Prithvi.__module__}.{Prithvi.__name__}"
    known = inspect.signature(Prithvi).parameters
    return {
        "class_path": place,
        "init_args": {key: value for key, value in arguments.items() if key in known},
    }


def _makes(path: str, kind: type[nn.Module]) -> bool:
    made = _named(path)
    if isinstance(made, type):
        return issubclass(made, kind)
    return inspect.signature(made, eval_str=True).return_annotation is kind


def _named(path: str) -> Any:
    return resolve(path, (nn.Module,), where="the parent's checkpoint")
