"""Weights out of our checkpoints into the official layout, and official ones into our checkpoints."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from torch import nn

from core.checkpoints.files import FORMAT, write_checkpoint
from core.checkpoints.huggingface import export_state, write_folder
from core.checkpoints.networks import describe_network, home_of
from core.checkpoints.weights import Weights, network_from, read_weights
from core.errors import UserError

__all__ = ["export_weights", "import_weights"]


def export_weights(
    source: str | os.PathLike[str] | Weights, out: str | os.PathLike[str], *, layout: str = "official"
) -> Path:
    """Write the weights of `source` as a folder of `config.json` and `model.safetensors`, and return the
    folder.

    Args:
        source: One of our checkpoints, or anything else that says which network it belongs to.
        out: Folder; it must be missing, empty, or an earlier export.
        layout: `official` names and configuration, which the system's own programs read, or our `own`.

    Raises:
        UserError: If the source does not say which network it is, the folder holds other things, or the
        disk is full.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.safetensors").is_file()):
        raise UserError(f"{out} holds other things already; give a new or empty folder under --out")
    network = network_from(weights)
    tensors, config, notes = _in_layout(network, weights, layout)
    write_folder(out, tensors, config, metadata=notes)
    return out


def import_weights(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, system: str | None = None
) -> Path:
    """Write the weights of `source` as one of our checkpoints, which a recipe's `weights` names, and
    return its path.

    Args:
        source: A folder with `config.json` and `model.safetensors`, a file, a weights card or a hub id.
        out: The `.ckpt` file to write.
        system: The system's name, where the configuration does not tell.

    Raises:
        UserError: If the source is not found, does not say which network it is, or does not fit it.
    """
    out = Path(out)
    if out.suffix != ".ckpt":
        raise UserError(f"--out {out} must end in .ckpt")
    weights = read_weights(source)
    network = network_from(weights, system=system)
    module = home_of(network).__name__
    described = weights.network or describe_network(network)
    parts = module.split(".")
    record = {
        "format": FORMAT,
        "domain": parts[1] if parts[0] == "apps" and len(parts) > 1 else None,
        "system": parts[-1],
        "recipe": weights.record.get("recipe"),
        "network": described,  # and no "config": a run needs a recipe beside it, which says what to do
        "key_map": module,
        "licences": list(weights.record.get("licences") or []),
        "sources": list(weights.record.get("sources") or [weights.source]),
        "switches": {},
        "versions": _versions(),
    }
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {
        "state_dict": state,
        "domainfm": record,
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": _versions().get("lightning", "2.6.0"),
    }
    return write_checkpoint(content, out)


def _in_layout(
    network: nn.Module, weights: Weights, layout: Literal["official", "own"] | str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    module = home_of(network)
    tensors = export_state(network)
    notes: dict[str, Any] = {"format": FORMAT, "layout": layout, "key_map": module.__name__}
    notes |= {
        key: weights.record[key]
        for key in ("licences", "sources", "step", "recipe")
        if weights.record.get(key)
    }
    if layout == "official":
        if not hasattr(module, "KEY_MAP") or not hasattr(module, "to_official_config"):
            raise UserError(f"{module.__name__} has no official layout; export it with --layout own")
        config = module.to_official_config(network)
        return module.KEY_MAP.to_official(tensors), config, {**notes, "config": config}
    if layout != "own":
        raise UserError(f"--layout {layout} is not known; it is official or own")
    described = weights.network or describe_network(network)
    return tensors, {"domainfm": {"format": FORMAT, "network": described}}, {**notes, "network": described}


def _versions() -> dict[str, str]:
    found = {}
    for name in ("domainfm", "torch", "lightning"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
