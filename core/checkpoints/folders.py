"""Reading a checkpoint folder: verified, its index by our own unpickler, then only what is asked for.

torch.distributed.checkpoint keeps in `.metadata` which piece of which tensor lies where, as a pickle, and
reads it with a plain `pickle.load`, which runs whatever the file says. `read_index` builds the same object
from the classes such an index is made of, and checks that it holds tensors alone and points nowhere else.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import (
    CheckpointException,
    DefaultLoadPlanner,
    FileSystemReader,
    filesystem,
    load,
    metadata,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from core.checkpoints.archive import load_archive, read_archive
from core.checkpoints.manifest import damaged_files, read_manifest
from core.checkpoints.optimizers import numbered_state
from core.checkpoints.writing import PLAIN, agree, failure, filled
from core.errors import UserError

__all__ = [
    "INDEX",
    "FolderReader",
    "MemoryReader",
    "consolidate",
    "on_every_rank",
    "open_folder",
    "outline",
    "read_index",
]

INDEX = ".metadata"
"""DCP's name for its index."""

_CLASSES: dict[tuple[str, str], Any] = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata.TensorProperties,
        metadata.TensorStorageMetadata,
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
    )
}

_RECORDS = {kind for kind in _CLASSES.values() if dataclasses.is_dataclass(kind)}

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


def read_index(path: str | os.PathLike[str], *, files: Iterable[str] | None = None) -> Metadata:
    """Return the index at `path`; nothing that the file says is imported or called.

    Its pieces may lie in `files`, or by default in those of its folder.

    Raises:
        UserError: If it cannot be read, names anything but DCP's own classes, holds other things than
            tensors, or points to another file.
    """
    path = Path(path)
    allowed = set(os.listdir(path.parent) if files is None else files)
    try:
        with open(path, "rb") as file:
            index = _IndexUnpickler(file, path).load()
        entries, places = dict(index.state_dict_metadata), dict(index.storage_data)
        whole = isinstance(index, Metadata)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); use another checkpoint") from error
    except Exception as error:  # a pickle that was cut or written by hand fails in any way there is
        raise UserError(f"{path} is no index of a sharded checkpoint; use another checkpoint") from error
    for name, entry in entries.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise UserError(f"{path} lists {name}, which is no tensor; only tensors are read from its files")
    if not whole or not all(isinstance(where, filesystem._StorageInfo) for where in places.values()):
        raise UserError(f"{path} is no index of a sharded checkpoint; use another checkpoint")
    for where in places.values():
        if where.relative_path not in allowed or getattr(where, "transform_descriptors", None):
            raise UserError(f"{path} points to '{where.relative_path}', which is no file of this checkpoint")
    return index


# The one in C cannot refuse to set attributes.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _IndexUnpickler(_PythonUnpickler):
    """Knows the classes of an index, `torch.Size`, dtypes and layouts, and fills their instances alone."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def load_build(self) -> None:
        """Set the attributes of an instance; those of a class would stay for the whole process."""
        if type(self.stack[-2]) not in _RECORDS:
            raise pickle.UnpicklingError("attributes of something that is no record of an index")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """Return the class of an index that this is, or refuse."""
        if (module, name) in _CLASSES:
            return _CLASSES[module, name]
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if (module, name) == ("torch.serialization", "_get_layout"):
            return _layout
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        raise UserError(
            f"{self._path} names {module}.{name}, which is no part of a checkpoint's index and is not "
            "loaded, because it can run code: use a checkpoint that domainfm wrote"
        )

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: an index has no outside parts."""
        raise pickle.UnpicklingError("an index holds no persistent objects")


def _layout(name: str) -> torch.layout:
    if name != "torch.strided":
        raise pickle.UnpicklingError(f"layout {name}")
    return torch.strided
