"""Checkpoint folders that any number of processes write together and any other number reads.

A folder `step00000012.ckpt/` holds what torch.distributed.checkpoint writes (each rank its shards of weights
and optimiser state, and the index), `plain.pt` with all else that a checkpoint has (loops, callbacks, the
sampler's position, random streams of every rank, what the run says of itself), and `manifest.json` with the
SHA-256 of them all. It is written as `….<pid>.tmp` beside its name, flushed, and renamed when whole: a kill
at any moment leaves what was there before. Nothing but tensors and plain containers is ever unpickled.

A strategy that shards uses it so; `self.checkpoint_io` is the suite's `SafeCheckpointIO`, which keeps the
thread of asynchronous saves, and decides between a folder and a single file::

    restore_checkpoint_after_setup = True      # loading fills the sharded, materialised module

    def lightning_module_state_dict(self):     # DTensors as they are: no communication
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer):
        return named_state(self.lightning_module, optimizer)

    def save_checkpoint(self, checkpoint, filepath, storage_options=None):     # on every rank
        self.checkpoint_io.save_together(checkpoint, filepath, mesh={"shard": 2, "tensor": 2})

    def load_checkpoint(self, checkpoint_path, weights_only=None):             # on every rank; file or folder
        return self.checkpoint_io.load_together(checkpoint_path, model=self.lightning_module)

    def load_optimizer_state_dict(self, checkpoint):
        load_optimizers(checkpoint, model=self.lightning_module, optimizers=self.optimizers)

    def remove_checkpoint(self, filepath):
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, load
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from core.checkpoints.files import read_checkpoint, read_unverified
from core.checkpoints.index import INDEX, FolderReader, MemoryReader, read_index
from core.checkpoints.manifest import damaged_files, is_sharded, read_manifest
from core.checkpoints.optimizers import by_name, clean_name, named_state, numbered_state, parameter_names
from core.checkpoints.writing import PLAIN, agree, failure, write_folder_checkpoint
from core.errors import UserError

__all__ = [
    "consolidate",
    "filled",
    "holds_shards",
    "is_sharded",
    "load_optimizers",
    "load_sharded",
    "named_state",
    "outline",
    "read_tensors",
    "save_sharded",
    "split",
]

# whose tensors are sharded or large, down to how many levels: what is deeper is a module's extra state
_SECTIONS = {"state_dict": 1, "current_model_state": 1, "optimizer_states": 9}
_MARK = "dfm:tensor"  # stands in the plain part where a tensor was, with the tensor's name among DCP's
_SOURCE = "dfm:source"  # where a checkpoint that is being loaded keeps its reader, in memory alone
_SHOWN = 3

Path_ = str | os.PathLike[str]


def save_sharded(
    checkpoint: Mapping[str, Any],
    path: Path_,
    *,
    group: dist.ProcessGroup | None = None,
    mesh: Mapping[str, int] | None = None,
    alone: bool = False,
) -> Path:
    """Write `checkpoint` as the folder `path`, whole or not at all; every rank of `group` calls it.

    Args:
        checkpoint: As Lightning makes it. DTensors are written shard by shard; other tensors, and all that
            is not a tensor, must be equal on all ranks, and are written once.
        path: The folder; an earlier checkpoint there, folder or file, is replaced in one step.
        group: The processes that save; None is the default group, or this process where there is none.
        mesh: Sizes of the mesh's axes, for the manifest.
        alone: Whether this process writes by itself though there is a group.

    Raises:
        TypeError: If something in it is not plain (see `core.checkpoints.plain`).
        UserError: If the disk is full or refuses, on every rank; `path` holds what it held before.
    """
    tensors, rest = split(checkpoint)
    return write_folder_checkpoint(tensors, rest, Path(path), group=group, mesh=mesh, alone=alone)


def load_sharded(
    path: Path_, *, model: nn.Module, group: dist.ProcessGroup | None = None, strict: bool = True
) -> dict[str, Any]:
    """Fill `model` in place from a folder or a single file, and return the checkpoint around it.

    Each rank reads its shards alone, whatever the ranks were when it was written. In the result `state_dict`
    holds the model's own tensors under its own names, averaged or raw weights that the file has besides
    (`current_model_state`) are sharded alike, and `optimizer_states` waits for `load_optimizers`.

    Args:
        path: The checkpoint.
        model: Materialised, and sharded as it shall be.
        group: The processes that load; they share the work of verifying. None is the default group.
        strict: Whether names must agree, as in `load_state_dict`.

    Raises:
        UserError: If it is damaged, or of another network; on every rank.
    """
    path = Path(path)
    rest: dict[str, Any]
    reader: FolderReader | MemoryReader
    if path.is_dir():
        reader, rest = _open(path, group)
    else:
        tensors, rest = split(read_checkpoint(path))
        reader = MemoryReader(tensors)
    live = {clean_name(name): (name, tensor) for name, tensor in model.state_dict().items()}
    sizes = _sizes(reader)
    _same_network(path, sizes, live, strict=strict)
    wanted: dict[str, Tensor] = {}

    def destination(key: str) -> Tensor:
        section, _, name = key.partition("/")
        own = live[name][1] if name in live else None
        if section == "state_dict" and own is not None:
            wanted[key] = own
        elif section == "current_model_state" and own is not None:
            wanted[key] = torch.empty_like(own)
        else:
            wanted[key] = torch.empty(sizes[key][0], dtype=sizes[key][1])
        return wanted[key]

    later = rest.pop("optimizer_states", None)
    result = filled(rest, destination)
    for section in ("state_dict", "current_model_state"):
        if section in result:
            result[section] = {live[n][0] if n in live else n: value for n, value in result[section].items()}
    _together(lambda: _read(reader, wanted), group)
    if later is not None:
        result["optimizer_states"] = later
        result[_SOURCE] = reader
    return result


def load_optimizers(
    checkpoint: Mapping[str, Any], *, model: nn.Module, optimizers: Sequence[Optimizer]
) -> None:
    """Fill the optimisers with the state in what `load_sharded` returned, moments sharded as the weights are.

    Raises:
        UserError: If the groups of parameters are others than the checkpoint's.
    """
    reader = checkpoint[_SOURCE]
    sizes = _sizes(reader)
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
            name: filled(value, _moments(wanted, sizes, like=parameters[name]))
            for name, value in saved["state"].items()
        }
        _read(reader, wanted)
        groups = [
            {**group, "params": list(own)} for group, own in zip(saved["param_groups"], names, strict=True)
        ]
        optimizer.load_state_dict(numbered_state({**saved, "state": state, "param_groups": groups}))


def consolidate(path: Path_, *, optimizers: bool = True) -> dict[str, Any]:
    """Return the whole checkpoint of a folder in this process's memory, as a single file would hold it.

    Args:
        path: The folder; all of it is verified.
        optimizers: Whether what only training needs is read too, which is most of the bytes: the optimisers'
            state, and raw weights beside averaged ones.

    Raises:
        UserError: If it is damaged.
    """
    reader, rest = _open(Path(path), None, alone=True)
    if not optimizers:
        rest.pop("optimizer_states", None)
        rest.pop("current_model_state", None)
    sizes = _sizes(reader)
    wanted: dict[str, Tensor] = {}

    def destination(key: str) -> Tensor:
        return wanted.setdefault(key, torch.empty(sizes[key][0], dtype=sizes[key][1]))

    result = filled(rest, destination)
    _read(reader, wanted)
    if optimizers and "optimizer_states" in result:
        result["optimizer_states"] = [numbered_state(state) for state in result["optimizer_states"]]
    return result


def outline(path: Path_) -> dict[str, Any]:
    """Return what `consolidate` does with every sharded tensor on the meta device: names and shapes, no data.

    The shards are not looked at.

    Raises:
        UserError: If the manifest, the index or the plain part cannot be read.
    """
    path = Path(path)
    index = read_index(path / INDEX, files=read_manifest(path)["files"])
    reader, rest = FolderReader(path, index=index), read_unverified(path / PLAIN, mmap=True)
    sizes = _sizes(reader)
    return filled(rest, lambda key: torch.empty(sizes[key][0], dtype=sizes[key][1], device="meta"))


def read_tensors(reader: FolderReader, keys: Iterable[str]) -> dict[str, Tensor]:
    """Return whole tensors of a folder by their names in its index, on the CPU; verify the folder before."""
    sizes = _sizes(reader)
    wanted = {key: torch.empty(sizes[key][0], dtype=sizes[key][1]) for key in keys}
    _read(reader, wanted)
    return wanted


def split(checkpoint: Mapping[str, Any], *, clean: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors that torch.distributed.checkpoint writes, by name, and the rest with marks for them.

    They are those of weights and optimiser state, and every DTensor wherever it stands.

    Args:
        checkpoint: As Lightning makes it.
        clean: Whether names of parameters lose what wrappers put into them.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, where: str, depth: int) -> Any:
        """Go down; plain tensors are taken up to `depth` levels below, DTensors everywhere."""
        if isinstance(value, Tensor):
            if depth < 0 and not isinstance(value, DTensor):
                return value
            tensors[where] = value.detach()
            return {_MARK: where}
        if isinstance(value, Mapping):
            keys = {key: clean_name(key) if clean and isinstance(key, str) else key for key in value}
            return {keys[key]: walk(item, f"{where}/{keys[key]}", depth - 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [walk(item, f"{where}/{i}", depth - 1) for i, item in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    rest = {key: walk(value, str(key), _SECTIONS.get(str(key), -1)) for key, value in checkpoint.items()}
    return tensors, rest


def holds_shards(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether any tensor in `checkpoint` is a DTensor."""
    return any(isinstance(tensor, DTensor) for tensor in split(checkpoint)[0].values())


def filled(value: Any, destination: Callable[[str], Tensor]) -> Any:
    """Return `value` with every mark replaced by what `destination` gives for its name."""
    if isinstance(value, dict):
        if value.keys() == {_MARK}:
            return destination(value[_MARK])
        return {key: filled(item, destination) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(filled(item, destination) for item in value)
    return value


def _moments(
    wanted: dict[str, Tensor], sizes: Mapping[str, tuple[torch.Size, torch.dtype]], *, like: Tensor
) -> Callable[[str], Tensor]:
    """Return what makes room in `wanted` for a parameter's state, sharded as `like` where shapes agree."""

    def destination(key: str) -> Tensor:
        size, dtype = sizes[key]
        if size == like.shape and isinstance(like, DTensor):
            wanted[key] = torch.empty_like(like, dtype=dtype, requires_grad=False)
        else:
            wanted[key] = torch.empty(size, dtype=dtype)
        return wanted[key]

    return destination


def _open(
    path: Path, group: dist.ProcessGroup | None, *, alone: bool = False
) -> tuple[FolderReader, dict[str, Any]]:
    """Verify a folder, its files dealt out to the ranks, and return its reader and its plain part."""
    shared = dist.is_available() and dist.is_initialized() and not alone
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if shared else (0, 1)

    def verify() -> tuple[FolderReader, dict[str, Any]]:
        manifest = read_manifest(path)
        files = manifest["files"]
        by_size = sorted(files, key=lambda name: (-files[name]["bytes"], name))
        if wrong := damaged_files(path, manifest, by_size[rank::world]):
            raise UserError(f"checkpoint {path} is damaged ({wrong}); use an earlier one or write it anew")
        index = read_index(path / INDEX, files=files)
        return FolderReader(path, index=index), read_checkpoint(path / PLAIN)

    return _together(verify, group, alone=alone)


def _together(call: Callable[[], Any], group: dist.ProcessGroup | None, *, alone: bool = False) -> Any:
    """Call on every rank; where it fails on one, it fails on all."""
    error: Exception | None = None
    result = None
    try:
        result = call()
    except Exception as raised:
        error = raised
    agree(error, group, alone=alone)
    return result


def _read(reader: FolderReader | MemoryReader, wanted: dict[str, Tensor]) -> None:
    """Fill the tensors of `wanted` in place; each rank by itself."""
    if not wanted:
        return
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            load(wanted, storage_reader=reader, planner=planner, no_dist=True)
        except CheckpointException as raised:  # it is no Exception, and would leave the other ranks waiting
            raise RuntimeError(f"a checkpoint could not be read: {failure(raised)}") from raised


def _sizes(reader: FolderReader | MemoryReader) -> dict[str, tuple[torch.Size, torch.dtype]]:
    entries = reader.read_metadata().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}  # type: ignore[union-attr]


def _same_network(
    path: Path,
    sizes: Mapping[str, tuple[torch.Size, torch.dtype]],
    live: Mapping[str, tuple[str, Any]],
    *,
    strict: bool,
) -> None:
    start = "state_dict/"
    there = {key[len(start) :]: tuple(size) for key, (size, _) in sizes.items() if key.startswith(start)}
    here = {name: tuple(value.shape) for name, (_, value) in live.items() if isinstance(value, Tensor)}
    wrong = [
        f"{n} is {there[n]} there and {here[n]} here" for n in here if n in there and there[n] != here[n]
    ]
    if strict:
        wrong += [f"{name} is missing there" for name in here if name not in there]
        wrong += [f"{name} is unknown here" for name in there if name not in here]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(
            f"checkpoint {path} belongs to another network than the recipe's: {', '.join(wrong[:_SHOWN])}"
            f"{more}; give the recipe it was made with, or start a new run"
        )
