"""Weights out of our checkpoints into the official layout, and official ones into our checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones.adapters import is_adapter
from core.checkpoints.archive import FORMAT, disk_sentence, versions, write_checkpoint
from core.checkpoints.keymap import KeyMap
from core.checkpoints.manifest import is_sharded
from core.checkpoints.networks import describe_network, home_of, instantiate
from core.checkpoints.sources import Weights, read_weights
from core.checkpoints.weights import network_from, refuse_misfits, refuse_non_finite
from core.errors import UserError
from core.files import replacing

__all__ = ["export_state", "export_weights", "import_weights", "write_own", "write_safetensors"]

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


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
        _export(weights, out, layout)
        return out
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.safetensors").is_file()):
        raise UserError(f"{out} holds other things already; give a new or empty folder under --out")
    config = _export(weights, out / "model.safetensors", layout)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    try:
        with replacing(out / "config.json") as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(disk_sentence(error, out / "config.json", of=len(text))) from error
    return out


def import_weights(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, system: str | None = None
) -> Path:
    """Write the weights of `source`, anything that `read_weights` takes, as one of our checkpoints, the
    `.ckpt` file `out` that a recipe's `weights` names, and return its path.

    `system` names the system where the configuration does not tell.

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

    `described` holds its `class_path` and `init_args`; None describes it by its configuration. `record` says
    what is known of it (licences, sources, recipe, averaged checkpoints), `source` where it came from
    otherwise.
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
        "versions": versions(),
    }
    if record.get("averaged"):
        own["averaged"] = list(record["averaged"])
    content = {
        "state_dict": {f"network.{name}": tensor for name, tensor in network.state_dict().items()},
        "domainfm": own,
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": versions()["lightning"],
    }
    return write_checkpoint(content, out)


def export_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of `network` without the tied names, which safetensors refuses.

    `network.tied_parameters`, if there is one, lists the names that share memory with another name and are
    left out.

    Raises:
        ValueError: If names that are not listed share memory; they are named.
    """
    tied = set(getattr(network, "tied_parameters", ()))
    state = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if isinstance(tensor, Tensor) and name not in tied
    }
    owners: dict[tuple[torch.device, int], str] = {}
    for name, tensor in state.items():
        if tensor.numel() == 0 or tensor.is_meta:
            continue
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        if memory in owners:
            raise ValueError(
                f"{owners[memory]} and {name} share memory; name one of them in "
                f"{type(network).__name__}.tied_parameters, so that it is left out of exported files"
            )
        owners[memory] = name
    return state


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    notes: Mapping[str, Any],
    read: Callable[[str], Tensor] | None = None,
) -> Path:
    """Write a safetensors file whole or not at all, and return its path.

    Args:
        path: The file.
        tensors: By name; with `read`, meta tensors will do.
        notes: What the file says of itself, as JSON under the key `domainfm` of its head.
        read: Returns the tensor of a name, on the CPU; one at a time is held.

    Raises:
        UserError: If the disk is full or refuses.
        ValueError: If safetensors has no name for a tensor's type, or `read` returns another shape or type.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps all aligned
    metadata = {"format": "pt", "domainfm": json.dumps(dict(notes), sort_keys=True)}
    head: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _TYPES:
            raise ValueError(f"safetensors cannot hold {name} of type {tensor.dtype}")
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        head[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    written = 0
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                tensor = (tensors[name] if read is None else read(name)).detach().cpu().contiguous()
                if (tensor.shape, tensor.dtype) != (tensors[name].shape, tensors[name].dtype):
                    raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not as described")
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
                written += tensor.nbytes
            file.flush()
    except OSError as error:
        raise UserError(disk_sentence(error, Path(path), written=written, of=end)) from error
    return Path(path)


def _export(weights: Weights, path: Path, layout: str) -> dict[str, Any]:
    """Write the weights file and return the configuration that goes beside it."""
    if layout not in ("official", "own"):
        raise UserError(f"--layout {layout} is not known; it is official or own")
    folder = is_sharded(weights.path)
    if folder and any(map(is_adapter, weights.tensors)):  # adapters are merged, which takes whole tensors
        weights, folder = read_weights(weights.source), False
    network = _outline(weights) if folder else network_from(weights)
    module = home_of(network)
    notes: dict[str, Any] = {"format": FORMAT, "layout": layout, "key_map": module.__name__}
    notes |= {
        key: weights.record[key]
        for key in ("licences", "sources", "step", "recipe")
        if weights.record.get(key)
    }
    key_map: KeyMap | None = None
    if layout == "official":
        if not hasattr(module, "KEY_MAP") or not hasattr(module, "to_official_config"):
            raise UserError(f"{module.__name__} has no official layout; export it with --layout own")
        key_map = module.KEY_MAP
        config = notes["config"] = module.to_official_config(network)
    else:
        notes["network"] = weights.network or describe_network(network)
        config = {"domainfm": {"format": FORMAT, "network": notes["network"]}}
    state = export_state(network)
    read = None
    if folder:
        state = {name: weights.tensors[name] for name in state}  # of the types that they were saved in
        read = _reader(weights, network, state, key_map)
    tensors = state if key_map is None else key_map.to_official(state)
    write_safetensors(path, tensors, notes=notes, read=read)
    return config


def _outline(weights: Weights) -> nn.Module:
    """Return the network of a checkpoint folder on the meta device, which the folder's weights fit."""
    if weights.network is None:
        raise UserError(f"{weights.source} does not say which network it belongs to")
    with torch.device("meta"):
        network = instantiate(weights.network, where=weights.source)
    own = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    there = weights.tensors
    refuse_misfits(
        weights,
        network,
        missing=set(own) - set(there) - set(getattr(network, "tied_parameters", ())),
        unknown=set(there) - set(own),
        shapes=[(name, there[name], own[name]) for name in sorted(set(own) & set(there))],
    )
    return network


def _reader(
    weights: Weights, network: nn.Module, state: Mapping[str, Tensor], key_map: KeyMap | None
) -> Callable[[str], Tensor]:
    """Return what reads one tensor of a checkpoint folder, by its name in the layout that is written."""
    from core.checkpoints.folders import open_folder

    folder, _ = open_folder(weights.path, alone=True)
    parameters = {name for name, _ in network.named_parameters()}

    def in_layout(name: str, tensor: Tensor) -> dict[str, Tensor]:
        return {name: tensor} if key_map is None else key_map.to_official({name: tensor})

    origin = {new: name for name, tensor in state.items() for new in in_layout(name, tensor)}

    def read(new: str) -> Tensor:
        name = origin[new]
        key = f"state_dict/{weights.prefix}{name}"
        tensor = folder.fill({key: folder.empty(key)})[key]
        refuse_non_finite(weights, {name: tensor}, parameters=parameters)
        return in_layout(name, tensor)[new]

    return read
