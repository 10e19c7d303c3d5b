"""Checkpoint folders that any number of processes write together and any other number reads.

A folder `step00000012.ckpt/` holds what torch.distributed.checkpoint writes (each rank its shards of weights
and optimiser state, and the index), `plain.pt` with all else that a checkpoint has (loops, callbacks, the
sampler's position, random streams of every rank, what the run says of itself), and `manifest.json` with the
SHA-256 of them all. It is written as `….<pid>.tmp` beside its name, flushed, and renamed when whole: a kill
at any moment leaves what was there before. Nothing but tensors and plain containers is ever unpickled.

A strategy that shards (`core.strategies.mesh.Mesh`) gives the module's DTensors as they are, and the
optimisers' `named_state`, to `SafeCheckpointIO.save_together`, on every rank; once the module is sharded and
materialised it calls `load_together`, and after that `load_optimizers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from core.checkpoints.archive import read_archive
from core.checkpoints.folders import FolderReader, MemoryReader, on_every_rank, open_folder
from core.checkpoints.optimizers import by_name, named_state, numbered_state, parameter_names
from core.checkpoints.writing import clean_name, filled, split
from core.errors import UserError, listed

__all__ = ["load_optimizers", "load_sharded", "named_state"]

_SOURCE = "dfm:source"  # where a checkpoint that is being loaded keeps its reader, in memory alone
_SHOWN = 3

Path_ = str | os.PathLike[str]


def load_sharded(path: Path_, *, model: nn.Module, group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """Fill `model` in place from a folder or a single file, and return the checkpoint around it.

    Each rank reads its shards alone, whatever the ranks were when it was written. In the result `state_dict`
    holds the model's own tensors under its own names, averaged or raw weights that the file has besides
    (`current_model_state`) are sharded alike, and `optimizer_states` waits for `load_optimizers`.

    Args:
        path: The checkpoint.
        model: Materialised, and sharded as it shall be.
        group: The processes that load; they share the work of verifying. None is the default group.

    Raises:
        UserError: If it is damaged, or of another network; on every rank.
    """
    path = Path(path)
    reader: FolderReader | MemoryReader
    if path.is_dir():
        reader, rest = open_folder(path, group)
    else:
        tensors, rest = split(read_archive(path))
        reader = MemoryReader(tensors)
    live = {clean_name(name): (name, tensor) for name, tensor in model.state_dict().items()}
    _same_network(path, reader, {name: tensor for name, (_, tensor) in live.items()})
    wanted: dict[str, Tensor] = {}

    def destination(key: str) -> Tensor:
        section, _, name = key.partition("/")
        own = live[name][1] if name in live else None
        if section == "state_dict" and own is not None:
            wanted[key] = own
        elif section == "current_model_state" and own is not None:
            wanted[key] = torch.empty_like(own)
        else:
            wanted[key] = reader.empty(key)
        return wanted[key]

    later = rest.pop("optimizer_states", None)
    result = filled(rest, destination)
    for section in ("state_dict", "current_model_state"):
        if section in result:
            result[section] = {live[n][0] if n in live else n: value for n, value in result[section].items()}
    on_every_rank(lambda: reader.fill(wanted), group)
    if later is not None:
        result |= {"optimizer_states": later, _SOURCE: reader}
    return result


def load_optimizers(
    checkpoint: Mapping[str, Any], *, model: nn.Module, optimizers: Sequence[Optimizer]
) -> None:
    """Fill the optimisers with the state in what `load_sharded` returned, moments sharded as the weights are.

    Raises:
        UserError: If the groups of parameters are others than the checkpoint's.
    """
    reader: FolderReader | MemoryReader = checkpoint[_SOURCE]
    for saved, wrapped in zip(checkpoint["optimizer_states"], optimizers, strict=True):
        optimizer: Optimizer = getattr(wrapped, "optimizer", wrapped)  # Lightning's has torch's inside
        names = parameter_names(model, optimizer)
        if not all(isinstance(name, str) for group in saved["param_groups"] for name in group["params"]):
            saved = by_name(saved, names)
        if [set(group["params"]) for group in saved["param_groups"]] != [set(group) for group in names]:
            raise UserError(
                "the checkpoint's optimiser has other parameters in its groups than the recipe's; give the "
                "same model.no_decay, layer_decay and rates, or start a new run with --model.weights"
            )
        parameters = {
            name: parameter.detach()
            for group, own in zip(optimizer.param_groups, names, strict=True)
            for name, parameter in zip(own, group["params"], strict=True)
        }
        wanted: dict[str, Tensor] = {}
        state = {
            name: filled(value, _moments(wanted, reader, like=parameters[name]))
            for name, value in saved["state"].items()
        }
        reader.fill(wanted)
        groups = [
            {**group, "params": list(own)} for group, own in zip(saved["param_groups"], names, strict=True)
        ]
        optimizer.load_state_dict(numbered_state({**saved, "state": state, "param_groups": groups}))


def _moments(
    wanted: dict[str, Tensor], reader: FolderReader | MemoryReader, *, like: Tensor
) -> Callable[[str], Tensor]:
    """Return what makes room in `wanted` for a parameter's state, sharded as `like` where shapes agree."""

    def destination(key: str) -> Tensor:
        size, dtype = reader.sizes[key]
        if size == like.shape and isinstance(like, DTensor):
            wanted[key] = torch.empty_like(like, dtype=dtype, requires_grad=False)
        else:
            wanted[key] = reader.empty(key)
        return wanted[key]

    return destination


def _same_network(path: Path, reader: FolderReader | MemoryReader, live: Mapping[str, Any]) -> None:
    parts = ((*key.partition("/"), tuple(size)) for key, (size, _) in reader.sizes.items())
    there = {name: size for section, _, name, size in parts if section == "state_dict"}
    here = {name: tuple(value.shape) for name, value in live.items() if isinstance(value, Tensor)}
    wrong = [
        f"{n} is {there[n]} there and {here[n]} here" for n in here if n in there and there[n] != here[n]
    ]
    wrong += [f"{name} is missing there" for name in here if name not in there]
    wrong += [f"{name} is unknown here" for name in there if name not in here]
    if wrong:
        raise UserError(
            f"checkpoint {path} belongs to another network than the recipe's: {listed(wrong, _SHOWN)}; give "
            "the recipe it was made with, or start a new run"
        )
