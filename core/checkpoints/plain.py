"""Plain containers: the only things that go into a checkpoint, so that it loads with `weights_only=True`."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

__all__ = ["plain"]

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype, torch.device)
_KEYS = (type(None), bool, int, float, str, bytes)
_BASES: tuple[Callable[[Any], Any], ...] = (int, float, complex, str, bytes)
_KINDS = "biufcUS"  # NumPy's letters for numbers and text; its dates are neither


def plain(obj: Any, where: str = "") -> Any:
    """Return `obj` built of dict, list, tuple, set, numbers, text and tensors alone.

    NumPy scalars become Python numbers, NumPy arrays tensors, paths `str`, enums their name, dataclasses and
    namespaces dicts. A tensor that views part of a larger storage is copied, or all of it would be written;
    one on a device that torch knows by a plug-in only goes to the CPU.

    Args:
        obj: Anything that a checkpoint may hold.
        where: Path of `obj` inside the whole, for the error.

    Raises:
        TypeError: If something cannot be made plain; the sentence names its path and type.
    """
    kind = type(obj)
    if kind in _ATOMS:
        return obj
    if isinstance(obj, torch.Tensor):
        return _tensor(obj)
    if isinstance(obj, Enum):
        return obj.name
    if isinstance(obj, np.ndarray):
        return _array(obj, where)
    if isinstance(obj, np.generic):
        return obj.item() if obj.dtype.kind in _KINDS and type(obj.item()) in _ATOMS else _refuse(obj, where)
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: plain(getattr(obj, f.name), f"{where}.{f.name}") for f in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        items = ((_key(key, where), plain(value, f"{where}[{key!r}]")) for key, value in obj.items())
        return kind(dict(items)) if kind in (OrderedDict, Counter) else dict(items)
    if isinstance(obj, tuple):
        return tuple(plain(value, f"{where}[{i}]") for i, value in enumerate(obj))
    if isinstance(obj, list | deque | range):
        return [plain(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    if isinstance(obj, set | frozenset):
        return {plain(value, f"{where}{{{value!r}}}") for value in obj}
    if isinstance(obj, SimpleNamespace) or kind.__name__ == "Namespace":
        return {key: plain(value, f"{where}.{key}") for key, value in vars(obj).items()}
    for base in _BASES:
        if isinstance(obj, base):  # type: ignore[arg-type]  # a subclass, which would be pickled by its own name
            return base(obj)
    return _refuse(obj, where)


def _tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor` itself, or a copy without what makes it unloadable or larger than it looks."""
    if tensor.device.type not in ("cpu", "cuda", "meta"):  # else the file would need that device's package
        tensor = tensor.detach().cpu()
    if not type(tensor).__module__.startswith("torch."):
        if type(tensor) is not torch.Tensor:
            tensor = tensor.as_subclass(torch.Tensor)
        if tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes:
            return tensor.detach().clone()
    return tensor


def _array(array: np.ndarray, where: str) -> Any:
    if array.dtype.kind in "biufc" and array.dtype.itemsize <= 16 and array.dtype.char not in "gG":
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    if array.dtype.kind in "US":
        return array.tolist()
    return _refuse(array, where)


def _key(key: Any, where: str) -> Any:
    made = plain(key, f"{where}.keys()")
    if not isinstance(made, (*_KEYS, tuple)):
        _refuse(key, f"{where}.keys()")
    return made


def _refuse(obj: Any, where: str) -> Any:
    kind = type(obj)
    detail = f" with dtype {obj.dtype}" if isinstance(obj, np.ndarray) else ""
    raise TypeError(
        f"{where.lstrip('.') or 'the object'} is a {kind.__module__}.{kind.__qualname__}{detail}: a "
        "checkpoint holds only numbers, text, tensors, and dicts, lists, tuples and sets of them, so convert "
        "it before saving"
    )
