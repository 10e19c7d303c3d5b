"""Weights of a checkpoint folder into one safetensors file, tensor by tensor, in memory for the largest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.files import disk_sentence
from core.checkpoints.index import FolderReader
from core.checkpoints.networks import home_of, instantiate
from core.checkpoints.sharded import read_tensors
from core.checkpoints.weights import Weights, refuse_misfits, refuse_non_finite
from core.errors import UserError
from core.files import replacing

__all__ = ["meta_network", "stream_weights", "write_safetensors"]

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


def write_safetensors(
    path: str | os.PathLike[str],
    described: Mapping[str, Tensor],
    read: Callable[[str], Tensor],
    *,
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file whole or not at all, holding one tensor at a time.

    Args:
        path: The file.
        described: Name to shape and type; meta tensors will do.
        read: Returns the tensor of a name, on the CPU.
        metadata: Text by key, for the head of the file.

    Raises:
        UserError: If the disk is full or refuses.
        ValueError: If safetensors has no name for a tensor's type, or `read` returns another shape or type.
    """
    order = sorted(described, key=lambda name: (-described[name].dtype.itemsize, name))  # keeps all aligned
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = described[name]
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
                tensor = read(name)
                if (tensor.shape, tensor.dtype) != (described[name].shape, described[name].dtype):
                    raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not as described")
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                written += tensor.nbytes
            file.flush()
    except OSError as error:
        raise UserError(disk_sentence(error, Path(path), written=written, of=end)) from error


def stream_weights(
    weights: Weights,
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    official: bool,
    notes: Mapping[str, Any],
) -> None:
    """Write the network's weights of a checkpoint folder into one file.

    Args:
        weights: The folder's, read as an outline.
        network: Built on the meta device.
        path: The file.
        official: Whether names and layouts go through the system's key map.
        notes: What the file says of itself, under `domainfm`.

    Raises:
        UserError: If the weights do not fit the network, are not finite, or the disk is full.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    tied = set(getattr(network, "tied_parameters", ()))
    there = weights.tensors
    refuse_misfits(
        weights,
        network,
        missing=sorted(set(own) - set(there) - tied),
        unknown=sorted(set(there) - set(own)),
        shapes=[
            f"{name} is {tuple(there[name].shape)} there and {tuple(own[name].shape)} here"
            for name in sorted(set(own) & set(there))
            if own[name].shape != there[name].shape
        ],
    )
    reader = FolderReader(weights.path)
    parameters = {name for name, _ in network.named_parameters()}
    key_map = home_of(network).KEY_MAP if official else None
    described: dict[str, Tensor] = {}
    origin: dict[str, str] = {}

    def in_layout(name: str, tensor: Tensor) -> dict[str, Tensor]:
        return {name: tensor} if key_map is None else key_map.to_official({name: tensor})

    def value(name: str) -> Tensor:
        key = f"state_dict/{weights.prefix}{name}"
        tensor = read_tensors(reader, [key])[key]
        refuse_non_finite(weights, {name: tensor}, parameters=parameters)
        return tensor

    for name in own:
        if name in tied:
            continue
        for new, tensor in in_layout(name, torch.empty_like(there[name])).items():
            if new in described:
                raise UserError(
                    f"two parameters of the network would both be named '{new}' (one is '{name}')"
                )
            described[new], origin[new] = tensor, name
    write_safetensors(
        path,
        described,
        lambda new: in_layout(origin[new], value(origin[new]))[new],
        metadata={"format": "pt", "domainfm": json.dumps(dict(notes), sort_keys=True)},
    )


def meta_network(weights: Weights) -> nn.Module:
    """Return the network that `weights` describe, on the meta device.

    Raises:
        UserError: If they do not say which it is.
    """
    if weights.network is None:
        raise UserError(f"{weights.source} does not say which network it belongs to")
    with torch.device("meta"):
        return instantiate(weights.network, where=weights.source)
