"""Pickles of NumPy arrays, as some groups publish their fields: read without running what they name."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError

__all__ = ["read_array_pickle"]

_KINDS = "biuf"
_LEAVES = (str, int, float, bool, datetime, type(None))

# The Unpickler in C cannot refuse to set the state of what it should not.
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


def read_array_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the arrays of a pickled dict, which may hold further dicts, lists, numbers, text and times.

    Raises:
        UserError: If the file cannot be read or holds anything else; no class or function it names is run.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file).load()
        return _checked(content)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except _Forbidden as error:
        raise UserError(
            f"{path} holds {error}, and only dicts of numeric arrays are loaded as other objects can run "
            "code: save its arrays as netCDF or .npz"
        ) from error
    except Exception as error:  # a pickle that was cut or written by hand fails in any way there is
        raise UserError(f"{path} is damaged or no pickle of arrays; fetch it anew") from error


class _Forbidden(Exception):
    """Something that a file of arrays does not need."""


class _ArrayUnpickler(_PythonUnpickler):
    dispatch = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        where = module.replace("numpy._core", "numpy.core")  # version 2 renamed it
        if (where, name) not in _BUILDERS:
            raise _Forbidden(f"the Python object {module}.{name}")
        return _BUILDERS[where, name]

    def load_build(self) -> None:
        """Set the state of an array or of a plain dtype."""
        target, state = self.stack[-2], self.stack[-1]
        if isinstance(target, np.dtype):
            plain = state[2:5] == (None, None, None) and not any(state[7:])
        else:
            plain = type(target) is np.ndarray and state[2].kind in _KINDS
        if not plain:
            raise _Forbidden(f"the state of a {type(target).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, pid: Any) -> Any:
        raise _Forbidden("parts outside of it")


def _dtype(code: str, *flags: Any) -> np.dtype[Any]:
    if not isinstance(code, str) or np.dtype(code).kind not in _KINDS:
        raise _Forbidden(f"values of the dtype {code!r}")
    return np.dtype(code, *flags)


def _array(subtype: Any, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """An array that its state will fill."""
    return np.empty(0, dtype=np.uint8)


def _from_buffer(values: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(values, dtype=_dtype(np.dtype(dtype).str)).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(dtype: np.dtype[Any], values: bytes) -> Any:
    return np.frombuffer(values, dtype=_dtype(np.dtype(dtype).str))[0].item()


def _latin(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_BUILDERS: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin,
    ("datetime", "datetime"): datetime,
}


def _checked(content: Any, depth: int = 0) -> Any:
    if depth > 8:
        raise _Forbidden("containers within containers without end")
    if isinstance(content, dict) and all(isinstance(key, str | int | float) for key in content):
        return {key: _checked(value, depth + 1) for key, value in content.items()}
    if depth and isinstance(content, list | tuple):
        return type(content)(_checked(item, depth + 1) for item in content)
    if depth and (isinstance(content, _LEAVES) or type(content) is np.ndarray):
        return content
    raise _Forbidden(f"a {type(content).__name__}")
