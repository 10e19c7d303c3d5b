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
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from core.errors import UserError

__all__ = ["INDEX", "read_index"]

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
