"""Weights out of our checkpoints into the official layout, and official ones into our checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from core.backbones.adapters import is_adapter
from core.checkpoints.files import FORMAT, write_checkpoint
from core.checkpoints.huggingface import export_state, write_json, write_weights
from core.checkpoints.manifest import is_sharded
from core.checkpoints.networks import describe_network, home_of
from core.checkpoints.streaming import meta_network, stream_weights
from core.checkpoints.weights import Weights, network_from, read_weights
from core.errors import UserError

__all__ = ["export_weights", "import_weights", "write_own"]


def export_weights(
    source: str | os.PathLike[str] | Weights, out: str | os.PathLike[str], *, layout: str = "official"
) -> Path:
    """Write the weights of `source` as a folder of `config.json` and `model.safetensors`, or as one file, and
    return its path.

    A checkpoint folder is read tensor by tensor: the memory is that of the largest.

    Args:
        source: One of our checkpoints, or anything else that says which network it belongs to.
        out: Folder, which must be missing, empty, or an earlier export; or a `.safetensors` file,
            which stands alone and must be missing.
        layout: `official` names and configuration, which the system's own programs read, or our `own`.

    Raises:
        UserError: If the source does not say which network it is, the folder holds other things, or the
        disk is full.
    """
    weights = source if isinstance(source, Weights) else read_weights(source, outline=True)
    out = Path(out)
    if out.suffix == ".safetensors":
        if out.exists():
            raise UserError(f"{out} holds other things already; give a new name under --out")
        _write(weights, out, layout)
        return out
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.safetensors").is_file()):
        raise UserError(f"{out} holds other things already; give a new or empty folder under --out")
    config = _write(weights, out / "model.safetensors", layout)
    write_json(out / "config.json", config)
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
    return write_own(network, out, described=weights.network, record=weights.record, source=weights.source)


def write_own(
    network: nn.Module,
    out: Path,
    *,
    described: dict[str, Any] | None,
    record: Mapping[str, Any],
    source: str | None = None,
) -> Path:
    """Write the weights of `network` as one of our checkpoints, without an optimiser's state.

    Args:
        network: Whose state is written.
        out: The `.ckpt` file.
        described: `class_path` and `init_args` of the network; None describes it by its configuration.
        record: What is known of it: licences, sources, recipe, and what it was averaged from.
        source: Where it came from, if the record does not say.
    """
    module = home_of(network).__name__
    parts = module.split(".")
    own = {
        "format": FORMAT,
        "domain": parts[1] if parts[0] == "apps" and len(parts) > 1 else None,
        "system": parts[-1],
        "recipe": record.get("recipe"),
        # no "config": a run needs a recipe beside it, which says what to do
        "network": described or describe_network(network),
        "key_map": module,
        "licences": list(record.get("licences") or []),
        "sources": list(record.get("sources") or ([source] if source else [])),
        "switches": {},
        "versions": _versions(),
    }
    if record.get("averaged"):
        own["averaged"] = list(record["averaged"])
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {
        "state_dict": state,
        "domainfm": own,
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": _versions().get("lightning", "2.6.0"),
    }
    return write_checkpoint(content, out)


def _write(weights: Weights, path: Path, layout: str) -> dict[str, Any]:
    """Write the weights file and return the configuration that goes beside it."""
    if layout not in ("official", "own"):
        raise UserError(f"--layout {layout} is not known; it is official or own")
    streamed = is_sharded(weights.path)
    if streamed and any(map(is_adapter, weights.tensors)):  # adapters are merged, which takes whole tensors
        weights, streamed = read_weights(weights.source), False
    network = meta_network(weights) if streamed else network_from(weights)
    module = home_of(network)
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
        notes["config"] = config
    else:
        notes["network"] = weights.network or describe_network(network)
        config = {"domainfm": {"format": FORMAT, "network": notes["network"]}}
    if streamed:
        stream_weights(weights, network, path, official=layout == "official", notes=notes)
    else:
        tensors = export_state(network)
        write_weights(path, module.KEY_MAP.to_official(tensors) if layout == "official" else tensors, notes)
    return config


def _versions() -> dict[str, str]:
    found = {}
    for name in ("domainfm", "torch", "lightning"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
