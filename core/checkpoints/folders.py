"""Reading a checkpoint folder: verified, its index by our own unpickler, then only what is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, FileSystemReader, load
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from core.checkpoints.archive import load_archive, read_archive
from core.checkpoints.index import INDEX, read_index
from core.checkpoints.manifest import damaged_files, read_manifest
from core.checkpoints.optimizers import numbered_state
from core.checkpoints.writing import PLAIN, agree, failure, filled
from core.errors import UserError

__all__ = ["FolderReader", "MemoryReader", "consolidate", "on_every_rank", "open_folder", "outline"]

Path_ = str | os.PathLike[str]
Sizes = dict[str, tuple[torch.Size, torch.dtype]]


class FolderReader(FileSystemReader):
    """DCP's reader of a folder, with our reading of the index.

    Attributes:
        sizes: Shape and type of each tensor by its name.
    """

    def __init__(self, path: Path_, index: Metadata) -> None:
        super().__init__(path)
        self.folder, self.index = path, index
        entries: Any = index.state_dict_metadata  # of tensors alone, which `read_index` has checked
        self.sizes: Sizes = {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index; another rank's own is never asked for."""
        return self.index

    def empty(self, name: str, device: str = "cpu") -> Tensor:
        """Return room for a whole tensor."""
        shape, dtype = self.sizes[name]
        return torch.empty(shape, dtype=dtype, device=device)

    def fill(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fill tensors, whole or sharded, in place by their names; each rank by itself.

        Raises:
            UserError: If a file does not hold what the index says.
        """
        if not tensors:
            return tensors
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            try:
                load(tensors, storage_reader=self, planner=planner, no_dist=True)
            except CheckpointException as raised:  # it is no Exception, and would leave the others waiting
                reason = (failure(raised).splitlines() or [""])[0]
                raise UserError(
                    f"checkpoint {self.folder} cannot be read ({reason}); use an earlier one or write it anew"
                ) from raised
        return tensors


class MemoryReader:
    """Whole tensors in memory as a `FolderReader`: a single file's, for sharded destinations."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.sizes: Sizes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    def empty(self, name: str) -> Tensor:
        """Return room for a whole tensor."""
        return torch.empty_like(self.tensors[name])

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Copy each tensor, or this rank's part of it, in place."""
        for name, target in tensors.items():
            part = self.tensors[name]
            if isinstance(target, DTensor):
                lengths, starts = compute_local_shape_and_global_offset(
                    target.shape, target.device_mesh, target.placements
                )
                for dim, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                    part = part.narrow(dim, start, length) if length else part.narrow(dim, 0, 0)
                target = target.to_local()
            target.detach().copy_(part)


def open_folder(
    path: Path_, group: dist.ProcessGroup | None = None, *, alone: bool = False
) -> tuple[FolderReader, dict[str, Any]]:
    """Verify a folder, its files dealt out to the ranks, and return its reader and its plain part.

    Raises:
        UserError: If it is damaged, on every rank.
    """
    path = Path(path)
    shared = dist.is_available() and dist.is_initialized() and not alone
    rank, world = (dist.get_rank(group), dist.get_world_size(group)) if shared else (0, 1)

    def verify() -> tuple[FolderReader, dict[str, Any]]:
        manifest = read_manifest(path)
        files = manifest["files"]
        by_size = sorted(files, key=lambda name: (-files[name]["bytes"], name))
        if wrong := damaged_files(path, manifest, by_size[rank::world]):
            raise UserError(f"checkpoint {path} is damaged ({wrong}); use an earlier one or write it anew")
        return FolderReader(path, read_index(path / INDEX, files=files)), read_archive(path / PLAIN)

    return on_every_rank(verify, group, alone=alone)


def on_every_rank(call: Callable[[], Any], group: dist.ProcessGroup | None, *, alone: bool = False) -> Any:
    """Call on every rank; where it fails on one, it fails on all."""
    error: Exception | None = None
    result = None
    try:
        result = call()
    except Exception as raised:
        error = raised
    agree(error, group, alone=alone)
    return result


def consolidate(path: Path_, *, optimizers: bool = True) -> dict[str, Any]:
    """Return the whole checkpoint of a folder, all of which is verified, as a single file would hold it.

    Without `optimizers` what only training needs is not read, which is most of the bytes: the optimisers'
    state, and raw weights beside averaged ones.

    Raises:
        UserError: If it is damaged.
    """
    reader, rest = open_folder(path, alone=True)
    if not optimizers:
        rest.pop("optimizer_states", None)
        rest.pop("current_model_state", None)
    tensors: dict[str, Tensor] = {}
    result = filled(rest, lambda name: tensors.setdefault(name, reader.empty(name)))
    reader.fill(tensors)
    if "optimizer_states" in result:
        result["optimizer_states"] = [numbered_state(state) for state in result["optimizer_states"]]
    return result


def outline(path: Path_) -> dict[str, Any]:
    """Return what `consolidate` does with every sharded tensor on the meta device: names and shapes, no data.

    The shards are not looked at.

    Raises:
        UserError: If the manifest, the index or the plain part cannot be read.
    """
    path = Path(path)
    reader = FolderReader(path, read_index(path / INDEX, files=read_manifest(path)["files"]))
    return filled(load_archive(path / PLAIN, mmap=True), lambda name: reader.empty(name, "meta"))
