"""DCP's index of a sharded checkpoint, read by an unpickler that knows DCP's own classes and nothing else.

torch.distributed.checkpoint keeps in `.metadata` which piece of which tensor lies where, as a pickle, and
reads it with a plain `pickle.load`, which runs whatever the file says. `read_index` builds the same object
from the classes such an index is made of, and checks that it holds tensors alone and points nowhere else.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, StorageReader, filesystem, metadata
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from core.errors import UserError

__all__ = ["INDEX", "FolderReader", "MemoryReader", "read_index"]

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


def read_index(path: str | os.PathLike[str], *, files: Iterable[str] | None = None) -> Metadata:
    """Return the index at `path`; nothing that the file says is imported or called.

    Args:
        path: DCP's `.metadata`.
        files: Names that its pieces may lie in; None takes the files of its folder.

    Raises:
        UserError: If it cannot be read, names anything but DCP's own classes, holds other things than
            tensors, or points to another file.
    """
    path = Path(path)
    known = set(os.listdir(path.parent) if files is None else files)
    try:
        with open(path, "rb") as file:
            index = _IndexUnpickler(file, path).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); use another checkpoint") from error
    except Exception as error:  # a pickle that was cut or written by hand fails in any way there is
        raise UserError(f"{path} is no index of a sharded checkpoint; use another checkpoint") from error
    if not (
        isinstance(index, Metadata)
        and isinstance(index.state_dict_metadata, dict)
        and isinstance(index.storage_data, dict)
    ):
        raise UserError(f"{path} is no index of a sharded checkpoint; use another checkpoint")
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise UserError(f"{path} lists {name}, which is no tensor; only tensors are read from its files")
    for where in index.storage_data.values():
        if not isinstance(where, filesystem._StorageInfo):
            raise UserError(f"{path} is no index of a sharded checkpoint; use another checkpoint")
        if where.relative_path not in known or getattr(where, "transform_descriptors", None):
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


class FolderReader(FileSystemReader):
    """DCP's reader of a folder, with our reading of the index."""

    def __init__(self, path: str | os.PathLike[str], *, index: Metadata | None = None) -> None:
        super().__init__(path)
        self.index = read_index(Path(path) / INDEX) if index is None else index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index; another rank's own is never asked for."""
        return self.index


class MemoryReader(StorageReader):
    """Whole tensors in memory as a place to load from: a single-file checkpoint for sharded destinations.

    Args:
        tensors: Name to the whole tensor.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Describe each tensor as one piece."""
        entries: dict[str, Any] = {
            name: TensorStorageMetadata(
                properties=TensorProperties(dtype=tensor.dtype),
                size=tensor.size(),
                chunks=[ChunkStorageMetadata(torch.Size([0] * tensor.ndim), tensor.size())],
            )
            for name, tensor in self.tensors.items()
        }
        return Metadata(entries, storage_data={}, storage_meta=StorageMeta())

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """There is nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy each asked part into its destination."""
        for item in plan.items:
            part = self.tensors[item.storage_index.fqn]
            for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                part = part.narrow(dim, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """There is nothing to reset."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No name leads here."""
        return False
